//! The child that holds one side of connections that nobody watches.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::net::listen;
use rustix::net::sockopt::set_socket_linger;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors that a process needs for itself.
pub(crate) const SPARE_DESCRIPTORS: usize = 16;

/// What a process that holds connections is told.
#[derive(Debug, clap::Args)]
pub(crate) struct SocketsRole {
    /// Its name in /proc/PID/comm.
    name: String,
    /// How many connections to hold.
    count: usize,
    /// Accept on this address and print it, or connect to it.
    address: SocketAddrV4,
    /// Connect instead of accepting.
    #[arg(long)]
    connect: bool,
}

/// What such a child does: gets its connections, says so, and holds them until its standard input ends.
pub(crate) fn hold(role: &SocketsRole) -> Result<()> {
    settle_in(&role.name, role.count + SPARE_DESCRIPTORS)?;
    let mut output = io::stdout();
    let mut held = Vec::with_capacity(role.count);
    if role.connect {
        for _ in 0..role.count {
            held.push(connect(role.address)?);
        }
    } else {
        let listener = TcpListener::bind(role.address)?;
        // Whoever finds the queue full tries again after a second.
        listen(listener.as_fd(), i32::try_from(role.count)?)?;
        // What is accepted inherits it.
        end_by_reset(listener.as_fd())?;
        writeln!(output, "{}", listener.local_addr()?)?;
        for _ in 0..role.count {
            held.push(listener.accept()?.0);
        }
    }
    writeln!(output, "established")?;
    io::stdin().read_to_end(&mut Vec::new())?;
    drop(held);
    Ok(())
}

/// Takes a name, and the right to so many descriptors.
pub(crate) fn settle_in(name: &str, descriptors: usize) -> Result<()> {
    rustix::thread::set_name(&std::ffi::CString::new(name)?)?;
    let wanted = u64::try_from(descriptors)?;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < wanted) {
        // Only here: there are programs that close every descriptor they might have, one by one, when they start.
        let maximum = limit.maximum.map(|maximum| maximum.max(wanted));
        setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum })
            .with_context(|| format!("{wanted} open files in one process"))?;
    }
    Ok(())
}

/// How many descriptors [`settle_in`] can get for one process.
pub(crate) fn most_descriptors() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let kernels =
        std::fs::read_to_string("/proc/sys/fs/nr_open").ok().and_then(|text| text.trim().parse().ok());
    // Whether the privilege is there is seen by trying.
    let raised = Rlimit { current: limit.current, maximum: kernels };
    let may_raise = kernels.is_some()
        && setrlimit(Resource::Nofile, raised).is_ok()
        && setrlimit(Resource::Nofile, limit).is_ok();
    let most = if may_raise { kernels } else { limit.maximum };
    most.map_or(usize::MAX, |most: u64| usize::try_from(most).unwrap_or(usize::MAX))
}

/// Connects.
pub(crate) fn connect(address: SocketAddrV4) -> Result<TcpStream> {
    let stream = TcpStream::connect(address).with_context(|| format!("{address}: cannot connect"))?;
    end_by_reset(stream.as_fd())?;
    Ok(stream)
}

/// No end of a connection is to leave a `TIME_WAIT` behind for those measured next.
fn end_by_reset(socket: impl AsFd) -> Result<()> {
    Ok(set_socket_linger(socket, Some(Duration::ZERO))?)
}
