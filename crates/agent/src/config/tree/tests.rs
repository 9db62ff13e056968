use super::*;

#[test]
fn a_url_is_shown_without_user_query_and_fragment_and_other_texts_as_they_are() {
    for (text, shown) in [
        ("http://user:secret@host:4317/v1", "http://****@host:4317/v1"),
        ("http://user:se/cr?e#t@host", "http://****@host"),
        ("https://secret@host", "https://****@host"),
        ("user:secret@host:4317", "****@host:4317"),
        ("user:se/cr@et@host:4317", "****@host:4317"),
        ("http://host/v1?key=secret", "http://host/v1?****"),
        ("http://user:secret@host?key=secret#secret", "http://****@host?****"),
        ("http://host#secret", "http://host#****"),
        ("http://host?key=secret@", "http://****@"),
        ("http://host:4318/v1/metrics", "http://host:4318/v1/metrics"),
        ("getty@tty1", "getty@tty1"),
        ("nginx: worker", "nginx: worker"),
        ("app?", "app?"),
    ] {
        assert_eq!(without_secrets(text), shown, "{text}");
    }
}
