//! The corpus, with the ordinary toolchain.

use std::fs;
use std::path::Path;

use vms_fuzz::TARGETS;

/// Bytes of any kind, besides what the corpus holds.
const EDGES: [&[u8]; 6] = [b"", b"\0", b"\xff", &[0; 300], &[0xff; 300], b"{\"a\": [1, 2.5, null]}"];

#[test]
fn no_file_of_the_corpus_is_a_finding() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (name, target) in TARGETS {
        EDGES.into_iter().for_each(target);
        let mut files: Vec<_> =
            fs::read_dir(corpus.join(name)).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(files.len() >= 10, "the corpus of {name} is lost");
        files.sort();
        for file in &files {
            // Shown when the target panics.
            println!("{}", file.display());
            target(&fs::read(file).unwrap());
        }
    }
}

#[test]
fn every_target_has_a_corpus_and_a_binary() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let names = |directory: &str| {
        let mut names: Vec<String> = fs::read_dir(root.join(directory))
            .unwrap()
            .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
            .collect();
        names.sort();
        names
    };
    let targets = TARGETS.map(|(name, _)| name);
    assert_eq!(names("corpus"), targets);
    assert_eq!(names("fuzz_targets"), targets);
}
