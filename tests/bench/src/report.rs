//! The measurements as a Markdown table.

use std::fmt;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use crate::cpu::Memory;

/// What one thing costs.
#[derive(Debug)]
pub(crate) struct Cost {
    /// What was measured, in Markdown.
    pub(crate) label: String,
    /// User and system time; none if the program is not installed.
    pub(crate) cpu: Option<Duration>,
    /// For what goes on running.
    pub(crate) memory: Option<Memory>,
}

/// All measurements, by number of connections. The first cost of each is what the others are compared with.
#[derive(Debug)]
pub(crate) struct Report {
    heading: String,
    sizes: Vec<(usize, Vec<Cost>)>,
}

impl Report {
    /// A report without measurements yet.
    pub(crate) fn new(agent: &Path, probes: u16, processes: usize) -> Result<Self> {
        let kernel = rustix::system::uname();
        let processors = std::thread::available_parallelism()?;
        let info = fs::read_to_string("/proc/cpuinfo")?;
        let model =
            info.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("an unnamed model");
        let heading = format!(
            "Linux {}, {processors} x {}; {probes} probes, {processes} idle processes; \
             the binary has {:.1} MB.\n\n\
             CPU is user and system time of one call (median), of one cycle for the agent (mean).",
            kernel.release().to_string_lossy(),
            model.trim_start_matches([' ', '\t', ':']),
            megabytes(fs::metadata(agent)?.len()),
        );
        Ok(Self { heading, sizes: Vec::new() })
    }

    /// Adds what was measured with so many connections.
    pub(crate) fn add(&mut self, connections: usize, costs: Vec<Cost>) {
        self.sizes.push((connections, costs));
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "{}", self.heading)?;
        for (connections, costs) in &self.sizes {
            let cycle = costs.first().and_then(|cost| cost.cpu);
            writeln!(out, "\n| {connections} connections | CPU | agent's cycles | resident (peak) |")?;
            writeln!(out, "|---|--:|--:|--:|")?;
            for Cost { label, cpu, memory } in costs {
                let time =
                    cpu.map_or("not installed".to_owned(), |cpu| format!("{:.2} ms", milliseconds(cpu)));
                let ratio =
                    cycle.zip(*cpu).map(|(one, cpu)| format!("{:.2}", milliseconds(cpu) / milliseconds(one)));
                let memory = memory.map(|memory| {
                    format!("{:.1} MB ({:.1})", megabytes(memory.resident), megabytes(memory.peak))
                });
                let (ratio, memory) = (ratio.unwrap_or_default(), memory.unwrap_or_default());
                writeln!(out, "| {label} | {time} | {ratio} | {memory} |")?;
            }
        }
        Ok(())
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn megabytes(bytes: u64) -> f64 {
    f64::from(u32::try_from(bytes / 1000).unwrap_or(u32::MAX)) / 1e3
}
