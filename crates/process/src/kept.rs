//! Where sockets were found, and a handle of each process that held one: what to look at first, and never what to
//! believe.
//!
//! A handle is a descriptor of `/proc/PID`, which answers `ENOENT` or `ESRCH` once its process is gone, even when another
//! has the number by then. So a holder is verified by reading one link; only where that fails is the process entered
//! anew. Measured, a link is read a tenth quicker by a descriptor of `/proc/PID/fd`; but that does not lead to the names.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use vms_core::connection::Inode;
use vms_core::process::{PatternId, Pid, Process, ProcessSelector};

use crate::effort::Effort;
use crate::ledger::{Holder, Home};
use crate::procfs::{Obstacle, ProcessDir};

/// How old the names of a holder may be when it is verified, that is, how late a program that is replaced (exec) or
/// renamed while it keeps its sockets is noticed.
pub(crate) const NAMES_BOUND: Duration = Duration::from_secs(30);

/// How many handles are kept at most, however many descriptors the agent may have.
pub(crate) const MAX_HANDLES: u64 = 4096;

/// After how long a handle or a place that nobody asked about is given up. Entering a process again costs some 20 us:
/// to do that for a probe that is measured less often than this costs less than to keep its holders open.
const MAX_IDLE: Duration = Duration::from_mins(10);

/// How often what is idle is looked for: to visit all that is kept would cost more than a call that verifies a few.
const SWEEP_INTERVAL: Duration = Duration::from_mins(1);

/// How many sockets are remembered of which nobody can say that they will be asked for again. With connections that come
/// and go, most of them are gone.
const MAX_IDLE_SOCKETS: usize = 16384;

/// After how many of its intervals a socket that was not asked for is taken for gone: its probe was measured meanwhile,
/// without it. More than one, for measurements that come late.
const OVERDUE_INTERVALS: u32 = 3;

/// What is remembered of holders.
#[derive(Debug)]
pub(crate) struct Kept {
    sockets: HashMap<Inode, Socket>,
    holders: HashMap<Pid, KeptHolder>,
    /// How many holders are kept at most now. Fewer than `most_holders` for a while after those were too many.
    max_holders: usize,
    most_holders: usize,
    swept: Duration,
    /// How many sockets were left when there were too many.
    sockets_left: usize,
}

/// A socket, and where it was found: at one descriptor of each process that holds it and fits, and of one other.
#[derive(Debug)]
struct Socket {
    places: Vec<Place>,
    asked: Duration,
    /// After how long it was asked for again; `None` where it never was.
    interval: Option<Duration>,
}

/// A descriptor at which a socket was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    pid: Pid,
    descriptor: u32,
}

/// A process that held a socket.
#[derive(Debug)]
struct KeptHolder {
    dir: ProcessDir,
    process: Arc<Process>,
    /// When its names were read; `None` when they were matched against another selector.
    names_read: Option<Duration>,
    asked: Duration,
}

impl Kept {
    /// A memory for an agent that may have that many descriptors open (`RLIMIT_NOFILE`); `None` is without limit. It
    /// never takes more than half of them.
    pub(crate) fn new(descriptor_limit: Option<u64>) -> Self {
        let most_holders = descriptor_limit.map_or(MAX_HANDLES, |limit| MAX_HANDLES.min(limit / 2));
        let most_holders = usize::try_from(most_holders).unwrap_or(usize::MAX);
        Self {
            sockets: HashMap::new(),
            holders: HashMap::new(),
            max_holders: most_holders,
            most_holders,
            swept: Duration::ZERO,
            sockets_left: 0,
        }
    }

    /// How many processes are kept open.
    pub(crate) fn handles(&self) -> usize {
        self.holders.len()
    }

    /// Takes in that what processes fit has to be worked out again.
    pub(crate) fn forget_fits(&mut self) {
        for holder in self.holders.values_mut() {
            holder.names_read = None;
        }
    }

