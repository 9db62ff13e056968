//! A program that takes as much of the host as its user may. It says when it has it, and keeps it until its stdin ends.

use std::env;
use std::error::Error;
use std::ffi::CString;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, ExitCode, Stdio};
use std::thread;
use std::time::Duration;

use rustix::fs::{Mode, OFlags, open};
use rustix::net::{
    AddressFamily, SocketFlags, SocketType, accept, bind, connect, listen, socket_with, sockopt,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::set_name;
use vms_agent_tests::program;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Where the source ports of connections begin.
const FIRST_PORT: u16 = 10_000;
/// The longest that the kernel takes for one argument is 128 KiB.
const ARGUMENT_BYTES: usize = 100_000;
const ARGUMENTS: usize = 11;
/// How long a name is kept.
const A_NAME: Duration = Duration::from_millis(1);

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).take(4).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match attack(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Whoever waits for the other answer shows this one.
            writeln!(io::stdout(), "error {error}").ok();
            ExitCode::FAILURE
        }
    }
}

fn attack(words: &[&str]) -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?;
    match words {
        ["hold", ..] => keep(()),
        ["accept", address] => accept_all(address.parse()?),
        ["connect", remote, local, count] => {
            keep(open_connections(remote.parse()?, local.parse()?, count.parse()?)?)
        }
        ["open", count] => keep(open_files(count.parse()?)?),
        ["start", count, size] => keep(start(count.parse()?, *size == "large")?),
        ["rename", one, other] => rename(&CString::new(*one)?, &CString::new(*other)?),
        _ => Err("no such attack".into()),
    }
}

/// Keeps what was taken until stdin ends.
fn keep<T>(taken: T) -> Result<()> {
    writeln!(io::stdout(), "ok")?;
    io::stdin().read_to_end(&mut Vec::new())?;
    drop(taken);
    Ok(())
}

fn end_with_stdin() {
    thread::spawn(|| {
        io::stdin().read_to_end(&mut Vec::new()).ok();
        std::process::exit(0);
    });
}

/// Accepts whatever connects, beside others that listen at the same address.
fn accept_all(address: SocketAddr) -> Result<()> {
    let listener = socket(address)?;
    sockopt::set_socket_reuseport(&listener, true)?;
    bind(&listener, &address)?;
    listen(&listener, 4_096)?;
    end_with_stdin();
    writeln!(io::stdout(), "ok")?;
    let mut accepted = Vec::new();
    loop {
        accepted.push(accept(&listener)?);
    }
}

fn open_connections(remote: SocketAddr, local: IpAddr, count: u16) -> Result<Vec<OwnedFd>> {
    (0..count)
        .map(|index| {
            let socket = socket(remote)?;
            sockopt::set_socket_reuseaddr(&socket, true)?;
            bind(&socket, &SocketAddr::new(local, FIRST_PORT + index))?;
            connect(&socket, &remote)?;
            Ok(socket)
        })
        .collect()
}

fn open_files(count: usize) -> Result<Vec<OwnedFd>> {
    let open = || open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    Ok((0..count).map(|_| open()).collect::<std::result::Result<_, _>>()?)
}

/// Starts processes, which end with this one: their stdin is a pipe of which it has the other end.
fn start(count: usize, large: bool) -> Result<(OwnedFd, Vec<Child>)> {
    let (stdin, held) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let argument = "a".repeat(ARGUMENT_BYTES);
    let this = env::current_exe()?;
    let children = (0..count).map(|_| {
        let mut command = program::command(Path::new(&this));
        command.arg("hold").stdin(Stdio::from(stdin.try_clone()?)).stdout(Stdio::null());
        if large {
            command.args([&argument; ARGUMENTS]);
        }
        Ok(command.spawn()?)
    });
    let children = children.collect::<Result<_>>()?;
    Ok((held, children))
}

/// Has one name, and the other, by turns.
fn rename(one: &CString, other: &CString) -> Result<()> {
    end_with_stdin();
    writeln!(io::stdout(), "ok")?;
    loop {
        for name in [one, other] {
            set_name(name)?;
            thread::sleep(A_NAME);
        }
    }
}

fn socket(address: SocketAddr) -> Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    Ok(socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?)
}
