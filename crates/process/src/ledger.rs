//! What one search was asked, what it has found, and what is still open.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use vms_core::connection::Inode;
use vms_core::process::{
    Capability, Container, Fits, Headcount, HolderQuery, HolderScan, Known, PatternId, Pid, Process,
    ProcessSelector, ProcessUsage,
};

use crate::network::{Surroundings, Whereabouts};
use crate::parse::display_name;
use crate::privileges::{Privileges, Refusal};
use crate::procfs::Names;

/// What is asked, what is found, and what is still open.
pub(crate) struct Ledger<'a> {
    query: &'a HolderQuery<'a>,
    /// The patterns of which anything is asked at all.
    asked: BTreeSet<PatternId>,
    /// Sockets, each with a pattern that no holder found so far fits.
    unsettled: HashSet<(Inode, PatternId)>,
    /// How many sockets are unsettled, by pattern.
    need: BTreeMap<PatternId, usize>,
    /// Patterns of the census that no process seen so far fits.
    unmet: BTreeSet<PatternId>,
    /// Patterns of which it matters whether anyone who fits lives in the agent's network namespace, and is not known.
    unmet_here: BTreeSet<PatternId>,
    /// The same of other network namespaces.
    unmet_elsewhere: BTreeSet<PatternId>,
    /// The agent itself, where it is known which process that is.
    agent: Option<Pid>,
    found: HolderScan,
}

/// What it means for the search that some process holds some socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Recorded {
    /// Nothing: it was not asked for.
    Unasked,
    /// It has a holder that does not fit.
    Other,
    /// It has a holder that fits, as others did before.
    Fits,
    /// It has a holder that fits a pattern that no other did.
    Settled,
}

impl<'a> Ledger<'a> {
    pub(crate) fn new(query: &'a HolderQuery<'a>, surroundings: &Surroundings) -> Self {
        let unsettled: HashSet<(Inode, PatternId)> = query
            .wanted
            .iter()
            .flat_map(|(inode, patterns)| patterns.iter().map(|pattern| (*inode, *pattern)))
            .collect();
        let mut need = BTreeMap::new();
        for (_, pattern) in &unsettled {
            *need.entry(*pattern).or_insert(0) += 1;
        }
        let is_displaced = surroundings.is_displaced;
        let unmet_here = if is_displaced { query.located.clone() } else { BTreeSet::new() };
        let unmet_elsewhere = match () {
            () if is_displaced => query.census.union(query.located).copied().collect(),
            () if surroundings.are_known() => query.census.clone(),
            () => BTreeSet::new(),
        };
        Self {
            query,
            asked: query.census.iter().chain(need.keys()).chain(&unmet_elsewhere).copied().collect(),
            unsettled,
            need,
            unmet: query.census.clone(),
            unmet_here,
            unmet_elsewhere,
            agent: surroundings.agent(),
            found: HolderScan { is_displaced, ..HolderScan::default() },
        }
    }

    /// What is asked.
    pub(crate) fn query(&self) -> &'a HolderQuery<'a> {
        self.query
    }

    /// Sockets, each with a pattern that no holder found so far fits.
    pub(crate) fn unsettled(&self) -> &HashSet<(Inode, PatternId)> {
        &self.unsettled
    }

    /// Whether anything more may be learned of that socket.
    pub(crate) fn is_open(&self, inode: Inode) -> bool {
        self.query.every_holder
            || self.query.wanted.get(&inode).is_some_and(|patterns| {
                patterns.iter().any(|pattern| self.unsettled.contains(&(inode, *pattern)))
            })
    }

    /// Whether there is more to learn from a process that fits one of these patterns.
    pub(crate) fn awaits(&self, patterns: &[PatternId]) -> bool {
        patterns.iter().any(|pattern| {
            self.unmet.contains(pattern) || self.need.get(pattern).is_some_and(|sockets| *sockets > 0)
        })
    }

    /// Whether it matters where a process lives that fits these patterns, and of which that is known so far.
    pub(crate) fn awaits_location(&self, patterns: &[PatternId], known: Whereabouts) -> bool {
        let here = matches!(known, Whereabouts::Unread | Whereabouts::Here);
        let elsewhere = matches!(known, Whereabouts::Unread | Whereabouts::Elsewhere);
        patterns.iter().any(|pattern| {
            (here && self.unmet_here.contains(pattern))
                || (elsewhere && self.unmet_elsewhere.contains(pattern))
        })
    }

    /// Whether nothing is open on which an answer could turn from one status to another.
    pub(crate) fn is_answered(&self) -> bool {
        self.unsettled.is_empty() && self.unmet.is_empty() && self.unmet_here.is_empty()
    }

