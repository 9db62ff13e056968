//! Who may not be looked into, and so could hold a socket that nobody is seen to hold: by cgroup and by user.
//!
//! Who is in a cgroup its directory tells, whatever of them /proc shows or hides; it is found by the number that the socket
//! has. Who has a user, only a /proc of the whole host tells. Each of them is looked at: who may be looked into, and holds none
//! of the sockets in question, is out of the question. What was found is believed when nobody has come meanwhile.
//!
//! A socket of a thread that has left its process's cgroup or user is not that process's; a cgroup of threads tells nothing.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::getpid;
use vms_core::connection::CgroupId;
use vms_core::infer::{Basis, InferenceLack, Outsider, OutsiderQuery, OutsiderScan, SuspectQuery};
use vms_core::process::{Known, Pid, Process, ProcessSelector};

use crate::cgroup::{CgroupDir, Cgroups};
use crate::error::ProcessError;
use crate::kept::NAMES_BOUND;
use crate::ledger::Holder;
use crate::parse::{TaskKind, leads_up, parse_cgroup, parse_pid_numbers, parse_uids};
use crate::privileges::Privileges;
use crate::procfs::{Extent, Names, Obstacle, ProcessDir, Procfs};

/// How often it is asked again who is there, for those who come meanwhile.
const PASSES: usize = 4;

/// Processes that are looked at for one cgroup or user, each held by a descriptor meanwhile; and those that are kept open
/// afterwards, where the agent may have so many descriptors.
const MAX_MEMBERS: u64 = 1024;

/// The part of its descriptors that the agent uses for that, as one in so many.
const DESCRIPTOR_SHARE: u64 = 8;

/// After how long it is forgotten who is not asked about.
const MAX_IDLE: Duration = Duration::from_mins(10);

/// What it takes to read one file of a process, and to look at all that matters of one, in units of an allowance.
const UNITS_A_FILE: u32 = 8;
const UNITS_A_PROCESS: u32 = 64;

/// `/proc/PID/cgroup` has a line for each hierarchy, each with a path.
const CGROUP_BYTES: usize = 256 * 1024;
/// `/proc/PID/status` has as many lines as the kernel makes, and a list of groups, 65,536 at most.
const STATUS_BYTES: usize = 1024 * 1024;

/// The host's PID namespace: a fixed inode number (`include/linux/proc_ns.h`, since 3.8; in `include/uapi/linux/nsfs.h`
/// since 6.18).
const FIRST_PID_NAMESPACE: &[u8] = b"pid:[4026531836]";

/// What is remembered of suspects from call to call.
#[derive(Debug)]
pub(crate) struct Suspects {
    kept: HashMap<Pid, Suspect>,
    cgroups: Option<Cgroups>,
    /// Cgroups that were asked about. A number is never another's.
    directories: HashMap<CgroupId, CgroupDir>,
    most: usize,
}

/// A process that may hold a socket.
#[derive(Debug)]
struct Suspect {
    dir: ProcessDir,
    process: Arc<Process>,
    /// The cgroup that it was in, and the path of it.
    cgroup: Option<(CgroupId, Vec<u8>)>,
    /// When its names were read; `None` when they were matched against another selector.
    names_read: Option<Duration>,
    asked: Duration,
}

impl Suspects {
    /// For an agent that may have that many descriptors open; `None` is without limit.
    pub(crate) fn new(descriptor_limit: Option<u64>) -> Self {
        let most = descriptor_limit.map_or(MAX_MEMBERS, |limit| MAX_MEMBERS.min(limit / DESCRIPTOR_SHARE));
        Self {
            kept: HashMap::new(),
            cgroups: None,
            directories: HashMap::new(),
            most: usize::try_from(most).unwrap_or(usize::MAX),
        }
    }

    /// Takes in that what processes fit has to be worked out again.
    pub(crate) fn forget_fits(&mut self) {
        for suspect in self.kept.values_mut() {
            suspect.names_read = None;
        }
    }

    /// Closes all that is kept open.
    pub(crate) fn shed(&mut self) {
        self.kept.clear();
        self.directories.clear();
    }

    /// Whether those who were suspects still are, in the order given.
    pub(crate) fn verify(&mut self, query: &SuspectQuery<'_>) -> Vec<Option<Arc<Process>>> {
        let SuspectQuery { selector, suspects, now } = *query;
        suspects.iter().map(|(pid, basis)| self.verify_one(*pid, *basis, selector, now)).collect()
    }

