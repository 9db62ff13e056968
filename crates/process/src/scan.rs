//! One search: whom to look at, in which order, and when enough is known.
//!
//! First where the sockets were found before; then the processes that held any; then all the others. A process whose
//! names fit nothing that is still asked for costs its names and no more, and where they are remembered (`table`) not
//! even these. Nothing but a number (`headcount`) is claimed by what is remembered of processes: who might matter is
//! looked at. What happens during the search (a process forks and exits, hands a socket on) is made up for by looking
//! again, a bounded number of times; and who was passed over is looked at after all where a socket is left without a holder that fits, unless
//! that was concluded already (`conclusions`).

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::ControlFlow;
use std::time::Duration;

use vms_core::connection::Inode;
use vms_core::process::{HolderQuery, HolderScan, Pid};

use crate::conclusions::Conclusions;
use crate::effort::Effort;
use crate::error::ProcessError;
use crate::kept::Kept;
use crate::ledger::{Holder, Home, Ledger, Recorded};
use crate::network::{NetworkNamespace, Surroundings, Whereabouts};
use crate::parse::TaskKind;
use crate::pods::Pods;
use crate::privileges::{Privileges, Refusal};
use crate::procfs::{Extent, Listed, Names, Obstacle, ProcessDir, Procfs};
use crate::table::{NAMES_TABLE_BOUND, NameTable, Remembered};

mod headcount;

/// How often /proc is listed again when something is still open after all processes were looked at.
const EXTRA_PASSES: usize = 2;

/// What it takes to enter a process and read its names, in units of an allowance.
pub(crate) const UNITS_A_PROCESS: u32 = 32;

/// What it takes to look at one descriptor again.
const UNITS_A_PLACE: u32 = 2;

/// What a reader remembers from call to call.
#[derive(Debug)]
pub(crate) struct Memory {
    pub(crate) kept: Kept,
    pub(crate) table: NameTable,
    pub(crate) conclusions: Conclusions,
    pub(crate) unfinished: Unfinished,
    pub(crate) pods: Pods,
}

/// Where searches were cut short: the next goes on there.
#[derive(Debug, Default)]
pub(crate) struct Unfinished {
    /// The process that is next to be looked at, and the descriptor in it.
    next: Option<(Pid, u32)>,
    /// The process that is next to be looked at again where a socket was found in it before.
    next_place: Option<Pid>,
    /// Since when all names are being read anew, and whose were.
    names: Option<(Duration, HashSet<Pid>)>,
}

/// A search under way.
pub(crate) struct Scan<'a> {
    procfs: &'a Procfs,
    privileges: &'a Privileges,
    surroundings: &'a Surroundings,
    memory: &'a mut Memory,
    scratch: &'a mut Vec<u8>,
    effort: &'a mut Effort,
    ledger: Ledger<'a>,
    /// Whether no time was left.
    is_cut: bool,
    /// Whether everybody was looked at whose names are remembered to fit, or are not remembered.
    is_known_to_fit: bool,
    /// Whose names were read anew by a search that was cut short: they are not read again.
    read_before: HashSet<Pid>,
    /// The processes that a count has listed just now.
    listed: Option<Vec<Listed>>,
}

/// Whose names are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// Those of processes that are not remembered, or for too long, or that matter by what is remembered.
    WhereDue,
    /// Everybody's.
    Anew,
}

/// What came of looking at a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// It was gone before its names were known.
    Vanished,
    /// It was gone before its descriptors were read, and it fitted: what it held, another may hold now.
    VanishedFitting,
    /// It was passed over by what is remembered of its names.
    Remembered {
        /// It had no descriptors.
        bare: bool,
    },
    /// It has no descriptors: a part of the kernel, or dead.
    Bare,
    /// Its names were enough.
    PassedOver,
    /// Its descriptors were read, as far as needed.
    Searched(Extent),
    /// It may not be looked into.
    Refused,
}

impl Seen {
    /// Whether it has descriptors that were not all read.
    fn has_more(self) -> bool {
        matches!(self, Self::Remembered { bare: false } | Self::PassedOver | Self::Searched(Extent::Part))
    }
}

