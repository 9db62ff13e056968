//! Hosts: a network namespace and a PID namespace each, alone or joined by a cable.
//!
//! The PID namespace keeps apart what runs on the machine and what runs in a test: another test's process of the
//! same name, and those that even root may not look into. And whatever runs in it ends with it.

use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::deadline::eventually;
use crate::{environment, program};

/// Where iproute2 keeps named namespaces.
const DIRECTORY: &str = "/run/netns";
/// Namespaces that one test program may have at a time: a leak shows before it hurts.
const LIMIT: u32 = 64;

/// By how much the number of a pod is more than that of its host.
const PODS: u8 = 100;

static SERIAL: AtomicU32 = AtomicU32::new(0);
static ALIVE: AtomicU32 = AtomicU32::new(0);
static SWEEP: Once = Once::new();

/// A network namespace with its loopback up, and a PID namespace; gone when dropped, with all that runs there.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    network: File,
    processes: File,
    /// The parent of the PID namespace's first process, whose end is the end of all the others.
    init: Option<Child>,
    number: u8,
}

/// A socket as `ss` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketState {
    /// The state, in `ss`'s spelling: `ESTAB`, `FIN-WAIT-2`.
    pub state: String,
    /// The local port.
    pub local_port: u16,
    /// The peer's port; 0 for a listener.
    pub remote_port: u16,
}

impl Namespace {
    /// A host of its own.
    #[must_use]
    #[track_caller]
    pub fn new() -> Self {
        Self::with_number(1)
    }

    /// Two hosts, joined by a cable: `eth0` on each.
    #[must_use]
    #[track_caller]
    pub fn pair() -> (Self, Self) {
        let (one, other) = (Self::with_number(1), Self::with_number(2));
        one.join(&other);
        (one, other)
    }

    /// The inside of a process that runs in namespaces of its own, which outlive this.
    #[must_use]
    #[track_caller]
    pub fn of_process(pid: u32, number: u8) -> Self {
        let name = next_name();
        ip(&["netns", "attach", &name, &pid.to_string()]);
        let open = |kind: &str| File::open(format!("/proc/{pid}/ns/{kind}")).expect("the process runs");
        Self { name, network: open("net"), processes: open("pid"), init: None, number }
    }

    /// Joins two hosts by a cable, `eth0` on each.
    #[track_caller]
    pub fn join(&self, other: &Self) {
        let (one, link) = (&self.name, ["type", "veth", "peer", "name", "eth0", "netns"]);
        ip(&[&["-n", one, "link", "add", "eth0"], link.as_slice(), &[&other.name]].concat());
        for host in [self, other] {
            // Addresses are usable at once: duplicate address detection would take a second.
            let steps = [
                "link set eth0 addrgenmode none".to_owned(),
                "link set eth0 up".to_owned(),
                format!("address add {}/24 dev eth0", host.ipv4()),
                format!("address add {}/64 dev eth0 nodad", host.ipv6()),
                format!("address add {}/64 dev eth0 nodad", host.link_local()),
            ];
            for step in steps {
                let words: Vec<&str> = ["-n", &host.name].into_iter().chain(step.split(' ')).collect();
                ip(&words);
            }
        }
    }

    /// A network of its own on this host, as a pod has: what runs there is among the host's processes. It has to be dropped
    /// before the host, and may be [joined](Self::join) with it.
    #[must_use]
    #[track_caller]
    pub fn pod(&self) -> Self {
        let (name, network) = make_network();
        let processes = self.processes.try_clone().expect("a descriptor is to be had");
        Self { name, network, processes, init: None, number: self.number + PODS }
    }

    fn with_number(number: u8) -> Self {
        let (name, network) = make_network();
        let (init, processes) = start_init(&network);
        Self { name, network, processes, init: Some(init), number }
    }

    /// The name under which `ip netns` knows the namespace.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The IPv4 address of `eth0`.
    #[must_use]
    pub fn ipv4(&self) -> IpAddr {
        Ipv4Addr::new(10, 11, 12, self.number).into()
    }

    /// The unique local IPv6 address of `eth0` (RFC 4193).
    #[must_use]
    pub fn ipv6(&self) -> IpAddr {
        Ipv6Addr::new(0xfd00, 0x11, 0, 0, 0, 0, 0, self.number.into()).into()
    }

