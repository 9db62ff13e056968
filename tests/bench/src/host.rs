//! The hosts that are measured.

use std::fmt;
use std::str::FromStr;

/// A host, and what the agent watches on it. Hosts are measured in their order: connections only ever grow, for
/// closing many takes long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Host {
    /// Established loopback connections, each with both its sockets, beside the watched ones.
    pub(crate) connections: usize,
    /// Idle processes, beside those that hold connections.
    pub(crate) processes: usize,
    /// Probes, each with a link of its own.
    pub(crate) probes: usize,
}

impl FromStr for Host {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers: Result<Vec<usize>, _> = text.split('/').map(str::parse).collect();
        match numbers.as_deref() {
            Ok(&[connections, processes, probes]) if probes > 0 => {
                Ok(Self { connections, processes, probes })
            }
            _ => Err("expected CONNECTIONS/PROCESSES/PROBES, with at least one probe".to_owned()),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}/{}", self.connections, self.processes, self.probes)
    }
}

/// Which hosts to measure: one number is varied at a time, the two others stay at those of the base.
#[derive(Debug, Clone)]
pub(crate) struct Design {
    /// The middle of the cross.
    pub(crate) base: Host,
    /// Numbers of connections.
    pub(crate) connections: Vec<usize>,
    /// Numbers of idle processes.
    pub(crate) processes: Vec<usize>,
    /// Numbers of probes.
    pub(crate) probes: Vec<usize>,
    /// Hosts off the axes.
    pub(crate) corners: Vec<Host>,
}

impl Design {
    /// Every host once, in the order in which to measure.
    pub(crate) fn hosts(&self) -> Vec<Host> {
        let base = self.base;
        let mut hosts = self.corners.clone();
        hosts.push(base);
        hosts.extend(self.connections.iter().map(|&connections| Host { connections, ..base }));
        hosts.extend(self.processes.iter().map(|&processes| Host { processes, ..base }));
        hosts.extend(self.probes.iter().map(|&probes| Host { probes, ..base }));
        hosts.sort_unstable();
        hosts.dedup();
        hosts
    }

    /// Whether a host differs from the base by its connections alone: there the other tools are measured as well.
    pub(crate) fn is_on_axis(&self, host: Host) -> bool {
        host == Host { connections: host.connections, ..self.base }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_number_varies_at_a_time_and_connections_never_shrink() {
        let base = Host { connections: 10, processes: 5, probes: 2 };
        let corner = Host { connections: 100, processes: 5, probes: 9 };
        let design = Design {
            base,
            connections: vec![100, 0, 10],
            processes: vec![7],
            probes: vec![1, 2],
            corners: vec![corner],
        };
        let hosts: Vec<String> = design.hosts().iter().map(ToString::to_string).collect();
        assert_eq!(hosts, ["0/5/2", "10/5/1", "10/5/2", "10/7/2", "100/5/2", "100/5/9"]);
        let axis = design.hosts().into_iter().filter(|&host| design.is_on_axis(host));
        assert_eq!(axis.map(|host| host.connections).collect::<Vec<_>>(), [0, 10, 100]);
    }

    #[test]
    fn a_host_is_read_as_it_is_written() {
        let host = Host { connections: 10_000, processes: 500, probes: 100 };
        assert_eq!(host.to_string().parse(), Ok(host));
        for wrong in ["", "1", "1/2", "1/2/0", "1/2/3/4", "a/2/3"] {
            assert!(wrong.parse::<Host>().is_err(), "{wrong}");
        }
    }
}
