//! Host names in probes: which are wanted, and how long their first answers are waited for.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Context;
use vms_core::name::NameQuery;
use vms_core::probe::Probe;
use vms_resolver::{Files, Resolver};

use crate::config::Config;

/// How long a start or a reload waits, so that the first look knows names. Those that answer later are known later.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);

/// How long a person waits who asks once.
const PATIENCE_OF_ONE_LOOK: Duration = Duration::from_secs(15);

/// What probes take to be resolved.
pub(crate) fn wanted(config: &Config) -> BTreeSet<NameQuery> {
    config.probes.iter().flat_map(Probe::names).collect()
}

/// A resolver of the names in probes, by this host's files. Whoever calls this gives its thread his rights.
///
/// # Errors
/// When no thread can be had for it.
pub(crate) fn begin(config: &Config, patience: Duration) -> anyhow::Result<Resolver> {
    let resolver = Resolver::new(Files::default());
    resolver.want(&wanted(config)).context("host names cannot be resolved")?;
    // Whatever is not known by then, the probe says.
    let _is_known = resolver.wait(patience);
    Ok(resolver)
}

/// The same, for one look.
///
/// # Errors
/// As [`begin`].
pub(crate) fn look_up(config: &Config) -> anyhow::Result<Resolver> {
    begin(config, PATIENCE_OF_ONE_LOOK)
}
