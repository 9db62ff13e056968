use std::fs;

use insta::assert_snapshot;
use proptest::prelude::*;
use tempfile::TempDir;
use vms_core::connection::{TcpState, TcpStates};
use vms_core::metric;
use vms_core::observer::Bounds;
use vms_core::presence::PresenceProbe;
use vms_core::process::ProcessPattern;
use vms_core::socket::{EndClause, Families, SocketClause, Transport};
use vms_core::watch::WatchProbe;
use vms_export::config::{Backoff, Compression, Protocol, Secret, SpoolConfig, SpoolMode, TlsFiles};

use super::*;

const PROBE: &str = "
probes:
  - type: connection_mon
    name: link
    processName: orders
    destServiceIp: 10.0.0.5
    destServicePort: 5432
";

const PROBES_VARIABLE: (&str, &str) = (
    "VMS_PROBES",
    "[{type: connection_mon, name: link, processName: orders, destServiceIp: 10.0.0.5, destServicePort: 5432}]",
);

/// A directory with a configuration file in it.
struct Host {
    directory: TempDir,
    file: PathBuf,
}

impl Host {
    fn with(file: &str, content: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join(file);
        fs::write(&file, content).unwrap();
        Self { directory, file }
    }

    fn write(&self, file: &str, content: &str) {
        fs::write(self.directory.path().join(file), content).unwrap();
    }

    fn load(&self, environment: &Environment) -> Result<Loaded, ConfigErrors> {
        self.load_with(environment, Overrides::default())
    }

    fn load_with(&self, environment: &Environment, flags: Overrides) -> Result<Loaded, ConfigErrors> {
        load_or_default(
            &Sources { file: Some(&self.file), cnxwatch: None, environment, flags },
            &self.nowhere(),
        )
    }

    fn nowhere(&self) -> PathBuf {
        self.directory.path().join("no-such-file.yaml")
    }

    /// What is printed about it, wherever the directory is.
    fn report(&self, environment: &Environment) -> String {
        let printed = match self.load(environment) {
            Ok(loaded) => loaded.effective.to_string(),
            Err(errors) => errors.to_string(),
        };
        printed.replace(&format!("{}/", self.directory.path().display()), "")
    }
}

fn environment<const COUNT: usize>(variables: [(&str, &str); COUNT]) -> Environment {
    Environment::from(variables)
}

/// A configuration made from variables alone.
fn load_environment<const COUNT: usize>(variables: [(&str, &str); COUNT]) -> Result<Loaded, ConfigErrors> {
    let environment: Environment = variables.into_iter().collect();
    let sources =
        Sources { file: None, cnxwatch: None, environment: &environment, flags: Overrides::default() };
    load_or_default(&sources, Path::new("/no/such/file.yaml"))
}

/// The same with a valid probe.
fn load_with_probe<const COUNT: usize>(variables: [(&str, &str); COUNT]) -> Result<Loaded, ConfigErrors> {
    let environment: Environment = variables.into_iter().chain([PROBES_VARIABLE]).collect();
    let sources =
        Sources { file: None, cnxwatch: None, environment: &environment, flags: Overrides::default() };
    load_or_default(&sources, Path::new("/no/such/file.yaml"))
}

fn errors_of<const COUNT: usize>(variables: [(&str, &str); COUNT]) -> String {
    load_with_probe(variables).unwrap_err().to_string()
}

fn export_of<const COUNT: usize>(variables: [(&str, &str); COUNT]) -> ExportConfig {
    match load_with_probe(variables).unwrap().config.exporter {
        Exporter::Otlp(export) => export,
        other => panic!("{other:?}"),
    }
}

fn link(config: &Config, index: usize) -> &ConnectionProbe {
    match &config.probes[index] {
        Probe::Link(link) => link,
        other => panic!("{other:?}"),
    }
}

/// Snapshots what is printed about a file, with the file beside it.
macro_rules! assert_report {
    ($name:literal, $file:literal, $content:expr) => {
        assert_report!($name, $file, $content, [("UNRELATED", "x")])
    };
    ($name:literal, $file:literal, $content:expr, $variables:expr) => {{
        let content: &str = $content;
        let report = Host::with($file, content).report(&environment($variables));
        insta::with_settings!({ description => content, omit_expression => true, prepend_module_to_snapshot => false }, {
            assert_snapshot!($name, report);
        });
    }};
}

#[test]
fn every_fault_of_a_file_is_told_at_once_with_its_line() {
    assert_report!(
        "many-faults-yaml",
        "config.yaml",
        r#"interval: 15
exprot:
  protocol: grpc
endpoint: http://collector:4317
probes:
  - type: connection_mom
    name: first
    processName: "[a"
    executablePath: bin/orders
    destServiceIp: 10.0.0.256
    destServicPort: 83617
  - type: connection_mon
    name: first
    processName: 123
    destServiceIp: 0.0.0.0
    destServicePort: 83617
    sourceServicePort: "40000"
    protocol: udp
    interval: 50ms
    matchedSourceLabels: ipPort
  - type: connection_mon
    name: third
    processName: x
    destServiceIp: 10.0.0.5
    destServicePort: -1
    sourceServiceIp: ::1
  - 17
export:
  protocol: http/protobof
  queueBytes: 8MiB
  timeout: 1h
  compression: true
  headers:
    "bad name": x
    token: 42
  tls:
    clientKeyFile: key.pem
  backoff: {initial: 1m, max: 1s}
resource:
  attributes:
    replicas: 3
log:
  level: debgu
  format: [json]
procRoot: proc
"#
    );
}

#[test]
fn toml_and_json_tell_the_same_faults_with_their_lines() {
    assert_report!(
        "many-faults-toml",
        "config.toml",
        r#"interval = 15
log = "debug"

[[probes]]
type = "connection_mon"
name = "link"
process_name = "x"
destServiceIp = 2024-01-01
destServicePort = 0

[[probes]]
name = "link"

[export]
queueBytes = 1.5
"#
    );
    assert_report!(
        "many-faults-json",
        "config.json",
        r#"{
  "$schema": "config.schema.json",
  "interval": 15,
  "log": {"level": "info",
          "level": "debug"},
  "probes": [
    {"type": "connection_mon", "name": "link", "processName": "x", "destServiceIp": "fe80::1%",
     "destServicePort": 99999999999999999999999999999999999999999}
  ]
}
"#
    );
}

#[test]
fn broken_documents_are_told_with_their_line() {
    assert_report!("syntax-yaml", "config.yaml", "probes:\n  - name: [a\nlog: {}\n");
    assert_report!("syntax-toml", "config.toml", "[log]\nlevel = info\n");
    assert_report!("syntax-json", "config.json", "{\n  \"log\": {},\n}\n");
    assert_report!("not-a-map", "config.yaml", "- probes\n");
    assert_report!("nothing", "config.yaml", "# nothing yet\n");
    assert_report!(
        "repeated-keys",
        "config.yaml",
        "log:\n  level: info\nprobes: []\nlog:\n  level: warn\n  level: debug\n"
    );
}

