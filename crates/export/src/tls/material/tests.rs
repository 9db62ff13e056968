use std::os::unix::fs::symlink;
use std::path::Path;

use super::*;
use crate::testing::certificates::{Authority, Issued};
use crate::testing::log::Log;

fn material(authority: &Authority, directory: &Path) -> Material {
    let files = TlsFiles {
        ca: Some(authority.ca_file()),
        client_certificate: Some(directory.join("client.pem")),
        client_key: Some(directory.join("client.key")),
    };
    Material::read(&files, b"h2").unwrap()
}

fn write(directory: &Path, issued: &Issued) {
    fs::write(directory.join("client.pem"), &issued.certificate_pem).unwrap();
    fs::write(directory.join("client.key"), &issued.key_pem).unwrap();
}

/// As if the last look were long ago.
fn age(material: &Material) {
    material.shared.state().looked = None;
}

/// On this thread, so that what it logs is seen.
fn look(material: &Material) {
    material.shared.look();
}

#[tokio::test]
async fn files_that_are_written_anew_are_in_force_for_the_next_connection() {
    let (authority, directory) = (Authority::new(), tempfile::tempdir().unwrap());
    write(directory.path(), &authority.issue("agent.example"));
    let material = material(&authority, directory.path());
    let first = material.for_new_connection().await;
    assert!(Arc::ptr_eq(&first, &material.for_new_connection().await), "nothing changed");
    assert_eq!(material.generation().await, 0);

    write(directory.path(), &authority.issue("agent.example"));
    assert!(!Arc::ptr_eq(&first, &material.for_new_connection().await));
    assert_eq!(material.generation().await, 1);
}

#[tokio::test]
async fn a_link_that_leads_to_another_directory_is_a_change() {
    let (authority, directory) = (Authority::new(), tempfile::tempdir().unwrap());
    // As kubelet mounts a Secret: names that lead through `..data`, which is replaced by a rename.
    for (version, name) in [("v1", "..data"), ("v2", "..new")] {
        fs::create_dir(directory.path().join(version)).unwrap();
        write(&directory.path().join(version), &authority.issue("agent.example"));
        symlink(version, directory.path().join(name)).unwrap();
    }
    for name in ["client.pem", "client.key"] {
        symlink(Path::new("..data").join(name), directory.path().join(name)).unwrap();
    }
    let material = material(&authority, directory.path());
    fs::rename(directory.path().join("..new"), directory.path().join("..data")).unwrap();
    material.for_new_connection().await;
    assert_eq!(material.generation().await, 1);
}

#[tokio::test]
async fn half_a_pair_leaves_the_old_one_in_force_and_is_told_once() {
    let (authority, directory) = (Authority::new(), tempfile::tempdir().unwrap());
    write(directory.path(), &authority.issue("agent.example"));
    let material = material(&authority, directory.path());
    let first = material.for_new_connection().await;

    let log = Log::collect();
    let next = authority.issue("agent.example");
    for _ in 0..3 {
        fs::write(directory.path().join("client.pem"), &next.certificate_pem).unwrap();
        look(&material);
        look(&material);
    }
    assert!(Arc::ptr_eq(&first, &material.shared.state().config));
    let told = log.notices_with("client.key: not the private key of the client certificate");
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("stays in force") && told[0].contains("put certificate"), "{told:?}");

    fs::write(directory.path().join("client.key"), &next.key_pem).unwrap();
    look(&material);
    assert_eq!(material.shared.state().generation, 1);
    assert_eq!(log.notices_with("read again: new connections use them").len(), 1);
}

#[tokio::test]
async fn files_that_vanish_and_come_back_as_they_were_are_no_news() {
    let (authority, directory) = (Authority::new(), tempfile::tempdir().unwrap());
    write(directory.path(), &authority.issue("agent.example"));
    let material = material(&authority, directory.path());
    let (key, away) = (directory.path().join("client.key"), directory.path().join("away"));
    let log = Log::collect();
    fs::rename(&key, &away).unwrap();
    look(&material);
    assert_eq!(log.notices_with("client.key: not readable: No such file").len(), 1);
    fs::rename(&away, &key).unwrap();
    look(&material);
    // A rename changes the time of change alone: the files may be read again, and hold.
    assert!(material.shared.state().refused.is_none());
}

#[tokio::test]
async fn files_are_looked_at_between_connections_but_not_for_each_request() {
    let (authority, directory) = (Authority::new(), tempfile::tempdir().unwrap());
    write(directory.path(), &authority.issue("agent.example"));
    let material = material(&authority, directory.path());
    assert_eq!(material.generation().await, 0);
    write(directory.path(), &authority.issue("agent.example"));
    assert_eq!(material.generation().await, 0, "looked at a moment ago");
    age(&material);
    assert_eq!(material.generation().await, 1);
}

#[tokio::test]
async fn a_client_certificate_that_is_outdated_is_told_once_with_its_date() {
    let (authority, directory) = (Authority::new(), tempfile::tempdir().unwrap());
    let log = Log::collect();
    write(directory.path(), &authority.issue_for("agent.example", (2020, 1, 1), (2021, 1, 1)));
    let material = material(&authority, directory.path());
    look(&material);
    look(&material);
    let told = log.notices_with("client.pem expired on Fri, 01 Jan 2021 00:00:00 GMT");
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("renew the client certificate"), "{told:?}");
    assert!(material.client_certificate().is_some_and(|(outdated, _)| outdated));

    write(directory.path(), &authority.issue_for("agent.example", (2020, 1, 1), (9999, 1, 1)));
    look(&material);
    assert!(material.client_certificate().is_some_and(|(outdated, _)| !outdated));
    write(directory.path(), &authority.issue_for("agent.example", (9998, 1, 1), (9999, 1, 1)));
    look(&material);
    assert_eq!(log.notices_with("is not valid before Thu, 01 Jan 9998").len(), 1);
}
