use std::io::Write;
use std::sync::{Arc, Mutex};

use mock_collector::{MockServer, Protocol as MockProtocol, ServerHandle};
use opentelemetry::KeyValue;
use opentelemetry_sdk::error::OTelSdkError;
use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::rustls;
use vms_export::config::{Backoff, Compression, Protocol, Secret, TlsFiles};

use super::*;

const WAIT: Duration = Duration::from_secs(20);

/// What stderr would have shown.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    fn writer(&self) -> BoxMakeWriter {
        let lines = self.clone();
        BoxMakeWriter::new(move || lines.clone())
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn dyn_error<'a>(error: &'a (dyn std::error::Error + 'static)) -> &'a (dyn std::error::Error + 'static) {
    error
}

fn level(text: &str) -> LogLevel {
    text.parse().unwrap()
}

fn settings(level_text: &str) -> Settings {
    Settings {
        level: level(level_text),
        format: LogFormat::Auto,
        color: false,
        traces: None,
        logs: None,
        resource: Resource::builder_empty()
            .with_attribute(KeyValue::new("service.name", "vms-agent"))
            .build(),
    }
}

/// Runs with the subscriber of these settings; gives what was written.
fn logged(settings: &Settings, as_text: bool, events: impl FnOnce(&Telemetry)) -> String {
    let lines = Lines::default();
    let (subscriber, telemetry) = build(settings, as_text, lines.writer()).unwrap();
    tracing::subscriber::with_default(subscriber, || events(&telemetry));
    lines.text()
}

#[test]
fn a_misspelled_level_is_refused_instead_of_silencing_everything() {
    let refused = |text: &str| text.parse::<LogLevel>().unwrap_err().to_string();
    assert!(refused("inof").ends_with("did you mean `info`?"), "{}", refused("inof"));
    assert!(refused("warning").ends_with("did you mean `warn`?"), "{}", refused("warning"));
    assert!(refused("vms_process").contains("MODULE=LEVEL"));
    assert!(refused("vms_process=loud").contains("vms_process=loud"));
    assert_eq!("  ".parse::<LogLevel>(), Err(LogLevelError::Empty));
    for valid in ["info", "OFF", "warn,vms_process=debug", "info,[vms.cycle]=trace"] {
        assert!(valid.parse::<LogLevel>().is_ok_and(|level| level.filter().is_ok()), "{valid}");
    }
}

#[test]
fn one_event_is_one_text_line_whatever_its_values_hold() {
    let hostile = "nginx\n2026-01-01T00:00:00Z ERROR forged\r\x1b[2J\u{9b}31m\u{202e}\u{2028}\x07\0";
    let text = logged(&settings("info"), true, |_telemetry| {
        let _span = tracing::info_span!("vms.cycle", process = hostile).entered();
        let error = std::io::Error::other(hostile);
        tracing::info!(
            name = hostile,
            shown = %hostile,
            error = dyn_error(&error),
            "link {hostile} is down"
        );
    });
    let line = text.strip_suffix('\n').expect("a line ends with a line feed");
    assert!(!line.contains(|character: char| character.is_control()), "{line:?}");
    assert!(!line.contains(['\u{202e}', '\u{2028}']), "{line:?}");
    assert_eq!(line.matches("\\n2026").count(), 4, "each of the four is there, escaped: {line}");
}

#[test]
fn ordinary_values_are_not_disturbed_by_escaping() {
    let text = logged(&settings("info"), true, |_telemetry| {
        tracing::info!(probe = "orders-db", connections = 2, owner = %"jävä/π", "link is up");
    });
    assert!(text.ends_with("link is up probe=\"orders-db\" connections=2 owner=jävä/π\n"), "{text}");
}

#[test]
fn an_error_is_logged_with_its_causes() {
    let error = OTelSdkError::InternalFailure("outer".to_owned());
    let chained = anyhow::Error::new(std::io::Error::other("inner")).context("outer");
    let text = logged(&settings("info"), true, |_telemetry| {
        tracing::info!(error = dyn_error(&error), "one");
        tracing::info!(error = dyn_error(chained.as_ref()), "two");
    });
    assert!(text.contains("outer"), "{text}");
    assert!(text.contains("error=outer: inner"), "{text}");
}

#[test]
fn json_has_one_object_a_line_with_the_fields_at_its_top() {
    let text = logged(&settings("info"), false, |_telemetry| {
        let _span = tracing::info_span!("vms.cycle", probes = 3).entered();
        tracing::warn!(probe = "a\nb", connections = 2, "link is down");
        tracing::info!("second");
    });
    let events: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(events.len(), 2, "{text}");
    assert_eq!(events[0]["level"], "WARN");
    assert_eq!(events[0]["message"], "link is down");
    assert_eq!(events[0]["probe"], "a\nb");
    assert_eq!(events[0]["connections"], 2);
    assert!(events[0]["span"].is_null(), "spans are for traces");
    assert!(events[0]["timestamp"].is_string());
}

#[test]
fn color_is_used_only_when_asked_for() {
    let mut colored = settings("info");
    colored.color = true;
    let event = |_: &Telemetry| tracing::warn!(probe = "a", "link is down");
    assert!(logged(&colored, true, event).contains('\x1b'));
    assert!(!logged(&settings("info"), true, event).contains('\x1b'));
    assert!(!logged(&colored, false, event).contains('\x1b'), "JSON is never colored");
}

#[test]
fn the_level_can_be_changed_while_running() {
    let text = logged(&settings("warn"), true, |telemetry| {
        tracing::info!("first");
        telemetry.set_level("debug").unwrap();
        tracing::debug!("second");
        telemetry.set_level("off").unwrap();
        tracing::error!("third");
    });
    assert!(!text.contains("first") && text.contains("second") && !text.contains("third"), "{text}");
}

#[test]
fn debugging_the_agent_does_not_show_the_noise_of_its_libraries_unless_they_are_named() {
    let events = |_: &Telemetry| {
        tracing::debug!(target: "vms_process", "ours");
        tracing::debug!(target: "h2::codec", "frame");
        tracing::info!(target: "hyper_util", "pool");
    };
    let text = logged(&settings("debug"), true, events);
    assert!(text.contains("ours") && !text.contains("frame") && text.contains("pool"), "{text}");
    let text = logged(&settings("debug,h2=debug"), true, events);
    assert!(text.contains("frame"), "{text}");
    let text = logged(&settings("warn"), true, events);
    assert!(text.is_empty(), "a level below info quiets libraries too: {text}");
}

#[test]
fn only_whole_module_names_count_as_the_pipeline() {
    for target in
        ["h2", "h2::codec", "opentelemetry_sdk", "vms_export::sender", "vms_agent::telemetry::outage"]
    {
        assert!(is_pipeline(target), "{target}");
    }
    for target in ["h2x", "vms_agent", "vms_agent::telemetry_of_probes", "vms_exporter", "towering"] {
        assert!(!is_pipeline(target), "{target}");
    }
}

// --- over OTLP ---

fn target(protocol: Protocol, url: &str) -> ExportConfig {
    ExportConfig {
        protocol,
        endpoint: url.parse().unwrap(),
        headers: Vec::new(),
        timeout: Duration::from_secs(10),
        compression: Compression::None,
        tls: TlsFiles::default(),
        backoff: Backoff::default(),
        queue_bytes: 0,
        spool: None,
    }
}

fn both(target: &ExportConfig) -> Settings {
    Settings { traces: Some(target.clone()), logs: Some(target.clone()), ..settings("info") }
}

async fn collector(protocol: Protocol) -> ServerHandle {
    let protocol = match protocol {
        Protocol::Grpc => MockProtocol::Grpc,
        Protocol::HttpProtobuf => MockProtocol::HttpBinary,
    };
    MockServer::builder().protocol(protocol).start().await.unwrap()
}

/// One cycle, as the agent traces and logs it, with the noise that must stay at home; then the end.
async fn cycle_and_shutdown(settings: &Settings) {
    let lines = Lines::default();
    let (subscriber, telemetry) = build(settings, true, lines.writer()).unwrap();
    let guard = tracing::subscriber::set_default(subscriber);
    {
        let _span = tracing::info_span!(target: "vms_agent::run", "vms.cycle", probes = 2).entered();
        tracing::warn!(target: "vms_agent::run", probe = "orders-db", "link is down");
        tracing::warn!(target: "vms_export::sender", "queue is full");
        tracing::info!(target: "opentelemetry_sdk", "exporting");
        let _inner = tracing::info_span!(target: "h2::client", "handshake").entered();
    }
    telemetry.shutdown(WAIT).await;
    drop(guard);
}

async fn assert_arrived(collector: &ServerHandle) {
    collector
        .with_collector(|seen| {
            let spans: Vec<_> = seen.spans().iter().map(|span| span.span().name.as_str()).collect();
            assert_eq!(spans, ["vms.cycle"]);
            let bodies: Vec<_> =
                seen.logs().iter().map(|log| format!("{:?}", log.log_record().body)).collect();
            assert_eq!(bodies.len(), 1, "{bodies:?}");
            assert!(bodies[0].contains("link is down"), "{bodies:?}");
            let span = seen.spans()[0].span();
            assert!(span.end_time_unix_nano >= span.start_time_unix_nano);
            let attributes = format!("{:?}", seen.spans()[0].resource_attrs());
            assert!(attributes.contains("service.name") && attributes.contains("vms-agent"), "{attributes}");
            let attributes = format!("{:?}", seen.logs()[0].resource_attrs());
            assert!(attributes.contains("service.name") && attributes.contains("vms-agent"), "{attributes}");
            let record = seen.logs()[0].log_record();
            assert_eq!(record.severity_text, "WARN");
            assert!(format!("{:?}", record.attributes).contains("orders-db"));
            assert_eq!(record.trace_id, span.trace_id, "a log record belongs to its cycle");
        })
        .await;
}

#[tokio::test]
async fn spans_and_logs_arrive_with_either_protocol_and_each_compression() {
    for protocol in [Protocol::Grpc, Protocol::HttpProtobuf] {
        for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
            let collector = collector(protocol).await;
            let mut target = target(protocol, &format!("http://{}", collector.addr()));
            target.compression = compression;
            cycle_and_shutdown(&both(&target)).await;
            assert_arrived(&collector).await;
            collector.shutdown().await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spans_and_logs_arrive_from_a_runtime_of_several_threads() {
    for protocol in [Protocol::Grpc, Protocol::HttpProtobuf] {
        let collector = collector(protocol).await;
        cycle_and_shutdown(&both(&target(protocol, &format!("http://{}", collector.addr())))).await;
        assert_arrived(&collector).await;
    }
}

#[tokio::test]
async fn a_log_level_of_off_takes_logs_away_but_no_spans() {
    let collector = collector(Protocol::Grpc).await;
    let target = target(Protocol::Grpc, &format!("http://{}", collector.addr()));
    cycle_and_shutdown(&Settings { level: level("off"), ..both(&target) }).await;
    collector.with_collector(|seen| assert_eq!((seen.span_count(), seen.log_count()), (1, 0))).await;
}

/// A private certificate authority, and what it signed for localhost and for a client.
struct Pki {
    directory: tempfile::TempDir,
    server: Arc<rustls::ServerConfig>,
}

impl Pki {
    fn new(client_certificates: bool) -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let sign = |name: &str| {
            let key = KeyPair::generate().unwrap();
            let certificate =
                CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &ca).unwrap();
            (certificate, key)
        };
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, pem: String| std::fs::write(directory.path().join(name), pem).unwrap();
        let (client, client_key) = sign("agent");
        write("ca.pem", ca.as_ref().pem());
        write("client.pem", client.pem());
        write("client.key", client_key.serialize_pem());
        let (server, server_key) = sign("localhost");

        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = if client_certificates {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(ca.as_ref().der().clone()).unwrap();
            builder.with_client_cert_verifier(
                rustls::server::WebPkiClientVerifier::builder_with_provider(roots.into(), provider)
                    .build()
                    .unwrap(),
            )
        } else {
            builder.with_no_client_auth()
        };
        let key = rustls::pki_types::PrivateKeyDer::try_from(server_key.serialize_der()).unwrap();
        let mut server = builder.with_single_cert(vec![server.der().clone()], key).unwrap();
        server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Self { directory, server: Arc::new(server) }
    }

    fn files(&self, with_client: bool) -> TlsFiles {
        let path = |name: &str| Some(self.directory.path().join(name));
        TlsFiles {
            ca: path("ca.pem"),
            client_certificate: with_client.then(|| path("client.pem")).flatten(),
            client_key: with_client.then(|| path("client.key")).flatten(),
        }
    }

    /// Speaks TLS in front of a collector that does not; gives its URL.
    async fn terminate(&self, collector: &ServerHandle) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::clone(&self.server));
        let behind = collector.addr();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let Ok(mut outer) = acceptor.accept(stream).await else { return };
                    let mut inner = TcpStream::connect(behind).await.unwrap();
                    tokio::io::copy_bidirectional(&mut outer, &mut inner).await.ok();
                });
            }
        });
        format!("https://localhost:{port}")
    }
}