    /// Whether nothing more is of interest.
    pub(crate) fn is_complete(&self) -> bool {
        self.is_answered()
            && self.unmet_elsewhere.is_empty()
            && (!self.query.every_holder || self.query.wanted.is_empty())
    }

    /// Whether anything is asked about a process with these names.
    pub(crate) fn concerns(&self, fits: &Fits) -> bool {
        fits.certain.iter().chain(&fits.possible).any(|pattern| self.asked.contains(pattern))
    }

    /// Whether the descriptors of such a process are of interest.
    pub(crate) fn is_open_for(&self, fits: &Fits) -> bool {
        fits.certain.iter().chain(&fits.possible).any(|pattern| {
            self.need.get(pattern).is_some_and(|sockets| *sockets > 0 || self.query.every_holder)
        })
    }

    /// Takes in that there is a process with these names.
    pub(crate) fn note(&mut self, fits: &Fits) {
        for pattern in fits.certain.iter().filter(|pattern| self.asked.contains(pattern)) {
            self.found.present.insert(*pattern);
            self.unmet.remove(pattern);
        }
        let possible = fits.possible.iter().filter(|pattern| self.asked.contains(pattern));
        self.found.uncertain.extend(possible);
    }

    /// Takes in where a process lives that fits these patterns.
    pub(crate) fn locate(&mut self, patterns: &[PatternId], whereabouts: Whereabouts) {
        for pattern in patterns {
            match whereabouts {
                Whereabouts::Here if self.unmet_here.remove(pattern) => {
                    self.found.here.insert(*pattern);
                    if !self.query.census.contains(pattern) {
                        self.unmet_elsewhere.remove(pattern);
                    }
                }
                Whereabouts::Elsewhere if self.unmet_elsewhere.remove(pattern) => {
                    self.found.elsewhere.insert(*pattern);
                }
                _ => {}
            }
        }
    }

    /// Takes in that a process lives elsewhere that might fit these patterns: an agent that sees the host's processes and not
    /// its sockets cannot tell a link of such a one from none.
    pub(crate) fn suspect_elsewhere(&mut self, patterns: &[PatternId]) {
        let asked = patterns.iter().filter(|pattern| self.unmet_elsewhere.contains(pattern));
        self.found.maybe_elsewhere.extend(asked);
    }

    /// Takes in that this process holds that socket.
    pub(crate) fn record(&mut self, inode: Inode, holder: &mut Holder) -> Recorded {
        let Some(patterns) = self.query.wanted.get(&inode) else { return Recorded::Unasked };
        if holder.process.is_none() {
            self.note(&holder.fits);
        }
        let process = holder.process();
        let pid = process.pid;
        let holders = self.found.holders.entry(inode).or_default();
        match holders.iter_mut().find(|known| known.pid == process.pid) {
            // Seen before, by this descriptor or another. Its names may have changed since.
            Some(known) => *known = process,
            None => holders.push(process),
        }
        let mut recorded = Recorded::Other;
        for pattern in holder.fits.certain.iter().filter(|pattern| patterns.contains(pattern)) {
            // Wherever he lives, what he was asked for is seen; that the agent sees its own says nothing of others.
            if self.agent != Some(pid) {
                self.locate(std::slice::from_ref(pattern), Whereabouts::Here);
            }
            if self.unsettled.remove(&(inode, *pattern)) {
                recorded = Recorded::Settled;
                if let Some(sockets) = self.need.get_mut(pattern) {
                    *sockets -= 1;
                }
            } else if recorded == Recorded::Other {
                recorded = Recorded::Fits;
            }
        }
        recorded
    }

    /// Takes in that a process with these names could not be looked into.
    pub(crate) fn obscure(&mut self, fits: &Fits, privileges: &Privileges, refusal: Refusal) {
        let missing = privileges.missing(refusal);
        let certain = fits.certain.iter().map(|pattern| (pattern, true));
        let possible = fits.possible.iter().map(|pattern| (pattern, false));
        for (pattern, certain) in certain.chain(possible) {
            if self.need.contains_key(pattern) {
                let obscured = self.found.obscured.entry(*pattern).or_default();
                obscured.certain |= certain;
                obscured.missing.extend(&missing);
            }
        }
    }

    /// Takes in how many processes fit the patterns that are counted, and what they use of those that are measured.
    pub(crate) fn take_headcounts(
        &mut self,
        headcounts: BTreeMap<PatternId, Headcount>,
        usages: BTreeMap<PatternId, Vec<ProcessUsage>>,
    ) {
        self.found.headcounts = headcounts;
        self.found.usages = usages;
    }

