//! What is given up is given up by a thread, so each test restricts one of its own. The kernel that runs the tests has to
//! have Landlock and seccomp.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::Command;
use std::thread;

use tempfile::TempDir;
use tokio::net::TcpSocket;

use super::*;

/// Runs a function on a thread that may be restricted.
fn on_a_thread<T: Send>(function: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| scope.spawn(function).join().unwrap())
}

fn kind<T>(result: std::io::Result<T>) -> Option<ErrorKind> {
    result.err().map(|error| error.kind())
}

const DENIED: Option<ErrorKind> = Some(ErrorKind::PermissionDenied);

const AUTO: Sandbox = Sandbox {
    mode: SandboxMode::Auto,
    extras: Extras { conntrack: ConntrackMode::Off, namespaces: Namespaces::Own, listener: None },
};

#[expect(
    clippy::disallowed_methods,
    reason = "whether a program can be started, and looked into, is what is tried"
)]
fn program(path: &str) -> Command {
    Command::new(path)
}

fn start_a_program() -> std::io::Result<()> {
    program("/bin/true").status().map(drop)
}

/// A directory in which a local socket can have an address of as many bytes as one of netlink has, and the path of one: 2 bytes
/// for the family, 9 of the path, and its end.
fn with_a_short_path() -> (TempDir, PathBuf) {
    let directory = tempfile::Builder::new().prefix("").rand_bytes(2).tempdir_in("/tmp").unwrap();
    let path = directory.path().join("s");
    assert_eq!(path.as_os_str().len(), 9);
    (directory, path)
}

#[test]
fn the_measuring_thread_reads_and_neither_writes_nor_connects_nor_starts_programs() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "text").unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let service = listener.local_addr().unwrap();
    // What other threads have opened is within reach of each.
    let of_another = UdpSocket::bind("127.0.0.1:0").unwrap();
    let manager = directory.path().join("notify");
    let heard = UnixDatagram::bind(&manager).unwrap();
    let local = directory.path().join("local");
    let _local = UnixListener::bind(&local).unwrap();
    let (_short, short_path) = with_a_short_path();
    start_a_program().unwrap();
    on_a_thread(|| {
        rustix::thread::set_no_new_privs(true).unwrap();
        assert_eq!(AUTO.enter_measuring(), []);
        assert_eq!(fs::read_to_string(&file).unwrap(), "text");
        assert!(fs::read_dir("/proc/self/fd").unwrap().next().is_some());
        assert_eq!(kind(fs::write(&file, "other")), DENIED);
        assert_eq!(kind(File::options().append(true).open(&file)), DENIED);
        assert_eq!(kind(fs::remove_file(&file)), DENIED);
        assert_eq!(kind(TcpStream::connect(service)), DENIED);
        assert_eq!(kind(UdpSocket::bind("127.0.0.1:0")), DENIED);
        assert_eq!(kind(UnixDatagram::bind(&short_path)), DENIED);
        assert_eq!(kind(of_another.connect(service)), DENIED);
        assert_eq!(kind(UnixStream::connect(&local)), DENIED);
        assert_eq!(kind(UnixDatagram::unbound().unwrap().connect(&manager)), DENIED);
        // The service manager is told without a connection.
        UnixDatagram::unbound().unwrap().send_to(b"WATCHDOG=1", &manager).unwrap();
        assert_eq!(kind(start_a_program()), DENIED);
        // Sockets are what it asks for.
        vms_sock_diag::SockDiag::open(std::path::Path::new("/proc")).unwrap();
        // And what it starts is no freer.
        assert_eq!(on_a_thread(|| kind(TcpStream::connect(service))), DENIED);
    });
    assert_eq!(fs::read_to_string(&file).unwrap(), "text");
    assert_eq!(heard.recv(&mut [0; 64]).unwrap(), 10);
}

#[test]
fn the_runtime_writes_in_its_directories_alone_and_reads_what_it_was_given() {
    let directory = tempfile::tempdir().unwrap();
    let [own, spool, others, listed] =
        ["own", "spool", "others", "listed"].map(|name| directory.path().join(name));
    for place in [&own, &spool, &others, &listed] {
        fs::create_dir(place).unwrap();
        fs::write(place.join("file"), "text").unwrap();
    }
    let (short, short_path) = with_a_short_path();
    let write = vec![spool.clone(), short.path().to_owned()];
    let places = Places { read: vec![own.clone()], list: vec![listed.clone()], write, ..Places::default() };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let service = listener.local_addr().unwrap();
    on_a_thread(|| {
        rustix::thread::set_no_new_privs(true).unwrap();
        assert_eq!(AUTO.enter_runtime(&places), []);
        assert_eq!(fs::read_to_string(own.join("file")).unwrap(), "text");
        assert_eq!(kind(fs::write(own.join("file"), "other")), DENIED);
        assert_eq!(kind(fs::read(others.join("file"))), DENIED);
        assert_eq!(kind(fs::read_dir(&others)), DENIED);
        assert_eq!(fs::read_dir(&listed).unwrap().count(), 1);
        assert_eq!(kind(fs::read(listed.join("file"))), DENIED, "the names alone");
        assert_eq!(kind(fs::write(others.join("new"), "other")), DENIED);
        assert_eq!(kind(fs::rename(spool.join("file"), others.join("file"))), DENIED);

        fs::write(spool.join("new"), "new").unwrap();
        File::open(spool.join("new")).unwrap().sync_all().unwrap();
        fs::rename(spool.join("new"), spool.join("renamed")).unwrap();
        fs::remove_file(spool.join("renamed")).unwrap();
        fs::create_dir(spool.join("sub")).unwrap();

        drop(TcpStream::connect(service).unwrap());
        assert_eq!(kind(TcpListener::bind("127.0.0.1:0")), DENIED, "nobody can call the agent");
        // The kernel binds a socket that listens to a port of its choice, and Landlock does not see it.
        assert_eq!(kind(TcpSocket::new_v4().unwrap().listen(1)), DENIED);
        assert_eq!(kind(UnixDatagram::bind(&short_path)), DENIED);
        assert_eq!(kind(UdpSocket::bind("127.0.0.1:0")), DENIED);
        assert_eq!(kind(start_a_program()), DENIED);
    });
}

