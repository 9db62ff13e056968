use super::*;

const KEYS: [&str; 5] = ["destServiceIp", "destServicePort", "destProcessName", "name", "export.queueBytes"];

#[test]
fn a_misspelling_finds_its_key() {
    for (given, meant) in [
        ("destServicPort", "destServicePort"),
        ("dest_service_port", "destServicePort"),
        ("DESTSERVICEIP", "destServiceIp"),
        ("nmae", "name"),
        ("EXPORT_QUEUE_BYTES", "export.queueBytes"),
    ] {
        assert_eq!(nearest(given, KEYS), Some(meant), "{given}");
    }
}

#[test]
fn another_word_finds_nothing() {
    for given in ["", "x", "compression", "type", "dest"] {
        assert_eq!(nearest(given, KEYS), None, "{given}");
    }
}

#[test]
fn the_nearest_of_two_near_ones_is_taken() {
    assert_eq!(nearest("destServiceI", KEYS), Some("destServiceIp"));
}
