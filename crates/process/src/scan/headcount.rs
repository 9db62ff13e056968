//! How many processes fit.
//!
//! Everybody who is listed is counted by his names, and these are remembered (`table`). That he still runs is not: of who
//! counts, that is looked at each time, because the kernel lists also those that have exited and were not waited for.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use vms_core::allowance::Allowance;
use vms_core::process::{Headcount, PatternId, Pid};

use super::{EXTRA_PASSES, Scan, UNITS_A_PROCESS};
use crate::error::ProcessError;
use crate::ledger::Holder;
use crate::parse::TaskKind;
use crate::procfs::{Names, Obstacle};
use crate::table::Remembered;

/// What it takes to see whether a process runs, in units of an allowance.
const UNITS_A_GLANCE: u32 = 4;

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
}

impl Tally {
    fn new(counted: &BTreeSet<PatternId>) -> Self {
        let headcounts = counted.iter().map(|pattern| (*pattern, Headcount::default())).collect();
        Self { headcounts, possibly_any: 0, certain_of_these: BTreeMap::new() }
    }

    fn add(&mut self, share: &Share) {
        self.possibly_any += u64::from(share.is_possibly_any);
        for pattern in &share.certain {
            self.headcounts.entry(*pattern).or_default().fitting += 1;
            if share.is_possibly_any {
                *self.certain_of_these.entry(*pattern).or_default() += 1;
            }
        }
        for pattern in &share.possible {
            self.headcounts.entry(*pattern).or_default().possible += 1;
        }
    }

    fn finish(mut self) -> BTreeMap<PatternId, Headcount> {
        for (pattern, headcount) in &mut self.headcounts {
            let certain = self.certain_of_these.get(pattern).copied().unwrap_or_default();
            headcount.possible += self.possibly_any - certain;
        }
        self.headcounts
    }
}

impl Scan<'_> {
    /// Counts who fits, and tells whether there was time to look at everybody. Where there was none, nothing is told: what was
    /// read is remembered, and the next count gets further.
    pub(super) fn count(&mut self, allowance: &Allowance<'_>) -> Result<bool, ProcessError> {
        let mut read = HashSet::new();
        for pass in 0..=EXTRA_PASSES {
            let listed = self.list()?;
            let mut tally = Tally::new(self.ledger.query().counted);
            let mut has_vanished = false;
            let mut is_cut = false;
            for pid in &listed {
                match self.count_process(*pid, &mut read, allowance)? {
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
                self.ledger.take_headcounts(tally.finish());
                break;
            }
        }
        Ok(true)
    }

    /// For which patterns a listed process counts. Whose names were `read` for this count is not read again.
    fn count_process(
        &mut self,
        pid: Pid,
        read: &mut HashSet<Pid>,
        allowance: &Allowance<'_>,
    ) -> Result<Counted, ProcessError> {
        if let Some((share, bare)) = self.recall_share(pid, read) {
            if share.is_empty() {
                return Ok(Counted::For(share));
            }
            if allowance.is_spent_after(UNITS_A_GLANCE) {
                return Ok(Counted::Cut);
            }
            self.effort.glances += 1;
            match self.procfs.read_is_running(pid) {
                Ok(false) => return Ok(Counted::For(Share::default())),
                // It was about to exit, and at least one of its threads has not: it has other names.
                Ok(true) | Err(Obstacle::Refused(_)) if bare => {}
                Ok(true) | Err(Obstacle::Refused(_)) => return Ok(Counted::For(share)),
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
        let (dir, names) = match self.enter(pid) {
            Ok((dir, names)) => (Some(dir), names),
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
        };
        if let Some(dir) = dir
            && holder.is_bare()
            && !share.is_empty()
        {
            return match dir.read_task_kind() {
                Ok(TaskKind::Dead | TaskKind::Kernel) => Ok(Share::default()),
                // On its way out: it has let go of its program, and is not dead yet.
                Ok(TaskKind::User) | Err(Obstacle::Refused(_)) => Ok(share),
                Err(obstacle) => Err(obstacle),
            };
        }
        Ok(share)
    }
}
