//! The edges of this host, put together as the configuration says.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use uuid::Uuid;
use vms_core::monitor::Monitor;
use vms_process::{Privileges, ProcReader};
use vms_sock_diag::SockDiag;

use crate::clock::SystemClock;
use crate::config::Config;
use crate::environment::Environment;
use crate::resource;

/// The monitor over this host's kernel.
pub(crate) type HostMonitor = Monitor<SockDiag, ProcReader, SystemClock>;

/// The longest cycle over which hosts are spread. A day: no interval is longer.
const SPREAD: Duration = Duration::from_hours(24);

/// A monitor of the configured probes.
///
/// # Errors
/// When the kernel has no `sock_diag`, or the configured /proc cannot be read.
pub(crate) fn monitor(config: &Config, clock: SystemClock) -> anyhow::Result<HostMonitor> {
    let connections = SockDiag::open().context("sockets cannot be read")?;
    Ok(Monitor::new(connections, processes(config)?, clock, config.probes.clone())?)
}

/// The processes of the configured /proc.
///
/// # Errors
/// When it cannot be opened.
pub(crate) fn processes(config: &Config) -> anyhow::Result<ProcReader> {
    let privileges = Privileges::read_own().context("the agent's own capabilities cannot be read")?;
    ProcReader::open(&config.proc_root, privileges).context("processes cannot be read: correct `procRoot`")
}

/// The resource on whose behalf is measured.
pub(crate) fn read_resource(config: &Config, environment: &Environment) -> Vec<(String, String)> {
    resource::detect(&resource::Sources {
        service_name: Some(&config.resource.service_name),
        attributes: &config.resource.attributes,
        environment: &|name| environment.get(name).map(str::to_owned),
        root: Path::new("/"),
        proc_root: &config.proc_root,
    })
}

/// Where on the grid of due times this host stands: the same after each restart, different from host to host.
pub(crate) fn phase(resource: &[(String, String)]) -> Duration {
    let instance = resource.iter().find(|(key, _)| key == "service.instance.id");
    let instance = instance.map(|(_, id)| id.as_str()).unwrap_or_default();
    let hash = Uuid::new_v5(&Uuid::NAMESPACE_OID, instance.as_bytes()).as_u128();
    Duration::from_nanos_u128(hash % SPREAD.as_nanos())
}

#[cfg(test)]
mod tests;