#[test]
fn faults_of_all_sources_are_told_together() {
    assert_report!(
        "all-sources",
        "config.yaml",
        "interval: soon\nprobes: []\n",
        [
            ("OTEL_METRIC_EXPORT_INTERVAL", "often"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=hunter2,broken"),
            ("OTEL_RESOURCE_ATTRIBUTES", "a=%zz"),
            ("OTEL_METRICS_EXPORTER", "prometheus"),
            ("VMS_EXPORT__QUEUE_BYTE", "1"),
            ("VMS_EXPORT_ENDPOINT", "http://collector:4317"),
            ("VMS_EXPORT__TLS", "{caFile: [}"),
            ("VMS_LOG__LEVEL", "verbose"),
            ("VMS_LOGLEVEL", "info"),
            ("VMS_SOMETHING_ELSE", "1"),
        ]
    );
}

#[test]
fn an_unreadable_file_is_told_without_what_may_stand_in_it() {
    let host = Host::with("config.yml", "");
    fs::remove_file(&host.file).unwrap();
    let report =
        host.report(&environment([("VMS_INTERVAL", "1"), ("VMS_EXPORT__TLS__CLIENT_KEY_FILE", "key.pem")]));
    assert!(report.contains("\nconfig.yml: cannot be read: No such file or directory"), "{report}");
    assert!(report.contains("\nVMS_INTERVAL: interval = \"1\": a number without a unit"), "{report}");
    assert!(!report.contains("missing"), "{report}");
    let report = Host::with("config.ini", "").report(&Environment::default());
    assert!(report.contains(
        "\nconfig.ini: unknown file format\n    allowed: a name that ends in .yaml, .yml, .toml or .json"
    ));
    let host = Host::with("config.yaml", "");
    fs::write(&host.file, b"name: \xff\n").unwrap();
    assert!(host.report(&Environment::default()).contains("config.yaml: cannot be read: not UTF-8"));
}

#[test]
fn references_are_replaced_and_take_the_type_of_their_setting() {
    let host = Host::with(
        "config.yaml",
        r#"
probes:
  - type: connection_mon
    name: ${env:SITE}-${env:UNIT:-none}-$$5-$x
    processName: ${env:NUMBER}
    destServiceIp: 10.0.0.5
    destServicePort: ${env:PORT}
export:
  endpoint: ${env:COLLECTOR:-http://collector:4317}
  headers: {authorization: "Bearer ${file:token}"}
selfTelemetry: {logs: "${env:LOGS:-true}"}
"#,
    );
    host.write("token", "hunter2\n");
    let variables = environment([("SITE", "north"), ("NUMBER", "123"), ("PORT", "5432"), ("UNIT", "")]);
    let config = host.load(&variables).unwrap().config;
    assert_eq!(&*link(&config, 0).name, "north-none-$5-$x");
    assert_eq!(link(&config, 0).source_process.name.as_str(), "123");
    assert_eq!(link(&config, 0).dest_port, 5432);
    assert!(config.self_telemetry.logs);
    let Exporter::Otlp(export) = config.exporter else { panic!() };
    assert_eq!(export.endpoint, "http://collector:4317");
    assert_eq!(export.headers, [("authorization".to_owned(), Secret::new("Bearer hunter2"))]);
}

#[test]
fn references_that_cannot_be_replaced_are_faults() {
    assert_report!(
        "references",
        "config.yaml",
        r#"
probes:
  - type: connection_mon
    name: ${env:UNSET}
    processName: ${PROCESS}
    destServiceIp: ${file:/no/such/file}
    destServicePort: ${env:PORT}
    executablePath: ${env:OPEN
    sourceServiceIp: ${env:1}
interval: ${vault:interval:-now}
log: {level: "${file:}"}
"#,
        [("PORT", "http"), ("UNSET_", "near")]
    );
}

#[test]
fn no_output_shows_a_secret() {
    let host = Host::with(
        "config.yaml",
        r#"
probes:
  - type: connection_mon
    name: "${file:secret}"
    processName: x
    destServiceIp: 10.0.0.5
    destServicePort: 1
export:
  headers: {authorization: hunter2, other: "${file:secret}"}
"#,
    );
    host.write("secret", "hunter2");
    let report = host.report(&Environment::default());
    assert!(report.contains("****") && !report.contains("hunter2"), "{report}");
    assert!(
        !format!("{:?}", host.load(&Environment::default()).unwrap().config.exporter).contains("hunter2")
    );

    // In every kind of fault.
    let host = Host::with(
        "config.yaml",
        r#"
interval: "${file:secret}"
probes:
  - {type: "${file:secret}", name: "${file:secret}", processName: "${file:glob}", destServiceIp: "${file:secret}",
     destServicePort: "${file:secret}"}
  - {type: connection_mon, name: "${file:secret}", processName: x, destServiceIp: ::1, destServicePort: 1}
export:
  endpoint: http://user:hunter2@collector:4317
  metricsEndpoint: "${file:secret}://"
  headers: {a: "hunter2\n", b: [hunter2], c: {d: hunter2}, e: 5550199}
  tls: {caFile: "", clientKeyFile: "${file:secret}"}
log: {level: "${file:secret}"}
"#,
    );
    host.write("secret", "hunter2");
    host.write("glob", "[hunter2");
    let variables = environment([
        ("OTEL_EXPORTER_OTLP_METRICS_HEADERS", "x=hunter2,hunter2"),
        ("VMS_EXPORT__HEADERS", "{a: [hunter2}"),
    ]);
    let report = host.report(&variables);
    assert!(report.lines().filter(|line| line.contains("****")).count() >= 9, "{report}");
    assert!(!report.contains("hunter2") && !report.contains("5550199"), "{report}");
}

#[test]
fn headers_that_the_exporter_would_refuse_are_told_with_their_source_beside_all_other_faults() {
    let headers = "{Host: hunter2, x-tenant: hunter2, te: hunter2, x-trace-bin: hunter2}";
    let host = Host::with("config.yaml", &format!("{PROBE}interval: soon\nexport:\n  headers: {headers}\n"));
    let reserved = ["connection", "content-length", "content-type", "transfer-encoding", "grpc-timeout"];
    let of_otel: Vec<String> = reserved.iter().map(|name| format!("{name}=hunter2")).collect();
    let variables = environment([
        ("OTEL_EXPORTER_OTLP_HEADERS", of_otel.join(",").as_str()),
        ("VMS_EXPORT__HEADERS", "Upgrade=hunter2"),
    ]);
    let report = host.report(&variables);
    let otel = reserved.map(|name| ("OTEL_EXPORTER_OTLP_HEADERS", name));
    let of_file = ["host", "te", "x-trace-bin"].map(|name| ("config.yaml:10", name));
    for (source, name) in otel.into_iter().chain(of_file).chain([("VMS_EXPORT__HEADERS", "upgrade")]) {
        let fault = report.split_once(&format!("\n{source}: export.headers.{name}: "));
        let (_, fault) = fault.unwrap_or_else(|| panic!("{source} {name}: {report}"));
        let mut lines = fault.lines();
        assert!(lines.next().is_some_and(|problem| !problem.is_empty()), "{report}");
        assert!(
            lines.next().unwrap().starts_with("    allowed: the name of a header of your own"),
            "{report}"
        );
    }
    assert!(report.contains("config.yaml:8: interval = \"soon\""), "{report}");
    assert!(!report.contains("x-tenant:") && !report.contains("hunter2"), "{report}");
}

#[test]
fn what_cannot_be_the_name_of_a_header_is_masked_because_it_may_be_the_secret() {
    for (name, text) in [
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization: Bearer hunter2=="),
        ("VMS_EXPORT__HEADERS", "authorization Bearer hunter2=x"),
        ("VMS_EXPORT__HEADERS", "{authorization Bearer hunter2: x}"),
        ("VMS_EXPORT__HEADERS", "{Bearer hunter2: x, bearer hunter2: x, bearer hunter2: x}"),
        ("VMS_EXPORT__HEADERS", "{authorization Bearer hunter2: [x]}"),
    ] {
        let errors = errors_of([(name, text)]);
        assert!(errors.contains(&format!("{name}: export.headers[\"****\"]: ")), "{errors}");
        assert!(!errors.contains("hunter2"), "{errors}");
    }
}

#[test]
fn control_characters_of_a_configuration_do_not_reach_the_terminal() {
    let host = Host::with(
        "config.yaml",
        "\"a\\e[31m\": 1\nlog: {level: \"\\e]0;x\\a\", format: \"\\u202e\"}\nprocRoot: \"${ROOT:-\\e[31m}\"\nprobes: [{processName: \"[s-\\e]\"}]\n",
    );
    let report = host.report(&Environment::default());
    assert!(!report.contains(['\u{1b}', '\u{7}', '\u{202e}']), "{report:?}");
    // Nor do those of names: of a file, with a line and without one, and of a variable.
    for (text, place) in
        [("no: 1\n", "a\\u{1b}[2J\\n\\u{202e}b.yaml:1: no:"), ("[]", "a\\u{1b}[2J\\n\\u{202e}b.yaml: ")]
    {
        let report = Host::with("a\u{1b}[2J\n\u{202e}b.yaml", text).report(&Environment::default());
        assert!(report.contains(place), "{report:?}");
    }
    let report = errors_of([("VMS_\u{1b}[2J\n\u{202e}", "x")]);
    assert!(report.contains("VMS_\\u{1b}[2J\\n\\u{202e}: no such variable"), "{report:?}");
}

#[test]
fn later_sources_win_key_by_key() {
    let host = Host::with(
        "config.yaml",
        &format!(
            "{PROBE}\ninterval: 1s\nlog: {{level: error, format: text}}\nexport: {{timeout: 1s, headers: {{A: file, b: file}}}}\n"
        ),
    );
    let variables = environment([
        ("OTEL_METRIC_EXPORT_INTERVAL", "2000"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "B=otel,c=otel"),
        ("VMS_INTERVAL", "3s"),
        ("VMS_LOG__LEVEL", "warn"),
        ("VMS_EXPORT__HEADERS", "C=vms"),
    ]);
    let flags = Overrides::default().with("log.level", "--log-level", "debug");
    let config = host.load_with(&variables, flags).unwrap().config;
    assert_eq!(config.interval, Duration::from_secs(3));
    assert_eq!(config.log, LogConfig { level: "debug".to_owned(), format: LogFormat::Text });
    let Exporter::Otlp(export) = config.exporter else { panic!() };
    assert_eq!(export.timeout, Duration::from_secs(1));
    let header = |name: &str, value: &str| (name.to_owned(), Secret::new(value));
    assert_eq!(export.headers, [header("a", "file"), header("b", "otel"), header("c", "vms")]);
    // Without the agent's own variable the standard one holds.
    let config = host.load(&environment([("OTEL_METRIC_EXPORT_INTERVAL", "2000")])).unwrap().config;
    assert_eq!(config.interval, Duration::from_secs(2));
    assert_eq!(link(&config, 0).interval, Duration::from_secs(2));
}

#[test]
fn a_list_of_a_later_source_replaces_an_earlier_one() {
    let host = Host::with("config.yaml", &format!("{PROBE}\n  - 17\n"));
    let config = host.load(&environment([PROBES_VARIABLE])).unwrap().config;
    assert_eq!(config.probes.len(), 1);
}

#[test]
fn a_flag_of_the_wrong_kind_is_named() {
    let host = Host::with("config.yaml", PROBE);
    let flags = Overrides::default().with("log.level", "--log-level", "debgu");
    let errors = host.load_with(&Environment::default(), flags).unwrap_err().to_string();
    assert!(
        errors.contains("--log-level: log.level = \"debgu\": `debgu` is not a level, did you mean `debug`?"),
        "{errors}"
    );
}

#[test]
fn the_file_is_the_flags_else_the_variables_else_the_default_one() {
    let host = Host::with("config.yaml", &format!("{PROBE}interval: 1s\n"));
    host.write("variable.yaml", &format!("{PROBE}interval: 2s\n"));
    host.write("default.yaml", &format!("{PROBE}interval: 3s\n"));
    let in_directory = |file: &str| host.directory.path().join(file);
    let variable = environment([("VMS_CONFIG", in_directory("variable.yaml").to_str().unwrap())]);
    let none = Environment::default();
    let interval = |file: Option<&Path>, environment: &Environment| {
        let sources = Sources { file, cnxwatch: None, environment, flags: Overrides::default() };
        load_or_default(&sources, &in_directory("default.yaml")).unwrap().config.interval.as_secs()
    };
    assert_eq!(interval(Some(&host.file), &variable), 1);
    assert_eq!(interval(None, &variable), 2);
    assert_eq!(interval(None, &none), 3);
}

#[test]
fn a_container_runs_with_variables_alone() {
    let config = load_environment([
        ("VMS_PROBES__0__TYPE", "connection_mon"),
        ("VMS_PROBES__0__NAME", "123"),
        ("VMS_PROBES__0__PROCESS_NAME", "456"),
        ("VMS_PROBES__0__DEST_SERVICE_IP", "::ffff:10.0.0.5"),
        ("VMS_PROBES__0__DESTSERVICEPORT", "5432"),
        (
            "VMS_PROBES__1",
            r#"{"type": "connection_mon", "name": "b", "processName": "x", "destServiceIp": "fe80::1%eth0"}"#,
        ),
        ("VMS_PROBES__1__DEST_SERVICE_PORT", "1"),
        ("VMS_SELF_TELEMETRY__TRACES", "TRUE"),
        ("VMS_EXPORT__QUEUE_BYTES", "1048576"),
        ("VMS_RESOURCE__ATTRIBUTES", "{deployment.environment.name: production}"),
        ("VMS_PROC_ROOT", "/host/proc"),
        ("VMS_POD_LOGS_ROOT", "/host/pods"),
        ("VMS_CONFIG", ""),
    ])
    .unwrap()
    .config;
    assert_eq!(&*link(&config, 0).name, "123");
    assert_eq!(link(&config, 0).source_process.name.as_str(), "456");
    assert_eq!(link(&config, 0).dest_ip, "10.0.0.5".parse().unwrap());
    assert_eq!(link(&config, 0).dest_port, 5432);
    assert_eq!(&*link(&config, 1).name, "b");
    assert_eq!(link(&config, 1).dest_port, 1);
    assert!(config.self_telemetry.traces);
    assert_eq!(config.self_telemetry.export.queue_bytes, 1 << 20);
    assert_eq!(config.resource.attributes["deployment.environment.name"], "production");
    assert_eq!(config.proc_root, Path::new("/host/proc"));
    assert_eq!(config.pod_logs_root, Path::new("/host/pods"));
}

#[test]
fn items_of_a_list_in_variables_leave_no_gap() {
    let errors = load_environment([("VMS_PROBES__0__NAME", "a"), ("VMS_PROBES__2__NAME", "b")])
        .unwrap_err()
        .to_string();
    assert!(errors.contains("VMS_PROBES__2__NAME: probes[2].name: item 1 is missing"), "{errors}");
}

#[test]
fn two_spellings_of_one_variable_are_refused() {
    let errors = errors_of([("VMS_EXPORT__QUEUE_BYTES", "65536"), ("VMS_EXPORT__QUEUEBYTES", "65537")]);
    assert!(
        errors.contains("VMS_EXPORT__QUEUE_BYTES: export.queueBytes: set by VMS_EXPORT__QUEUEBYTES as well"),
        "{errors}"
    );
}

#[test]
fn what_kubernetes_says_of_services_is_no_setting() {
    let links = [
        ("VMS_AGENT_SERVICE_HOST", "10.96.0.7"),
        ("VMS_AGENT_SERVICE_PORT", "4317"),
        ("VMS_AGENT_SERVICE_PORT_OTLP", "4317"),
        ("VMS_AGENT_PORT", "tcp://10.96.0.7:4317"),
        ("VMS_AGENT_PORT_4317_TCP", "tcp://10.96.0.7:4317"),
        ("VMS_AGENT_PORT_4317_TCP_PROTO", "tcp"),
        ("VMS_AGENT_PORT_4317_TCP_PORT", "4317"),
        ("VMS_AGENT_PORT_4317_TCP_ADDR", "10.96.0.7"),
    ];
    load_with_probe(links).unwrap();
    // Without the service they are what nobody knows.
    assert!(errors_of([("VMS_AGENT_PORT", "4317")]).contains("VMS_AGENT_PORT: no such variable"));
    assert!(errors_of([("VMS_DEST_SERVICE_PORT", "4317")]).contains("no such variable"));
}

#[test]
fn every_setting_has_a_variable() {
    let keywords = settings::schema();
    let schema = Schema::root(&keywords);
    let mut paths = Vec::new();
    collect_paths(schema, &KeyPath::default(), &mut paths);
    assert!(paths.contains(&"export.tls.caFile".to_owned()) && paths.contains(&"probes[0].name".to_owned()));
    let names = vms::names(schema);
    let resolved: Vec<_> = names.iter().map(|name| vms::resolve(name, schema).unwrap().to_string()).collect();
    for path in paths {
        assert!(resolved.contains(&path), "{path}");
    }
}

fn collect_paths(schema: Schema<'_>, path: &KeyPath, paths: &mut Vec<String>) {
    for (_, variant) in schema.variants() {
        collect_paths(variant, path, paths);
    }
    for (key, schema) in schema.properties() {
        let path = path.key(key);
        collect_paths(schema, &path, paths);
        if let Some(items) = schema.items() {
            collect_paths(items, &path.index(0), paths);
        }
        paths.push(path.to_string());
    }
}

#[test]
fn standard_variables_are_honoured() {
    let export = export_of([
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector:4317"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=a%2Cb%3D, other = x y ,"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "1500"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "ca.pem"),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "key.pem"),
        ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "cert.pem"),
    ]);
    let expected = ExportConfig {
        protocol: Protocol::Grpc,
        endpoint: http::Uri::from_static("https://collector:4317"),
        headers: vec![("api-key".to_owned(), Secret::new("a,b=")), ("other".to_owned(), Secret::new("x y"))],
        timeout: Duration::from_millis(1500),
        compression: Compression::Gzip,
        tls: TlsFiles {
            ca: Some("ca.pem".into()),
            client_certificate: Some("cert.pem".into()),
            client_key: Some("key.pem".into()),
        },
        backoff: Backoff::default(),
        queue_bytes: 8 << 20,
        spool: Some(SpoolConfig {
            mode: SpoolMode::OnFailure,
            directory: "/var/lib/vms-agent".into(),
            max_bytes: 256 << 20,
            max_age: Duration::from_hours(24),
            replay_pause: Duration::from_millis(100),
        }),
    };
    assert_eq!(export, expected);
}

