use super::*;
use crate::testing::certificates::Authority;

fn refusal(files: &TlsFiles) -> String {
    read_material(files, b"h2").map(|_read| ()).unwrap_err().to_string()
}

#[test]
fn a_file_that_is_missing_is_named() {
    let files = TlsFiles { ca: Some("/nonexistent/ca.pem".into()), ..TlsFiles::default() };
    assert_eq!(refusal(&files), "/nonexistent/ca.pem: not readable");
}

#[test]
fn a_file_that_holds_something_else_is_named_with_what_it_should_hold() {
    let authority = Authority::new();
    let client = authority.issue("agent.example");
    let begun = client.certificate_pem.lines().take(2).collect::<Vec<_>>().join("\n");
    for (content, problem) in [
        ("", "holds no PEM block CERTIFICATE"),
        ("not PEM at all", "holds no PEM block CERTIFICATE"),
        (client.key_pem.as_str(), "holds no PEM block CERTIFICATE"),
        (begun.as_str(), "not well-formed PEM"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "cannot be a CA's"),
    ] {
        let ca = authority.write("ca.pem", content);
        let text = refusal(&TlsFiles { ca: Some(ca.clone()), ..TlsFiles::default() });
        assert!(text.starts_with(ca.to_str().unwrap()) && text.contains(problem), "{content:?}: {text}");
    }
}

#[test]
fn a_client_certificate_and_its_key_go_together() {
    let authority = Authority::new();
    let (client, other) = (authority.issue("agent.example"), authority.issue("agent.example"));
    let ca = Some(authority.ca_file());
    let certificate = authority.write("client.pem", &client.certificate_pem);
    let key = authority.write("client.key", &client.key_pem);
    let with = |certificate: Option<&PathBuf>, key: Option<&PathBuf>| TlsFiles {
        ca: ca.clone(),
        client_certificate: certificate.cloned(),
        client_key: key.cloned(),
    };
    assert!(read_material(&with(Some(&certificate), Some(&key)), b"h2").is_ok());
    assert!(refusal(&with(Some(&certificate), None)).contains("needs its private key"));
    assert!(refusal(&with(None, Some(&key))).contains("needs its certificate"));

    let foreign = authority.write("other.key", &other.key_pem);
    let text = refusal(&with(Some(&certificate), Some(&foreign)));
    assert_eq!(text, format!("{}: not the private key of the client certificate", foreign.display()));

    let swapped = refusal(&with(Some(&key), Some(&certificate)));
    assert!(swapped.contains("client.key: holds no PEM block CERTIFICATE"), "{swapped}");
    let no_key = refusal(&with(Some(&certificate), Some(&certificate)));
    assert!(no_key.contains("client.pem: holds no PEM block PRIVATE KEY"), "{no_key}");
    let locked = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let locked = authority.write("locked.key", locked);
    assert!(refusal(&with(Some(&certificate), Some(&locked))).contains("is encrypted"));
}

#[test]
fn only_the_protocol_to_be_spoken_is_offered() {
    let authority = Authority::new();
    let files = TlsFiles { ca: Some(authority.ca_file()), ..TlsFiles::default() };
    assert_eq!(read_material(&files, b"http/1.1").unwrap().config.alpn_protocols, [b"http/1.1"]);
}
