//! Chooses in how many walks the kernel is asked, and how each is narrowed. Pure, but for [`read_table`].
//!
//! Each dump is a walk over every bucket of the kernel's hash table, which all network namespaces share, whatever it tells:
//! on a host with few tracked connections the walk is all that costs, and on one with many the telling.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use vms_core::address::Endpoint;

use crate::codec::{Family, Filter};

/// How many buckets the kernel passes over while it tells one entry: 10.4 ms for 262,144 of them, 1.8 µs for the other (Linux
/// 6.18, x86-64, 2 virtual CPUs, medians of 7).
const BUCKETS_AN_ENTRY: u64 = 45;

/// How large the kernel's table is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Table {
    /// Tracked connections of this network namespace.
    pub(crate) entries: u32,
    /// Buckets of the hash table.
    pub(crate) buckets: u32,
}

/// What kernels have by default on hosts with more than a gigabyte of memory, and full.
const LARGE: Table = Table { entries: 262_144, buckets: 262_144 };

/// How large the table of this network namespace is; where that cannot be read, it is taken for a large one.
pub(crate) fn read_table(proc_root: &Path) -> Table {
    let read = |name: &str| -> Option<u32> {
        let path = proc_root.join("sys/net/netfilter").join(name);
        fs::read_to_string(path).ok()?.trim().parse().ok()
    };
    Table {
        entries: read("nf_conntrack_count").unwrap_or(LARGE.entries),
        buckets: read("nf_conntrack_buckets").unwrap_or(LARGE.buckets),
    }
}

/// The dumps that tell the connections to these services.
pub(crate) fn choose(services: &[Endpoint], filters: bool, table: Table) -> Vec<(Family, Filter)> {
    let everything = vec![(Family::Any, Filter::None)];
    if services.is_empty() {
        return Vec::new();
    }
    if !filters {
        return everything;
    }
    let narrow: BTreeSet<(Family, Filter)> =
        services.iter().map(|service| (Family::of(service.ip()), Filter::of(*service))).collect();
    let families: BTreeSet<Family> = narrow.iter().map(|(family, _)| *family).collect();
    let by_family: Vec<(Family, Filter)> = families.into_iter().map(|family| (family, Filter::Tcp)).collect();
    let cost = |dumps: &[(Family, Filter)], told: u32| {
        let walks = u64::try_from(dumps.len()).unwrap_or(u64::MAX);
        walks.saturating_mul(table.buckets.into()) + u64::from(told) * BUCKETS_AN_ENTRY
    };
    let narrow: Vec<(Family, Filter)> = narrow.into_iter().collect();
    // The first of those that cost the same: it tells least.
    let choices = [(narrow, 0), (by_family, table.entries), (everything, table.entries)];
    let cheapest = choices.into_iter().min_by_key(|(dumps, told)| cost(dumps, *told));
    cheapest.map(|(dumps, _)| dumps).unwrap_or_default()
}

#[cfg(test)]
mod tests;
