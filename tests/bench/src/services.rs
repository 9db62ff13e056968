//! The other tools that go on running: what one scrape or interval of each costs.

use std::fmt::Write as _;
use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use crate::peers::Cost;
use crate::program::{Running, program};
use crate::{SCRATCH, cpu};

/// The names that Debian gives them.
pub(crate) const NODE_EXPORTER: &str = "prometheus-node-exporter";
/// Its place is seldom in the PATH.
pub(crate) const COLLECTD: &str = "/usr/sbin/collectd";

const EXPORTER_ADDRESS: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 9100);
/// Collectd reads at each of these.
const COLLECTD_INTERVAL: Duration = Duration::from_secs(1);

/// CPU of one scrape of `node_exporter`, with nothing but its `tcpstat` collector.
pub(crate) fn measure_node_exporter(scrapes: usize) -> Result<Cost> {
    let mut command = program(NODE_EXPORTER);
    command.args(["--collector.disable-defaults", "--collector.tcpstat"]);
    command.args(["--web.disable-exporter-metrics", &format!("--web.listen-address={EXPORTER_ADDRESS}")]);
    let Some(mut running) = start(&mut command)? else {
        return Ok(Cost::NotInstalled);
    };
    for _ in 0..100 {
        if TcpStream::connect(EXPORTER_ADDRESS).is_ok() {
            break;
        }
        running.ensure_alive()?;
        thread::sleep(Duration::from_millis(50));
    }
    // The first one fills caches, and shows that it answers what it was asked.
    let page = scrape()?;
    ensure!(page.contains("node_tcp_connection_states"), "no state of TCP connections in: {page}");
    let before = cpu::read_process(running.id())?;
    let scrapes = u32::try_from(scrapes)?;
    for _ in 0..scrapes {
        scrape()?;
    }
    Ok(Cost::Cpu(cpu::read_process(running.id())?.saturating_sub(before) / scrapes))
}

/// CPU of one interval of collectd, with nothing but its `tcpconns` plugin, which counts the watched ports.
pub(crate) fn measure_collectd(intervals: usize, watched: &[SocketAddrV4]) -> Result<Cost> {
    let configuration = Path::new(SCRATCH).join("collectd.conf");
    let mut text = format!(
        "BaseDir \"{SCRATCH}\"\nPIDFile \"{SCRATCH}/collectd.pid\"\nFQDNLookup false\nReadThreads 1\n\
         Interval {}\nLoadPlugin tcpconns\n<Plugin tcpconns>\n  ListeningPorts false\n",
        COLLECTD_INTERVAL.as_secs()
    );
    for service in watched {
        writeln!(text, "  RemotePort \"{}\"", service.port())?;
    }
    text.push_str("</Plugin>\n");
    fs::write(&configuration, text)?;
    let Some(mut running) = start(program(COLLECTD).arg("-f").arg("-C").arg(&configuration))? else {
        return Ok(Cost::NotInstalled);
    };
    thread::sleep(2 * COLLECTD_INTERVAL + COLLECTD_INTERVAL / 2);
    let before = cpu::read_process(running.id())?;
    let intervals = u32::try_from(intervals)?;
    thread::sleep(intervals * COLLECTD_INTERVAL);
    let spent = cpu::read_process(running.id())?.saturating_sub(before);
    running.ensure_alive()?;
    ensure!(!spent.is_zero(), "it reads nothing");
    Ok(Cost::Cpu(spent / intervals))
}

/// Starts a program; none if it is not installed.
fn start(command: &mut Command) -> Result<Option<Running>> {
    match Running::start(command) {
        Ok(running) => Ok(Some(running)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn scrape() -> Result<String> {
    let mut stream = TcpStream::connect(EXPORTER_ADDRESS).context("it does not listen")?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
    let mut page = String::new();
    stream.read_to_string(&mut page)?;
    if !page.starts_with("HTTP/1.0 200") {
        bail!("a scrape was answered: {page}");
    }
    Ok(page)
}
