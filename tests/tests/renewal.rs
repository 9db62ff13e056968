//! Certificates that are renewed under a running agent, or were not.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::Duration;

use vms_agent_tests::authority::{Authority, Issued, Valid};
use vms_agent_tests::deadline::{now, unix_nanoseconds};
use vms_agent_tests::skip::Need;
use vms_agent_tests::{
    Agent, AgentCommand, Fault, Faulty, Link, Namespace, Points, Protocol, Scene, Stored, config, eventually,
    needs, probe,
};

const UP: &str = "vms.connection_mon.up";
const FORWARD: &[(&str, &str)] = &[("name", "link"), ("direction", "forward")];

/// A link, a collector behind TLS, and the files that the agent is given.
struct Setup {
    scene: Scene,
    host: Namespace,
    link: Link,
    stored: Stored,
    faulty: Faulty,
    protocol: Protocol,
    versions: u32,
}

impl Setup {
    /// The collector shows a certificate, and with `mutual` asks for one.
    fn new(protocol: Protocol, authority: &Authority, shown: &Issued, mutual: bool) -> Self {
        let (scene, host) = (Scene::new(), Namespace::new());
        let link = Link::new((&scene.program("svc"), &host), (&scene.program("far"), &host));
        let stored = Stored::default();
        let server = authority.server(protocol, shown, mutual);
        let faulty =
            Faulty::start_with_tls(&host, protocol, protocol.address(), Some(server), stored.keeper());
        fs::create_dir(scene.path().join("tls")).unwrap();
        Self { scene, host, link, stored, faulty, protocol, versions: 0 }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.scene.path().join("tls").join(name)
    }

    /// Puts files in place as kubelet does: in a directory of their own, to which a link is turned.
    fn mount(&mut self, files: &[(&str, String)]) {
        self.versions += 1;
        let version = format!("..v{}", self.versions);
        fs::create_dir(self.file(&version)).unwrap();
        for (name, content) in files {
            fs::write(self.file(&version).join(name), content).unwrap();
            if !self.file(name).is_symlink() {
                symlink(format!("..data/{name}"), self.file(name)).unwrap();
            }
        }
        symlink(&version, self.file("..next")).unwrap();
        fs::rename(self.file("..next"), self.file("..data")).unwrap();
    }

    fn start(&self, mutual: bool) -> Agent {
        let command =
            self.command().variable("OTEL_EXPORTER_OTLP_CERTIFICATE", self.file("ca.pem").to_string_lossy());
        if !mutual {
            return command.start();
        }
        command
            .variable("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", self.file("client.pem").to_string_lossy())
            .variable("OTEL_EXPORTER_OTLP_CLIENT_KEY", self.file("client.key").to_string_lossy())
            .start()
    }

    fn command(&self) -> AgentCommand<'_> {
        let probe = probe("link", &self.scene.name("svc"), self.link.service());
        AgentCommand::new(&self.scene, &self.host)
            .config(&config(&[probe]))
            .variable("OTEL_EXPORTER_OTLP_PROTOCOL", self.protocol.name())
            .variable("OTEL_EXPORTER_OTLP_ENDPOINT", format!("https://localhost:{}", self.protocol.port()))
            .variable("VMS_EXPORT__BACKOFF__INITIAL", "50ms")
            .variable("VMS_EXPORT__BACKOFF__MAX", "200ms")
    }

    fn wait_for_points(&self) {
        self.stored.wait_for_points(UP, FORWARD, 3, unix_nanoseconds());
    }

    fn wait_for_client(&self, client: &Issued) {
        eventually("the new certificate to be shown", || {
            let shown = self.faulty.client_certificates();
            (shown.last()?.as_ref()? == &client.der()).then_some(())
        });
    }
}