    /// Closes all handles, for an agent that has no descriptors left although it keeps no more than these. Half as many
    /// are kept at most from now on, and twice as many again after each sweep, the first of which is an interval away.
    pub(crate) fn shed(&mut self, now: Duration) {
        self.max_holders = self.holders.len() / 2;
        self.holders.clear();
        self.swept = now;
    }

    /// Where to look for these sockets, by process.
    pub(crate) fn places_of(
        &mut self,
        wanted: &BTreeMap<Inode, BTreeSet<PatternId>>,
        now: Duration,
    ) -> BTreeMap<Pid, Vec<(Inode, u32)>> {
        let mut by_process: BTreeMap<Pid, Vec<(Inode, u32)>> = BTreeMap::new();
        for inode in wanted.keys() {
            let Some(socket) = self.sockets.get_mut(inode) else { continue };
            socket.ask(now);
            for place in &socket.places {
                by_process.entry(place.pid).or_default().push((*inode, place.descriptor));
            }
        }
        by_process
    }

    /// Where that socket was found in that process.
    pub(crate) fn place(&self, inode: Inode, pid: Pid) -> Option<u32> {
        let places = &self.sockets.get(&inode)?.places;
        places.iter().find(|place| place.pid == pid).map(|place| place.descriptor)
    }

    /// Every process in which a socket was found.
    pub(crate) fn pids(&self) -> BTreeSet<Pid> {
        self.sockets.values().flat_map(|socket| &socket.places).map(|place| place.pid).collect()
    }

    /// The process, told by reading one link, if it holds that socket where it was found. `None` says nothing: the
    /// socket may be at another descriptor, the handle may be dead, or there is none.
    pub(crate) fn verify(
        &mut self,
        inode: Inode,
        pid: Pid,
        selector: &ProcessSelector,
        now: Duration,
        effort: &mut Effort,
    ) -> Option<Arc<Process>> {
        let holder = self.holders.get_mut(&pid)?;
        let socket = self.sockets.get_mut(&inode)?;
        let descriptor = socket.places.iter().find(|place| place.pid == pid)?.descriptor;
        socket.ask(now);
        holder.asked = now;
        if holder.names_read.is_none_or(|read| now.saturating_sub(read) >= NAMES_BOUND) {
            effort.names += 1;
            holder.renew(pid, selector, now).ok()?;
        }
        effort.rechecks += 1;
        holder.dir.holds(descriptor, inode).ok()?.then(|| Arc::clone(&holder.process))
    }

    /// Hands out the handle of that process; [`Kept::keep`] takes it back.
    pub(crate) fn take(&mut self, pid: Pid) -> Option<ProcessDir> {
        self.holders.remove(&pid).map(|holder| holder.dir)
    }

    /// Keeps the handle of a holder whose names were read just now, if there is room.
    pub(crate) fn keep(&mut self, dir: ProcessDir, holder: &mut Holder, now: Duration) {
        let pid = holder.pid();
        if self.holders.len() < self.max_holders || self.holders.contains_key(&pid) {
            let kept = KeptHolder { dir, process: holder.process(), names_read: Some(now), asked: now };
            self.holders.insert(pid, kept);
        }
    }

    /// Remembers where a socket was found. One descriptor a process is enough; of holders that fit nothing that was
    /// asked for, one is.
    pub(crate) fn remember(&mut self, inode: Inode, pid: Pid, descriptor: u32, fits: bool, now: Duration) {
        let socket = self.sockets.entry(inode).or_insert_with(|| Socket::new(now));
        if let Some(place) = socket.places.iter_mut().find(|place| place.pid == pid) {
            place.descriptor = descriptor;
        } else if fits || socket.places.is_empty() {
            socket.places.push(Place { pid, descriptor });
        }
    }

    /// Forgets that this socket was found in that process.
    pub(crate) fn forget(&mut self, inode: Inode, pid: Pid) {
        let Some(socket) = self.sockets.get_mut(&inode) else { return };
        socket.places.retain(|place| place.pid != pid);
        if socket.places.is_empty() {
            self.sockets.remove(&inode);
        }
    }

