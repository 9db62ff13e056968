use http::HeaderValue;

use super::*;

fn is_answered(uri: &str, hosts: &[&str]) -> bool {
    let mut headers = HeaderMap::new();
    for host in hosts {
        headers.append(HOST, HeaderValue::from_str(host).unwrap());
    }
    is_local(&uri.parse().unwrap(), &headers)
}

#[test]
fn addresses_and_localhost_are_nobodys_and_every_other_name_may_be_somebodys() {
    for host in
        ["127.0.0.1:9293", "127.0.0.1", "10.0.0.5:80", "[::1]:9293", "[::1]", "localhost:1", "LocalHost", ""]
    {
        assert!(is_answered("/metrics", &[host]), "{host}");
    }
    for host in [
        "page.example:9293",
        "localhost.page.example",
        "127.0.0.1.page.example",
        "127.0.0.1:9293.page.example",
        "1.page.example",
        "this-host",
        "[::1].page.example",
        "[page.example]",
        "::1",
        ":9293",
        "127.0.0.1 page.example",
        "page.example/127.0.0.1",
    ] {
        assert!(!is_answered("/metrics", &[host]), "{host}");
    }
}

#[test]
fn nothing_named_is_answered_and_each_name_counts_where_there_are_several() {
    assert!(is_answered("/metrics", &[]));
    assert!(!is_answered("/metrics", &["localhost", "page.example"]));
    assert!(!is_answered("/metrics", &["page.example", "localhost"]));
    // In the absolute form as well, which goes before `Host`.
    assert!(is_answered("http://127.0.0.1:9293/metrics", &["localhost"]));
    assert!(!is_answered("http://page.example/metrics", &["localhost"]));
    assert!(!is_answered("http://page.example/metrics", &[]));
}