fn files(ca: &Authority, client: &Issued) -> [(&'static str, String); 3] {
    [("ca.pem", ca.pem()), ("client.pem", client.certificate_pem()), ("client.key", client.key_pem())]
}

#[test]
fn a_client_certificate_that_is_renewed_is_shown_within_seconds_and_nothing_is_lost() {
    needs!(Need::Agent);
    for protocol in Protocol::ALL {
        let authority = Authority::new();
        let mut setup = Setup::new(protocol, &authority, &authority.issue(Valid::Long), true);
        let first = authority.issue(Valid::Long);
        setup.mount(&files(&authority, &first));
        let mut agent = setup.start(true);
        setup.wait_for_points();
        assert_eq!(setup.faulty.client_certificates(), [Some(first.der())], "one connection");

        let next = authority.issue(Valid::Long);
        let renewed = now();
        setup.mount(&files(&authority, &next));
        setup.wait_for_client(&next);
        assert!(renewed.elapsed() < Duration::from_secs(3), "{:?}", renewed.elapsed());
        setup.wait_for_points();
        agent.stop();
        assert_eq!(setup.faulty.client_certificates(), [Some(first.der()), Some(next.der())], "once");
        assert_eq!(agent.log_with(&["WARN", "vms_export"]), Vec::<String>::new());
        let times: Vec<u64> = setup.stored.series(UP, FORWARD).iter().map(|point| point.time).collect();
        assert!(times.windows(2).all(|pair| (1..350_000_000).contains(&(pair[1] - pair[0]))), "{times:?}");
    }
}

#[test]
fn half_a_pair_leaves_the_old_certificate_in_force_and_is_told_once() {
    needs!(Need::Agent);
    let authority = Authority::new();
    let mut setup = Setup::new(Protocol::Grpc, &authority, &authority.issue(Valid::Long), true);
    let (first, next) = (authority.issue(Valid::Long), authority.issue(Valid::Long));
    setup.mount(&files(&authority, &first));
    let mut agent = setup.start(true);
    setup.wait_for_points();
    // In place, one file after the other.
    fs::write(setup.file("client.pem"), next.certificate_pem()).unwrap();
    agent.wait_for_log(&["WARN", "TLS files changed and cannot be used", "put certificate"]);
    // A new connection is made with the old pair.
    setup.faulty.set(Fault::ResetAtOnce);
    agent.wait_for_log(&["WARN", "measuring goes on"]);
    setup.faulty.set(Fault::Nothing);
    setup.wait_for_points();
    let shown = setup.faulty.client_certificates();
    assert!(shown.len() > 1 && shown.iter().all(|shown| *shown == Some(first.der())), "{}", shown.len());

    fs::write(setup.file("client.key"), next.key_pem()).unwrap();
    setup.wait_for_client(&next);
    setup.wait_for_points();
    agent.stop();
    assert_eq!(agent.log_with(&["WARN", "TLS files changed"]).len(), 1);
    assert_eq!(agent.log_with(&["INFO", "TLS files changed and were read again"]).len(), 1);
}

#[test]
fn a_client_certificate_that_has_expired_is_told_with_its_date_and_its_renewal_ends_the_outage() {
    needs!(Need::Agent);
    for protocol in Protocol::ALL {
        let authority = Authority::new();
        let mut setup = Setup::new(protocol, &authority, &authority.issue(Valid::Long), true);
        setup.mount(&files(&authority, &authority.issue(Valid::In2020)));
        let mut agent = setup.start(true);
        let date = "expired on Fri, 01 Jan 2021 00:00:00 GMT";
        agent.wait_for_log(&["WARN", "collector https", date, "renew the client certificate"]);
        let next = authority.issue(Valid::Long);
        setup.mount(&files(&authority, &next));
        setup.wait_for_client(&next);
        setup.wait_for_points();
        agent.stop();
        assert_eq!(agent.log_with(&["WARN", "collector https", date]).len(), 1, "{protocol:?}");
        assert_eq!(agent.log_with(&["INFO", "takes data again after"]).len(), 1, "{protocol:?}");
    }
}

#[test]
fn a_client_certificate_that_expires_meanwhile_is_told_once_though_the_connection_stands() {
    needs!(Need::Agent);
    let authority = Authority::new();
    let mut setup = Setup::new(Protocol::Grpc, &authority, &authority.issue(Valid::Long), true);
    setup.mount(&files(&authority, &authority.issue(Valid::For(Duration::from_secs(3)))));
    let mut agent = setup.start(true);
    setup.wait_for_points();
    assert!(agent.log_with(&["expired on"]).is_empty());
    agent.wait_for_log(&["WARN", "client.pem expired on", "renew the client certificate"]);
    setup.wait_for_points();
    agent.stop();
    assert_eq!(agent.log_with(&["expired on"]).len(), 1);
}

#[test]
fn a_collectors_certificate_that_is_outdated_is_told_with_its_date() {
    needs!(Need::Agent);
    for (valid, told) in [
        (Valid::In2020, "the collector's certificate expired on Fri, 01 Jan 2021 00:00:00 GMT"),
        (Valid::Later, "the collector's certificate is not valid before Sun, 01 Jan 2119 00:00:00 GMT"),
    ] {
        let authority = Authority::new();
        let mut setup = Setup::new(Protocol::Grpc, &authority, &authority.issue(valid), false);
        setup.mount(&[("ca.pem", authority.pem())]);
        let mut agent = setup.start(false);
        agent.wait_for_log(&["WARN", "TLS handshake failed", told, "this host's clock"]);
        let renewed = authority.server(Protocol::Grpc, &authority.issue(Valid::Long), false);
        setup.faulty.set_tls(renewed);
        setup.wait_for_points();
        agent.stop();
        assert_eq!(agent.log_with(&["WARN", told]).len(), 1);
        assert_eq!(agent.log_with(&["INFO", "takes data again after"]).len(), 1);
    }
}

#[test]
fn another_authority_is_trusted_once_its_certificate_is_in_place() {
    needs!(Need::Agent);
    for system in [false, true] {
        let (former, latter) = (Authority::new(), Authority::new());
        let mut setup = Setup::new(Protocol::Http, &former, &former.issue(Valid::Long), false);
        setup.mount(&[("ca.pem", former.pem())]);
        let mut agent = if system {
            setup.command().variable("SSL_CERT_FILE", setup.file("ca.pem").to_string_lossy()).start()
        } else {
            setup.start(false)
        };
        setup.wait_for_points();
        setup.faulty.set_tls(latter.server(Protocol::Http, &latter.issue(Valid::Long), false));
        // The connection that stands would go on.
        setup.faulty.set(Fault::Down);
        agent.wait_for_log(&["WARN", "connecting failed"]);
        setup.faulty.set(Fault::Nothing);
        agent.wait_for_log(&["WARN", "TLS handshake failed", "UnknownIssuer"]);
        setup.mount(&[("ca.pem", latter.pem())]);
        setup.wait_for_points();
        agent.stop();
        assert_eq!(agent.log_with(&["INFO", "takes data again after"]).len(), 1, "system: {system}");
    }
}
