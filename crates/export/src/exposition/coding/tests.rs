use std::fmt::Write as _;
use std::io::Read as _;

use proptest::prelude::*;

use super::*;

fn compressed(beginning: &[String], end: &str) -> Vec<u8> {
    let mut compressor = Compressor::new();
    for piece in beginning {
        compressor.write_str(piece).unwrap();
    }
    compressor.finish().unwrap().with_end(end.to_owned()).concat()
}

/// What a reader makes of it that knows of one member alone.
fn read(bytes: &[u8]) -> String {
    let mut text = String::new();
    let mut decoder = flate2::bufread::GzDecoder::new(bytes);
    decoder.read_to_string(&mut text).unwrap();
    assert_eq!(decoder.into_inner(), b"", "all of it is one member");
    text
}

proptest! {
    #[test]
    fn what_is_compressed_in_two_parts_is_read_as_one_text(
        pieces in prop::collection::vec(".{0,40}", 0..200),
        copies in 1_usize..40,
        end in ".{0,400}",
    ) {
        let beginning: Vec<String> = (0..copies).flat_map(|_| pieces.clone()).collect();
        prop_assert_eq!(read(&compressed(&beginning, &end)), beginning.concat() + &end);
    }
}

#[test]
fn an_end_of_any_length_follows() {
    for length in [0, 1, STORED - 1, STORED, STORED + 1, 3 * STORED] {
        let end = "x".repeat(length);
        assert_eq!(read(&compressed(&["a".to_owned()], &end)), format!("a{end}"), "{length}");
        assert_eq!(read(&compressed(&[], &end)), end, "{length}");
        assert_eq!(read(&Beginning::empty(Coding::Gzip).with_end(end.clone()).concat()), end, "{length}");
    }
}

#[test]
fn the_same_beginning_serves_one_end_after_the_other() {
    let mut compressor = Compressor::new();
    compressor.write_str("begin ").unwrap();
    let beginning = compressor.finish().unwrap();
    for end in ["one", "two"] {
        assert_eq!(read(&beginning.clone().with_end(end.to_owned()).concat()), format!("begin {end}"));
    }
}

#[test]
fn gzip_is_what_a_client_asks_for() {
    use Coding::{Gzip, Identity};
    for (accept, coding) in [
        (&["gzip"][..], Gzip),
        (&["GZIP"], Gzip),
        (&["x-gzip"], Gzip),
        (&["deflate, gzip;q=1.0, br"], Gzip),
        (&["deflate", "br, gzip"], Gzip),
        (&["*"], Gzip),
        (&["identity;q=0.5, gzip ; q=0.5"], Gzip),
        (&[], Identity),
        (&[""], Identity),
        (&["identity"], Identity),
        (&["deflate, br, zstd"], Identity),
        (&["gzip;q=0"], Identity),
        (&["gzip;q=0, *"], Identity),
        (&["*;q=0"], Identity),
        (&["identity, gzip;q=0.5"], Identity),
        (&["gzip;q=x"], Identity),
    ] {
        assert_eq!(Coding::negotiate(accept.iter().copied()), coding, "{accept:?}");
    }
}
