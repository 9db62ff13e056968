//! However a secret is given, and whatever goes wrong with it, no output shows it.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::fs;
use std::ops::Deref;

use rustix::process::Signal;
use serde_json::{Value, json};
use vms_agent_tests::deadline::eventually;
use vms_agent_tests::faulty::{Fault, Faulty};
use vms_agent_tests::skip::Need;
use vms_agent_tests::watched::{self, FORWARD, UP};
use vms_agent_tests::{AgentCommand, Collector, Points, Protocol, config, needs};

/// What each secret begins with, in every way of giving one.
const SECRET: &str = "canary";
/// What stands for one.
const MASK: &str = "****";

/// Every command that ends by itself.
const COMMANDS: [&[&str]; 5] =
    [&["validate"], &["doctor"], &["doctor", "--format", "json"], &["check"], &["check", "--format", "json"]];

/// Headers as OpenTelemetry's variable has them, one of them with an escape.
const HEADERS: &str = "x-d=canary-by-variable,x-e=canary%2Bpercent";

/// A link, and agents that know secrets to watch it.
struct Watched(watched::Watched);

impl Deref for Watched {
    type Target = watched::Watched;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl Watched {
    #[track_caller]
    fn new() -> Self {
        let watched = watched::Watched::new();
        let _path = watched.scene.write("token", "canary-of-file\n");
        Self(watched)
    }

    /// A configuration that is right, and holds secrets in each way that a file can.
    fn config(&self) -> Value {
        let mut config = config(&[self.probe("link")]);
        config["log"] = json!({ "level": "trace" });
        config["selfTelemetry"] = json!({ "traces": true, "logs": true });
        config["export"] = json!({
            "headers": { "x-a": "canary-in-file", "x-b": "Bearer ${env:SECRET}", "x-c": "${file:token}" },
        });
        config
    }

    /// An agent whom the file alone tells where to send.
    fn plain_agent(&self, protocol: Protocol) -> AgentCommand<'_> {
        self.command()
            .config(&self.config())
            .variable("SECRET", "canary-of-env")
            .variable("OTEL_EXPORTER_OTLP_PROTOCOL", protocol.name())
    }

    fn agent(&self, protocol: Protocol) -> AgentCommand<'_> {
        let endpoint = protocol.endpoint();
        let command = self
            .plain_agent(protocol)
            .variable("OTEL_EXPORTER_OTLP_HEADERS", HEADERS)
            .variable("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint);
        match protocol {
            Protocol::Grpc => command,
            Protocol::Http => {
                let url = format!("{endpoint}/v1/metrics?api-key=canary-in-query");
                command.variable("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", url)
            }
        }
    }
}

/// All that was said, by whom.
#[derive(Debug, Default)]
struct Said(Vec<(String, String)>);

impl Said {
    fn say(&mut self, by: &str, text: impl AsRef<[u8]>) {
        self.0.push((by.to_owned(), String::from_utf8_lossy(text.as_ref()).into_owned()));
    }

    /// Runs a command to its end, and keeps what it says.
    fn run(&mut self, command: &AgentCommand<'_>, arguments: &[&str], by: &str) -> Option<i32> {
        let output = command.output(arguments);
        let by = format!("{by}: {}", arguments.join(" "));
        self.say(&by, output.stdout);
        self.say(&by, output.stderr);
        output.status.code()
    }

    #[track_caller]
    fn assert_discreet(&self) {
        let leaks: Vec<(&str, &str)> = self
            .0
            .iter()
            .flat_map(|(by, text)| text.lines().map(move |line| (by.as_str(), line)))
            .filter(|(_, line)| line.contains(SECRET))
            .take(5)
            .collect();
        assert_eq!(leaks, Vec::<(&str, &str)>::new());
        assert!(self.0.iter().any(|(_, text)| text.contains(MASK)), "the masks are there");
    }
}

#[test]
fn no_output_shows_a_secret() {
    needs!(Need::Agent);
    for protocol in Protocol::ALL {
        let watched = Watched::new();
        let collector = Collector::start(&watched.host, protocol);
        let mut said = Said::default();
        let command = watched.agent(protocol);
        for arguments in COMMANDS {
            let code = said.run(&command, arguments, protocol.name());
            assert!(code.is_some_and(|code| code != 2), "{arguments:?} is told nothing wrong: {code:?}");
        }
        let mut agent = command.start();
        collector.wait_for_value(UP, FORWARD, 1, 0);
        agent.signal(Signal::HUP);
        agent.wait_for_log(&["configuration reloaded"]);
        said.say("cmdline", fs::read(format!("/proc/{}/cmdline", agent.pid().as_raw_nonzero())).unwrap());
        agent.stop();
        said.say("log", agent.log_with(&[]).join("\n"));
        let mut console = command.variable("OTEL_METRICS_EXPORTER", "console").start();
        eventually("points on the console", || (!console.stdout().is_empty()).then_some(()));
        console.stop();
        said.say("console", console.stdout().join("\n"));
        said.say("log", console.log_with(&[]).join("\n"));
        said.say("logs", collector.logs().join("\n"));
        said.say("spans", collector.spans().join("\n"));
        said.assert_discreet();
    }
}

