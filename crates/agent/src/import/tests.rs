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
    let told = format!("{error:#}");
    for words in
        ["config.yaml cannot be written", "name another file in --output, or remove it", ": File exists"]
    {
        assert!(told.contains(words), "{told}");
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), "probes: []\n");
    let error = write("other", Some(&directory.path().join("none/config.yaml")), &mut unused).unwrap_err();
    let told = format!("{error:#}");
    assert!(told.contains("name another file in --output") && !told.contains("remove"), "{told}");
    assert!(unused.is_empty());
    write("probes: []\n", None, &mut unused).unwrap();
    assert_eq!(unused, b"probes: []\n");
}
