//! Programs that hold sockets, under any name and as any user.

use std::fmt;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use crate::deadline::PATIENCE;
use crate::namespace::Namespace;
use crate::program;

/// A file that can be started as a [`Peer`], and how.
#[derive(Debug, Clone)]
pub struct Program {
    path: PathBuf,
    argv0: Option<String>,
    user: Option<u32>,
    is_powerless: bool,
}

/// A running program.
pub struct Peer {
    child: Child,
    commands: Option<ChildStdin>,
    answers: Receiver<String>,
}

/// A connected socket of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stream {
    id: usize,
    /// The endpoint on the peer's host.
    pub local: SocketAddr,
    /// The other endpoint.
    pub remote: SocketAddr,
}

/// A listening socket of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listener {
    id: usize,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Program {
    /// The program in that file.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path, argv0: None, user: None, is_powerless: false }
    }

    /// Where the file is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Starts with another `argv[0]` than its path.
    #[must_use]
    pub fn argv0(mut self, argv0: &str) -> Self {
        self.argv0 = Some(argv0.to_owned());
        self
    }

    /// Starts as that user, with nothing of root's left.
    #[must_use]
    pub fn user(mut self, uid: u32) -> Self {
        self.user = Some(uid);
        self
    }

    /// Starts without any capability, whoever's it is.
    #[must_use]
    pub fn powerless(mut self) -> Self {
        self.is_powerless = true;
        self
    }

    /// Starts it on a host.
    #[must_use]
    #[track_caller]
    pub fn start(&self, host: &Namespace) -> Peer {
        let mut command = if self.is_powerless {
            let mut command = program::command("setpriv");
            command.args(["--inh-caps=-all", "--bounding-set=-all", "--"]).arg(&self.path);
            command
        } else {
            program::command(&self.path)
        };
        command.env_clear().current_dir("/").stdin(Stdio::piped()).stdout(Stdio::piped());
        if let Some(argv0) = &self.argv0 {
            command.arg0(argv0);
        }
        if let Some(uid) = self.user {
            command.uid(uid).gid(uid);
        }
        let mut child =
            host.spawn(&mut command).unwrap_or_else(|error| panic!("{}: {error}", self.path.display()));
        let commands = child.stdin.take();
        let stdout = child.stdout.take().expect("stdout is piped");
        let (sender, answers) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Peer { child, commands, answers }
    }
}

impl Peer {
    /// Its process id, as its own host numbers it.
    #[must_use]
    #[track_caller]
    pub fn pid(&self) -> u32 {
        let path = format!("/proc/{}/status", self.child.id());
        let status = fs::read_to_string(path).expect("the peer runs");
        // One number for each PID namespace, the innermost last (proc_pid_status(5)).
        let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
        numbers
            .and_then(|numbers| numbers.split_whitespace().last())
            .and_then(|number| number.parse().ok())
            .expect("a process has a number")
    }

    /// Its process id, as the machine numbers it.
    #[must_use]
    pub fn machine_pid(&self) -> u32 {
        self.child.id()
    }

    /// Where the kernel says that its executable is.
    #[must_use]
    #[track_caller]
    pub fn executable(&self) -> PathBuf {
        fs::read_link(format!("/proc/{}/exe", self.child.id())).expect("the peer runs")
    }

    /// Listens; port 0 takes a free one. `[::]:0` serves both families.
    #[track_caller]
    pub fn listen(&mut self, address: SocketAddr) -> Listener {
        let answer = self.order(format_args!("listen {address}"));
        let (id, address) = answer.split_once(' ').expect("id and address");
        Listener { id: id.parse().expect("an id"), address: address.parse().expect("an address") }
    }

    /// Connects, and waits until the connection is established.
    #[track_caller]
    pub fn connect(&mut self, remote: SocketAddr) -> Stream {
        parse_stream(&self.order(format_args!("connect {remote}")))
    }

    /// Connects from a given address and port.
    #[track_caller]
    pub fn connect_from(&mut self, remote: SocketAddr, local: SocketAddr) -> Stream {
        parse_stream(&self.order(format_args!("connect {remote} from {local}")))
    }

    /// Sends a SYN and leaves it at that.
    #[track_caller]
    pub fn begin(&mut self, remote: SocketAddr) -> Stream {
        parse_stream(&self.order(format_args!("begin {remote}")))
    }

    /// Accepts the next connection.
    #[track_caller]
    pub fn accept(&mut self, listener: Listener) -> Stream {
        parse_stream(&self.order(format_args!("accept {}", listener.id)))
    }

