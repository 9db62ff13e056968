//! The host's load: processes that hold connections, and processes that do nothing.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::process::{Child, ChildStdout, Stdio};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The destination of a link that the agent is to watch.
pub(crate) type Watched = SocketAddrV4;

/// Name of the processes at the ends of the watched links.
pub(crate) const WATCHED_NAME: &str = "bench-link";
const HOLDER_NAME: &str = "bench-holder";
/// Most connections of one pair of processes: well below the ephemeral ports of one destination.
const PAIR_CONNECTIONS: usize = 10_000;
/// Descriptors that a holder needs for itself.
const SPARE_DESCRIPTORS: usize = 16;

/// What a process that holds connections is told.
#[derive(Debug, clap::Args)]
pub(crate) struct Role {
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

/// Everything that runs on the host; it ends with this process.
#[derive(Debug)]
pub(crate) struct Load {
    pair_connections: usize,
    connections: usize,
    /// Their standard input is the rope they hang on.
    children: Vec<Child>,
}

impl Load {
    /// A host without load.
    pub(crate) fn new() -> Result<Self> {
        let limit = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
        let descriptors =
            limit.maximum.map_or(usize::MAX, |maximum| usize::try_from(maximum).unwrap_or(usize::MAX));
        let pair_connections = PAIR_CONNECTIONS.min(descriptors.saturating_sub(SPARE_DESCRIPTORS));
        ensure!(pair_connections > 0, "a process may open only {descriptors} files");
        Ok(Self { pair_connections, connections: 0, children: Vec::new() })
    }

    /// Adds processes that sleep.
    pub(crate) fn add_idle(&mut self, count: usize) -> Result<()> {
        for _ in 0..count {
            let sleeper =
                crate::program("sleep").arg("infinity").stdin(Stdio::null()).stdout(Stdio::null()).spawn();
            self.children.push(sleeper.context("sleep, of coreutils, does not start")?);
        }
        Ok(())
    }

    /// Adds links of one connection each, whose ends are held by processes of their own.
    pub(crate) fn add_watched(&mut self, count: u16) -> Result<Vec<Watched>> {
        (0..count)
            .map(|index| {
                self.add_pair(WATCHED_NAME, 1, SocketAddrV4::new(Ipv4Addr::new(127, 1, 0, 1), 7_000 + index))
            })
            .collect()
    }

    /// Adds connections until there are so many, the watched ones aside.
    pub(crate) fn grow_to(&mut self, connections: usize) -> Result<()> {
        while self.connections < connections {
            let count = self.pair_connections.min(connections - self.connections);
            self.add_pair(HOLDER_NAME, count, SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0))?;
            self.connections += count;
        }
        Ok(())
    }

    /// Two processes with connections between them; returns where the one listens when all are established.
    fn add_pair(&mut self, name: &str, count: usize, listen: SocketAddrV4) -> Result<SocketAddrV4> {
        let mut server = self.start(&[name, &count.to_string(), &listen.to_string()])?;
        let address = read_line(&mut server)?;
        let mut client = self.start(&[name, &count.to_string(), &address, "--connect"])?;
        read_line(&mut server)?;
        read_line(&mut client)?;
        Ok(address.parse()?)
    }

    fn start(&mut self, role: &[&str]) -> Result<BufReader<ChildStdout>> {
        let this = std::env::current_exe()?;
        let mut child = crate::program(this)
            .arg("hold")
            .args(role)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = child.stdout.take().context("the output was piped")?;
        self.children.push(child);
        Ok(BufReader::new(output))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        for child in &mut self.children {
            // It is still there, for nobody has waited for it.
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// What a child does: gets its connections, says so, and holds them until its standard input ends.
pub(crate) fn hold(role: &Role) -> Result<()> {
    rustix::thread::set_name(&std::ffi::CString::new(role.name.as_str())?)?;
    let mut output = io::stdout();
    let mut held = Vec::with_capacity(role.count);
    if role.connect {
        for _ in 0..role.count {
            held.push(TcpStream::connect(role.address)?);
        }
    } else {
        let listener = TcpListener::bind(role.address)?;
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

fn read_line(output: &mut BufReader<ChildStdout>) -> Result<String> {
    let mut line = String::new();
    output.read_line(&mut line)?;
    ensure!(line.ends_with('\n'), "a process that should hold connections has ended");
    Ok(line.trim_end().to_owned())
}
