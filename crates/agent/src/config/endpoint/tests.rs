use super::*;

fn metrics(protocol: Protocol, text: &str) -> Result<String, String> {
    parse_base(protocol, text, false).map(|endpoints| endpoints.metrics.to_string())
}

#[test]
fn http_bases_get_the_path_of_metrics_appended() {
    for (base, url) in [
        ("http://collector:4318", "http://collector:4318/v1/metrics"),
        ("http://collector:4318/", "http://collector:4318/v1/metrics"),
        ("https://collector/otlp", "https://collector/otlp/v1/metrics"),
        ("https://collector/otlp/", "https://collector/otlp/v1/metrics"),
        ("HTTP://collector", "http://collector/v1/metrics"),
        ("http://[::1]:4318", "http://[::1]:4318/v1/metrics"),
    ] {
        assert_eq!(metrics(Protocol::HttpProtobuf, base).as_deref(), Ok(url));
    }
}

#[test]
fn metrics_urls_are_taken_as_they_are() {
    for url in ["http://collector:4318/", "https://collector/a/b?tenant=1"] {
        assert_eq!(parse(Protocol::HttpProtobuf, url, false).unwrap(), url);
    }
}

#[test]
fn grpc_endpoints_keep_scheme_host_and_port() {
    assert_eq!(metrics(Protocol::Grpc, "http://collector:4317").as_deref(), Ok("http://collector:4317/"));
    assert_eq!(metrics(Protocol::Grpc, "collector:4317").as_deref(), Ok("https://collector:4317/"));
    assert_eq!(metrics(Protocol::Grpc, "[::1]:4317").as_deref(), Ok("https://[::1]:4317/"));
    assert_eq!(parse(Protocol::Grpc, "collector:4317", true).unwrap(), "http://collector:4317");
    assert_eq!(parse(Protocol::Grpc, "https://collector:4317", true).unwrap(), "https://collector:4317");
}

#[test]
fn what_is_no_endpoint_is_refused_with_its_reason() {
    for (protocol, text, reason) in [
        (Protocol::HttpProtobuf, "collector:4318", "does not begin with http:// or https://"),
        (Protocol::HttpProtobuf, "http://collector?x=1", "a base URL has no query"),
        (Protocol::HttpProtobuf, "http://collector/#x", "a fragment (#) is never sent"),
        (Protocol::Grpc, "grpc://collector:4317", "the scheme is neither http nor https"),
        (Protocol::Grpc, "unix:///run/collector", "the scheme is neither http nor https"),
        (Protocol::Grpc, "http://collector:4318/v1/metrics", "gRPC takes no path"),
        (Protocol::Grpc, "http://user:secret@collector:4317", "holds a user or password"),
        (Protocol::Grpc, "http://collector:83617", "the port is not one from 1 to 65535"),
        (Protocol::Grpc, "http://collector:0", "the port is not one from 1 to 65535"),
        (Protocol::Grpc, "http://collector:", "the port is not one from 1 to 65535"),
        (Protocol::Grpc, "http://collector:otlp", "the port is not one from 1 to 65535"),
        (Protocol::Grpc, "http://:4317", "names no host"),
        (Protocol::Grpc, "http://", "not a URL"),
        (Protocol::Grpc, "http://a b:4317", "not a URL"),
    ] {
        let error = metrics(protocol, text).unwrap_err();
        assert!(error.starts_with(reason), "{text}: {error}");
    }
}
