use proptest::prelude::*;

use super::*;
use crate::config::document::{self, Content, Format};

#[test]
fn texts_are_bare_only_where_no_reader_could_mistake_them() {
    for text in ["info", "15s", "1m30s", "/proc", "http://collector:4317", "http/protobuf", "connection_mon"]
    {
        assert_eq!(scalar_text(text), text);
    }
    for text in [
        "", "12", "1e3", "yes", "No", "null", "true", "10.0.0.5", "::1", "a b", "a:", "a: b", "#a", "*",
        "-a", "1",
    ] {
        assert_eq!(scalar_text(text), format!("\"{text}\""));
    }
}

proptest! {
    #[test]
    fn every_text_reads_as_itself_in_yaml(text in "\\PC*|[\\x00-\\x7f]{0,20}|.*") {
        let printed = format!("key: {}\n", scalar_text(&text));
        prop_assert!(!printed.trim_end().chars().any(char::is_control));
        let (node, faults) = document::parse(&printed, Format::Yaml);
        prop_assert_eq!(faults, []);
        let Some(Content::Map(entries)) = node.map(|node| node.content) else { panic!() };
        prop_assert_eq!(&entries["key"].content, &Content::Text(text));
    }
}