    fn verify_one(
        &mut self,
        pid: Pid,
        basis: Basis,
        selector: &ProcessSelector,
        now: Duration,
    ) -> Option<Arc<Process>> {
        let suspect = self.kept.get_mut(&pid)?;
        suspect.asked = now;
        // What has exited and was not waited for still has a cgroup and a user.
        if suspect.dir.read_task_kind() != Ok(TaskKind::User) {
            return None;
        }
        let is_there = match basis {
            Basis::Cgroup(wanted) => {
                let (cgroup, path) = suspect.cgroup.as_ref()?;
                // Another of the same path can only be made when nobody is left in this one.
                *cgroup == wanted && read_cgroup(&suspect.dir).ok()?.as_ref() == Some(path)
            }
            Basis::Uid(uid) => read_uids(&suspect.dir).ok()??.contains(&uid),
        };
        if suspect.names_read.is_none_or(|read| now.saturating_sub(read) >= NAMES_BOUND) {
            let process = Holder::new(pid, suspect.dir.read_names().ok()?, selector).process();
            if *process != *suspect.process {
                suspect.process = process;
            }
            suspect.names_read = Some(now);
        }
        is_there.then(|| Arc::clone(&suspect.process))
    }

    fn sweep(&mut self, now: Duration) {
        self.kept.retain(|_, suspect| {
            now.saturating_sub(suspect.asked) < MAX_IDLE && (suspect.asked == now || !suspect.dir.is_gone())
        });
    }
}

/// A search for outsiders under way.
pub(crate) struct Search<'a> {
    query: &'a OutsiderQuery<'a>,
    procfs: &'a Procfs,
    privileges: &'a Privileges,
    memory: &'a mut Suspects,
    scratch: &'a mut Vec<u8>,
    looked_at: HashMap<Pid, Looked>,
    found: OutsiderScan,
    /// Whether no time was left, or no room.
    is_cut: bool,
}

/// A process that was looked at.
struct Looked {
    /// `None` where not even its directory is shown.
    dir: Option<ProcessDir>,
    /// `None` where it holds none of the sockets in question, for certain.
    outsider: Option<Outsider>,
    /// Of its cgroup.
    path: Option<Vec<u8>>,
}

impl<'a> Search<'a> {
    pub(crate) fn new(
        query: &'a OutsiderQuery<'a>,
        procfs: &'a Procfs,
        privileges: &'a Privileges,
        memory: &'a mut Suspects,
        scratch: &'a mut Vec<u8>,
    ) -> Self {
        let (looked_at, found) = (HashMap::new(), OutsiderScan::default());
        Self { query, procfs, privileges, memory, scratch, looked_at, found, is_cut: false }
    }

    /// Searches, and tells what was found.
    pub(crate) fn run(mut self) -> Result<OutsiderScan, ProcessError> {
        if self.hides_anybody() {
            self.found.lacks.insert(InferenceLack::HiddenProcesses);
            return Ok(self.found);
        }
        let numbers = self.procfs.read_own_file("status").and_then(|status| parse_pid_numbers(&status));
        let own = u64::try_from(getpid().as_raw_nonzero().get()).ok();
        // One number: this /proc numbers processes as this process's own PID namespace does.
        let is_own = numbers.is_some_and(|numbers| matches!(numbers[..], [number] if Some(number) == own));
        if !self.query.cgroups.is_empty() {
            self.search_cgroups(is_own)?;
        }
        if !self.query.uids.is_empty() {
            let is_first =
                self.procfs.read_own_link("ns/pid").is_some_and(|link| link == FIRST_PID_NAMESPACE);
            self.search_users(is_own && is_first)?;
        }
        self.keep_suspects();
        Ok(self.found)
    }

    /// Whether /proc keeps processes, or all that is in them, from the agent: then nobody can be excluded.
    fn hides_anybody(&self) -> bool {
        // A /proc that does not tell whether it hides anything cannot be relied on to show everything.
        let Ok(hidden) = self.procfs.read_hidden_processes() else { return !self.privileges.sys_ptrace };
        hidden.keep_any_from(self.privileges)
    }

    fn search_cgroups(&mut self, numbers_are_own: bool) -> Result<(), ProcessError> {
        if self.memory.cgroups.is_none() {
            let mountinfo = self.procfs.read_own_file("mountinfo");
            self.memory.cgroups = mountinfo.and_then(|mountinfo| Cgroups::open(&mountinfo));
        }
        if self.memory.cgroups.is_none() {
            self.found.lacks.insert(InferenceLack::NoCgroups);
            return Ok(());
        }
        if !numbers_are_own {
            self.found.lacks.insert(InferenceLack::ForeignNumbers);
            return Ok(());
        }
        self.find_directories();
        for cgroup in self.query.cgroups {
            // It is put back where it is still of use.
            let Some(directory) = self.memory.directories.remove(cgroup) else { continue };
            if let Some(outsiders) = self.search_members(&directory)? {
                self.found.by_cgroup.insert(*cgroup, outsiders);
                self.memory.directories.insert(*cgroup, directory);
            }
        }
        let is_all_known = self.found.by_cgroup.len() == self.query.cgroups.len();
        if !is_all_known && !self.is_cut && !self.is_whole()? {
            self.found.lacks.insert(InferenceLack::PartOfCgroups);
        }
        Ok(())
    }

