use super::*;

#[test]
fn foreign_text_can_neither_break_lines_nor_flood_a_log() {
    assert_eq!(foreign_text("  no\r\nsuch\u{1b}[31m tenant\n"), "no  such [31m tenant");
    assert_eq!(foreign_text(&"ä".repeat(10_000)).chars().count(), 301);
}

#[test]
fn the_innermost_cause_is_told() {
    let inner = io::Error::other("certificate expired");
    let outer = io::Error::other(io::Error::other(inner));
    assert_eq!(innermost(&outer), "certificate expired");
    let hostile = io::Error::other(format!("not before\n\u{1b}[2J{}", "x".repeat(10_000)));
    assert_eq!(innermost(&hostile).lines().count(), 1, "a peer may have worded it");
    assert_eq!(innermost(&hostile).chars().count(), 301);
}
