use insta::assert_snapshot;

use super::*;

/// What arrives where no terminal is.
fn piped(styled: &[u8]) -> String {
    anstream::adapter::strip_bytes(styled).into_vec().try_into().unwrap()
}

#[test]
fn columns_are_aligned_by_what_is_seen_and_lines_end_without_blanks() {
    let mut table = Table::new(["NAME", "STATUS", "COUNT", "REASON"]);
    table.row(["billing".into(), Cell::new(Tone::Ok, "up"), Cell::new(Tone::Plain, 7).right(), "".into()]);
    table.row([
        "日本".into(),
        Cell::new(Tone::Error, "down"),
        Cell::new(Tone::Plain, 1200).right(),
        "no_connection".into(),
    ]);
    let mut out = Vec::new();
    table.write_to(&mut out).unwrap();
    assert_snapshot!(piped(&out), @r"
    NAME     STATUS  COUNT  REASON
    billing  up          7
    日本     down     1200  no_connection
    ");
    assert!(!piped(&out).lines().any(|line| line.ends_with(' ')));
}

#[test]
fn styles_enclose_the_text_and_not_the_padding() {
    let mut table = Table::new(["A", "B"]);
    table.row([Cell::new(Tone::Ok, "x"), Cell::new(Tone::Dim, "y")]);
    let mut out = Vec::new();
    table.write_to(&mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    assert_eq!(text.lines().nth(1), Some("\u{1b}[32mx\u{1b}[0m  \u{1b}[2my\u{1b}[0m"));
}

#[test]
fn headers_come_again_only_when_a_column_has_grown() {
    let mut table = Table::new(["A", "B"]);
    let mut out = Vec::new();
    for (first, last) in [("1", "2"), ("3", "a longer last column"), ("22", "4"), ("5", "6")] {
        table.row([first.into(), last.into()]).write_to(&mut out).unwrap();
    }
    assert_snapshot!(piped(&out), @r"
    A  B
    1  2
    3  a longer last column
    A   B
    22  4
    5   6
    ");
}

#[test]
fn a_hostile_name_reaches_no_terminal_as_it_is() {
    let hostile = "x\u{1b}[2J\r\n\u{9b}31m\u{7f}\u{202e}gnp\u{2028}";
    assert_eq!(escape(hostile), r"x\u{1b}[2J\r\n\u{9b}31m\u{7f}\u{202e}gnp\u{2028}");
    // The explicit directional characters (Unicode UAX #9, section 2), the separators of lines and paragraphs, and the mark of
    // a byte order.
    for character in [
        '\u{61c}', '\u{200e}', '\u{200f}', '\u{2028}', '\u{2029}', '\u{202a}', '\u{202b}', '\u{202c}',
        '\u{202d}', '\u{202e}', '\u{2066}', '\u{2067}', '\u{2068}', '\u{2069}', '\u{feff}',
    ] {
        assert_eq!(escape(&character.to_string()), character.escape_unicode().to_string());
    }

    let mut out = Vec::new();
    Table::new(["NAME"]).row([hostile.into()]).write_to(&mut out).unwrap();
    write!(out, "{}", Tone::Plain.paint(hostile)).unwrap();
    write_wrapped(&mut out, Tone::Plain, "resource", [hostile]).unwrap();
    let text = String::from_utf8(out).unwrap();
    assert!(
        !text.contains("\u{1b}[2J") && !text.contains(['\r', '\u{9b}', '\u{7f}', '\u{202e}', '\u{2028}'])
    );
}

#[test]
fn ordinary_text_is_left_as_it_is() {
    for name in ["nginx: worker process", "jäger", "プロセス", r"back\slash", "kworker/0:1"] {
        assert_eq!(escape(name), name);
    }
}

#[test]
fn values_that_could_be_taken_for_something_else_are_quoted() {
    assert_eq!(key_value("name", "billing"), "name=billing");
    assert_eq!(key_value("name", "a b=c"), r#"name="a b=c""#);
    assert_eq!(key_value("name", r#"a" b\"#), r#"name="a\" b\\""#);
    assert_eq!(key_value("name", ""), r#"name="""#);
}

#[test]
fn wrapped_pieces_stay_whole_and_within_the_line() {
    let pieces: Vec<String> = (0..12).map(|number| key_value("attribute", &"v".repeat(number * 3))).collect();
    let mut out = Vec::new();
    write_wrapped(&mut out, Tone::Plain, "resource", pieces.iter().map(String::as_str)).unwrap();
    let text = piped(&out);
    assert!(text.lines().all(|line| line.width() <= LINE));
    assert!(text.lines().skip(1).all(|line| line.starts_with("          attribute=")));
    assert_eq!(text.split_whitespace().skip(1).collect::<Vec<_>>(), pieces);
}

#[test]
fn json_is_harmless_to_a_terminal_and_means_what_it_meant() {
    let text = "a\u{9b}31m\u{202e}b\u{7f}\u{85}\u{2028}\n\t\"\\ \u{1b}é\u{1f600}";
    let value = serde_json::json!({ text: [text, 1], "b": {} });
    let mut written = Vec::new();
    write_json(&value, &mut written).unwrap();
    let written = String::from_utf8(written).unwrap();
    assert!(written.lines().count() > 4 && written.ends_with("}\n"), "{written}");
    assert!(!written.replace('\n', "").contains(is_unsafe), "{written:?}");
    assert!(written.contains("\\u009b31m\\u202eb"), "{written}");
    assert!(written.contains('é') && written.contains('\u{1f600}'), "{written}");
    assert_eq!(serde_json::from_str::<serde_json::Value>(&written).unwrap(), value);
}