    /// Gives up what nobody asked about for long, and what is too much. To be called at the end of each call.
    pub(crate) fn sweep(&mut self, asked_sockets: usize, now: Duration) {
        self.make_room(asked_sockets, now);
        if now.saturating_sub(self.swept) < SWEEP_INTERVAL {
            return;
        }
        self.swept = now;
        self.max_holders = self.max_holders.max(1).saturating_mul(2).min(self.most_holders);
        // Where connections come and go, those that are gone would otherwise be most of what is remembered.
        self.sockets.retain(|_, socket| {
            let idle = now.saturating_sub(socket.asked);
            idle < MAX_IDLE && (idle < SWEEP_INTERVAL || !socket.is_overdue(now))
        });
        self.sockets.shrink_to(self.sockets.len().saturating_mul(2));
        self.sockets_left = self.sockets_left.min(self.sockets.len());
        // Nobody asks about a process whose connections ended with it: its handle would be kept for nothing.
        self.holders.retain(|_, holder| {
            let idle = now.saturating_sub(holder.asked);
            idle < MAX_IDLE && (idle < SWEEP_INTERVAL || !holder.dir.is_gone())
        });
    }

    /// Forgets the sockets that are overdue where there are too many, and of those that were asked for once the ones for
    /// which that is longest ago. Those that are due again, if at another probe's longer interval, are as many as links are
    /// measured: they stay, and the room that is made is large enough not to be looked for in each call.
    fn make_room(&mut self, asked_sockets: usize, now: Duration) {
        let room = MAX_IDLE_SOCKETS / 4;
        let bound =
            asked_sockets.saturating_add(MAX_IDLE_SOCKETS).max(self.sockets_left.saturating_add(room));
        if self.sockets.len() <= bound {
            return;
        }
        self.sockets.retain(|_, socket| !socket.is_overdue(now));
        let is_once = |socket: &Socket| socket.interval.is_none() && socket.asked != now;
        let mut once: Vec<Duration> =
            self.sockets.values().filter(|socket| is_once(socket)).map(|socket| socket.asked).collect();
        let mut excess = once.len().saturating_sub(MAX_IDLE_SOCKETS - room);
        if excess > 0 {
            let (_, newest_given_up, _) = once.select_nth_unstable(excess - 1);
            let newest_given_up = *newest_given_up;
            self.sockets.retain(|_, socket| {
                let goes = excess > 0 && is_once(socket) && socket.asked <= newest_given_up;
                excess -= usize::from(goes);
                !goes
            });
        }
        self.sockets_left = self.sockets.len();
    }
}

impl Socket {
    fn new(now: Duration) -> Self {
        Self { places: Vec::new(), asked: now, interval: None }
    }

    /// Takes in that it was asked for. Probes that share it may ask shortly after one another: a longer interval is
    /// forgotten step by step.
    fn ask(&mut self, now: Duration) {
        let since = now.saturating_sub(self.asked);
        if since > Duration::ZERO {
            self.interval = Some(self.interval.map_or(since, |interval| since.max(interval / 2)));
            self.asked = now;
        }
    }

    /// Whether it is past the time at which it would have been asked for again.
    fn is_overdue(&self, now: Duration) -> bool {
        let idle = now.saturating_sub(self.asked);
        self.interval.is_some_and(|interval| idle > interval.saturating_mul(OVERDUE_INTERVALS))
    }
}

impl KeptHolder {
    /// Reads the names again. The process stays the same `Arc` while nothing about it has changed.
    fn renew(&mut self, pid: Pid, selector: &ProcessSelector, now: Duration) -> Result<(), Obstacle> {
        // The handle is of one process, which stays in its container, and cannot come back from a user namespace.
        let holder = Holder::new(pid, self.dir.read_names()?, selector);
        let home = Home { container: self.process.container.clone(), is_foreign: self.process.is_stranger };
        let process = holder.of(home).process();
        if *process != *self.process {
            self.process = process;
        }
        self.names_read = Some(now);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