#[test]
fn the_form_for_metrics_goes_before_the_general_one() {
    let pairs = [
        ("PROTOCOL", "grpc", "http/protobuf"),
        ("ENDPOINT", "http://general:1", "http://metrics:2/x"),
        ("HEADERS", "a=general", "a=metrics"),
        ("TIMEOUT", "1000", "2000"),
        ("COMPRESSION", "gzip", "zstd"),
        ("CERTIFICATE", "general", "metrics"),
        ("CLIENT_KEY", "general", "metrics"),
        ("CLIENT_CERTIFICATE", "general", "metrics"),
    ];
    let variables: Environment = pairs
        .iter()
        .flat_map(|(name, general, metrics)| {
            [
                (format!("OTEL_EXPORTER_OTLP_{name}"), *general),
                (format!("OTEL_EXPORTER_OTLP_METRICS_{name}"), *metrics),
            ]
        })
        .chain([(PROBES_VARIABLE.0.to_owned(), PROBES_VARIABLE.1)])
        .collect();
    let sources =
        Sources { file: None, cnxwatch: None, environment: &variables, flags: Overrides::default() };
    let config = load_or_default(&sources, Path::new("/no/such/file.yaml")).unwrap().config;
    let Exporter::Otlp(export) = config.exporter else { panic!() };
    assert_eq!(export.protocol, Protocol::HttpProtobuf);
    assert_eq!(export.endpoint, "http://metrics:2/x");
    assert_eq!(export.headers, [("a".to_owned(), Secret::new("metrics"))]);
    assert_eq!(export.timeout, Duration::from_secs(2));
    assert_eq!(export.compression, Compression::Zstd);
    let metrics = || Some(PathBuf::from("metrics"));
    assert_eq!(export.tls, TlsFiles { ca: metrics(), client_certificate: metrics(), client_key: metrics() });
    assert_eq!(config.self_telemetry.export.endpoint, "http://general:1");
}

