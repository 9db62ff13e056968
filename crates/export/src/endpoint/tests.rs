use super::*;
use crate::testing::config;

fn check(protocol: Protocol, endpoint: &str) -> Result<(), String> {
    check_endpoint(&config(protocol, endpoint)).map_err(|error| error.to_string())
}

#[test]
fn the_usual_endpoints_pass() {
    for endpoint in
        ["http://localhost:4317", "https://collector.example/", "http://[::1]:4317", "http://10.0.0.1"]
    {
        assert_eq!(check(Protocol::Grpc, endpoint), Ok(()), "{endpoint}");
    }
    assert_eq!(check(Protocol::HttpProtobuf, "https://c.example:4318/v1/metrics?key=1"), Ok(()));
}

#[test]
fn what_cannot_work_is_refused_with_the_reason() {
    for (endpoint, reason) in [
        ("localhost:4317", "begins neither"),
        ("ftp://localhost:4317", "begins neither"),
        ("/v1/metrics", "begins neither"),
        ("http://localhost:0", "no port between"),
        ("http://localhost:99999", "no port between"),
        ("http://localhost:", "no port between"),
        ("http://[::1]:", "no port between"),
        ("http://user:hunter2@localhost:4317", "authorization header"),
        ("http://localhost:4318/v1/metrics", "gRPC takes none"),
    ] {
        let error = check(Protocol::Grpc, endpoint).unwrap_err();
        assert!(error.contains(reason), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}

#[test]
fn an_endpoint_is_shown_without_credentials_and_query() {
    let uri: Uri = "https://user:hunter2@c.example:4318/v1/metrics?api-key=hunter2".parse().unwrap();
    assert_eq!(shown(&uri), "https://c.example:4318/v1/metrics");
    assert_eq!(shown(&"http://localhost:4317/".parse().unwrap()), "http://localhost:4317");
}

#[test]
fn a_missing_port_is_that_of_the_scheme() {
    assert_eq!(host_and_port(&"http://[::1]/x".parse().unwrap()), ("::1", 80));
    assert_eq!(host_and_port(&"https://c.example".parse().unwrap()), ("c.example", 443));
    assert_eq!(host_and_port(&"https://c.example:4317".parse().unwrap()), ("c.example", 4317));
}