    /// Finds the directories of the cgroups in question.
    fn find_directories(&mut self) {
        let memory = &mut *self.memory;
        let is_new = |cgroup: &CgroupId| !memory.directories.contains_key(cgroup);
        let wanted: BTreeSet<CgroupId> = self.query.cgroups.iter().copied().filter(is_new).collect();
        if wanted.is_empty() {
            return;
        }
        if memory.directories.len() + wanted.len() > memory.most {
            memory.directories.clear();
        }
        if let Some(cgroups) = &memory.cgroups {
            memory.directories.extend(cgroups.find(&wanted, self.scratch, self.query.allowance));
        }
    }

    /// Whether every process is in a cgroup that is mounted, as far as that can be told.
    fn is_whole(&mut self) -> Result<bool, ProcessError> {
        if self.memory.cgroups.as_ref().is_some_and(Cgroups::leads_out) {
            return Ok(true);
        }
        for listed in self.procfs.read_processes(self.scratch)? {
            let text = self.procfs.read_file(listed.pid, "cgroup", CGROUP_BYTES).ok().flatten();
            if text.is_some_and(|text| parse_cgroup(&text).is_some_and(leads_up)) {
                return Ok(false);
            }
            if self.query.allowance.is_spent_after(UNITS_A_FILE) {
                break;
            }
        }
        Ok(true)
    }

    /// Those of the processes in a cgroup that may not be looked into; `None` where they could not all be told.
    fn search_members(&mut self, directory: &CgroupDir) -> Result<Option<Vec<Outsider>>, ProcessError> {
        for _pass in 0..PASSES {
            let Some(members) = directory.read_members().filter(|members| members.len() <= self.memory.most)
            else {
                return Ok(None);
            };
            let mut is_new = false;
            for pid in &members {
                is_new |= self.look_at(*pid)?;
                if self.is_cut {
                    return Ok(None);
                }
            }
            if !is_new {
                let mut outsiders: Vec<Outsider> =
                    members.iter().filter_map(|pid| self.outsider(*pid)).collect();
                outsiders.sort_by_key(|outsider| outsider.process.pid);
                return Ok(Some(outsiders));
            }
        }
        Ok(None)
    }

    fn search_users(&mut self, is_whole_host: bool) -> Result<(), ProcessError> {
        if !is_whole_host {
            self.found.lacks.insert(InferenceLack::OwnProcesses);
            return Ok(());
        }
        let mut others: HashSet<(Pid, u64)> = HashSet::new();
        for _pass in 0..PASSES {
            let mut is_new = false;
            let listed = self.procfs.read_processes(self.scratch)?;
            for process in &listed {
                if others.contains(&(process.pid, process.inode)) {
                    continue;
                }
                let uids = match self.procfs.read_file(process.pid, "status", STATUS_BYTES) {
                    Ok(status) => status.and_then(|status| parse_uids(&status)),
                    Err(Obstacle::Refused(_)) => None,
                    Err(Obstacle::Vanished) => continue,
                    Err(Obstacle::Exhausted(errno)) => return Err(self.procfs.exhausted(process.pid, errno)),
                };
                if uids.is_some_and(|uids| !uids.iter().any(|uid| self.query.uids.contains(uid))) {
                    is_new |= others.insert((process.pid, process.inode));
                } else {
                    is_new |= self.look_at(process.pid)?;
                }
                self.is_cut |= self.query.allowance.is_spent_after(UNITS_A_FILE);
                if self.is_cut {
                    return Ok(());
                }
            }
            if !is_new {
                for uid in self.query.uids {
                    let outsiders = listed.iter().filter_map(|process| self.outsider(process.pid));
                    let may_be = |outsider: &Outsider| outsider.uids.is_none_or(|uids| uids.contains(uid));
                    let outsiders = outsiders.filter(may_be).collect();
                    self.found.by_uid.insert(*uid, outsiders);
                }
                return Ok(());
            }
        }
        Ok(())
    }

    fn outsider(&self, pid: Pid) -> Option<Outsider> {
        self.looked_at.get(&pid).and_then(|looked| looked.outsider.clone())
    }