#[test]
fn a_scheme_is_https_unless_insecure() {
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317");
    assert_eq!(export_of([endpoint]).endpoint, "https://collector:4317");
    assert_eq!(
        export_of([endpoint, ("OTEL_EXPORTER_OTLP_INSECURE", "True")]).endpoint,
        "http://collector:4317"
    );
    assert_eq!(
        export_of([endpoint, ("OTEL_EXPORTER_OTLP_METRICS_INSECURE", "true")]).endpoint,
        "http://collector:4317"
    );
}

#[test]
fn an_endpoint_of_a_later_source_wins_over_a_metrics_endpoint_of_an_earlier_one() {
    let earlier = ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://earlier:4317");
    assert_eq!(export_of([earlier]).endpoint, "http://earlier:4317");
    let later = ("VMS_EXPORT__ENDPOINT", "http://later:4317");
    assert_eq!(export_of([earlier, later]).endpoint, "http://later:4317");
    let same = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://same:4317");
    assert_eq!(export_of([earlier, same]).endpoint, "http://earlier:4317");
}

#[test]
fn the_exporter_can_be_chosen_and_switched_off_by_standard_variables() {
    let exporter = |variables| load_with_probe::<2>(variables).unwrap().config.exporter;
    assert_eq!(exporter([("OTEL_METRICS_EXPORTER", "console"), ("X", "")]), Exporter::Console);
    assert_eq!(exporter([("OTEL_METRICS_EXPORTER", "none"), ("X", "")]), Exporter::None);
    assert_eq!(
        exporter([("OTEL_METRICS_EXPORTER", "console"), ("OTEL_SDK_DISABLED", "true")]),
        Exporter::None
    );
    assert_eq!(
        exporter([("OTEL_METRICS_EXPORTER", "console"), ("OTEL_SDK_DISABLED", "false")]),
        Exporter::Console
    );
}

#[test]
fn own_traces_and_logs_are_off_unless_asked_for() {
    let own = |variables| {
        let own = load_with_probe::<2>(variables).unwrap().config.self_telemetry;
        (own.traces, own.logs)
    };
    assert_eq!(own([("X", ""), ("Y", "")]), (false, false));
    assert_eq!(own([("OTEL_TRACES_EXPORTER", "otlp"), ("Y", "")]), (true, false));
    assert_eq!(own([("OTEL_LOGS_EXPORTER", "otlp"), ("Y", "")]), (false, true));
    assert_eq!(own([("OTEL_TRACES_EXPORTER", "otlp"), ("OTEL_SDK_DISABLED", "TRUE")]), (false, false));
    let warnings = load_with_probe([("OTEL_TRACES_EXPORTER", "jaeger")]).unwrap().warnings;
    assert_eq!(warnings, ["OTEL_TRACES_EXPORTER: \"jaeger\" is not supported here, and has no effect"]);
}

#[test]
fn the_service_name_wins_over_one_among_the_attributes() {
    let resource = |variables| load_with_probe::<2>(variables).unwrap().config.resource;
    let attributes = ("OTEL_RESOURCE_ATTRIBUTES", "service.name=attribute,team=a%20b%2Cc");
    let named = resource([attributes, ("OTEL_SERVICE_NAME", "variable")]);
    assert_eq!(named.service_name, "variable");
    assert_eq!(named.attributes, BTreeMap::from([("team".to_owned(), "a b,c".to_owned())]));
    assert_eq!(resource([attributes, ("X", "")]).service_name, "attribute");
    assert_eq!(resource([("X", ""), ("Y", "")]).service_name, "vms-agent");
}

