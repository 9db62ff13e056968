use super::*;

#[test]
fn an_empty_variable_counts_as_not_set() {
    let environment = Environment::from([("OTEL_SERVICE_NAME", ""), ("VMS_INTERVAL", "5s")]);
    assert_eq!(environment.get("OTEL_SERVICE_NAME"), None);
    assert_eq!(environment.get("VMS_INTERVAL"), Some("5s"));
    assert_eq!(environment.iter().collect::<Vec<_>>(), [("VMS_INTERVAL", "5s")]);
}

#[test]
fn debug_output_shows_no_value() {
    let environment = Environment::from([("OTEL_EXPORTER_OTLP_HEADERS", "api-key=hunter2")]);
    assert!(!format!("{environment:?}").contains("hunter2"));
}