    /// Looks at a process, unless that was done; whether it was not.
    fn look_at(&mut self, pid: Pid) -> Result<bool, ProcessError> {
        if self
            .looked_at
            .get(&pid)
            .is_some_and(|looked| !looked.dir.as_ref().is_some_and(ProcessDir::is_gone))
        {
            return Ok(false);
        }
        self.is_cut |=
            self.query.allowance.is_spent_after(UNITS_A_PROCESS) || self.looked_at.len() >= self.memory.most;
        if self.is_cut {
            return Ok(true);
        }
        match self.look(pid) {
            Ok(looked) => {
                self.looked_at.insert(pid, looked);
            }
            Err(Obstacle::Vanished) => {
                self.looked_at.remove(&pid);
            }
            Err(Obstacle::Refused(_)) => {
                let outsider = self.outsider_of(pid, Names::DENIED, None);
                self.looked_at.insert(pid, Looked { dir: None, outsider: Some(outsider), path: None });
            }
            Err(Obstacle::Exhausted(errno)) => return Err(self.procfs.exhausted(pid, errno)),
        }
        Ok(true)
    }

    fn look(&mut self, pid: Pid) -> Result<Looked, Obstacle> {
        let (dir, names) = self.procfs.enter(pid)?;
        let has_none = |kind| matches!(kind, TaskKind::Dead | TaskKind::Kernel);
        if names.executable == Known::Absent && dir.read_task_kind().is_ok_and(has_none) {
            return Ok(Looked { dir: Some(dir), outsider: None, path: None });
        }
        let (query, seen) = (self.query, &mut self.found.seen);
        let extent = dir.read_descriptors(self.scratch, 0..u32::MAX, query.allowance, |_, inode| {
            if query.sockets.contains(&inode) {
                seen.insert(inode);
            }
            ControlFlow::Continue(())
        });
        match extent {
            Ok(extent) => {
                self.is_cut |= extent != Extent::Whole;
                Ok(Looked { dir: Some(dir), outsider: None, path: None })
            }
            Err(Obstacle::Refused(_)) => {
                let (uids, path) = (if_shown(read_uids(&dir))?, if_shown(read_cgroup(&dir))?);
                let outsider = self.outsider_of(pid, names, uids);
                Ok(Looked { dir: Some(dir), outsider: Some(outsider), path })
            }
            Err(other) => Err(other),
        }
    }

    fn outsider_of(&self, pid: Pid, names: Names, uids: Option<[u32; 4]>) -> Outsider {
        Outsider { process: Holder::new(pid, names, self.query.selector).process(), uids }
    }

    /// Keeps hold of those who may be asked about between walks.
    fn keep_suspects(&mut self) {
        let now = self.query.now;
        self.memory.sweep(now);
        let of_cgroups = self.found.by_cgroup.iter().map(|(cgroup, outsiders)| (Some(*cgroup), outsiders));
        let of_users = self.found.by_uid.values().map(|outsiders| (None, outsiders));
        let kept = &mut self.memory.kept;
        for (cgroup, outsiders) in of_cgroups.chain(of_users) {
            for process in outsiders.iter().map(|outsider| Arc::clone(&outsider.process)) {
                let pid = process.pid;
                let Some(Looked { dir: Some(dir), path, .. }) = self.looked_at.remove(&pid) else { continue };
                let before = kept.remove(&pid).filter(|before| !before.dir.is_gone());
                if process.fits.is_empty() || kept.len() >= self.memory.most {
                    continue;
                }
                // Who is told of for his user may be a suspect for his cgroup as well.
                let cgroup = cgroup.zip(path).or_else(|| before.and_then(|before| before.cgroup));
                kept.insert(pid, Suspect { dir, process, cgroup, names_read: Some(now), asked: now });
            }
        }
    }
}

/// The users of a process; `None` where they cannot be made out.
fn read_uids(dir: &ProcessDir) -> Result<Option<[u32; 4]>, Obstacle> {
    Ok(dir.read_file("status", STATUS_BYTES)?.and_then(|status| parse_uids(&status)))
}

/// The path of a process's cgroup; `None` where it cannot be made out.
fn read_cgroup(dir: &ProcessDir) -> Result<Option<Vec<u8>>, Obstacle> {
    Ok(dir.read_file("cgroup", CGROUP_BYTES)?.and_then(|text| parse_cgroup(&text).map(<[u8]>::to_vec)))
}

fn if_shown<T>(outcome: Result<Option<T>, Obstacle>) -> Result<Option<T>, Obstacle> {
    match outcome {
        Err(Obstacle::Refused(_)) => Ok(None),
        other => other,
    }
}

#[cfg(test)]
mod tests;
