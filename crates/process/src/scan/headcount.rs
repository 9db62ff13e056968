//! How many processes fit.
//!
//! Everybody who is listed is counted by his names, and these are remembered (`table`). That he still runs is not: of who
//! counts, that is looked at each time, because the kernel lists also those that have exited and were not waited for. Where it
//! matters what they use, that is read instead, and tells both.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use vms_core::allowance::Allowance;
use vms_core::process::{Headcount, PatternId, Pid, ProcessUsage};

use super::{EXTRA_PASSES, Scan, UNITS_A_PROCESS};
use crate::error::ProcessError;
use crate::ledger::Holder;
use crate::parse::TaskKind;
use crate::procfs::{Activity, Entered, Listed, Names, Obstacle};
use crate::table::Remembered;

/// What it takes to see whether a process runs, in units of an allowance.
const UNITS_A_GLANCE: u32 = 4;

/// What it takes to read what a process uses.
const UNITS_A_USAGE: u32 = 8;

/// What became of the attempt to count one process.
enum Counted {
    /// It counts for these patterns; most count for none.
    For(Share),
    /// It was listed, and gone before it could be counted: another may go on in its place.
    Vanished,
    /// No time was left.
    Cut,
}

/// For which of the patterns that are counted one process counts.
#[derive(Default)]
struct Share {
    certain: Vec<PatternId>,
    possible: Vec<PatternId>,
    /// Whether it might fit each that is not in `certain`. Where little may be looked into, that is most processes, and
    /// there can be thousands of patterns.
    is_possibly_any: bool,
    /// What the process uses. `None` where that was not asked for, or could not be read.
    usage: Option<ProcessUsage>,
}

impl Share {
    fn is_empty(&self) -> bool {
        self.certain.is_empty() && self.possible.is_empty() && !self.is_possibly_any
    }
}

/// What was counted so far.
struct Tally {
    headcounts: BTreeMap<PatternId, Headcount>,
    /// How many might fit each pattern, but for those that they fit for certain.
    possibly_any: u64,
    /// By pattern, how many of these fit it for certain.
    certain_of_these: BTreeMap<PatternId, u64>,
    /// What those use that fit the patterns that are measured; `None` where that of one could not be read.
    usages: BTreeMap<PatternId, Option<Vec<ProcessUsage>>>,
}

impl Tally {
    fn new(counted: &BTreeSet<PatternId>, measured: &BTreeSet<PatternId>) -> Self {
        Self {
            headcounts: counted.iter().map(|pattern| (*pattern, Headcount::default())).collect(),
            possibly_any: 0,
            certain_of_these: BTreeMap::new(),
            usages: measured.iter().map(|pattern| (*pattern, Some(Vec::new()))).collect(),
        }
    }

    fn add(&mut self, share: &Share) {
        self.possibly_any += u64::from(share.is_possibly_any);
        for pattern in &share.certain {
            self.headcounts.entry(*pattern).or_default().fitting += 1;
            if share.is_possibly_any {
                *self.certain_of_these.entry(*pattern).or_default() += 1;
            }
            if let Some(slot) = self.usages.get_mut(pattern) {
                match (slot.as_mut(), share.usage) {
                    (Some(usages), Some(usage)) => usages.push(usage),
                    _ => *slot = None,
                }
            }
        }
        for pattern in &share.possible {
            self.headcounts.entry(*pattern).or_default().possible += 1;
        }
    }

    /// How many there are of each pattern, and what they use.
    fn finish(mut self) -> (BTreeMap<PatternId, Headcount>, BTreeMap<PatternId, Vec<ProcessUsage>>) {
        for (pattern, headcount) in &mut self.headcounts {
            let certain = self.certain_of_these.get(pattern).copied().unwrap_or_default();
            headcount.possible += self.possibly_any - certain;
        }
        let usages = self.usages.into_iter().filter_map(|(pattern, usages)| Some((pattern, usages?)));
        (self.headcounts, usages.collect())
    }
}

