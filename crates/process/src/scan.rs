//! One search: whom to look at, in which order, and when enough is known.
//!
//! First where the sockets were last time; then the processes that held any; then all the others. A process whose
//! names fit nothing that is still asked for costs its names and no more. What happens during the search (a
//! process forks and exits, hands a socket on) is made up for by looking again, a bounded number of times.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use vms_core::connection::Inode;
use vms_core::process::{Capability, Fits, HolderQuery, HolderScan, Known, PatternId, Pid, Process};

use crate::error::ProcessError;
use crate::hints::{Hint, Hints};
use crate::parse::{TaskKind, display_name};
use crate::privileges::{Privileges, Refusal};
use crate::procfs::{Extent, Names, Obstacle, ProcessDir, Procfs};

/// How often /proc is listed again when something is still open after all processes were looked at.
const EXTRA_PASSES: usize = 2;

/// What one call of `find_holders` took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Effort {
    /// How often all processes were listed.
    pub listings: usize,
    /// How many processes were looked at; one that was looked at twice counts twice.
    pub processes: usize,
    /// How many sockets were found among descriptors, wanted or not.
    pub sockets: usize,
}

/// A search under way.
pub(crate) struct Scan<'a> {
    procfs: &'a Procfs,
    privileges: &'a Privileges,
    hints: &'a Hints,
    scratch: &'a mut Vec<u8>,
    effort: &'a mut Effort,
    ledger: Ledger<'a>,
}

/// What is asked, what is found, and what is still open.
struct Ledger<'a> {
    query: &'a HolderQuery<'a>,
    /// The patterns of which anything is asked at all.
    asked: BTreeSet<PatternId>,
    /// Sockets, each with a pattern that no holder found so far fits.
    unsettled: HashSet<(Inode, PatternId)>,
    /// How many sockets are unsettled, by pattern.
    need: BTreeMap<PatternId, usize>,
    /// Patterns of the census that no process seen so far fits.
    unmet: BTreeSet<PatternId>,
    found: HolderScan,
    hints: HashMap<Inode, Vec<Hint>>,
}

/// What came of looking at a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// It was gone before its names were known.
    Vanished,
    /// It was gone before its descriptors were read, and it fitted: what it held, another may hold now.
    VanishedFitting,
    /// It has no descriptors: a part of the kernel, or dead.
    Bare,
    /// Its names were enough.
    PassedOver,
    /// Its descriptors were read, as far as needed.
    Searched(Extent),
    /// It may not be looked into.
    Refused,
}

impl<'a> Scan<'a> {
    pub(crate) fn new(
        query: &'a HolderQuery<'a>,
        procfs: &'a Procfs,
        privileges: &'a Privileges,
        hints: &'a Hints,
        scratch: &'a mut Vec<u8>,
        effort: &'a mut Effort,
    ) -> Self {
        Self { procfs, privileges, hints, scratch, effort, ledger: Ledger::new(query) }
    }

    /// Searches, and tells what was found and where.
    pub(crate) fn run(mut self) -> Result<(HolderScan, HashMap<Inode, Vec<Hint>>), ProcessError> {
        self.check_hints()?;
        if !self.ledger.is_complete() {
            let seen = self.search()?;
            self.note_hidden_processes();
            if !self.ledger.obscured_without_holder().is_empty() {
                self.search_anyone(&seen)?;
            }
        }
        Ok(self.ledger.finish())
    }

    /// Looks at the descriptors where the sockets were last time.
    fn check_hints(&mut self) -> Result<(), ProcessError> {
        for (pid, places) in self.hints.of_wanted(self.ledger.query.wanted) {
            match self.check_hint(pid, &places) {
                // Whatever it was, the search will tell.
                Ok(()) | Err(Obstacle::Vanished | Obstacle::Refused(_)) => {}
                Err(Obstacle::Exhausted(errno)) => return Err(self.procfs.exhausted(pid, errno)),
            }
        }
        Ok(())
    }

