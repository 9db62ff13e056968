use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};

use super::*;

/// The lock is this process's: only another one can see that it is held. The whole-agent tests are another.
fn written(directory: &Path, content: &[u8]) -> Result<Vitality, Unknown> {
    fs::write(directory.join(FILE_NAME), content).unwrap();
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).unwrap();
    read(&[directory.to_owned()], Duration::from_secs(100))
}

#[test]
fn a_heartbeat_is_taken_in_the_first_place_that_can_be_had_and_written_over_in_whole() {
    let root = tempfile::tempdir().unwrap();
    let places = [root.path().join("absent/deep"), root.path().join("made")];
    let heartbeat = Heartbeat::begin(&places).unwrap();
    assert_eq!(heartbeat.path(), root.path().join("made/heartbeat"));
    heartbeat.beat(Duration::from_millis(u64::MAX), u64::MAX);
    heartbeat.beat(Duration::from_millis(1234), 5);
    let record = fs::read(heartbeat.path()).unwrap();
    assert_eq!(record.len(), RECORD_BYTES);
    let record: Record = serde_json::from_slice(&record).unwrap();
    assert_eq!(record, Record { uptime_ms: 1234, cycles: 5 });
}

#[test]
fn a_directory_that_somebody_else_can_write_or_lead_elsewhere_is_not_used() {
    let root = tempfile::tempdir().unwrap();
    let open_to_all = root.path().join("open");
    fs::create_dir(&open_to_all).unwrap();
    fs::set_permissions(&open_to_all, fs::Permissions::from_mode(0o777)).unwrap();
    let link = root.path().join("link");
    symlink("/tmp", &link).unwrap();
    let mut hostile = vec![open_to_all, link];
    if geteuid().is_root() {
        let foreign = root.path().join("foreign");
        fs::create_dir(&foreign).unwrap();
        chown(&foreign, Some(65_534), Some(65_534)).unwrap();
        hostile.push(foreign);
    }
    for place in hostile {
        assert!(Heartbeat::begin(std::slice::from_ref(&place)).is_err(), "{place:?}");
        assert!(!place.join(FILE_NAME).exists(), "{place:?}");
    }
}

#[test]
fn the_heartbeat_of_another_users_agent_is_read_where_not_everybody_could_have_made_it() {
    if !geteuid().is_root() {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let foreign = root.path().join("foreign");
    fs::create_dir(&foreign).unwrap();
    chown(&foreign, Some(65_534), Some(65_534)).unwrap();
    assert!(matches!(written(&foreign, b""), Err(Unknown::Ended(_))));
    fs::set_permissions(root.path(), fs::Permissions::from_mode(0o1777)).unwrap();
    assert!(matches!(written(&foreign, b""), Err(Unknown::Io(..))));
}

#[test]
fn a_link_or_a_pipe_in_place_of_the_file_is_neither_followed_nor_waited_for() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("own");
    fs::create_dir(&directory).unwrap();
    let target = root.path().join("precious");
    fs::write(&target, "precious").unwrap();
    symlink(&target, directory.join(FILE_NAME)).unwrap();
    assert!(Heartbeat::begin(std::slice::from_ref(&directory)).is_err());
    assert_eq!(fs::read_to_string(&target).unwrap(), "precious");
    fs::remove_file(directory.join(FILE_NAME)).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        directory.join(FILE_NAME),
        rustix::fs::FileType::Fifo,
        Mode::from_raw_mode(0o644),
        0,
    )
    .unwrap();
    assert!(matches!(read(&[directory], Duration::ZERO), Err(Unknown::Ended(_) | Unknown::Io(..))));
}

#[test]
fn a_file_that_nobody_holds_is_of_an_agent_that_has_ended_whatever_it_says() {
    let root = tempfile::tempdir().unwrap();
    let alive = br#"{"uptime_ms":99999,"cycles":7}"#;
    assert!(matches!(written(root.path(), alive), Err(Unknown::Ended(_))));
    assert!(matches!(written(root.path(), b"\0\xff"), Err(Unknown::Ended(_))));
    let nowhere = [root.path().join("nowhere")];
    assert!(matches!(read(&nowhere, Duration::ZERO), Err(Unknown::NoFile(_))));
}

#[test]
fn the_directory_that_systemd_gives_is_the_only_place() {
    let environment = Environment::from([("RUNTIME_DIRECTORY", "/run/a:/run/b")]);
    assert_eq!(places(&environment), [PathBuf::from("/run/a")]);
    assert_eq!(places(&Environment::default())[0], PathBuf::from("/run/vms-agent"));
}