#[tokio::test]
async fn a_given_ca_and_a_client_certificate_are_used_with_either_protocol() {
    for protocol in [Protocol::Grpc, Protocol::HttpProtobuf] {
        let collector = collector(protocol).await;
        let pki = Pki::new(true);
        let url = pki.terminate(&collector).await;
        cycle_and_shutdown(&both(&ExportConfig { tls: pki.files(true), ..target(protocol, &url) })).await;
        assert_arrived(&collector).await;
    }
}

#[tokio::test]
async fn nothing_is_sent_to_a_server_that_the_ca_did_not_sign_or_without_the_certificate_it_asks_for() {
    for protocol in [Protocol::Grpc, Protocol::HttpProtobuf] {
        let collector = collector(protocol).await;
        let pki = Pki::new(true);
        let url = pki.terminate(&collector).await;
        let short = ExportConfig { timeout: Duration::from_secs(1), ..target(protocol, &url) };
        let no_client = ExportConfig { tls: pki.files(false), ..short.clone() };
        let stranger = Pki::new(false);
        let wrong_ca = ExportConfig { tls: stranger.files(true), ..short };
        for target in [no_client, wrong_ca] {
            cycle_and_shutdown(&both(&target)).await;
        }
        collector.with_collector(|seen| assert_eq!((seen.span_count(), seen.log_count()), (0, 0))).await;
    }
}