    /// Takes in what the agent may, by which processes are counted that might fit: names, as far as they are refused, are
    /// guarded by one capability, and so is that which `hidepid` hides.
    pub(crate) fn blame(&mut self, privileges: &Privileges) {
        let might_fit = self.found.headcounts.values().any(|headcount| headcount.possible > 0);
        if might_fit && !privileges.sys_ptrace {
            self.found.nameless.insert(Capability::SysPtrace);
        }
    }

    /// Takes in that there can be processes of which nothing is shown.
    pub(crate) fn obscure_all(&mut self) {
        for (pattern, _) in self.need.iter().filter(|(_, sockets)| **sockets > 0) {
            let obscured = self.found.obscured.entry(*pattern).or_default();
            obscured.missing.insert(Capability::SysPtrace);
        }
        self.found.uncertain.extend(&self.unmet);
        for headcount in self.found.headcounts.values_mut() {
            headcount.possible += 1;
        }
    }

    /// The sockets that nobody is known to hold, and that a process out of sight might.
    pub(crate) fn obscured_without_holder(&self) -> BTreeSet<Inode> {
        self.unsettled
            .iter()
            .filter(|(inode, pattern)| {
                self.found.obscured.contains_key(pattern) && !self.found.holders.contains_key(inode)
            })
            .map(|(inode, _)| *inode)
            .collect()
    }

    /// Takes in that the search was cut short: nothing is known of these sockets, nor of who else there is.
    pub(crate) fn leave_undecided(&mut self, undecided: HashSet<Inode>) {
        self.found.undecided = undecided;
        self.found.uncertain.extend(&self.unmet);
        if self.found.is_displaced {
            // Whoever was not seen may live where nothing is.
            self.found.elsewhere.extend(&self.unmet_here);
        }
    }

    /// The answer.
    pub(crate) fn finish(mut self) -> HolderScan {
        // What could not be seen does not matter where everything asked for was found elsewhere.
        let need = &self.need;
        self.found.obscured.retain(|pattern, _| need.get(pattern).is_some_and(|sockets| *sockets > 0));
        for pattern in self.query.counted.difference(&self.asked) {
            match self.found.headcounts.get(pattern) {
                Some(Headcount { fitting: 1.., .. }) => self.found.present.insert(*pattern),
                Some(Headcount { fitting: 0, possible: 0 }) => false,
                Some(_) | None => self.found.uncertain.insert(*pattern),
            };
        }
        let present = &self.found.present;
        self.found.uncertain.retain(|pattern| !present.contains(pattern));
        for holders in self.found.holders.values_mut() {
            holders.sort_by_key(|process| process.pid);
        }
        self.found
    }
}

/// Where a process belongs, as far as that matters.
#[derive(Debug, Clone, Default)]
pub(crate) struct Home {
    pub(crate) container: Option<Arc<Container>>,
    /// It is of another user namespace than the agent.
    pub(crate) is_foreign: bool,
}

/// A process that may turn out to hold a wanted socket: described only then.
#[derive(Debug)]
pub(crate) struct Holder {
    pid: Pid,
    names: Names,
    fits: Fits,
    home: Home,
    process: Option<Arc<Process>>,
}

impl Holder {
    pub(crate) fn new(pid: Pid, names: Names, selector: &ProcessSelector) -> Self {
        let fits = selector.fits(&names.known());
        Self { pid, names, fits, home: Home::default(), process: None }
    }

    /// The same process, which belongs there.
    pub(crate) fn of(self, home: Home) -> Self {
        Self { home, ..self }
    }

    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    pub(crate) fn fits(&self) -> &Fits {
        &self.fits
    }

    /// Whether it shows no executable: a part of the kernel, or dead.
    pub(crate) fn is_bare(&self) -> bool {
        self.names.executable == Known::Absent
    }

    /// Whether it might fit every pattern that it does not fit for certain: any name could be that of its executable.
    pub(crate) fn might_fit_any(&self) -> bool {
        self.names.executable == Known::Denied
    }

    /// Whether it was described, as what holds a socket is.
    pub(crate) fn is_described(&self) -> bool {
        self.process.is_some()
    }

    /// The process as the core knows it.
    pub(crate) fn process(&mut self) -> Arc<Process> {
        let (pid, names, fits, home) = (self.pid, &self.names, &self.fits, &self.home);
        let process = self.process.get_or_insert_with(|| {
            let executable = match &names.executable {
                Known::Is(path) => Some(path.clone()),
                Known::Absent | Known::Denied => None,
            };
            let name = match &names.comm {
                Known::Is(comm) => display_name(comm),
                Known::Absent | Known::Denied => String::new(),
            };
            Arc::new(Process {
                pid,
                name,
                executable,
                fits: fits.certain.clone(),
                container: home.container.clone(),
                is_stranger: home.is_foreign,
            })
        });
        Arc::clone(process)
    }
}