impl<'a> Scan<'a> {
    pub(crate) fn new(
        query: &'a HolderQuery<'a>,
        procfs: &'a Procfs,
        privileges: &'a Privileges,
        surroundings: &'a Surroundings,
        memory: &'a mut Memory,
        scratch: &'a mut Vec<u8>,
        effort: &'a mut Effort,
    ) -> Self {
        Self {
            procfs,
            privileges,
            surroundings,
            memory,
            scratch,
            effort,
            ledger: Ledger::new(query, surroundings),
            is_cut: false,
            is_known_to_fit: false,
            read_before: HashSet::new(),
            listed: None,
        }
    }

    /// Searches, and tells what was found.
    pub(crate) fn run(mut self) -> Result<HolderScan, ProcessError> {
        self.check_places()?;
        let is_searched = !self.ledger.is_complete();
        let mut is_counted = self.ledger.query().counted.is_empty();
        if !is_counted {
            // Before the search, which may be long: of that, a count would never see the end.
            let allowance = self.ledger.query().allowance;
            is_counted = if is_searched { self.count(&allowance.part(2))? } else { self.count(allowance)? };
        }
        if is_searched {
            let seen = self.search()?;
            if !is_counted && !self.is_cut {
                self.count(self.ledger.query().allowance)?;
            }
            self.note_hidden_processes();
            if !self.is_cut && !self.ledger.obscured_without_holder().is_empty() {
                self.search_anyone(&seen)?;
            }
        } else {
            self.note_hidden_processes();
        }
        if self.is_cut {
            self.leave_undecided();
        }
        let (query, unsettled) = (self.ledger.query(), self.ledger.unsettled());
        self.memory.conclusions.sweep(query.wanted, unsettled, query.now);
        self.memory.kept.sweep(query.wanted.len(), query.now);
        self.ledger.blame(self.privileges);
        Ok(self.ledger.finish())
    }

    /// Tells of which sockets nothing is known. What was concluded of the others stands, where everybody was looked at who
    /// is known to fit.
    fn leave_undecided(&mut self) {
        let (now, conclusions) = (self.ledger.query().now, &self.memory.conclusions);
        let is_open =
            |inode: Inode, pattern| !self.is_known_to_fit || !conclusions.holds(inode, pattern, now);
        let open = self.ledger.unsettled().iter().filter(|(inode, pattern)| is_open(*inode, *pattern));
        let undecided = open.map(|(inode, _)| *inode).collect();
        self.ledger.leave_undecided(undecided);
    }

    /// Looks at the descriptors where the sockets were found before, for half of the time at most. What it does not get to
    /// is searched for like any other.
    fn check_places(&mut self) -> Result<(), ProcessError> {
        let query = self.ledger.query();
        let allowance = query.allowance.part(2);
        let mut places: Vec<_> = self.memory.kept.places_of(query.wanted, query.now).into_iter().collect();
        if let Some(next) = self.memory.unfinished.next_place.take() {
            let earlier = places.partition_point(|(pid, _)| *pid < next);
            places.rotate_left(earlier);
        }
        for (pid, mut places) in places {
            let units = u32::try_from(places.len()).unwrap_or(u32::MAX).saturating_mul(UNITS_A_PLACE);
            if allowance.is_spent_after(units.saturating_add(UNITS_A_PROCESS)) {
                self.memory.unfinished.next_place = Some(pid);
                break;
            }
            places.retain(|(inode, _)| self.ledger.is_open(*inode));
            if places.is_empty() {
                continue;
            }
            match self.check_places_in(pid, &places) {
                // Whatever it was, the search will tell.
                Ok(()) | Err(Obstacle::Vanished | Obstacle::Refused(_)) => {}
                Err(Obstacle::Exhausted(errno)) => return Err(self.procfs.exhausted(pid, errno)),
            }
        }
        Ok(())
    }

    fn check_places_in(&mut self, pid: Pid, places: &[(Inode, u32)]) -> Result<(), Obstacle> {
        let (dir, names) = match self.memory.kept.take(pid) {
            Some(dir) => {
                self.effort.names += 1;
                let names = dir.read_names()?;
                (dir, names)
            }
            None => self.enter(pid)?,
        };
        let query = self.ledger.query();
        let mut holder = Holder::new(pid, names, query.selector).of(self.home_of(&dir));
        for (inode, descriptor) in places {
            self.effort.rechecks += 1;
            if dir.holds(*descriptor, *inode)? {
                self.ledger.record(*inode, &mut holder);
            } else {
                self.memory.kept.forget(*inode, pid);
            }
        }
        if holder.is_described() {
            self.memory.kept.keep(dir, &mut holder, query.now);
        }
        Ok(())
    }