#[tokio::test]
async fn unusable_targets_are_refused_at_start() {
    let directory = tempfile::tempdir().unwrap();
    let empty = directory.path().join("empty.pem");
    std::fs::write(&empty, "not a certificate").unwrap();
    for protocol in [Protocol::Grpc, Protocol::HttpProtobuf] {
        let https = target(protocol, "https://localhost:4317");
        let with_tls = |tls| ExportConfig { tls, ..https.clone() };
        for (what, target) in [
            ("missing.pem", with_tls(TlsFiles { ca: Some("/missing.pem".into()), ..TlsFiles::default() })),
            ("holds no PEM", with_tls(TlsFiles { ca: Some(empty.clone()), ..TlsFiles::default() })),
            (
                "needs its private key",
                with_tls(TlsFiles { client_certificate: Some(empty.clone()), ..TlsFiles::default() }),
            ),
            (
                "header a b",
                ExportConfig { headers: vec![("a b".to_owned(), Secret::new("c"))], ..https.clone() },
            ),
        ] {
            let error = build(&both(&target), true, Lines::default().writer()).map(drop).unwrap_err();
            assert!(format!("{error:#}").contains(what), "{error:#}");
        }
    }
}

#[tokio::test]
async fn configured_headers_are_sent_over_http() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut target =
        target(Protocol::HttpProtobuf, &format!("http://{}/otlp/", listener.local_addr().unwrap()));
    target.headers = vec![("authorization".to_owned(), Secret::new("Bearer s3cret"))];
    let answer = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        while !request.windows(4).any(|window| window == b"\r\n\r\n") {
            assert_ne!(stream.read_buf(&mut request).await.unwrap(), 0);
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await.unwrap();
        String::from_utf8_lossy(&request).into_owned()
    };
    let settings = Settings { logs: None, ..both(&target) };
    let both = async { tokio::join!(answer, cycle_and_shutdown(&settings)) };
    let (request, ()) = tokio::time::timeout(WAIT, both).await.unwrap();
    assert!(request.starts_with("POST /otlp/v1/traces HTTP/1.1\r\n"), "{request}");
    assert!(request.contains("authorization: Bearer s3cret\r\n"), "{request}");
    assert!(request.contains("content-type: application/x-protobuf\r\n"), "{request}");
    assert!(!format!("{target:?}").contains("s3cret"));
}