#[test]
fn the_runtime_cannot_look_into_processes_while_the_thread_beside_it_can() {
    let mut other = program("/bin/sleep").arg("60").spawn().unwrap();
    let link = format!("/proc/{}/fd/0", other.id());
    let look = || kind(fs::read_link(&link));
    let (before, restricted, beside) = on_a_thread(|| {
        let before = look();
        // Two threads of one process, of which one gives up.
        let (restricted, beside) = thread::scope(|scope| {
            let restricted = scope.spawn(|| {
                rustix::thread::set_no_new_privs(true).unwrap();
                let places = Places { read: vec!["/proc".into()], ..Places::default() };
                assert_eq!(AUTO.enter_runtime(&places), []);
                look()
            });
            (restricted.join().unwrap(), scope.spawn(look).join().unwrap())
        });
        (before, restricted, beside)
    });
    other.kill().unwrap();
    other.wait().unwrap();
    assert_eq!((before, restricted, beside), (None, DENIED, None));
}

#[test]
fn a_thread_in_the_sandbox_still_starts_threads_resolves_names_and_has_random_numbers() {
    let places = Places { read: places::SYSTEM.map(Into::into).to_vec(), ..Places::default() };
    on_a_thread(|| {
        rustix::thread::set_no_new_privs(true).unwrap();
        assert_eq!(AUTO.enter_runtime(&places), []);
        let resolved =
            on_a_thread(|| std::net::ToSocketAddrs::to_socket_addrs(&("localhost", 1)).unwrap().next());
        assert!(resolved.is_some());
        for device in ["/dev/random", "/dev/urandom"] {
            drop(File::open(device).unwrap());
        }
    });
}

#[test]
fn a_lack_is_an_error_only_where_the_sandbox_is_required() {
    let lacks = [Lack::new(Layer::Files, "the kernel has no Landlock")];
    AUTO.settle(&lacks).unwrap();
    let error = Sandbox::new(SandboxMode::Required, AUTO.extras).settle(&lacks).unwrap_err().to_string();
    assert!(error.contains("the kernel has no Landlock") && error.contains("Linux 5.13"), "{error}");
    Sandbox::new(SandboxMode::Required, AUTO.extras).settle(&[]).unwrap();
}

#[test]
fn nothing_is_given_up_when_the_sandbox_is_off() {
    let directory = tempfile::tempdir().unwrap();
    on_a_thread(|| {
        let off = Sandbox::new(SandboxMode::Off, AUTO.extras);
        assert_eq!(off.enter_measuring(), []);
        assert_eq!(off.enter_runtime(&Places::default()), []);
        fs::write(directory.path().join("file"), "text").unwrap();
        drop(TcpListener::bind("127.0.0.1:0").unwrap());
    });
}

#[test]
fn a_refused_reload_is_explained_where_a_file_could_not_be_read() {
    let refused = std::io::Error::from_raw_os_error(13).to_string();
    assert!(explain_refusal(&format!("the certificate cannot be read: {refused}")).is_some());
    assert!(explain_refusal("unknown key `probez`").is_none());
}

#[test]
fn only_where_it_is_configured_the_measuring_thread_can_ask_for_translations() {
    use vms_conntrack::{Conntrack, Error, Operation};

    let service = vms_core::address::Endpoint::new([127, 0, 0, 1].into(), 1);
    let read = |conntrack| {
        on_a_thread(|| {
            rustix::thread::set_no_new_privs(true).unwrap();
            assert_eq!(Sandbox::new(AUTO.mode, Extras { conntrack, ..AUTO.extras }).enter_measuring(), []);
            Conntrack::new(std::path::Path::new("/proc")).read(&[service])
        })
    };
    let refused = read(ConntrackMode::Off).unwrap_err();
    assert!(matches!(refused, Error::PermissionMissing { operation: Operation::Open, .. }), "{refused:?}");
    // Without the capability it is the kernel that refuses, once it is asked.
    let read = read(ConntrackMode::Auto);
    let asked = matches!(read, Ok(_) | Err(Error::PermissionMissing { operation: Operation::Request, .. }));
    assert!(asked, "{read:?}");
}

#[test]
fn the_runtime_accepts_at_the_socket_that_was_there_before_and_at_no_other() {
    let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let accept = |extras| {
        let clients = listeners.each_ref().map(|listener| {
            // What was not accepted waits for whoever is asked next.
            TcpStream::connect(listener.local_addr().unwrap()).unwrap()
        });
        let accepted = on_a_thread(|| {
            rustix::thread::set_no_new_privs(true).unwrap();
            assert_eq!(Sandbox::new(AUTO.mode, extras).enter_runtime(&Places::default()), []);
            assert_eq!(kind(TcpListener::bind("127.0.0.1:0")), DENIED);
            assert_eq!(kind(TcpSocket::new_v4().unwrap().listen(1)), DENIED);
            listeners.each_ref().map(|listener| kind(listener.accept()))
        });
        drop(clients);
        accepted
    };
    assert_eq!(accept(AUTO.extras), [DENIED, DENIED]);
    let first = Some(std::os::fd::AsRawFd::as_raw_fd(&listeners[0]));
    assert_eq!(accept(Extras { listener: first, ..AUTO.extras }), [None, DENIED]);
}