    /// Takes hold of a process by its number, and reads its names.
    fn enter(&mut self, pid: Pid) -> Result<(ProcessDir, Names), Obstacle> {
        self.effort.opened += 1;
        self.effort.names += 1;
        self.procfs.enter(pid)
    }

    /// Looks at processes until nothing is open any more, or all have been looked at.
    fn search(&mut self) -> Result<HashMap<Pid, Seen>, ProcessError> {
        let mut seen = HashMap::new();
        let reading = if self.ledger.query().every_holder { Reading::Anew } else { Reading::WhereDue };
        // What a search that was cut short has seen of them comes last now.
        if self.memory.unfinished.next.is_none() {
            self.look_at(self.memory.kept.pids(), reading, &mut seen)?;
        }
        self.look_at_all(reading, &mut seen)?;
        self.is_known_to_fit = !self.is_cut;
        let is_remembered = |seen: &Seen| matches!(seen, Seen::Remembered { .. });
        if !self.is_cut && seen.values().any(is_remembered) && self.has_unconcluded() {
            seen.retain(|_, seen| !is_remembered(seen));
            self.begin_anew();
            self.look_at_all(Reading::Anew, &mut seen)?;
        }
        if self.is_cut {
            return Ok(seen);
        }
        self.memory.unfinished =
            Unfinished { next_place: self.memory.unfinished.next_place, ..Unfinished::default() };
        if !seen.values().any(is_remembered) {
            self.memory.conclusions.conclude(self.ledger.unsettled(), self.ledger.query().now);
        }
        Ok(seen)
    }

    /// Begins to read all names anew, or goes on with what was cut short, unless that is too long ago.
    fn begin_anew(&mut self) {
        let now = self.ledger.query().now;
        let names = self.memory.unfinished.names.take();
        let names = names.filter(|(since, _)| now.saturating_sub(*since) < NAMES_TABLE_BOUND);
        let (since, read) = names.unwrap_or_else(|| (now, HashSet::new()));
        self.read_before.clone_from(&read);
        self.memory.unfinished.names = Some((since, read));
    }

    /// Processes in the order in which they are looked at: where a search was cut short, on from there.
    fn in_turn(&self, mut pids: Vec<Pid>) -> Vec<Pid> {
        if let Some((next, _)) = self.memory.unfinished.next {
            let earlier = pids.partition_point(|pid| *pid < next);
            pids.rotate_left(earlier);
        }
        pids
    }

    /// Whether some socket has no holder that fits, and it is not known already that it has none.
    fn has_unconcluded(&self) -> bool {
        let now = self.ledger.query().now;
        let conclusions = &self.memory.conclusions;
        self.ledger.unsettled().iter().any(|(inode, pattern)| !conclusions.holds(*inode, *pattern, now))
    }

    /// Looks at all processes that were not seen yet, and at those that appear meanwhile.
    fn look_at_all(&mut self, reading: Reading, seen: &mut HashMap<Pid, Seen>) -> Result<(), ProcessError> {
        for pass in 0..=EXTRA_PASSES {
            if self.is_cut || self.is_enough(reading) || (pass > 0 && self.ledger.is_answered()) {
                break;
            }
            let listed = match self.listed.take() {
                Some(listed) => listed,
                None => self.list()?,
            };
            let moved = pass > 0 && seen.values().any(|seen| *seen == Seen::VanishedFitting);
            seen.retain(|_, seen| !matches!(seen, Seen::Vanished | Seen::VanishedFitting));
            let listed = listed.into_iter().map(|process| process.pid);
            let due: Vec<Pid> = listed.filter(|pid| moved || !seen.contains_key(pid)).collect();
            if due.is_empty() {
                break;
            }
            self.look_at(self.in_turn(due), reading, seen)?;
        }
        Ok(())
    }

    /// Whether nothing more is to be found in this way. A census is not taken anew for the sake of sockets.
    fn is_enough(&self, reading: Reading) -> bool {
        let for_sockets = reading == Reading::Anew && !self.ledger.query().every_holder;
        self.ledger.is_complete() || (for_sockets && self.ledger.unsettled().is_empty())
    }

    fn list(&mut self) -> Result<Vec<Listed>, ProcessError> {
        self.effort.listings += 1;
        let listed = self.procfs.read_processes(self.scratch)?;
        self.memory.table.list(&listed, self.ledger.query().now);
        Ok(listed)
    }