    /// The link-local IPv6 address of `eth0`.
    #[must_use]
    pub fn link_local(&self) -> IpAddr {
        Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, self.number.into()).into()
    }

    /// The index of `eth0`, the zone of link-local addresses.
    #[must_use]
    pub fn interface_index(&self) -> u32 {
        let shown = ip(&["-n", &self.name, "-o", "link", "show", "eth0"]);
        shown.split(':').next().and_then(|index| index.parse().ok()).expect("ip shows the index first")
    }

    /// Runs the work on a thread of its own inside the namespaces; sockets made there and programs started there
    /// belong to them. It cannot start threads: those of one process share a PID namespace.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let result = thread::scope(|scope| {
            let worker = scope.spawn(move || {
                enter(&self.network);
                move_into_link_name_space(self.processes.as_fd(), Some(LinkNameSpaceType::ProcessID))
                    .expect("root may enter a PID namespace");
                work()
            });
            worker.join()
        });
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// A handle by which another thread enters the network namespace for good.
    #[must_use]
    pub fn entrance(&self) -> File {
        self.network.try_clone().expect("a descriptor is to be had")
    }

    /// Starts a program inside.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(&self, command: &mut Command) -> io::Result<Child> {
        self.inside(|| command.spawn())
    }

    /// Runs a program inside to its end and returns what it printed.
    #[track_caller]
    pub fn run(&self, command: &mut Command) -> String {
        self.inside(|| program::run(command))
    }

    /// Sets a kernel parameter of the namespace, such as `net/ipv4/tcp_fin_timeout`.
    pub fn set_parameter(&self, path: &str, value: &str) {
        self.inside(|| fs::write(format!("/proc/sys/{path}"), value).expect("the parameter can be set"));
    }

    /// Drops every packet that leaves this host and fits the rule, in nft's language; `tcp dport 80` for example.
    #[track_caller]
    pub fn drop_outgoing(&self, rule: &str) {
        let ruleset = format!(
            "table inet vmst {{\n chain outgoing {{\n type filter hook output priority 0\n {rule} drop\n }}\n}}\n"
        );
        self.run(program::command("nft").arg(ruleset));
    }

    /// Drops nothing any more.
    #[track_caller]
    pub fn drop_nothing(&self) {
        self.run(program::command("nft").arg("delete table inet vmst"));
    }

    /// Every TCP socket of the host.
    #[must_use]
    #[track_caller]
    pub fn sockets(&self) -> Vec<SocketState> {
        let shown = self.run(program::command("ss").args(["-H", "-t", "-a", "-n"]));
        shown.lines().filter_map(parse_socket).collect()
    }

    /// Whether the host has a socket in that state between those ports.
    #[must_use]
    #[track_caller]
    pub fn has_socket(&self, state: &str, local: SocketAddr, remote: SocketAddr) -> bool {
        self.sockets().iter().any(|socket| {
            socket.state == state && socket.local_port == local.port() && socket.remote_port == remote.port()
        })
    }
}

impl Default for Namespace {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Some(mut init) = self.init.take() {
            drop(init.stdin.take());
            // It ends when all others in the namespace have ended and been waited for, which may be after this.
            thread::spawn(move || init.wait());
        }
        // Not `run`: a panic in a drop during a panic would abort the test program and leave every namespace behind.
        let _deleted_or_swept_later = program::command("ip").args(["netns", "delete", &self.name]).output();
        ALIVE.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A name that no other namespace has.
#[track_caller]
fn next_name() -> String {
    SWEEP.call_once(sweep);
    let alive = ALIVE.fetch_add(1, Ordering::SeqCst);
    assert!(alive < LIMIT, "{LIMIT} namespaces are alive already");
    format!("vmst-{}-{}", std::process::id(), SERIAL.fetch_add(1, Ordering::SeqCst))
}

/// A network namespace with its loopback up, and the name under which `ip netns` knows it.
#[track_caller]
fn make_network() -> (String, File) {
    let name = next_name();
    ip(&["netns", "add", &name]);
    ip(&["-n", &name, "link", "set", "lo", "up"]);
    let network = File::open(format!("{DIRECTORY}/{name}")).expect("the namespace was just made");
    (name, network)
}

/// Starts the first process of a PID namespace, in that network namespace, and returns it with the PID namespace.
#[track_caller]
fn start_init(network: &File) -> (Child, File) {
    let mut command = program::command("unshare");
    command.args(["--pid", "--fork", "--kill-child", "--"]).arg(environment::peer_program()).arg("hold");
    command.env_clear().stdin(Stdio::piped()).stdout(Stdio::null());
    let spawned = thread::scope(|scope| {
        let worker = scope.spawn(|| {
            enter(network);
            command.spawn()
        });
        worker.join()
    });
    let init = spawned.expect("root may enter a network namespace").expect("unshare starts");
    let path = format!("/proc/{}/ns/pid_for_children", init.id());
    let ours = fs::read_link("/proc/self/ns/pid").expect("/proc is mounted");
    let processes = eventually("the PID namespace", || {
        // Until its first process is there, it cannot be entered.
        let theirs = fs::read_link(&path).ok()?;
        (theirs != ours).then(|| File::open(&path).ok())?
    });
    (init, processes)
}

/// Moves this thread, and only this thread, into a namespace.
#[track_caller]
pub fn enter(entrance: &File) {
    move_into_link_name_space(entrance.as_fd(), Some(LinkNameSpaceType::Network))
        .expect("root may enter a network namespace");
}

/// Removes the names that runs that died left behind. Their programs ended with them.
fn sweep() {
    let Ok(entries) = fs::read_dir(DIRECTORY) else { return };
    for entry in entries.filter_map(Result::ok) {
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Some(maker) = parse_maker(&name) {
            if fs::exists(format!("/proc/{maker}")).unwrap_or(true) {
                continue;
            }
            program::output(program::command("ip").args(["netns", "delete", &name]));
        }
    }
}

/// The process that made the namespace with that name, if one of ours did.
fn parse_maker(name: &str) -> Option<u32> {
    name.strip_prefix("vmst-")?.split('-').next()?.parse().ok()
}

#[track_caller]
fn ip(words: &[&str]) -> String {
    program::run(program::command("ip").args(words))
}

/// `ESTAB 0 0 10.11.12.1:80 10.11.12.2:4711`, with whatever follows.
fn parse_socket(line: &str) -> Option<SocketState> {
    let mut words = line.split_whitespace();
    let state = words.next()?.to_owned();
    let local_port = parse_port(words.nth(2)?)?;
    let remote_port = parse_port(words.next()?)?;
    Some(SocketState { state, local_port, remote_port })
}

fn parse_port(endpoint: &str) -> Option<u16> {
    match endpoint.rsplit_once(':')?.1 {
        "*" => Some(0),
        port => port.parse().ok(),
    }
}

#[cfg(test)]
mod tests;
