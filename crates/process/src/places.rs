//! In which network namespaces, beside the agent's own, those live who fit.
//!
//! What names fitted is remembered (`table`), and so is where their processes live: in a call in which nothing has changed
//! /proc is listed, and no process entered. A namespace is kept hold of by a descriptor, as long as somebody who fits lives
//! in it.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::sync::Arc;

use vms_core::namespace::{Approach, Inhabited, Namespace, NamespaceId, NamespaceQuery, NamespaceScan};
use vms_core::process::{Container, Fits, PatternId, Pid};

use crate::effort::Effort;
use crate::error::ProcessError;
use crate::ledger::Holder;
use crate::named::{Named, read_named_namespaces};
use crate::network::{Surroundings, Whereabouts};
use crate::privileges::Privileges;
use crate::procfs::{Obstacle, ProcessDir, Procfs};
use crate::scan::UNITS_A_PROCESS;
use crate::table::{NameTable, Remembered};

/// How many namespaces are kept at most: two descriptors each, one of them the socket's, or both of them tables.
const MAX_NAMESPACES: usize = 1024;

/// What is remembered of those who live in other network namespaces.
#[derive(Debug, Default)]
pub(crate) struct Residents {
    /// How many may be kept at most.
    most: usize,
    /// The namespaces that are kept hold of, by their inodes.
    kept: BTreeMap<NonZeroU32, Approach>,
    /// Namespaces are not entered: they are told apart by their `net/dev`, and kept hold of by their socket tables. Never both
    /// ways at once: where only some processes show `ns/net`, one namespace would be two.
    pub(crate) are_read: bool,
    /// Processes of other user namespaces, as of when their names were read.
    strangers: BTreeSet<Pid>,
    /// The containers of processes, as of when their names were read.
    containers: BTreeMap<Pid, Arc<Container>>,
}

impl Residents {
    /// For an agent that may have that many descriptors open; `None` is without limit. With the sockets that are opened there, they
    /// take no more than a quarter of them.
    pub(crate) fn new(descriptor_limit: Option<u64>) -> Self {
        let most =
            descriptor_limit.map_or(usize::MAX, |limit| usize::try_from(limit / 8).unwrap_or(usize::MAX));
        Self { most, ..Self::default() }
    }

    /// Whether none is kept.
    pub(crate) fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// Lets go of all, for an agent that has no descriptors left.
    pub(crate) fn shed(&mut self) {
        self.kept.clear();
    }
}

/// A search for namespaces under way.
pub(crate) struct Survey<'a> {
    pub(crate) query: &'a NamespaceQuery<'a>,
    pub(crate) procfs: &'a Procfs,
    pub(crate) privileges: &'a Privileges,
    pub(crate) surroundings: &'a Surroundings,
    pub(crate) table: &'a mut NameTable,
    pub(crate) residents: &'a mut Residents,
    pub(crate) scratch: &'a mut Vec<u8>,
    pub(crate) effort: &'a mut Effort,
}