    fn look_at(
        &mut self,
        pids: impl IntoIterator<Item = Pid>,
        reading: Reading,
        seen: &mut HashMap<Pid, Seen>,
    ) -> Result<(), ProcessError> {
        for pid in pids {
            if self.is_cut || self.is_enough(reading) {
                break;
            }
            let outcome = match self.recall(pid, reading) {
                Some(remembered) => remembered,
                None if self.ledger.query().allowance.is_spent_after(UNITS_A_PROCESS) => {
                    self.cut(pid, 0);
                    break;
                }
                None => self.look(pid)?,
            };
            seen.insert(pid, outcome);
        }
        Ok(())
    }

    /// Takes in that no time is left, and where to go on.
    fn cut(&mut self, pid: Pid, descriptor: u32) {
        self.is_cut = true;
        self.memory.unfinished.next = Some((pid, descriptor));
    }

    /// Whether that process can be passed over by what is remembered of it.
    fn recall(&self, pid: Pid, reading: Reading) -> Option<Seen> {
        if reading == Reading::Anew {
            if !self.read_before.contains(&pid) {
                return None;
            }
            return match self.memory.table.last_read(pid)? {
                Remembered::Fitted { patterns, bare, .. } if !self.ledger.awaits(patterns) => {
                    Some(if *bare { Seen::Bare } else { Seen::PassedOver })
                }
                _ => None,
            };
        }
        match self.memory.table.remembered(pid, self.ledger.query().now)? {
            Remembered::Fitted { patterns, bare, whereabouts, .. }
                if !self.ledger.awaits(patterns)
                    && (*bare || !self.ledger.awaits_location(patterns, *whereabouts)) =>
            {
                Some(Seen::Remembered { bare: *bare })
            }
            Remembered::Fitted { .. } | Remembered::Unclear { .. } | Remembered::Unread => None,
        }
    }

    fn look(&mut self, pid: Pid) -> Result<Seen, ProcessError> {
        let (dir, names) = match self.enter(pid) {
            Ok((dir, names)) => (Some(dir), names),
            Err(Obstacle::Refused(_)) => (None, Names::DENIED),
            Err(Obstacle::Vanished) => return Ok(Seen::Vanished),
            Err(Obstacle::Exhausted(errno)) => return Err(self.procfs.exhausted(pid, errno)),
        };
        let query = self.ledger.query();
        let holder = Holder::new(pid, names, query.selector);
        let bare = holder.is_bare();
        self.memory.table.note(&holder, query.now);
        if let Some((_, read)) = &mut self.memory.unfinished.names {
            read.insert(pid);
        }
        if !self.ledger.concerns(holder.fits()) {
            return Ok(if bare { Seen::Bare } else { Seen::PassedOver });
        }
        let Some(dir) = dir else {
            self.ledger.note(holder.fits());
            self.ledger.obscure(holder.fits(), self.privileges, Refusal::Enter);
            return Ok(Seen::Refused);
        };
        if bare {
            return match dir.read_task_kind() {
                // What is dead is not there any more, though its parent has not noticed yet.
                Ok(TaskKind::Dead) => Ok(Seen::Bare),
                Ok(TaskKind::Kernel | TaskKind::User) | Err(Obstacle::Refused(_)) => {
                    self.ledger.note(holder.fits());
                    Ok(Seen::Bare)
                }
                Err(Obstacle::Vanished) => Ok(Seen::VanishedFitting),
                Err(Obstacle::Exhausted(errno)) => Err(self.procfs.exhausted(pid, errno)),
            };
        }
        self.ledger.note(holder.fits());
        // What is remembered of names is of one moment, and where all namespaces are looked at this is asked for next.
        if self.surroundings.is_surveyed
            || self.ledger.awaits_location(&holder.fits().certain, Whereabouts::Unread)
            || (self.surroundings.is_displaced
                && self.ledger.awaits_location(&holder.fits().possible, Whereabouts::Unread))
        {
            let namespace = match dir.read_network_namespace() {
                Ok(namespace) => namespace,
                Err(Obstacle::Vanished) => return Ok(Seen::VanishedFitting),
                Err(_) => NetworkNamespace::default(),
            };
            let whereabouts = self.surroundings.locate(namespace);
            self.memory.table.note_whereabouts(pid, whereabouts, namespace.inode);
            // Where the agent itself is says nothing of the services that it watches.
            if !self.surroundings.is_agent(pid) {
                self.ledger.locate(&holder.fits().certain, whereabouts);
            }
            let is_blind = self.surroundings.is_displaced && !self.privileges.sys_ptrace;
            if is_blind && whereabouts == Whereabouts::Elsewhere {
                self.ledger.suspect_elsewhere(&holder.fits().possible);
            }
        }
        if !self.ledger.is_open_for(holder.fits()) {
            return Ok(Seen::PassedOver);
        }
        let holder = holder.of(self.home_of(&dir));
        self.search_descriptors(dir, holder)
    }

