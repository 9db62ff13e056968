//! The edges of this host, put together as the configuration says.

use std::ffi::CStr;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use uuid::Uuid;
use vms_conntrack::Conntrack;
use vms_core::monitor::Monitor;
use vms_core::namespace::Namespaces;
use vms_core::probe::Probe;
use vms_core::process::SelectorBuilder;
use vms_process::{Privileges, ProcReader};
use vms_resolver::Resolver;
use vms_sock_diag::{SockDiag, may_enter_namespaces};

use crate::clock::SystemClock;
use crate::config::{Config, ConntrackMode, Exporter};
use crate::environment::Environment;
use crate::pod_lister::PodLister;
use crate::resource;

/// The monitor over this host's kernel.
pub(crate) type HostMonitor = Monitor<SockDiag, ProcReader, SystemClock>;

/// The time over which hosts are spread. Longer intervals are not spread further: a first look that is an hour away
/// would be an hour without an answer.
const SPREAD: Duration = Duration::from_secs(30);

/// A monitor of the configured probes, whose host names mean what the resolver says.
///
/// # Errors
/// When the kernel has no `sock_diag`, or the configured /proc cannot be read.
pub(crate) fn monitor(config: &Config, names: &Resolver, clock: SystemClock) -> anyhow::Result<HostMonitor> {
    let connections = match config.terms.namespaces {
        Namespaces::Own => SockDiag::open(&config.proc_root),
        Namespaces::All => {
            require_cookies(rustix::system::uname().release())?;
            SockDiag::open_for_all_namespaces(&config.proc_root)
        }
    };
    let connections = connections.context("sockets cannot be read")?;
    let mut monitor =
        Monitor::new(connections, named_processes(config)?, clock, config.probes.clone(), config.terms)?;
    monitor.set_names(Box::new(names.clone()));
    if config.conntrack == ConntrackMode::Auto {
        monitor.set_translations(Box::new(Conntrack::new(&config.proc_root)));
    }
    Ok(monitor)
}

/// The processes of the configured /proc.
///
/// # Errors
/// When it cannot be opened.
pub(crate) fn processes(config: &Config) -> anyhow::Result<ProcReader> {
    let privileges = Privileges::read_own().context("the agent's own capabilities cannot be read")?;
    let processes = ProcReader::open(&config.proc_root, privileges)
        .context("processes cannot be read: correct `procRoot`")?;
    Ok(match config.terms.namespaces {
        Namespaces::Own => processes,
        Namespaces::All if may_enter_namespaces(&config.proc_root) => processes.in_all_namespaces(),
        Namespaces::All => processes.in_all_namespaces().without_entering(),
    })
}

/// The same, with what pods are called, for data and for people to read.
///
/// # Errors
/// As [`processes`].
pub(crate) fn named_processes(config: &Config) -> anyhow::Result<ProcReader> {
    let mut pods = PodLister::new(&config.pod_logs_root);
    Ok(processes(config)?.naming_pods(Box::new(move || pods.list())))
}

/// Before Linux 5.4 each network namespace counted its cookies for itself (`sock_gen_cookie`, `net/core/sock_diag.c`): two
/// sockets of a host could have the same.
fn require_cookies(release: &CStr) -> anyhow::Result<()> {
    const FIRST: (u32, u32) = (5, 4);
    let release = release.to_string_lossy();
    let is_old = kernel_version(&release).is_some_and(|version| version < FIRST);
    anyhow::ensure!(
        !is_old,
        "`namespaces: all` takes Linux 5.4 or later, and this is {release}: set `namespaces: own`, and run an agent beside \
         each process"
    );
    Ok(())
}

/// The first two numbers of a kernel's release.
pub(crate) fn kernel_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|character: char| !character.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// The resource on whose behalf is measured.
///
/// A running agent stays the instance that it was: where the id cannot be derived from the host, it is drawn, and a
/// reload must not draw another.
pub(crate) fn read_resource(
    config: &Config,
    environment: &Environment,
    before: Option<&[(String, String)]>,
) -> Vec<(String, String)> {
    const INSTANCE: &str = "service.instance.id";
    let mut found = resource::detect(&resource::Sources {
        service_name: Some(&config.resource.service_name),
        attributes: &config.resource.attributes,
        environment: &|name| environment.get(name).map(str::to_owned),
        root: Path::new("/"),
        proc_root: &config.proc_root,
    });
    let was = before.and_then(|before| before.iter().find(|(key, _)| key == INSTANCE));
    if let (Some((_, was)), false) = (was, config.resource.attributes.contains_key(INSTANCE)) {
        for (_, id) in found.iter_mut().filter(|(key, _)| key == INSTANCE) {
            id.clone_from(was);
        }
    }
    found
}

/// Tries what the configuration alone cannot tell: whether the process patterns fit the matcher together, and whether
/// certificates and keys can be used.
///
/// # Errors
/// What cannot work, whatever the network does.
pub(crate) fn try_out(config: &Config) -> anyhow::Result<()> {
    let mut patterns = SelectorBuilder::default();
    for pattern in config.probes.iter().flat_map(Probe::patterns) {
        patterns.add(pattern);
    }
    patterns.build().context("`processName`")?;
    if let Exporter::Otlp(export) = &config.exporter {
        vms_export::check_config(export).context("`export`")?;
    }
    Ok(())
}

/// How long after its start this host's grid of due times begins: the same at each start, different from host to host.
pub(crate) fn phase(resource: &[(String, String)]) -> Duration {
    let instance = resource.iter().find(|(key, _)| key == "service.instance.id");
    let instance = instance.map(|(_, id)| id.as_str()).unwrap_or_default();
    let hash = Uuid::new_v5(&Uuid::NAMESPACE_OID, instance.as_bytes()).as_u128();
    Duration::from_nanos_u128(hash % SPREAD.as_nanos())
}

#[cfg(test)]
mod tests;
