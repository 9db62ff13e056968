use super::*;
use crate::config::{Protocol, Secret};
use crate::testing::config;

fn with(protocol: Protocol, name: &str, value: &str) -> Result<HeaderMap, ExportError> {
    let mut config = config(protocol, "http://localhost:4317");
    config.headers = vec![(name.into(), Secret::new(value))];
    configured_headers(&config)
}

#[test]
fn a_value_is_sent_and_never_printed() {
    let headers = with(Protocol::Grpc, "Authorization", "Bearer hunter2").unwrap();
    assert_eq!(headers["authorization"], "Bearer hunter2");
    assert!(!format!("{headers:?}").contains("hunter2"));
}

#[test]
fn a_refused_header_is_named_without_its_value() {
    for (name, value) in
        [("x y", "hunter2"), ("x", "hunter2\n"), ("Content-Type", "hunter2"), ("", "hunter2")]
    {
        let error = with(Protocol::HttpProtobuf, name, value).unwrap_err();
        assert!(error.to_string().starts_with(&format!("header {name}: ")), "{error}");
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }
}

#[test]
fn what_the_transports_set_is_refused_in_any_case_over_either_protocol() {
    let of_grpc = ["trace-bin", "grpc-timeout"];
    for name in RESERVED.iter().copied().chain(of_grpc) {
        for protocol in [Protocol::Grpc, Protocol::HttpProtobuf] {
            assert!(with(protocol, name, "1").is_err(), "{name}");
            assert!(with(protocol, &name.to_uppercase(), "1").is_err(), "{name}");
        }
    }
}

#[test]
fn a_header_given_twice_is_sent_twice() {
    let mut config = config(Protocol::Grpc, "http://localhost:4317");
    config.headers = vec![("x".into(), Secret::new("1")), ("X".into(), Secret::new("2"))];
    assert_eq!(configured_headers(&config).unwrap().get_all("x").iter().count(), 2);
}
