use std::fs;
use std::os::unix::fs::symlink;

use super::*;

#[test]
fn a_file_behind_links_is_readable_by_its_directory_and_by_that_of_its_target() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().canonicalize().unwrap();
    for name in ["mount/..data_1", "archive/site", "live/site"] {
        fs::create_dir_all(root.join(name)).unwrap();
    }
    fs::write(root.join("mount/..data_1/config.yaml"), "").unwrap();
    symlink("..data_1", root.join("mount/..data")).unwrap();
    symlink("..data/config.yaml", root.join("mount/config.yaml")).unwrap();
    assert_eq!(
        around(&root.join("mount/config.yaml")),
        [root.join("mount"), root.join("mount/..data_1")],
        "the next ..data_2 is below the first"
    );

    fs::write(root.join("archive/site/cert1.pem"), "").unwrap();
    symlink("../../archive/site/cert1.pem", root.join("live/site/cert.pem")).unwrap();
    assert_eq!(around(&root.join("live/site/cert.pem")), [root.join("live/site"), root.join("archive/site")]);
}

#[test]
fn a_directory_that_holds_the_files_of_others_is_not_opened_as_a_whole() {
    for file in ["/config.yaml", "/etc/vms.yaml", "/run/secrets/token", "/root/vms.yaml", "/tmp/vms.yaml"] {
        assert!(around(Path::new(file)).iter().all(|place| place == Path::new(file)), "{file}");
    }
    assert_eq!(around(Path::new("/nowhere/at/all.yaml")), [Path::new("/nowhere/at")]);
}

#[test]
fn a_trust_store_is_readable_by_its_directory_and_by_those_that_its_links_lead_to() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().canonicalize().unwrap();
    for name in ["etc/certs", "pool"] {
        fs::create_dir_all(root.join(name)).unwrap();
    }
    fs::write(root.join("pool/one.pem"), "").unwrap();
    symlink(root.join("pool/one.pem"), root.join("etc/certs/one.pem")).unwrap();
    symlink(root.join("pool/one.pem"), root.join("etc/bundle.pem")).unwrap();
    assert_eq!(trusted(&root.join("etc/certs")), [root.join("pool"), root.join("etc/certs")]);
    // By its directory, so that one that is renamed into its place can be read too.
    assert_eq!(trusted(&root.join("etc/bundle.pem")), [root.join("etc"), root.join("pool")]);
    assert!(trusted(&root.join("nowhere")).is_empty());
}