    /// Where a process belongs: its container tells series apart, or is for a person who asks.
    fn home_of(&mut self, dir: &ProcessDir) -> Home {
        let query = self.ledger.query();
        let is_surveyed = self.surroundings.is_surveyed;
        let matters = is_surveyed || query.every_holder;
        let container = matters.then(|| self.memory.pods.read_container(dir, query.now)).flatten();
        Home { container, is_foreign: is_surveyed && self.surroundings.is_strangers(dir) }
    }

    /// Reads the descriptors of a process that fits, or might.
    fn search_descriptors(&mut self, dir: ProcessDir, mut holder: Holder) -> Result<Seen, ProcessError> {
        let (ledger, kept, effort) = (&mut self.ledger, &mut self.memory.kept, &mut *self.effort);
        let query = ledger.query();
        let now = query.now;
        // Where this process was left in the middle, what comes after that first, and then what was before.
        let pid = holder.pid();
        let from = self.memory.unfinished.next.filter(|(next, _)| *next == pid).map_or(0, |(_, from)| from);
        let mut visit = |descriptor, inode| {
            effort.sockets += 1;
            let recorded = ledger.record(inode, &mut holder);
            if recorded != Recorded::Unasked {
                kept.remember(inode, holder.pid(), descriptor, recorded != Recorded::Other, now);
            }
            if recorded == Recorded::Settled && !ledger.is_open_for(holder.fits()) {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        };
        let mut outcome = dir.read_descriptors(self.scratch, from..u32::MAX, query.allowance, &mut visit);
        if from > 0 && outcome == Ok(Extent::Whole) {
            outcome = dir.read_descriptors(self.scratch, 0..from, query.allowance, &mut visit);
        }
        if holder.is_described() {
            kept.keep(dir, &mut holder, now);
        }
        match outcome {
            Ok(extent) => {
                if let Extent::Cut(next) = extent {
                    self.cut(pid, next);
                }
                Ok(Seen::Searched(extent))
            }
            Err(Obstacle::Vanished) => Ok(Seen::VanishedFitting),
            Err(Obstacle::Refused(refusal)) => {
                self.ledger.obscure(holder.fits(), self.privileges, refusal);
                Ok(Seen::Refused)
            }
            Err(Obstacle::Exhausted(errno)) => Err(self.procfs.exhausted(holder.pid(), errno)),
        }
    }

    /// Accounts for the processes that /proc does not even list.
    fn note_hidden_processes(&mut self) {
        let is_counted = !self.ledger.query().counted.is_empty();
        if self.privileges.sys_ptrace || (self.ledger.is_answered() && !is_counted) {
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
        let mut pids: Vec<Pid> =
            seen.iter().filter(|(_, seen)| seen.has_more()).map(|(pid, _)| *pid).collect();
        pids.sort_unstable();
        for pid in pids {
            if left.is_empty() {
                break;
            }
            if self.ledger.query().allowance.is_spent_after(UNITS_A_PROCESS) {
                self.is_cut = true;
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
        let (dir, names) = self.enter(pid)?;
        let mut held = Vec::new();
        let effort = &mut *self.effort;
        let allowance = self.ledger.query().allowance;
        let extent = dir.read_descriptors(self.scratch, 0..u32::MAX, allowance, |descriptor, inode| {
            effort.sockets += 1;
            if left.remove(&inode) {
                held.push((inode, descriptor));
            }
            if left.is_empty() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        self.is_cut |= matches!(extent, Extent::Cut(_));
        if held.is_empty() {
            return Ok(());
        }
        let query = self.ledger.query();
        let mut holder = Holder::new(pid, names, query.selector).of(self.home_of(&dir));
        for (inode, descriptor) in held {
            let recorded = self.ledger.record(inode, &mut holder);
            self.memory.kept.remember(inode, pid, descriptor, recorded != Recorded::Other, query.now);
        }
        self.memory.kept.keep(dir, &mut holder, query.now);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
