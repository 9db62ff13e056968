//! Some cycles in which nothing happens, alone: what to count instructions of.
//!
//! The links are this process's own, over loopback, each to a port of its own and seen from one end. The first cycle
//! walks; the others verify what it found, and all of them encode their points.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Result, ensure};
use clap::Parser;
use vms_core::Clock;
use vms_core::budget::CpuShare;
use vms_core::metric::DataPoint;
use vms_core::monitor::{Monitor, Terms};
use vms_core::probe::{ConnectionProbe, MatchedSourceLabels};
use vms_core::process::ProcessPattern;
use vms_export::{Encoder, Resource};
use vms_process::{Privileges, ProcReader};
use vms_sock_diag::SockDiag;

#[derive(Debug, Parser)]
#[command(name = "vms-steady", about = "Cycles in which nothing happens, to count their instructions")]
struct Arguments {
    /// Links that are watched.
    #[arg(long, value_name = "N", default_value_t = 100)]
    links: u16,
    /// Cycles after the first, which walks.
    #[arg(long, value_name = "N", default_value_t = 10)]
    cycles: u16,
}

/// Time that stands still: nothing that is remembered grows old.
struct Still;

impl Clock for Still {
    fn monotonic(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn wall(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_hours(500_000)
    }

    fn since_boot(&self) -> Duration {
        self.monotonic()
    }

    fn cpu(&self) -> Duration {
        Duration::ZERO
    }
}

/// A listener, and both ends of a connection to it.
type Link = (TcpListener, TcpStream, TcpStream);

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let links: Vec<Link> = (0..arguments.links).map(|_| connect()).collect::<Result<_>>()?;
    // Under an emulator, as valgrind is one, the process has another name.
    let name = fs::read_to_string("/proc/self/comm")?;
    let name = name.trim_end();
    let probes: Vec<ConnectionProbe> =
        links.iter().map(|(listener, ..)| probe(name, listener.local_addr()?)).collect::<Result<_>>()?;
    let proc_root = Path::new("/proc");
    let terms = Terms { cpu_budget: CpuShare::from_parts_per_million(0), ..Terms::default() };
    let processes = ProcReader::open(proc_root, Privileges::read_own()?)?;
    let mut monitor = Monitor::new(SockDiag::open(proc_root)?, processes, Still, probes, terms)?;
    let mut encoder = Encoder::new(&Resource::new([]), env!("CARGO_PKG_VERSION"));
    let due: Vec<usize> = (0..links.len()).collect();
    let mut points: Vec<DataPoint> = Vec::new();
    for _ in 0..=arguments.cycles {
        points.clear();
        let cycle = monitor.measure(&due, &mut |point| points.push(point));
        ensure!(cycle.failures.is_empty(), "the links could not be measured: {:?}", cycle.failures);
        encoder.encode(&points, |_request| ());
    }
    let effort = monitor.effort();
    ensure!(effort.tracked == u64::from(arguments.links), "each link is tracked: {effort:?}");
    ensure!(effort.walks.values().sum::<u64>() == 1, "one walk: {effort:?}");
    Ok(())
}

fn connect() -> Result<Link> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let client = TcpStream::connect(listener.local_addr()?)?;
    let (server, _) = listener.accept()?;
    Ok((listener, client, server))
}

/// Seen `forward` alone: what the other end asks for is nobody's name.
fn probe(name: &str, service: SocketAddr) -> Result<ConnectionProbe> {
    let pattern =
        |name: &str| Ok::<_, anyhow::Error>(ProcessPattern { name: name.parse()?, executable: None });
    Ok(ConnectionProbe {
        name: format!("link-{}", service.port()).into(),
        source_process: pattern(name)?,
        dest_process: pattern("nobody-has-this-name")?,
        dest_ip: service.ip().into(),
        dest_port: service.port(),
        source_ip: None,
        source_port: None,
        interval: Duration::from_secs(1),
        matched_source_labels: MatchedSourceLabels::None,
    })
}
