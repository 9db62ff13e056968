use super::*;

#[test]
fn a_manager_is_told_at_a_path_and_at_an_abstract_name() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let name = format!("vms-agent-test-{}", std::process::id());
    let hidden = SocketAddr::from_abstract_name(&name).unwrap();
    for (socket, manager) in [
        (path.as_os_str(), UnixDatagram::bind(&path).unwrap()),
        (format!("@{name}").as_ref(), UnixDatagram::bind_addr(&hidden).unwrap()),
    ] {
        send(socket, &[NotifyState::Ready, NotifyState::Status("measuring")], TELLING).unwrap();
        let mut heard = [0; 64];
        let length = manager.recv(&mut heard).unwrap();
        assert_eq!(heard[..length], *b"READY=1\nSTATUS=measuring\n", "{socket:?}");
    }
}

#[test]
fn a_manager_that_does_not_listen_is_not_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let _deaf = UnixDatagram::bind(&path).unwrap();
    // Or the test never ends: the kernel holds some hundred datagrams at the most (net.unix.max_dgram_qlen).
    let mut told = 0;
    while send(path.as_os_str(), &[NotifyState::Watchdog], FEEDING).is_ok() {
        told += 1;
        assert!(told < 100_000, "the kernel holds all of them");
    }
}