#[tokio::test]
async fn configured_headers_are_sent_over_grpc() {
    use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
        TraceService, TraceServiceServer,
    };
    use opentelemetry_proto::tonic::collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
    };

    struct Recorder(tokio::sync::mpsc::UnboundedSender<tonic::metadata::MetadataMap>);

    #[tonic::async_trait]
    impl TraceService for Recorder {
        async fn export(
            &self,
            request: tonic::Request<ExportTraceServiceRequest>,
        ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
            self.0.send(request.metadata().clone()).unwrap();
            Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
        }
    }

    let (sender, mut received) = tokio::sync::mpsc::unbounded_channel();
    let incoming = tonic::transport::server::TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = incoming.local_addr().unwrap();
    tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(TraceServiceServer::new(Recorder(sender)))
            .serve_with_incoming(incoming),
    );
    let mut target = target(Protocol::Grpc, &format!("http://{address}"));
    target.headers = vec![("authorization".to_owned(), Secret::new("Bearer s3cret"))];
    cycle_and_shutdown(&Settings { logs: None, ..both(&target) }).await;
    assert_eq!(received.try_recv().unwrap().get("authorization").unwrap(), "Bearer s3cret");
}

#[tokio::test]
async fn a_collector_that_hangs_holds_up_the_end_no_longer_than_the_limit() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            held.push(stream);
        }
    });
    for protocol in [Protocol::Grpc, Protocol::HttpProtobuf] {
        let (subscriber, telemetry) =
            build(&both(&target(protocol, &format!("http://{address}"))), true, Lines::default().writer())
                .unwrap();
        tracing::subscriber::with_default(subscriber, || {
            tracing::info_span!(target: "vms_agent::run", "vms.cycle")
                .in_scope(|| tracing::info!(target: "vms_agent::run", "link is up"));
        });
        let start = tokio::time::Instant::now();
        telemetry.shutdown(Duration::from_millis(300)).await;
        let took = start.elapsed();
        assert!(took >= Duration::from_millis(300), "it had something to wait for: {took:?}");
        assert!(took < Duration::from_secs(3), "{took:?}");
    }
}

#[derive(Debug)]
struct Scripted(Mutex<Vec<bool>>);

impl SpanExporter for Scripted {
    async fn export(&self, _batch: Vec<SpanData>) -> Result<(), OTelSdkError> {
        match self.0.lock().unwrap().pop() {
            Some(true) => Ok(()),
            _ => Err(OTelSdkError::InternalFailure("collector is away".to_owned())),
        }
    }
}

#[test]
fn an_outage_is_logged_once_and_so_is_its_end() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let text = logged(&settings("info"), true, |_telemetry| {
        let outcomes = vec![true, true, false, false, false, true];
        let exporter = Reported::new("traces", Scripted(Mutex::new(outcomes)));
        for _ in 0..6 {
            runtime.block_on(exporter.export(Vec::new())).ok();
        }
    });
    let told: Vec<_> = text.lines().map(|line| line.split_whitespace().nth(1).unwrap()).collect();
    assert_eq!(told, ["WARN", "INFO"], "{text}");
    assert!(text.contains("collector is away"), "{text}");
}

// --- the variables of one signal ---