impl Scan<'_> {
    /// Counts who fits, and tells whether there was time to look at everybody. Where there was none, nothing is told: what was
    /// read is remembered, and the next count gets further.
    pub(super) fn count(&mut self, allowance: &Allowance<'_>) -> Result<bool, ProcessError> {
        let mut read = HashSet::new();
        for pass in 0..=EXTRA_PASSES {
            let listed = self.list()?;
            let query = self.ledger.query();
            let mut tally = Tally::new(query.counted, query.measured);
            let mut has_vanished = false;
            let mut is_cut = false;
            for process in &listed {
                match self.count_process(*process, &mut read, allowance)? {
                    Counted::For(share) => tally.add(&share),
                    Counted::Vanished => has_vanished = true,
                    Counted::Cut => {
                        is_cut = true;
                        break;
                    }
                }
            }
            self.listed = Some(listed);
            if is_cut {
                return Ok(false);
            }
            // Who forks and exits has a successor that was not listed yet.
            if !has_vanished || pass == EXTRA_PASSES {
                let (headcounts, usages) = tally.finish();
                self.ledger.take_headcounts(headcounts, usages);
                break;
            }
        }
        Ok(true)
    }

    /// For which patterns a listed process counts. Whose names were `read` for this count is not read again.
    fn count_process(
        &mut self,
        listed: Listed,
        read: &mut HashSet<Pid>,
        allowance: &Allowance<'_>,
    ) -> Result<Counted, ProcessError> {
        let pid = listed.pid;
        if let Some((share, bare)) = self.recall_share(pid, read) {
            if share.is_empty() {
                return Ok(Counted::For(share));
            }
            let is_measured = self.is_measured(&share);
            if allowance.is_spent_after(if is_measured { UNITS_A_USAGE } else { UNITS_A_GLANCE }) {
                return Ok(Counted::Cut);
            }
            match self.look_again(listed, is_measured) {
                Ok(Some(Activity::Idle)) => return Ok(Counted::For(Share::default())),
                // It was about to exit, and at least one of its threads has not: it has other names. Or another has its number.
                Ok(None) => {}
                Ok(Some(Activity::Running(_))) | Err(Obstacle::Refused(_)) if bare => {}
                Ok(Some(Activity::Running(usage))) => {
                    let usage = usage.map(|usage| self.procfs.in_units(usage, pid));
                    return Ok(Counted::For(Share { usage, ..share }));
                }
                Err(Obstacle::Refused(_)) => return Ok(Counted::For(share)),
                Err(Obstacle::Vanished) => return Ok(Counted::Vanished),
                Err(Obstacle::Exhausted(errno)) => return Err(self.procfs.exhausted(pid, errno)),
            }
        }
        if allowance.is_spent_after(UNITS_A_PROCESS) {
            return Ok(Counted::Cut);
        }
        match self.read_share(pid, read) {
            Ok(share) => Ok(Counted::For(share)),
            Err(Obstacle::Exhausted(errno)) => Err(self.procfs.exhausted(pid, errno)),
            Err(Obstacle::Vanished | Obstacle::Refused(_)) => Ok(Counted::Vanished),
        }
    }

    /// Whether it matters what a process uses that has such a share.
    fn is_measured(&self, share: &Share) -> bool {
        share.certain.iter().any(|pattern| self.ledger.query().measured.contains(pattern))
    }

    /// Whether a process runs that counts by what is remembered of it; `None` when that was another.
    fn look_again(&mut self, listed: Listed, is_measured: bool) -> Result<Option<Activity>, Obstacle> {
        if is_measured {
            self.effort.usages += 1;
            return self.procfs.read_activity(listed);
        }
        self.effort.glances += 1;
        let is_running = self.procfs.read_is_running(listed.pid)?;
        Ok(Some(if is_running { Activity::Running(None) } else { Activity::Idle }))
    }

    /// For which patterns a process counts by what is remembered of its names, should it run, and whether it was bare when they
    /// were read. `None` where they have to be read.
    fn recall_share(&self, pid: Pid, read: &HashSet<Pid>) -> Option<(Share, bool)> {
        let query = self.ledger.query();
        let table = &self.memory.table;
        let names = if read.contains(&pid) { table.last_read(pid) } else { table.remembered(pid, query.now) };
        match names? {
            Remembered::Fitted { patterns, bare, .. } => {
                Some((Share { certain: self.counted_of(patterns), ..Share::default() }, *bare))
            }
            Remembered::Unclear { certain: Some(certain) } => {
                let certain = self.counted_of(certain);
                Some((Share { certain, is_possibly_any: true, ..Share::default() }, false))
            }
            Remembered::Unclear { certain: None } | Remembered::Unread => None,
        }
    }

    fn counted_of(&self, patterns: &[PatternId]) -> Vec<PatternId> {
        let counted = self.ledger.query().counted;
        patterns.iter().copied().filter(|pattern| counted.contains(pattern)).collect()
    }

    /// Reads for which patterns a process counts.
    fn read_share(&mut self, pid: Pid, read: &mut HashSet<Pid>) -> Result<Share, Obstacle> {
        self.effort.opened += 1;
        self.effort.names += 1;
        let (dirs, names) = match self.procfs.enter_whole(pid) {
            Ok(Entered { dir, names, thread }) => (Some((dir, thread)), names),
            Err(Obstacle::Refused(_)) => (None, Names::DENIED),
            Err(obstacle) => return Err(obstacle),
        };
        let query = self.ledger.query();
        let holder = Holder::new(pid, names, query.selector);
        self.memory.table.note(&holder, query.now);
        read.insert(pid);
        let is_possibly_any = holder.might_fit_any();
        let possible: &[PatternId] = if is_possibly_any { &[] } else { &holder.fits().possible };
        let share = Share {
            certain: self.counted_of(&holder.fits().certain),
            possible: self.counted_of(possible),
            is_possibly_any,
            usage: None,
        };
        let is_measured = self.is_measured(&share);
        let Some((dir, thread)) = dirs.filter(|_| !share.is_empty()) else { return Ok(share) };
        if is_measured {
            self.effort.usages += 1;
            return match dir.read_activity() {
                Ok(Activity::Idle) => Ok(Share::default()),
                Ok(Activity::Running(usage)) => {
                    Ok(Share { usage: usage.map(|usage| self.procfs.in_units(usage, pid)), ..share })
                }
                Err(Obstacle::Refused(_)) => Ok(share),
                Err(obstacle) => Err(obstacle),
            };
        }
        if holder.is_bare() {
            return match thread.as_ref().unwrap_or(&dir).read_task_kind() {
                Ok(TaskKind::Dead | TaskKind::Kernel) => Ok(Share::default()),
                // On its way out: it has let go of its program, and is not dead yet.
                Ok(TaskKind::User) | Err(Obstacle::Refused(_)) => Ok(share),
                Err(obstacle) => Err(obstacle),
            };
        }
        Ok(share)
    }
}