#[test]
fn no_secret_is_shown_where_exports_fail_and_reloads_are_refused() {
    needs!(Need::Agent);
    for protocol in Protocol::ALL {
        let watched = Watched::new();
        let mut said = Said::default();
        // Its traces and logs fail as well.
        let mut agent = watched.agent(protocol).start();
        agent.wait_for_log(&["WARN", "Connection refused"]);
        agent.stop();
        said.say(protocol.name(), agent.log_with(&[]).join("\n"));

        let faulty = Faulty::start(&watched.host, protocol, protocol.address(), |_, _| {});
        let mut config = watched.config();
        config["selfTelemetry"] = json!({});
        let mut agent = watched.plain_agent(protocol).config(&config).start();
        let refusal = match protocol {
            Protocol::Grpc => Fault::Code(16, None),
            Protocol::Http => Fault::Status(401, None, None),
        };
        let broken = [Fault::ResetBeforeHead, Fault::Garbage];
        for fault in broken {
            let before = faulty.connections();
            faulty.set(fault);
            eventually("an attempt that fails", || (faulty.connections() > before).then_some(()));
        }
        faulty.set(refusal);
        agent.wait_for_log(&["request refused"]);
        let mut reloads = 0;
        for (name, text, _) in faulty_files(&watched) {
            if name != "config.json" {
                continue;
            }
            let _path = watched.scene.write(name, &text);
            agent.signal(Signal::HUP);
            reloads += 1;
            eventually("a reload that is refused", || {
                (agent.log_with(&["is refused, the old one stays in force"]).len() == reloads).then_some(())
            });
        }
        assert!(reloads > 3);
        agent.stop();
        said.say(protocol.name(), agent.log_with(&[]).join("\n"));
        said.assert_discreet();
    }
}

/// Files with something wrong in them at or about a secret; and what they are faulty for, in a word.
fn faulty_files(watched: &Watched) -> Vec<(&'static str, String, &'static str)> {
    let with = |path: &str, value: Value| {
        let mut config = watched.config();
        *config.pointer_mut(path).unwrap() = value;
        config.to_string()
    };
    let syntax = watched.config().to_string().replacen("\"canary-in-file\"", "\"canary-in-file\" canary", 1);
    vec![
        ("config.json", with("/export/headers/x-a", json!("canary\nin two lines")), "value"),
        ("config.json", with("/export/headers/x-a", json!(["canary"])), "type"),
        ("config.json", with("/export/headers", json!("x-a=canary")), "type"),
        ("config.json", with("/export/headers", json!({ "authorization: canary": "x" })), "name"),
        ("config.json", with("/export/headers", json!({ "host": "canary" })), "name"),
        ("config.json", with("/interval", json!("${file:token}")), "secret of a file in a wrong place"),
        ("config.json", with("/log/level", json!("${file:token}")), "secret of a file in a wrong place"),
        ("config.json", with("/export", json!({ "endpoint": "http://user:canary@localhost" })), "user"),
        ("config.json", with("/export", json!({ "endpoint": "http://user:ca/canary@localhost" })), "user"),
        ("config.json", with("/export", json!({ "endpoint": "ftp://${file:token}" })), "endpoint"),
        ("config.json", syntax, "syntax"),
        ("config.yaml", "export:\n  headers:\n    x-a: canary: canary\n".to_owned(), "syntax"),
        ("config.yaml", "export:\n  headers:\n    x-a: \"canary\n".to_owned(), "syntax"),
        ("config.yaml", "export:\n  headers:\n    x-a: *canary\n".to_owned(), "syntax"),
        ("config.yaml", "export:\n  headers:\n    x-a: !canary canary\n".to_owned(), "syntax"),
        ("config.yaml", "export:\n  headers:\n    x-a: @canary\n".to_owned(), "syntax"),
        ("config.yaml", "export:\n  headers:\n    x-a: %canary\n".to_owned(), "syntax"),
        ("config.yaml", "export:\n  headers:\n    x-a: |canary\n".to_owned(), "syntax"),
        ("config.yaml", "export:\n  headers:\n    x-a: {canary\n".to_owned(), "syntax"),
        ("config.toml", "[export.headers]\nx-a = canary\n".to_owned(), "syntax"),
        ("config.toml", "[export.headers]\nx-a = \"canary\n".to_owned(), "syntax"),
        ("config.toml", "[export.headers]\nx-a = \"canary\" canary\n".to_owned(), "syntax"),
    ]
}

#[test]
fn no_fault_of_a_configuration_shows_a_secret() {
    needs!(Need::Agent);
    let watched = Watched::new();
    let protocol = Protocol::Grpc;
    let mut said = Said::default();
    for (name, text, what) in faulty_files(&watched) {
        // A file that is only broken YAML, TOML or JSON is the same to all commands.
        let commands = if what == "syntax" { COMMANDS.get(..1) } else { COMMANDS.get(..4) };
        let command = watched.plain_agent(protocol).config_text(name, &text);
        for arguments in commands.unwrap().iter().copied().chain([&["run"][..]]) {
            let code = said.run(&command, arguments, &text);
            assert_eq!(code, Some(2), "{what}: {arguments:?}: {text}");
        }
    }
    for (name, text) in [
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-d=canary%0A,canary"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-d=canary%0A"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-d=canary%zz"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization: Bearer canary=="),
        ("OTEL_EXPORTER_OTLP_METRICS_HEADERS", "host=canary"),
        ("VMS_EXPORT__HEADERS", "{x-d: [canary}"),
        ("VMS_EXPORT__HEADERS", "canary"),
        ("VMS_EXPORT__HEADERS__X_D", "canary"),
        ("VMS_EXPORT_HEADERS", "x-d=canary"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://user:canary@localhost:4317"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "user:canary@localhost:4317"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://user:ca/canary@localhost:4317"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4317?api-key=canary"),
        ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://localhost:4317#canary"),
        ("VMS_EXPORT__ENDPOINT", "https://canary@localhost:99999"),
    ] {
        let command = watched.agent(protocol).variable(name, text);
        for arguments in [&["validate"][..], &["doctor"], &["run"]] {
            let code = said.run(&command, arguments, &format!("{name}={text}"));
            assert_eq!(code, Some(2), "{name}={text}: {arguments:?}");
        }
    }
    said.assert_discreet();
}
