use std::fs;

use super::*;

#[test]
fn what_is_imported_replaces_no_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.yaml");
    let mut unused = Vec::new();
    write("probes: []\n", Some(&path), &mut unused).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "probes: []\n");
    let error = write("other", Some(&path), &mut unused).unwrap_err();
    assert!(format!("{error:#}").contains("config.yaml cannot be written: File exists"), "{error:#}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "probes: []\n");
    assert!(unused.is_empty());
    write("probes: []\n", None, &mut unused).unwrap();
    assert_eq!(unused, b"probes: []\n");
}