#[test]
fn what_is_allowed_and_seldom_meant_is_a_warning() {
    let warnings = |variables| load_with_probe::<2>(variables).unwrap().warnings;
    let endpoint = |value| [("OTEL_EXPORTER_OTLP_ENDPOINT", value), ("X", "")];
    assert_eq!(warnings(endpoint("http://collector:4317")), [""; 0]);
    assert_eq!(
        warnings(endpoint("http://collector:4318")),
        ["OTEL_EXPORTER_OTLP_ENDPOINT: export.endpoint = \"http://collector:4318\": \
          port 4318 is the usual one of http/protobuf: check `export.protocol`"]
    );
    assert_eq!(
        warnings(endpoint("https://collector")),
        [
            "OTEL_EXPORTER_OTLP_ENDPOINT: export.endpoint = \"https://collector\": no port is given, so that 443 is used"
        ]
    );
    assert_eq!(
        warnings([("OTEL_EXPORTER_OTLP_INSECURE", "yes"), ("X", "")]),
        ["OTEL_EXPORTER_OTLP_INSECURE: \"yes\" is neither true nor false, and counts as false"]
    );
}

#[test]
fn the_destination_end_is_the_sources_program_unless_another_is_named() {
    let dest_process = |more: &str| {
        let host = Host::with("config.yaml", &format!("{PROBE}    executablePath: /bin/orders\n{more}"));
        link(&host.load(&Environment::default()).unwrap().config, 0).dest_process.clone()
    };
    let pattern = |name: &str, executable: Option<&str>| ProcessPattern {
        name: name.parse().unwrap(),
        executable: executable.map(PathBuf::from),
    };
    assert_eq!(dest_process(""), pattern("orders", Some("/bin/orders")));
    assert_eq!(dest_process("    destProcessName: pg\n"), pattern("pg", None));
    assert_eq!(dest_process("    destExecutablePath: /bin/pg\n"), pattern("orders", Some("/bin/pg")));
    assert_eq!(
        dest_process("    destProcessName: pg\n    destExecutablePath: /bin/pg\n"),
        pattern("pg", Some("/bin/pg"))
    );
}

#[test]
fn every_field_of_a_probe_arrives() {
    let host = Host::with(
        "config.yaml",
        r#"
interval: 1m
probes:
  - {type: connection_mon, name: a, processName: "{b,c}*", destServiceIp: "::1", destServicePort: 65535,
     sourceServiceIp: 0:0::2, sourceServicePort: 1, protocol: tcp, interval: 1m30s, matchedSourceLabels: ip_port}
"#,
    );
    let config = host.load(&Environment::default()).unwrap().config;
    let process = ProcessPattern { name: "{b,c}*".parse().unwrap(), executable: None };
    let expected = ConnectionProbe {
        name: "a".into(),
        source_process: process.clone(),
        dest_process: process,
        dest_ip: "::1".parse().unwrap(),
        dest_port: 65535,
        source_ip: Some("::2".parse().unwrap()),
        source_port: Some(1),
        interval: Duration::from_secs(90),
        matched_source_labels: vms_core::probe::MatchedSourceLabels::IpPort,
    };
    assert_eq!(config.probes, [expected.into()]);
}

/// The one probe of a configuration, `connection` or `process_mon`.
fn probe_of(lines: &str) -> Probe {
    let host = Host::with("config.yaml", &format!("interval: 1m\nprobes:\n  - {{name: a, {lines}}}\n"));
    host.load(&Environment::default()).unwrap().config.probes.remove(0)
}