impl Survey<'_> {
    /// Looks at all processes, as far as that is needed.
    pub(crate) fn run(mut self) -> Result<NamespaceScan, ProcessError> {
        let NamespaceQuery { now, allowance, .. } = *self.query;
        self.effort.listings += 1;
        let listed = self.procfs.read_processes(self.scratch)?;
        self.table.list(&listed, now);
        let is_listed = |pid: &Pid| listed.binary_search_by_key(pid, |process| process.pid).is_ok();
        self.residents.containers.retain(|pid, _| is_listed(pid));
        self.residents.strangers.retain(is_listed);
        let mut scan = NamespaceScan::default();
        let mut inhabited: BTreeMap<NonZeroU32, BTreeSet<PatternId>> = BTreeMap::new();
        for process in listed {
            if self.recall(process.pid, &mut inhabited, &mut scan) {
                continue;
            }
            if allowance.is_spent_after(UNITS_A_PROCESS) {
                scan.is_cut_short = true;
                break;
            }
            match self.look(process.pid, &mut inhabited, &mut scan) {
                Ok(()) | Err(Obstacle::Vanished) => {}
                // It could fit anything, and live anywhere.
                Err(Obstacle::Refused(_)) => scan.closed.extend(self.query.patterns),
                Err(Obstacle::Exhausted(errno)) => return Err(self.procfs.exhausted(process.pid, errno)),
            }
        }
        if !self.privileges.sys_ptrace {
            // A /proc that does not tell whether it hides anything cannot be relied on to show everything.
            let hidden = self.procfs.read_hidden_processes();
            if !hidden.is_ok_and(|hidden| !hidden.keep_any_from(self.privileges)) {
                scan.closed.extend(self.query.patterns);
            }
        }
        if !scan.is_cut_short {
            self.residents.kept.retain(|inode, _| inhabited.contains_key(inode));
            // Before all processes were looked at it is not known where strangers live.
            if self.query.named && !self.residents.are_read {
                let named = self.read_named(&inhabited)?;
                (scan.named, scan.named_are_part) = (named.namespaces, named.are_part);
            }
        }
        for (inode, patterns) in inhabited {
            if let Some(approach) = self.residents.kept.get(&inode) {
                let namespace = Namespace { id: NamespaceId(inode.get().into()), approach: approach.clone() };
                scan.inhabited.push(Inhabited { namespace, patterns });
            }
        }
        Ok(scan)
    }

    /// The namespaces with a name in which nobody lives who fits, as far as there is room.
    fn read_named(
        &mut self,
        inhabited: &BTreeMap<NonZeroU32, BTreeSet<PatternId>>,
    ) -> Result<Named, ProcessError> {
        let Some(own) = self.surroundings.own_inode() else { return Ok(Named::default()) };
        let table = &*self.table;
        let network = |pid: &Pid| match table.remembered(*pid, self.query.now) {
            Some(Remembered::Fitted { network, .. }) => *network,
            _ => None,
        };
        let strangers: BTreeSet<NonZeroU32> = self.residents.strangers.iter().filter_map(network).collect();
        let room = self.residents.most.min(MAX_NAMESPACES).saturating_sub(self.residents.kept.len());
        let is_left_out =
            |inode| inode == own || inhabited.contains_key(&inode) || strangers.contains(&inode);
        read_named_namespaces(self.procfs, room, self.query.now, is_left_out, self.scratch)
            .map_err(|errno| self.procfs.out_of_descriptors(errno))
    }

    /// Whether it is remembered where that process lives, or that it does not matter.
    fn recall(
        &self,
        pid: Pid,
        inhabited: &mut BTreeMap<NonZeroU32, BTreeSet<PatternId>>,
        scan: &mut NamespaceScan,
    ) -> bool {
        let Some(Remembered::Fitted { patterns, bare, whereabouts, network }) =
            self.table.remembered(pid, self.query.now)
        else {
            return false;
        };
        let asked = |pattern: &&PatternId| self.query.patterns.contains(pattern);
        match (whereabouts, network) {
            _ if *bare || !patterns.iter().any(|pattern| asked(&pattern)) => true,
            (Whereabouts::Here, _) => true,
            (Whereabouts::Elsewhere, _) if self.residents.strangers.contains(&pid) => {
                scan.foreign.extend(patterns.iter().filter(asked));
                true
            }
            (Whereabouts::Elsewhere, Some(inode)) if self.residents.kept.contains_key(inode) => {
                inhabited.entry(*inode).or_default().extend(patterns.iter().filter(asked));
                scan.containers.extend(self.residents.containers.get(&pid).cloned());
                true
            }
            _ => false,
        }
    }

    /// Reads the names of a process, and where it lives if that matters.
    fn look(
        &mut self,
        pid: Pid,
        inhabited: &mut BTreeMap<NonZeroU32, BTreeSet<PatternId>>,
        scan: &mut NamespaceScan,
    ) -> Result<(), Obstacle> {
        self.effort.opened += 1;
        self.effort.names += 1;
        let (dir, names) = self.procfs.enter(pid)?;
        let holder = Holder::new(pid, names, self.query.selector);
        self.table.note(&holder, self.query.now);
        let Fits { certain, possible } = holder.fits();
        let asked = |pattern: &&PatternId| self.query.patterns.contains(pattern);
        if holder.is_bare() || !certain.iter().chain(possible).any(|pattern| asked(&pattern)) {
            return Ok(());
        }
        let (namespace, inode) = if self.residents.are_read {
            let namespace = dir.read_both_network_namespaces()?;
            let inode = namespace.file.and_then(|file| u32::try_from(file).ok());
            (namespace, inode.and_then(NonZeroU32::new))
        } else {
            let namespace = dir.read_network_namespace()?;
            (namespace, namespace.inode)
        };
        let whereabouts = self.surroundings.locate(namespace);
        self.table.note_whereabouts(pid, whereabouts, inode);
        if whereabouts == Whereabouts::Elsewhere && self.surroundings.is_stranger(dir.read_user_namespace()?)
        {
            scan.foreign.extend(certain.iter().chain(possible).filter(asked));
            self.residents.strangers.insert(pid);
            return Ok(());
        }
        self.residents.strangers.remove(&pid);
        match (whereabouts, inode) {
            (Whereabouts::Here, _) => {}
            (Whereabouts::Elsewhere, Some(inode)) if self.keep(inode, &dir)? => {
                inhabited.entry(inode).or_default().extend(certain.iter().chain(possible).filter(asked));
                self.residents.containers.remove(&pid);
                if let Some(container) = dir.read_container().map(Arc::new) {
                    scan.containers.insert(Arc::clone(&container));
                    self.residents.containers.insert(pid, container);
                }
            }
            _ => {
                scan.closed.extend(certain.iter().filter(asked));
                // Without the capability no other user's executable can be read. With it there may be some that nobody can, and
                // these are not to keep every link from being told down.
                if !self.privileges.sys_ptrace {
                    scan.closed.extend(possible.iter().filter(asked));
                }
            }
        }
        Ok(())
    }

    /// Keeps hold of that namespace, in which that process lives. `false` where that is not to be.
    fn keep(&mut self, inode: NonZeroU32, dir: &ProcessDir) -> Result<bool, Obstacle> {
        if self.residents.kept.contains_key(&inode) {
            return Ok(true);
        }
        if self.residents.kept.len() >= self.residents.most.min(MAX_NAMESPACES) {
            return Ok(false);
        }
        let opened = if self.residents.are_read {
            let tables = dir.open_socket_tables();
            tables.map(|tables| tables.map(|(file, tables)| (file, Approach::Read(Arc::new(tables)))))
        } else {
            let handle = dir.open_network_namespace();
            handle.map(|(opened, handle)| Some((opened, Approach::Enter(Arc::new(handle)))))
        };
        match opened {
            // It may have moved on meanwhile: then it is looked at anew the next time.
            Ok(Some((opened, approach))) if opened == u64::from(inode.get()) => {
                self.residents.kept.insert(inode, approach);
                Ok(true)
            }
            Ok(_) | Err(Obstacle::Refused(_)) => Ok(false),
            Err(obstacle) => Err(obstacle),
        }
    }
}

#[cfg(test)]
mod tests;
