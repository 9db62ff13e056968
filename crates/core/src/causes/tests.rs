use super::*;

#[derive(Debug, thiserror::Error)]
#[error("{text}")]
struct Layer {
    text: &'static str,
    source: Option<Box<Layer>>,
}

#[test]
fn each_layer_is_told_once_and_the_outermost_first() {
    let layer = |text, source: Option<Layer>| Layer { text, source: source.map(Box::new) };
    let error = layer("a look", Some(layer("a dump", Some(layer("refused", None)))));
    assert_eq!(with_causes(&error), "a look: a dump: refused");
    assert_eq!(with_causes(&layer("alone", None)), "alone");
}