fn watch_of(lines: &str) -> Arc<WatchProbe> {
    match probe_of(&format!("type: connection, {lines}")) {
        Probe::Watch(watch) => watch,
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_field_of_a_watch_arrives() {
    let watch = watch_of(
        "processName: nginx, processPath: /usr/sbin/nginx, localAddress: [10.0.0.0/8, '::1'], \
         localPort: [80, '443', 8000-8999], remoteAddress: [192.0.2.1, DB.example.com, db.example.com], remotePort: 1024-65535, protocol: tcp, \
         states: [established, TIME_WAIT, estab, syn-recv], exact: true, minCount: 2, maxCount: 3, perFamily: true, \
         interval: 5s",
    );
    let networks = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    let ports = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    let text = |key, text: &str| (key, Arc::from(text));
    let expected = WatchProbe {
        name: "a".into(),
        process: Some(ProcessPattern {
            name: "nginx".parse().unwrap(),
            executable: Some("/usr/sbin/nginx".into()),
        }),
        clause: SocketClause {
            transport: Transport::Tcp,
            families: Families::BOTH,
            states: TcpStates::of(&[TcpState::Established, TcpState::TimeWait, TcpState::SynReceived]),
            local: EndClause {
                networks: networks(&["10.0.0.0/8", "::1"]),
                ports: ports(&["80", "443", "8000-8999"]),
                exact: true,
            },
            remote: EndClause {
                networks: networks(&["192.0.2.1"]),
                ports: ports(&["1024-65535"]),
                exact: true,
            },
        },
        local_names: Vec::new(),
        remote_names: vec!["db.example.com".parse().unwrap()],
        bounds: Bounds { least: 2, most: Some(3) },
        by_family: true,
        interval: Duration::from_secs(5),
        labels: vec![
            text("proto", "tcp"),
            text("process_name", "nginx"),
            text("local_address", "10.0.0.0/8,::1"),
            text("local_port", "80,443,8000-8999"),
            text("remote_address", "192.0.2.1,db.example.com,db.example.com"),
            text("remote_port", "1024-65535"),
            text("states", "ESTABLISHED,TIME-WAIT,SYN-RECEIVED"),
        ],
    };
    assert_eq!(*watch, expected);
    assert!(expected.labels.iter().all(|(key, _)| metric::WATCH_ATTRIBUTES.contains(key)));
}

#[test]
fn a_watch_with_nothing_but_a_name_counts_established_connections_of_tcp() {
    let watch = watch_of("interval: 2s");
    assert_eq!(watch.process, None);
    assert_eq!(watch.clause.transport, Transport::Tcp);
    assert_eq!(watch.clause.families, Families::BOTH);
    assert_eq!(watch.clause.states, TcpStates::of(&[TcpState::Established]));
    assert_eq!(watch.clause.local, EndClause::default());
    assert_eq!((watch.bounds, watch.by_family), (Bounds { least: 1, most: None }, false));
    assert_eq!(watch.labels, [("proto", Arc::from("tcp")), ("states", Arc::from("ESTABLISHED"))]);
    assert_eq!(probe_of("type: connection").interval(), Duration::from_mins(1));
}

#[test]
fn an_executable_alone_is_of_any_name() {
    let process = watch_of("processPath: /bin/x").process.clone().unwrap();
    assert_eq!((process.name.as_str(), process.executable), ("*", Some("/bin/x".into())));
}

#[test]
fn one_value_is_as_good_as_a_list_of_it() {
    for (one, list) in [
        ("localPort: 80", "localPort: [80]"),
        ("localPort: '80'", "localPort: [80]"),
        ("remotePort: 1-2", "remotePort: ['1 - 2']"),
        ("localAddress: 10.0.0.1", "localAddress: ['::ffff:10.0.0.1']"),
        ("states: listening", "states: [LISTEN]"),
        ("states: LISTEN", "states: [listen, LISTEN]"),
    ] {
        assert_eq!(watch_of(one), watch_of(list), "{one}");
    }
}

#[test]
fn one_value_or_a_list_is_taken_from_every_format() {
    let expected =
        watch_of("localPort: [80, 8000-8999], remotePort: 5432, localAddress: '::1', interval: 1m");
    for (file, text) in [
        (
            "c.toml",
            "[[probes]]\ntype = 'connection'\nname = 'a'\nlocalPort = [80, '8000-8999']\nremotePort = 5432\nlocalAddress = '::1'\ninterval = '1m'",
        ),
        (
            "c.json",
            r#"{"probes": [{"type": "connection", "name": "a", "localPort": [80, "8000-8999"], "remotePort": 5432, "localAddress": ["::1"], "interval": "1m"}]}"#,
        ),
    ] {
        let config = Host::with(file, text).load(&Environment::default()).unwrap().config;
        assert_eq!(config.probes, [Probe::Watch(Arc::clone(&expected))]);
    }
}

#[test]
fn protocols_are_of_a_transport_and_of_versions_of_ip() {
    for (protocol, transport, families) in [
        ("tcp", Transport::Tcp, Families::BOTH),
        ("tcp4", Transport::Tcp, Families::IPV4),
        ("tcp6", Transport::Tcp, Families::IPV6),
        ("udp", Transport::Udp, Families::BOTH),
        ("udp4", Transport::Udp, Families::IPV4),
        ("udp6", Transport::Udp, Families::IPV6),
    ] {
        let watch = watch_of(&format!("protocol: {protocol}"));
        assert_eq!((watch.clause.transport, watch.clause.families), (transport, families));
        assert_eq!(watch.labels[0], ("proto", Arc::from(protocol)));
    }
}

#[test]
fn what_of_udp_has_no_peer_is_unconnected_by_whatever_name() {
    for name in ["unconnected", "UNCONN", "closed", "CLOSE"] {
        let watch = watch_of(&format!("protocol: udp, states: {name}"));
        assert_eq!(watch.clause.states, TcpStates::of(&[TcpState::Close]));
        assert_eq!(watch.labels.last(), Some(&("states", Arc::from("UNCONNECTED"))));
    }
}

#[test]
fn every_field_of_a_probe_of_processes_arrives() {
    let process = |executable: Option<&str>| ProcessPattern {
        name: "w*".parse().unwrap(),
        executable: executable.map(PathBuf::from),
    };
    let least = probe_of("type: process_mon, processName: 'w*'");
    let expected = PresenceProbe {
        name: "a".into(),
        process: process(None),
        bounds: Bounds { least: 1, most: None },
        resources: false,
        interval: Duration::from_mins(1),
    };
    assert_eq!(least, Probe::Presence(Arc::new(expected.clone())));
    let most = probe_of(
        "type: process_mon, processName: 'w*', executablePath: /bin/w, minCount: 0, maxCount: 0, resources: true, \
         interval: 1s",
    );
    let expected = PresenceProbe {
        process: process(Some("/bin/w")),
        bounds: Bounds { least: 0, most: Some(0) },
        resources: true,
        interval: Duration::from_secs(1),
        ..expected
    };
    assert_eq!(most, Probe::Presence(Arc::new(expected)));
}

#[test]
fn every_fault_of_probes_that_count_is_told_at_once_with_its_line() {
    assert_report!(
        "probes-that-count",
        "config.yaml",
        r#"probes:
  - type: conection
    name: first
    localAddress: -db.example.com
    remoteAddress: [10.0.0.1/8, 10.0.0.256, fe80::1%eth0, "*", 10, "10.0.0.1, 10.0.0.2", {}]
    localPort: 83617
    remotePort: [80, 0, 9-8, http, "80,443", 80.5, []]
    protocol: tcp5
    states: [ESTABLISED, on, 5]
    exact: 1
    minCount: -1
    maxCount: many
    perFamily: "yes"
    interval: 1
    processName: "[a"
    processPath: bin/x
    executablePath: /bin/x
    destServiceIp: 10.0.0.5
  - type: connection
    name: first
    protocol: udp
    states: [listen, established, TIME-WAIT]
    localAddress: 10.0.0.1
    remoteAddress: ["::1", "2001:db8::/32"]
    maxCount: 0
  - type: connection
    name: third
    localAddress: ["::1", "::", 10.0.0.0/8]
    protocol: tcp6
    localPort: []
    states: []
  - type: process_mon
    name: fourth
    minCount: 3
    maxCount: 2
    processPath: /bin/x
  - processPath: /bin/x
    name: fifth
    maxCount: 5000000000
"#
    );
}

#[test]
fn a_watch_that_can_count_nothing_is_warned_about() {
    let warnings = |lines: &str| {
        let host = Host::with("c.yaml", &format!("probes:\n  - {{type: connection, name: a, {lines}}}\n"));
        let warnings = host.load(&Environment::default()).unwrap().warnings;
        warnings.iter().map(|warning| warning.split_once("c.yaml:").unwrap().1.to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(warnings("states: [TIME-WAIT, LISTEN]"), [""; 0]);
    assert_eq!(warnings("states: [closed], protocol: udp, processName: x"), [""; 0]);
    assert_eq!(
        warnings("states: [LISTEN, TIME-WAIT], processPath: /bin/x"),
        [
            "2: probes[0].states[1] = \"TIME-WAIT\": no process holds a socket in this state, so that with `processPath` none counts"
        ]
    );
    assert_eq!(
        warnings("states: closed"),
        [
            "2: probes[0].states = \"closed\": the kernel lists no TCP socket in this state, so that none counts"
        ]
    );
}

#[test]
fn an_address_for_all_addresses_is_of_either_version_of_ip() {
    // A dual-stack listener is `::`, and serves IPv4.
    let watch =
        watch_of("protocol: tcp4, states: LISTEN, localAddress: '::', remoteAddress: 0.0.0.0, exact: true");
    assert!(watch.clause.local.exact);
}

#[test]
fn variables_hold_one_value_or_a_list() {
    let config = load_environment([
        ("VMS_PROBES__0__TYPE", "connection"),
        ("VMS_PROBES__0__NAME", "a"),
        ("VMS_PROBES__0__LOCAL_ADDRESS", "::"),
        ("VMS_PROBES__0__LOCAL_PORT", "8000-8999"),
        ("VMS_PROBES__0__REMOTE_ADDRESS", "[10.0.0.1, '::1']"),
        ("VMS_PROBES__0__REMOTE_PORT__0", "80"),
        ("VMS_PROBES__0__REMOTE_PORT__1", "443"),
        ("VMS_PROBES__0__MIN_COUNT", "2"),
        ("VMS_PROBES__0__EXACT", "true"),
    ]);
    let config = config.unwrap().config;
    let [Probe::Watch(watch)] = config.probes.as_slice() else { panic!() };
    let label = |key| watch.labels.iter().find(|(own, _)| *own == key).map(|(_, text)| &**text);
    assert_eq!(label("local_address"), Some("::"));
    assert_eq!(label("local_port"), Some("8000-8999"));
    assert_eq!(label("remote_address"), Some("10.0.0.1,::1"));
    assert_eq!(label("remote_port"), Some("80,443"));
    assert_eq!((watch.bounds.least, watch.clause.local.exact), (2, true));
}

#[test]
fn the_effective_configuration_tells_the_source_of_each_value() {
    assert_report!(
        "effective",
        "config.yaml",
        r#"
log: {level: warn}
probes:
  - name: "12"
    processName: "{a,b}*"
    destServiceIp: ::1
    destServicePort: 443
    type: connection_mon
export:
  headers: {authorization: secret}
"#,
        [("VMS_EXPORT__QUEUE_BYTES", "65536"), ("OTEL_RESOURCE_ATTRIBUTES", "a.b=yes")]
    );
}

#[test]
fn the_effective_configuration_loads_as_the_same_configuration() {
    for file in [example(), fs::read_to_string(config_directory().join("probes.yaml")).unwrap()] {
        let loaded = Host::with("config.yaml", &file).load(&Environment::default()).unwrap();
        let printed = loaded.effective.to_string().replace("\"****\"", "example");
        let again = Host::with("config.yaml", &printed).load(&Environment::default()).unwrap();
        assert_eq!(again.config, loaded.config);
    }
}

#[test]
fn the_name_of_an_attribute_is_as_long_as_a_file_can_have_it() {
    let report = errors_of([("OTEL_RESOURCE_ATTRIBUTES", &*format!("{}=1", "k".repeat(1025)))]);
    assert!(report.contains("entry 1 has a name of more than 1024 bytes"), "{report}");
    // Printed, each of these characters takes two.
    let attribute = format!("{}=1", "%22".repeat(1000));
    let loaded = load_with_probe([("OTEL_RESOURCE_ATTRIBUTES", &attribute)]).unwrap();
    let again = Host::with("config.yaml", &loaded.effective.to_string()).load(&Environment::default());
    assert_eq!(again.unwrap().config, loaded.config);
}

#[test]
fn a_dollar_in_the_effective_configuration_is_no_reference() {
    let file = format!("{PROBE}resource: {{serviceName: 'a$${{env:B}}$$$$c'}}\n");
    let loaded = Host::with("config.yaml", &file).load(&Environment::default()).unwrap();
    assert_eq!(loaded.config.resource.service_name, "a${env:B}$$c");
    let again =
        Host::with("config.yaml", &loaded.effective.to_string()).load(&Environment::default()).unwrap();
    assert_eq!(again.config, loaded.config);
}

fn example() -> String {
    fs::read_to_string(config_directory().join("config.example.yaml")).unwrap()
}

fn config_directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config")
}

#[test]
fn every_file_that_comes_with_the_agent_loads_without_a_warning() {
    let environment = Environment::default();
    let mut count = 0;
    for entry in fs::read_dir(config_directory()).unwrap() {
        let path = entry.unwrap().path();
        if path.ends_with("config.schema.json") {
            continue;
        }
        let sources = Sources {
            file: Some(&path),
            cnxwatch: None,
            environment: &environment,
            flags: Overrides::default(),
        };
        match load(&sources) {
            Ok(loaded) => assert_eq!(loaded.warnings, [""; 0], "{}", path.display()),
            Err(errors) => panic!("{errors}"),
        }
        count += 1;
    }
    assert!(count >= 4);
}

#[test]
fn the_quickstart_watches_its_own_connection() {
    let path = config_directory().join("quickstart.yaml");
    let environment = Environment::default();
    let sources =
        Sources { file: Some(&path), cnxwatch: None, environment: &environment, flags: Overrides::default() };
    let config = load(&sources).unwrap().config;
    let Exporter::Otlp(export) = &config.exporter else { panic!() };
    let [Probe::Link(probe)] = config.probes.as_slice() else { panic!() };
    let service = format!("http://{}", probe.service());
    assert_eq!(export.endpoint, service.as_str());
    assert_eq!(probe.interval, Duration::from_secs(2));
    assert_eq!(
        (probe.source_process.name.as_str(), probe.dest_process.name.as_str()),
        ("vms-agent", "vms-agent")
    );
}

/// The example is the reference of the settings: with its defaults it has to say every key.
#[test]
fn the_example_tells_every_setting_and_its_default() {
    let text = example();
    let keywords = settings::schema();
    let mut paths = Vec::new();
    collect_paths(Schema::root(&keywords), &KeyPath::default(), &mut paths);
    for path in paths {
        let key = path.rsplit('.').next().unwrap();
        let is_told = text.lines().any(|line| {
            let line = line.trim_start().trim_start_matches(['#', '-', ' ']);
            line.strip_prefix(key).is_some_and(|rest| rest.starts_with(':'))
        });
        assert!(is_told, "{path}");
    }
    let loaded = Host::with("config.yaml", &text).load(&Environment::default()).unwrap();
    let Exporter::Otlp(example) = loaded.config.exporter else { panic!() };
    let Exporter::Otlp(default) = load_with_probe([("X", "")]).unwrap().config.exporter else { panic!() };
    let ExportConfig { endpoint, headers, .. } = default;
    assert_eq!(example.headers.len(), headers.len() + 1);
    assert_ne!(example.endpoint, endpoint);
    let default = export_of([("X", "")]);
    assert_eq!(ExportConfig { endpoint: default.endpoint.clone(), headers: Vec::new(), ..example }, default);
}

/// The pages about probes, by type.
fn pages() -> Vec<(String, String)> {
    let pages = fs::read_dir(config_directory().join("../docs/probes")).unwrap().map(|entry| {
        let path = entry.unwrap().path();
        (path.file_stem().unwrap().to_str().unwrap().to_owned(), fs::read_to_string(&path).unwrap())
    });
    pages.collect()
}

#[test]
fn each_type_of_probe_has_a_page_that_tells_its_fields_and_no_others() {
    let keywords = settings::schema();
    let probe = Schema::root(&keywords).at(&KeyPath::from("probes").index(0)).unwrap();
    let pages: BTreeMap<String, String> = pages().into_iter().collect();
    let variants = probe.variants();
    assert_eq!(pages.len(), variants.len());
    for (name, variant) in variants {
        let (_, rest) = pages[name].split_once("\n## Fields\n").unwrap();
        let (fields, _) = rest.split_once("\n## ").unwrap();
        let rows = fields.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
        let mut told: Vec<&str> = rows.map(|(field, _)| field).collect();
        told.sort_unstable();
        let mut keys: Vec<&str> = variant.properties().map(|(key, _)| key).collect();
        keys.sort_unstable();
        assert_eq!(told, keys, "{name}");
    }
}

#[test]
fn the_pages_about_probes_name_metrics_that_there_are_and_examples_that_load() {
    for (name, page) in pages() {
        let prefix = format!("`vms.{name}.");
        let named =
            page.match_indices(&prefix).map(|(start, _)| page[start + 1..].split_once('`').unwrap().0);
        let named: Vec<&str> = named.collect();
        assert!(!named.is_empty(), "{name}");
        for metric in named {
            assert!(metric::ALL.iter().any(|known| known.name == metric), "{metric}");
        }
        let (_, example) = page.split_once("```yaml\n").unwrap();
        let (example, _) = example.split_once("```").unwrap();
        let loaded = Host::with("config.yaml", example).load(&Environment::default()).unwrap();
        assert_eq!(loaded.warnings, [""; 0], "{name}");
        assert!(example.contains(&format!("type: {name}\n")));
    }
}

#[test]
fn the_schema_beside_the_examples_is_the_one_that_is_checked() {
    let path = config_directory().join("config.schema.json");
    let written: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert!(written == schema(), "out of date: vms-agent validate --schema > config/config.schema.json");
}

#[test]
fn the_schema_names_no_check_that_nobody_makes() {
    fn walk(schema: &serde_json::Value, formats: &mut Vec<String>) {
        match schema {
            serde_json::Value::Object(keywords) => {
                for keyword in ["x-minimum", "x-maximum"] {
                    if let Some(limit) = keywords.get(keyword) {
                        limit.as_str().unwrap().parse::<duration::DurationText>().unwrap();
                        assert_eq!(keywords["format"], "vms-duration");
                    }
                }
                formats.extend(keywords.get("format").and_then(|format| Some(format.as_str()?.to_owned())));
                keywords.values().for_each(|part| walk(part, formats));
            }
            serde_json::Value::Array(parts) => parts.iter().for_each(|part| walk(part, formats)),
            _ => {}
        }
    }
    let mut formats = Vec::new();
    walk(&schema(), &mut formats);
    formats.retain(|format| !["uint16", "uint32", "uint64"].contains(&format.as_str()));
    assert!(!formats.is_empty());
    for format in formats {
        assert!(text::allowed(&format).is_some(), "{format}");
        assert!(text::check(&format, "\0[").is_err(), "{format}");
    }
}

#[test]
fn aliases_do_not_multiply_without_bound() {
    let level =
        |level: usize| format!("a{level}: &a{level} [{}]\n", vec![format!("*a{}", level - 1); 10].join(", "));
    let levels: Vec<String> = (1..30).map(level).collect();
    let bomb = format!("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n{}", levels.concat());
    let report = Host::with("config.yaml", &bomb).report(&Environment::default());
    assert!(report.contains("written out, the anchors and aliases would be too large"), "{report}");
}

#[test]
fn anchors_and_aliases_take_16_mib_written_out_and_no_more() {
    // Each is 64 KiB and some bytes for itself, so 256 are too many.
    let of = |count: usize| {
        let list = format!("a: &a {}\nb: [{}]\n", "x".repeat(64 << 10), "*a, ".repeat(count - 1));
        Host::with("config.yaml", &list).report(&Environment::default())
    };
    let told = "written out, the anchors and aliases would be too large";
    assert!(of(256).contains(told));
    assert!(!of(250).contains(told));
}

#[test]
fn aliases_of_a_long_key_do_not_multiply_without_bound() {
    let bomb = format!("? &a {}\n: 1\nb: [{}]\n", "k".repeat(1_000), "*a, ".repeat(20_000));
    let report = Host::with("config.yaml", &bomb).report(&Environment::default());
    assert!(report.contains("written out, the anchors and aliases would be too large"), "{report}");
}

#[test]
fn anchors_within_anchors_do_not_multiply_without_bound() {
    let opened: String = (0..60).flat_map(|level| [format!("&a{level}"), " [".to_owned()]).collect();
    let bomb = format!("a: {opened}{}{}\n", "x, ".repeat(20_000), "]".repeat(60));
    let report = Host::with("config.yaml", &bomb).report(&Environment::default());
    assert!(report.contains("written out, the anchors and aliases would be too large"), "{report}");
}

#[test]
fn a_log_level_that_its_reader_cannot_bear_is_refused() {
    let endless = format!("[span{{f={}}}]=info", ".".repeat(200));
    for (level, problem) in [
        ("\u{59a}[a]", "holds a character that is not ASCII"),
        ("info,[\u{e9}]=debug", "holds a character that is not ASCII"),
        (&endless, "fields of spans cannot be chosen"),
        ("[span]", "is not a level"),
    ] {
        let report = errors_of([("VMS_LOG__LEVEL", level)]);
        assert!(report.contains(problem), "{report}");
    }
    assert!(load_with_probe([("VMS_LOG__LEVEL", "info,[vms.cycle]=trace")]).is_ok());
}

#[test]
fn a_key_without_end_is_refused_in_every_format() {
    let key = "k".repeat(10_000);
    for (file, text) in [
        ("c.yaml", format!("? {key}\n: 1\n")),
        ("c.yaml", format!("a: &a {key}\nb: {{*a : 1}}\n")),
        ("c.json", format!("{{\"{key}\": 1}}")),
        ("c.toml", format!("{key} = 1\n")),
    ] {
        let report = Host::with(file, &text).report(&Environment::default());
        assert!(report.contains("a key of more than 1024 bytes") && report.len() < 2_000, "{report}");
    }
}

#[test]
fn of_faults_without_end_a_thousand_are_told() {
    let many = |line: &str| line.repeat(50_000);
    let many_keys: String =
        (0..50_000).flat_map(|n| ["  k".to_owned(), n.to_string(), ": 1\n".to_owned()]).collect();
    for text in [many("a: 1\n"), format!("{PROBE}export:\n{many_keys}")] {
        let report = Host::with("c.yaml", &text).report(&Environment::default());
        let faults = report.matches("\n\n").count();
        assert!((1..=1_001).contains(&faults), "{faults}");
    }
}

#[test]
fn deep_nesting_is_refused_in_every_format() {
    for (file, open) in [
        ("c.yaml", "- "),
        ("c.yaml", "["),
        ("c.json", "["),
        ("c.json", "{\"a\":"),
        ("c.toml", "a = [["),
        ("c.yaml", "a: {a: "),
    ] {
        let report = Host::with(file, &open.repeat(20_000)).report(&Environment::default());
        assert!(report.contains("error"), "{file} {open}: {report}");
    }
    let chain = |n: usize| format!("a{n}: &a{n} [[[[[[[[[[*a{}]]]]]]]]]]\n", n - 1);
    let anchors: Vec<String> = (1..100).map(chain).collect();
    let report =
        Host::with("c.yaml", &format!("a0: &a0 1\n{}", anchors.concat())).report(&Environment::default());
    assert!(report.contains("nested more than 64 levels deep"), "{report}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_panics_a_loader(text in "\\PC*|[\\[\\]{}:,\"'&*!|>%@`#a0\\- \n\t\\\\$~.<]{0,60}", format in 0..3_usize) {
        let file = ["c.yaml", "c.toml", "c.json"][format];
        let _report = Host::with(file, &text).report(&Environment::default());
    }

    #[test]
    fn no_mutation_of_the_example_panics_the_loader(
        edits in prop::collection::vec((0..8000_usize, 0..40_usize, "[\\[\\]{}:,\"'&*!|>%$\n #a0-]{0,4}"), 1..6),
    ) {
        let mut text: Vec<char> = example().chars().collect();
        for (start, length, with) in edits {
            let start = start.min(text.len());
            let end = (start + length).min(text.len());
            text.splice(start..end, with.chars());
        }
        let text: String = text.into_iter().collect();
        let _report = Host::with("c.yaml", &text).report(&Environment::default());
    }

    #[test]
    fn no_variable_panics_its_source(name in "VMS_[A-Z_0-9]{0,30}|OTEL_EXPORTER_OTLP_(HEADERS|TIMEOUT|ENDPOINT)|VMS_PROBES|VMS_EXPORT__HEADERS", text in "\\PC{0,40}") {
        let environment: Environment = [(name, text)].into_iter().collect();
        let sources = Sources { file: None, cnxwatch: None, environment: &environment, flags: Overrides::default() };
        let _loaded = load_or_default(&sources, Path::new("/no/such/file.yaml"));
    }
}

#[test]
fn the_spool_is_where_systemd_gives_a_directory_unless_configured() {
    let given = ("STATE_DIRECTORY", "/var/lib/private/vms-agent:/var/lib/other");
    for (more, expected) in [
        (None, "/var/lib/private/vms-agent"),
        (Some(("VMS_EXPORT__SPOOL__DIRECTORY", "/srv/spool")), "/srv/spool"),
    ] {
        let variables: Environment = [PROBES_VARIABLE, given].into_iter().chain(more).collect();
        let sources =
            Sources { file: None, cnxwatch: None, environment: &variables, flags: Overrides::default() };
        let loaded = load_or_default(&sources, Path::new("/nonexistent")).unwrap();
        let Exporter::Otlp(export) = loaded.config.exporter else { panic!("otlp is the default") };
        assert_eq!(export.spool.unwrap().directory, Path::new(expected));
    }
}

#[test]
fn metrics_are_scraped_only_where_an_address_and_port_are_given() {
    let listen = |value: &str| load_with_probe([("VMS_PROMETHEUS__LISTEN", value)]);
    assert_eq!(load_with_probe([("X", "")]).unwrap().config.prometheus, None);
    for address in ["127.0.0.1:9293", "[::1]:9293", "0.0.0.0:1"] {
        let config = listen(address).unwrap().config;
        assert_eq!(config.prometheus, Some(address.parse().unwrap()), "{address}");
    }
    for (value, problem) in [
        ("localhost:9293", "not an IP address with a port"),
        ("9293", "not an IP address with a port"),
        ("127.0.0.1", "not an IP address with a port"),
        ("127.0.0.1:0", "port 0 would be another one at each start"),
    ] {
        let report = errors_of([("VMS_PROMETHEUS__LISTEN", value)]);
        assert!(report.contains("prometheus.listen") && report.contains(problem), "{report}");
        assert!(report.contains("such as 127.0.0.1:9293"), "{report}");
    }
}
