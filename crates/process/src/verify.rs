//! Whether known holders hold their sockets still: one link read each, and a second look where that fails.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use vms_core::allowance::Allowance;
use vms_core::connection::Inode;
use vms_core::process::{Pid, Process, VerifyQuery};

use crate::effort::Effort;
use crate::error::ProcessError;
use crate::kept::Kept;
use crate::ledger::{Holder, Home};
use crate::network::Surroundings;
use crate::pods::Pods;
use crate::procfs::{Obstacle, Procfs};

/// How many descriptors one call reads to find sockets that are not where they were. Who moves his sockets from one
/// descriptor to another among a million others makes no cycle late.
const MAX_DESCRIPTORS: u32 = 65_536;

/// A verification under way.
pub(crate) struct Verification<'a> {
    pub(crate) query: &'a VerifyQuery<'a>,
    pub(crate) procfs: &'a Procfs,
    pub(crate) surroundings: &'a Surroundings,
    pub(crate) kept: &'a mut Kept,
    pub(crate) pods: &'a mut Pods,
    pub(crate) scratch: &'a mut Vec<u8>,
    pub(crate) effort: &'a mut Effort,
}

impl Verification<'_> {
    /// Verifies all that is asked, in the order given.
    pub(crate) fn run(mut self) -> Result<Vec<Option<Arc<Process>>>, ProcessError> {
        let VerifyQuery { selector, holdings, now } = *self.query;
        let mut doubted: BTreeMap<Pid, Vec<(usize, Inode)>> = BTreeMap::new();
        let mut verified = Vec::with_capacity(holdings.len());
        for (index, (inode, pid)) in holdings.iter().enumerate() {
            let process = self.kept.verify(*inode, *pid, selector, now, self.effort);
            if process.is_none() {
                doubted.entry(*pid).or_default().push((index, *inode));
            }
            verified.push(process);
        }
        // What is beyond it is not verified; a walk tells.
        let allowance = Allowance::of_units(MAX_DESCRIPTORS);
        for (pid, pairs) in doubted {
            match self.look_again(pid, &pairs, &mut verified, &allowance) {
                Ok(()) | Err(Obstacle::Vanished | Obstacle::Refused(_)) => {}
                Err(Obstacle::Exhausted(errno)) => return Err(self.procfs.exhausted(pid, errno)),
            }
        }
        self.kept.sweep(holdings.len(), now);
        Ok(verified)
    }

    /// Enters the process that has that number now, and looks for the sockets first where they were found, then at all
    /// its descriptors. Each process is looked at so at most once a call.
    fn look_again(
        &mut self,
        pid: Pid,
        pairs: &[(usize, Inode)],
        verified: &mut [Option<Arc<Process>>],
        allowance: &Allowance<'_>,
    ) -> Result<(), Obstacle> {
        let now = self.query.now;
        // The handle that failed may be dead, or of a thread that is gone from a process that lives on.
        drop(self.kept.take(pid));
        self.effort.opened += 1;
        self.effort.names += 1;
        let (dir, names) = self.procfs.enter(pid)?;
        let mut held: BTreeSet<Inode> = BTreeSet::new();
        let mut missed: BTreeSet<Inode> = BTreeSet::new();
        for (_, inode) in pairs {
            let Some(descriptor) = self.kept.place(*inode, pid) else {
                missed.insert(*inode);
                continue;
            };
            self.effort.rechecks += 1;
            if dir.holds(descriptor, *inode)? {
                held.insert(*inode);
            } else {
                self.kept.forget(*inode, pid);
                missed.insert(*inode);
            }
        }
        if !missed.is_empty() {
            let (kept, effort) = (&mut *self.kept, &mut *self.effort);
            dir.read_descriptors(self.scratch, 0..u32::MAX, allowance, |descriptor, inode| {
                effort.sockets += 1;
                if missed.remove(&inode) {
                    kept.remember(inode, pid, descriptor, true, now);
                    held.insert(inode);
                }
                if missed.is_empty() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })?;
        }
        if held.is_empty() {
            return Ok(());
        }
        let is_surveyed = self.surroundings.is_surveyed;
        let container = is_surveyed.then(|| self.pods.read_container(&dir, now)).flatten();
        let home = Home { container, is_foreign: is_surveyed && self.surroundings.is_strangers(&dir) };
        let mut holder = Holder::new(pid, names, self.query.selector).of(home);
        for (index, inode) in pairs {
            if held.contains(inode)
                && let Some(slot) = verified.get_mut(*index)
            {
                *slot = Some(holder.process());
            }
        }
        self.kept.keep(dir, &mut holder, now);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