    /// Closes a connection.
    #[track_caller]
    pub fn close(&mut self, stream: Stream) {
        self.order(format_args!("close {}", stream.id));
    }

    /// Stops listening.
    #[track_caller]
    pub fn close_listener(&mut self, listener: Listener) {
        self.order(format_args!("close {}", listener.id));
    }

    /// Sends a FIN and keeps the socket.
    #[track_caller]
    pub fn shutdown(&mut self, stream: Stream) {
        self.order(format_args!("shutdown {}", stream.id));
    }

    /// Sends so many bytes.
    #[track_caller]
    pub fn send(&mut self, stream: Stream, bytes: usize) {
        self.order(format_args!("send {} {bytes}", stream.id));
    }

    /// Receives so many bytes, and waits for them.
    #[track_caller]
    pub fn receive(&mut self, stream: Stream, bytes: usize) {
        self.order(format_args!("receive {} {bytes}", stream.id));
    }

    /// Goes on as another program that holds the socket, and obeys no more orders. Its process id stays.
    #[track_caller]
    pub fn exec(&mut self, stream: Stream, program: &Program) {
        self.order(format_args!("exec {} {}", stream.id, program.path.display()));
    }

    /// Gets ready to [`take`](Self::take) what others [`give`](Self::give).
    #[track_caller]
    pub fn mailbox(&mut self, path: &Path) {
        self.order(format_args!("mailbox {}", path.display()));
    }

    /// Passes a socket to whoever has that mailbox (unix(7), `SCM_RIGHTS`), and keeps it as well.
    #[track_caller]
    pub fn give(&mut self, stream: Stream, mailbox: &Path) {
        self.order(format_args!("give {} {}", stream.id, mailbox.display()));
    }

    /// Takes a socket that was given.
    #[track_caller]
    pub fn take(&mut self) -> Stream {
        parse_stream(&self.order(format_args!("take")))
    }

    /// Starts a child that inherits the socket, and returns its process id. It ends with this peer.
    #[track_caller]
    pub fn child(&mut self, stream: Stream, program: &Program) -> u32 {
        self.order(format_args!("child {} {}", stream.id, program.path.display()))
            .parse()
            .expect("a process id")
    }

    /// Acts as another user, and can go on as any other: for a program that was started as root.
    #[track_caller]
    pub fn act_as(&mut self, uid: u32) {
        self.order(format_args!("act {uid}"));
    }

    /// Goes on as another user, with nothing of root's left.
    #[track_caller]
    pub fn become_user(&mut self, uid: u32) {
        self.order(format_args!("user {uid}"));
    }

    /// Keeps its memory from being dumped, and itself from being looked into by others of its user.
    #[track_caller]
    pub fn keep_to_itself(&mut self) {
        self.order(format_args!("undumpable"));
    }

    /// Uses that much CPU time, and returns how much it has used since it started.
    #[track_caller]
    pub fn burn(&mut self, time: Duration) -> Duration {
        let used = self.order(format_args!("burn {}", time.as_millis()));
        Duration::from_micros(used.parse().expect("a number"))
    }

    /// Takes so many bytes of memory, and keeps them.
    #[track_caller]
    pub fn allocate(&mut self, bytes: usize) {
        self.order(format_args!("allocate {bytes}"));
    }

    /// Renames the process.
    #[track_caller]
    pub fn rename(&mut self, name: &str) {
        self.order(format_args!("comm {name}"));
    }

    #[track_caller]
    fn order(&mut self, command: fmt::Arguments<'_>) -> String {
        let mut commands = self.commands.as_ref().expect("the peer was started with a stdin");
        writeln!(commands, "{command}")
            .unwrap_or_else(|error| panic!("{command}: the peer is gone: {error}"));
        match self.answers.recv_timeout(PATIENCE) {
            Ok(answer) => match answer.strip_prefix("ok ") {
                Some(answer) => answer.to_owned(),
                None => panic!("{command}: {answer}"),
            },
            Err(error) => panic!("{command}: {error}"),
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // The end of its stdin is what ends it, and its children; the kill is for one that hangs in a system call.
        drop(self.commands.take());
        let _dead_already = self.child.kill();
        let _reaped_already = self.child.wait();
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Peer").field("process", &self.child.id()).finish_non_exhaustive()
    }
}

#[track_caller]
fn parse_stream(answer: &str) -> Stream {
    let words: Vec<&str> = answer.split(' ').collect();
    match words.as_slice() {
        [id, local, remote] => Stream {
            id: id.parse().expect("an id"),
            local: local.parse().expect("an address"),
            remote: remote.parse().expect("an address"),
        },
        _ => panic!("not a stream: {answer}"),
    }
}
