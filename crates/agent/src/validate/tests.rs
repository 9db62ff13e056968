use super::*;
use crate::config::Overrides;
use crate::environment::Environment;

const PROBES: &str =
    "[{type: connection_mon, name: link, processName: x, destServiceIp: ::1, destServicePort: 443}]";

fn validated(variables: [(&str, &str); 2]) -> (u8, String, String) {
    let environment = Environment::from(variables);
    let (mut output, mut errors) = (Vec::new(), Vec::new());
    // An explicit file keeps the test apart from a configuration that this host may have.
    let file = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
    let sources = Sources { file: Some(file.path()), environment: &environment, flags: Overrides::default() };
    let status = validate(&sources, &mut output, &mut errors).unwrap();
    (status, String::from_utf8(output).unwrap(), String::from_utf8(errors).unwrap())
}

#[test]
fn a_valid_configuration_is_printed_and_its_warnings_apart() {
    let (status, output, errors) = validated([("VMS_PROBES", PROBES), ("OTEL_TRACES_EXPORTER", "jaeger")]);
    assert_eq!(status, VALID);
    assert!(output.contains("name: link") && output.contains("# VMS_PROBES"), "{output}");
    assert!(errors.starts_with("warning: OTEL_TRACES_EXPORTER"), "{errors}");
}

#[test]
fn an_invalid_one_prints_nothing_but_its_errors() {
    let (status, output, errors) = validated([("VMS_PROBES", "[]"), ("VMS_INTERVAL", "1")]);
    assert_eq!(status, INVALID);
    assert_eq!(output, "");
    assert!(errors.starts_with("the configuration has 2 errors\n"), "{errors}");
}
