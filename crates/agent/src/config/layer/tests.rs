use super::*;

fn pairs(text: &str) -> Result<Vec<(String, String)>, String> {
    parse_pairs(text)
}

fn pair(name: &str, value: &str) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

#[test]
fn pairs_are_trimmed_and_percent_decoded() {
    assert_eq!(pairs("a=1, b = x%20y ,"), Ok(vec![pair("a", "1"), pair("b", "x y")]));
    assert_eq!(pairs("a%2Cb=c%3Dd%25"), Ok(vec![pair("a,b", "c=d%")]));
    assert_eq!(pairs("auth=Basic YQ=="), Ok(vec![pair("auth", "Basic YQ==")]), "only the first `=` parts");
    assert_eq!(pairs("a=;b"), Ok(vec![pair("a", ";b")]), "there are no properties");
    assert_eq!(pairs("%C3%A9=\u{e9}"), Ok(vec![pair("\u{e9}", "\u{e9}")]));
    assert_eq!(pairs("a="), Ok(vec![pair("a", "")]));
    assert_eq!(pairs(""), Ok(vec![]));
}

#[test]
fn broken_pairs_are_refused_without_their_values() {
    assert_eq!(pairs("a=1,hunter2"), Err("entry 2 has no `=`".to_owned()));
    assert_eq!(pairs("=hunter2"), Err("entry 1 has no name before the `=`".to_owned()));
    for escape in ["%", "%2", "%zz", "%+1", "%ff"] {
        assert_eq!(
            pairs(&format!("a={escape}")),
            Err("entry 1 has a broken %-escape".to_owned()),
            "{escape}"
        );
    }
}
