//! A program that holds sockets as it is told: one command a line on stdin, one answer a line on stdout.
//!
//! It ends when its stdin does, so that no peer outlives the test that started it. In a container, which has an end of its own,
//! it is told by its arguments what to be: `serve ADDRESS`, `call ADDRESS`, or `loop ADDRESS` for both.

use std::collections::HashMap;
use std::error::Error;
use std::fs;
use std::io::{self, BufRead, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::process::{Child, ExitCode, Stdio};
use std::time::Duration;

use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use rustix::process::{DumpableBehavior, Uid, set_dumpable_behavior};
use rustix::thread::set_thread_res_uid;
use rustix::time::{ClockId, clock_gettime};
use vms_agent_tests::program;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The only argument: hold what was inherited, and wait.
const HOLD: &str = "hold";
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two calls.
const PAUSE: Duration = Duration::from_millis(200);

enum Socket {
    Listener(TcpListener),
    Stream(TcpStream),
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Listener(listener) => listener.as_fd(),
            Self::Stream(stream) => stream.as_fd(),
        }
    }
}

#[derive(Default)]
struct Peer {
    sockets: HashMap<usize, Socket>,
    serial: usize,
    mailbox: Option<UnixDatagram>,
    children: Vec<Child>,
    memory: Vec<Vec<u8>>,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).take(2).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["serve", address] => return ExitCode::from(u8::from(serve(address).is_err())),
        ["loop", address] => {
            let address = (*address).to_owned();
            let served = address.clone();
            std::thread::spawn(move || serve(&served).is_ok());
            return ExitCode::from(u8::from(call(&address).is_err()));
        }
        ["call", address] => return ExitCode::from(u8::from(call(address).is_err())),
        _ => {}
    }
    let mut peer = Peer::default();
    let hold = std::env::args().nth(1).is_some_and(|argument| argument == HOLD);
    if hold && writeln!(io::stdout(), "ok ").is_err() {
        return ExitCode::FAILURE;
    }
    for line in io::stdin().lock().lines().map_while(io::Result::ok) {
        if hold {
            continue;
        }
        let words: Vec<&str> = line.split(' ').collect();
        let answer = match peer.obey(&words) {
            Ok(answer) => format!("ok {answer}"),
            Err(error) => format!("error {error}"),
        };
        if writeln!(io::stdout(), "{answer}").is_err() {
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// The CPU time that this process has used, in all of its threads.
fn cpu_time() -> Duration {
    clock_gettime(ClockId::ProcessCPUTime).try_into().unwrap_or_default()
}

/// Accepts whoever calls, and keeps him.
fn serve(address: &str) -> Result<()> {
    let listener = TcpListener::bind(address)?;
    let mut kept = Vec::new();
    loop {
        kept.push(listener.accept()?);
    }
}

/// Is connected, or tries to be.
fn call(address: &str) -> Result<()> {
    let address = address.parse()?;
    loop {
        if let Ok(mut stream) = TcpStream::connect_timeout(&address, PAUSE) {
            // Until the other end closes it.
            io::copy(&mut stream, &mut io::sink()).ok();
        }
        std::thread::sleep(PAUSE);
    }
}

impl Peer {
    fn obey(&mut self, words: &[&str]) -> Result<String> {
        match words {
            ["listen", address] => {
                let listener = TcpListener::bind(address.parse::<SocketAddr>()?)?;
                let address = listener.local_addr()?;
                Ok(format!("{} {address}", self.keep(Socket::Listener(listener))))
            }
            ["connect", remote] => self.connect(remote.parse()?, None),
            ["connect", remote, "from", local] => self.connect(remote.parse()?, Some(local.parse()?)),
            ["begin", remote] => {
                let stream = begin(remote.parse()?)?;
                let local = stream.local_addr()?;
                Ok(format!("{} {local} {remote}", self.keep(Socket::Stream(stream))))
            }
            ["accept", id] => {
                let (stream, _) = self.listener(id)?.accept()?;
                self.keep_stream(stream)
            }
            ["close", id] => {
                let id: usize = id.parse()?;
                self.sockets.remove(&id).map(|_closed| String::new()).ok_or_else(|| "no such socket".into())
            }
            ["burn", milliseconds] => {
                let until = cpu_time() + Duration::from_millis(milliseconds.parse()?);
                while cpu_time() < until {
                    std::hint::black_box(words.len());
                }
                Ok(cpu_time().as_micros().to_string())
            }
            ["allocate", bytes] => {
                // Zeros would be pages that are not there before they are written to.
                self.memory.push(vec![1; bytes.parse()?]);
                Ok(String::new())
            }
            ["shutdown", id] => {
                self.stream(id)?.shutdown(std::net::Shutdown::Write)?;
                Ok(String::new())
            }
            ["send", id, bytes] => {
                self.stream(id)?.write_all(&vec![b'.'; bytes.parse()?])?;
                Ok(String::new())
            }
            ["receive", id, bytes] => {
                self.stream(id)?.read_exact(&mut vec![0; bytes.parse()?])?;
                Ok(String::new())
            }
            ["exec", id, path] => self.exec(id, path),
            ["mailbox", path] => {
                let mailbox = UnixDatagram::bind(path)?;
                fs::set_permissions(path, fs::Permissions::from_mode(0o777))?;
                mailbox.set_read_timeout(Some(PATIENCE))?;
                self.mailbox = Some(mailbox);
                Ok(String::new())
            }
            ["give", id, path] => self.give(id, path),
            ["take"] => {
                let stream = self.take()?;
                self.keep_stream(stream)
            }
            ["child", id, path] => self.child(id, path),
            ["user", uid] => {
                let uid = Uid::from_raw(uid.parse()?);
                set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT)?;
                set_thread_res_uid(uid, uid, uid)?;
                Ok(String::new())
            }
            ["act", uid] => {
                set_thread_res_uid(Uid::ROOT, Uid::from_raw(uid.parse()?), Uid::ROOT)?;
                Ok(String::new())
            }
            ["undumpable"] => {
                set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
                Ok(String::new())
            }
            ["comm", name] => {
                fs::write("/proc/self/comm", name)?;
                Ok(String::new())
            }
            _ => Err("no such command".into()),
        }
    }

    fn keep(&mut self, socket: Socket) -> usize {
        self.serial += 1;
        self.sockets.insert(self.serial, socket);
        self.serial
    }

    fn keep_stream(&mut self, stream: TcpStream) -> Result<String> {
        let (local, remote) = (stream.local_addr()?, stream.peer_addr()?);
        Ok(format!("{} {local} {remote}", self.keep(Socket::Stream(stream))))
    }

    fn socket(&self, id: &str) -> Result<&Socket> {
        self.sockets.get(&id.parse()?).ok_or_else(|| "no such socket".into())
    }

    /// Goes on as another program, with that socket and no other.
    fn exec(&self, id: &str, path: &str) -> Result<String> {
        fcntl_setfd(self.socket(id)?, FdFlags::empty())?;
        // What runs then answers this order, and no other.
        Err(program::command(path).arg(HOLD).exec().into())
    }

    fn stream(&self, id: &str) -> Result<&TcpStream> {
        match self.socket(id)? {
            Socket::Stream(stream) => Ok(stream),
            Socket::Listener(_) => Err("a listener is no stream".into()),
        }
    }

    fn listener(&self, id: &str) -> Result<&TcpListener> {
        match self.socket(id)? {
            Socket::Listener(listener) => Ok(listener),
            Socket::Stream(_) => Err("a stream is no listener".into()),
        }
    }

    fn connect(&mut self, remote: SocketAddr, local: Option<SocketAddr>) -> Result<String> {
        let socket = socket(remote, SocketFlags::CLOEXEC)?;
        if let Some(local) = local {
            rustix::net::sockopt::set_socket_reuseaddr(&socket, true)?;
            rustix::net::bind(&socket, &local)?;
        }
        rustix::net::connect(&socket, &remote)?;
        self.keep_stream(TcpStream::from(socket))
    }

    fn give(&self, id: &str, path: &str) -> Result<String> {
        let sender = UnixDatagram::unbound()?;
        let given = [self.socket(id)?.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(&given)) {
            return Err("no space for one descriptor".into());
        }
        let address = SocketAddrUnix::new(path)?;
        rustix::net::sendmsg_addr(
            &sender,
            &address,
            &[IoSlice::new(b"fd")],
            &mut control,
            SendFlags::empty(),
        )?;
        Ok(String::new())
    }

    fn take(&self) -> Result<TcpStream> {
        let mailbox = self.mailbox.as_ref().ok_or("no mailbox")?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0; 2];
        rustix::net::recvmsg(
            mailbox,
            &mut [IoSliceMut::new(&mut byte)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )?;
        let taken = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        Ok(TcpStream::from(taken.ok_or("no descriptor came")?))
    }

    /// A child that inherits the socket across exec, as a program does that a server starts.
    fn child(&mut self, id: &str, path: &str) -> Result<String> {
        let socket = self.socket(id)?;
        fcntl_setfd(socket, FdFlags::empty())?;
        let child = program::command(path).arg(HOLD).stdin(Stdio::piped()).stdout(Stdio::null()).spawn();
        fcntl_setfd(socket, FdFlags::CLOEXEC)?;
        let child = child?;
        let pid = child.id();
        self.children.push(child);
        Ok(pid.to_string())
    }
}

fn socket(remote: SocketAddr, flags: SocketFlags) -> Result<OwnedFd> {
    let family = if remote.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    Ok(rustix::net::socket_with(family, SocketType::STREAM, flags, None)?)
}

/// Sends the SYN and does not wait for its answer.
fn begin(remote: SocketAddr) -> Result<TcpStream> {
    let socket = socket(remote, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
    match rustix::net::connect(&socket, &remote) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(TcpStream::from(socket)),
        Err(error) => Err(error.into()),
    }
}