    fn check_hint(&mut self, pid: Pid, places: &[(Inode, u32)]) -> Result<(), Obstacle> {
        self.effort.processes += 1;
        let (dir, names) = self.procfs.enter(pid)?;
        let mut holder = Holder::new(pid, &names, self.ledger.query.selector.fits(&names.known()));
        for (inode, descriptor) in places {
            if dir.holds(*descriptor, *inode)? {
                self.effort.sockets += 1;
                self.ledger.record(*inode, *descriptor, &mut holder);
            }
        }
        Ok(())
    }

    /// Looks at processes until nothing is open any more, or all have been looked at.
    fn search(&mut self) -> Result<HashMap<Pid, Seen>, ProcessError> {
        let mut seen = HashMap::new();
        self.look_at(self.hints.pids(), &mut seen)?;
        for pass in 0..=EXTRA_PASSES {
            if self.ledger.is_complete() || (pass > 0 && self.ledger.is_answered()) {
                break;
            }
            let listed = self.list()?;
            let moved = pass > 0 && seen.values().any(|seen| *seen == Seen::VanishedFitting);
            seen.retain(|_, seen| !matches!(seen, Seen::Vanished | Seen::VanishedFitting));
            let due: Vec<Pid> = listed.into_iter().filter(|pid| moved || !seen.contains_key(pid)).collect();
            if due.is_empty() {
                break;
            }
            self.look_at(due, &mut seen)?;
        }
        Ok(seen)
    }

    fn list(&mut self) -> Result<Vec<Pid>, ProcessError> {
        self.effort.listings += 1;
        self.procfs.read_pids(self.scratch)
    }

    fn look_at(
        &mut self,
        pids: impl IntoIterator<Item = Pid>,
        seen: &mut HashMap<Pid, Seen>,
    ) -> Result<(), ProcessError> {
        for pid in pids {
            if self.ledger.is_complete() {
                break;
            }
            seen.insert(pid, self.look(pid)?);
        }
        Ok(())
    }

    fn look(&mut self, pid: Pid) -> Result<Seen, ProcessError> {
        self.effort.processes += 1;
        let (dir, names) = match self.procfs.enter(pid) {
            Ok((dir, names)) => (Some(dir), names),
            Err(Obstacle::Refused(_)) => (None, Names::DENIED),
            Err(Obstacle::Vanished) => return Ok(Seen::Vanished),
            Err(Obstacle::Exhausted(errno)) => return Err(self.procfs.exhausted(pid, errno)),
        };
        let fits = self.ledger.query.selector.fits(&names.known());
        let bare = names.executable == Known::Absent;
        if !self.ledger.concerns(&fits) {
            return Ok(if bare { Seen::Bare } else { Seen::PassedOver });
        }
        let Some(dir) = dir else {
            self.ledger.note(&fits);
            self.ledger.obscure(&fits, self.privileges, Refusal::Enter);
            return Ok(Seen::Refused);
        };
        if bare {
            return match dir.read_task_kind() {
                // What is dead is not there any more, though its parent has not noticed yet.
                Ok(TaskKind::Dead) => Ok(Seen::Bare),
                Ok(TaskKind::Kernel | TaskKind::User) | Err(Obstacle::Refused(_)) => {
                    self.ledger.note(&fits);
                    Ok(Seen::Bare)
                }
                Err(Obstacle::Vanished) => Ok(Seen::VanishedFitting),
                Err(Obstacle::Exhausted(errno)) => Err(self.procfs.exhausted(pid, errno)),
            };
        }
        self.ledger.note(&fits);
        if !self.ledger.is_open_for(&fits) {
            return Ok(Seen::PassedOver);
        }
        self.search_descriptors(&dir, Holder::new(pid, &names, fits))
    }

