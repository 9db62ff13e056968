use super::*;
use crate::config::{Overrides, Sources};
use crate::environment::Environment;

const PROBES: &str =
    "[{type: connection_mon, name: link, processName: x, destServiceIp: ::1, destServicePort: 443}]";

fn loaded(variables: [(&str, &str); 2]) -> Result<Loaded, String> {
    let environment = Environment::from(variables);
    // An explicit file keeps the test apart from a configuration that this host may have.
    let file = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
    let sources = Sources {
        file: Some(file.path()),
        cnxwatch: None,
        environment: &environment,
        flags: Overrides::default(),
    };
    config::load(&sources).map_err(|faults| faults.to_string())
}

#[test]
fn a_valid_configuration_is_printed_and_its_warnings_apart() {
    let loaded = loaded([("VMS_PROBES", PROBES), ("OTEL_TRACES_EXPORTER", "jaeger")]).unwrap();
    let (mut output, mut notices) = (Vec::new(), Vec::new());
    print_effective(&loaded, &mut output, &mut notices).unwrap();
    let (output, notices) = (String::from_utf8(output).unwrap(), String::from_utf8(notices).unwrap());
    assert!(output.contains("name: link") && output.contains("# VMS_PROBES"), "{output}");
    assert!(notices.starts_with("warning: OTEL_TRACES_EXPORTER"), "{notices}");
}

#[test]
fn an_invalid_one_is_all_its_errors() {
    let faults = loaded([("VMS_PROBES", "[]"), ("VMS_INTERVAL", "1")]).unwrap_err();
    assert!(faults.starts_with("the configuration has 2 errors\n"), "{faults}");
}