    /// Reads the descriptors of a process that fits, or might.
    fn search_descriptors(&mut self, dir: &ProcessDir, mut holder: Holder<'_>) -> Result<Seen, ProcessError> {
        let (ledger, effort) = (&mut self.ledger, &mut *self.effort);
        let outcome = dir.read_descriptors(self.scratch, |descriptor, inode| {
            effort.sockets += 1;
            if ledger.record(inode, descriptor, &mut holder) && !ledger.is_open_for(&holder.fits) {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        match outcome {
            Ok(extent) => Ok(Seen::Searched(extent)),
            Err(Obstacle::Vanished) => Ok(Seen::VanishedFitting),
            Err(Obstacle::Refused(refusal)) => {
                self.ledger.obscure(&holder.fits, self.privileges, refusal);
                Ok(Seen::Refused)
            }
            Err(Obstacle::Exhausted(errno)) => Err(self.procfs.exhausted(holder.pid, errno)),
        }
    }

    /// Accounts for the processes that /proc does not even list.
    fn note_hidden_processes(&mut self) {
        if self.privileges.sys_ptrace || self.ledger.is_answered() {
            return;
        }
        // A /proc that does not tell whether it hides anything cannot be relied on to show everything.
        let hidden = self.procfs.read_hidden_processes();
        if !hidden.is_ok_and(|hidden| !hidden.are_hidden_from(self.privileges)) {
            self.ledger.obscure_all();
        }
    }

    /// Looks for sockets that nobody is known to hold in the processes that were not searched because they do
    /// not fit: held by one of those, a socket is no riddle any more.
    fn search_anyone(&mut self, seen: &HashMap<Pid, Seen>) -> Result<(), ProcessError> {
        let mut left = self.ledger.obscured_without_holder();
        let mut pids: Vec<Pid> = seen
            .iter()
            .filter(|(_, seen)| matches!(seen, Seen::PassedOver | Seen::Searched(Extent::Part)))
            .map(|(pid, _)| *pid)
            .collect();
        pids.sort_unstable();
        for pid in pids {
            if left.is_empty() {
                break;
            }
            match self.search_any_process(pid, &mut left) {
                Ok(()) | Err(Obstacle::Vanished | Obstacle::Refused(_)) => {}
                Err(Obstacle::Exhausted(errno)) => return Err(self.procfs.exhausted(pid, errno)),
            }
        }
        Ok(())
    }

    fn search_any_process(&mut self, pid: Pid, left: &mut BTreeSet<Inode>) -> Result<(), Obstacle> {
        self.effort.processes += 1;
        let (dir, names) = self.procfs.enter(pid)?;
        let mut held = Vec::new();
        let effort = &mut *self.effort;
        dir.read_descriptors(self.scratch, |descriptor, inode| {
            effort.sockets += 1;
            if left.remove(&inode) {
                held.push((inode, descriptor));
            }
            if left.is_empty() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        if held.is_empty() {
            return Ok(());
        }
        let mut holder = Holder::new(pid, &names, self.ledger.query.selector.fits(&names.known()));
        for (inode, descriptor) in held {
            self.ledger.record(inode, descriptor, &mut holder);
        }
        Ok(())
    }
}

impl<'a> Ledger<'a> {
    fn new(query: &'a HolderQuery<'a>) -> Self {
        let unsettled: HashSet<(Inode, PatternId)> = query
            .wanted
            .iter()
            .flat_map(|(inode, patterns)| patterns.iter().map(|pattern| (*inode, *pattern)))
            .collect();
        let mut need = BTreeMap::new();
        for (_, pattern) in &unsettled {
            *need.entry(*pattern).or_insert(0) += 1;
        }
        Self {
            query,
            asked: query.census.iter().chain(need.keys()).copied().collect(),
            unsettled,
            need,
            unmet: query.census.clone(),
            found: HolderScan::default(),
            hints: HashMap::new(),
        }
    }

    /// Whether nothing is open.
    fn is_answered(&self) -> bool {
        self.unsettled.is_empty() && self.unmet.is_empty()
    }

    /// Whether nothing more is of interest.
    fn is_complete(&self) -> bool {
        self.is_answered() && (!self.query.every_holder || self.query.wanted.is_empty())
    }

    /// Whether anything is asked about a process with these names.
    fn concerns(&self, fits: &Fits) -> bool {
        fits.certain.iter().chain(&fits.possible).any(|pattern| self.asked.contains(pattern))
    }

    /// Whether the descriptors of such a process are of interest.
    fn is_open_for(&self, fits: &Fits) -> bool {
        fits.certain.iter().chain(&fits.possible).any(|pattern| {
            self.need.get(pattern).is_some_and(|sockets| *sockets > 0 || self.query.every_holder)
        })
    }

    /// Takes in that there is a process with these names.
    fn note(&mut self, fits: &Fits) {
        for pattern in fits.certain.iter().filter(|pattern| self.asked.contains(pattern)) {
            self.found.present.insert(*pattern);
            self.unmet.remove(pattern);
        }
        let possible = fits.possible.iter().filter(|pattern| self.asked.contains(pattern));
        self.found.uncertain.extend(possible);
    }

    /// Takes in that this process holds that socket. Tells whether this settled anything.
    fn record(&mut self, inode: Inode, descriptor: u32, holder: &mut Holder<'_>) -> bool {
        let Some(patterns) = self.query.wanted.get(&inode) else { return false };
        if holder.process.is_none() {
            self.note(&holder.fits);
        }
        let process = holder.process();
        let holders = self.found.holders.entry(inode).or_default();
        match holders.iter_mut().find(|known| known.pid == process.pid) {
            // Seen before, by this descriptor or another. Its names may have changed since.
            Some(known) => *known = process,
            None => holders.push(process),
        }
        let mut settled = false;
        for pattern in holder.fits.certain.iter().filter(|pattern| patterns.contains(pattern)) {
            if self.unsettled.remove(&(inode, *pattern)) {
                settled = true;
                if let Some(sockets) = self.need.get_mut(pattern) {
                    *sockets -= 1;
                }
            }
        }
        let hints = self.hints.entry(inode).or_default();
        if settled || hints.is_empty() {
            hints.push(Hint { pid: holder.pid, descriptor });
        }
        settled
    }

    /// Takes in that a process with these names could not be looked into.
    fn obscure(&mut self, fits: &Fits, privileges: &Privileges, refusal: Refusal) {
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

    /// Takes in that there can be processes of which nothing is shown.
    fn obscure_all(&mut self) {
        for (pattern, _) in self.need.iter().filter(|(_, sockets)| **sockets > 0) {
            let obscured = self.found.obscured.entry(*pattern).or_default();
            obscured.missing.insert(Capability::SysPtrace);
        }
        self.found.uncertain.extend(&self.unmet);
    }

    /// The sockets that nobody is known to hold, and that a process out of sight might.
    fn obscured_without_holder(&self) -> BTreeSet<Inode> {
        self.unsettled
            .iter()
            .filter(|(inode, pattern)| {
                self.found.obscured.contains_key(pattern) && !self.found.holders.contains_key(inode)
            })
            .map(|(inode, _)| *inode)
            .collect()
    }

    fn finish(mut self) -> (HolderScan, HashMap<Inode, Vec<Hint>>) {
        // What could not be seen does not matter where everything asked for was found elsewhere.
        let need = &self.need;
        self.found.obscured.retain(|pattern, _| need.get(pattern).is_some_and(|sockets| *sockets > 0));
        let present = &self.found.present;
        self.found.uncertain.retain(|pattern| !present.contains(pattern));
        for holders in self.found.holders.values_mut() {
            holders.sort_by_key(|process| process.pid);
        }
        (self.found, self.hints)
    }
}

/// A process that may turn out to hold a wanted socket: described only then.
struct Holder<'a> {
    pid: Pid,
    names: &'a Names,
    fits: Fits,
    process: Option<Arc<Process>>,
}

impl<'a> Holder<'a> {
    fn new(pid: Pid, names: &'a Names, fits: Fits) -> Self {
        Self { pid, names, fits, process: None }
    }

    fn process(&mut self) -> Arc<Process> {
        let (pid, names, fits) = (self.pid, self.names, &self.fits);
        let process = self.process.get_or_insert_with(|| {
            let executable = match &names.executable {
                Known::Is(path) => Some(path.clone()),
                Known::Absent | Known::Denied => None,
            };
            let name = match &names.comm {
                Known::Is(comm) => display_name(comm),
                Known::Absent | Known::Denied => String::new(),
            };
            Arc::new(Process { pid, name, executable, fits: fits.certain.clone() })
        });
        Arc::clone(process)
    }
}

#[cfg(test)]
mod tests;
