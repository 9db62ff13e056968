//! The door: a /proc, what the agent may see of it, and what it remembers of the last time.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use vms_core::ProcessAdapter;
use vms_core::infer::{OutsiderQuery, OutsiderScan, SuspectQuery};
use vms_core::namespace::{NamespaceQuery, NamespaceScan};
use vms_core::process::{HolderQuery, HolderScan, Process, ProcessSelector, SelectorIdentity, VerifyQuery};

use crate::conclusions::Conclusions;
use crate::descriptors::raise_descriptor_limit;
use crate::effort::Effort;
use crate::error::ProcessError;
use crate::kept::Kept;
use crate::network::Surroundings;
use crate::outsiders::{Search, Suspects};
use crate::parse::HiddenProcesses;
use crate::places::{Residents, Survey};
use crate::pods::{ListPods, Pods};
use crate::privileges::Privileges;
use crate::procfs::{Procfs, scratch};
use crate::scan::{Memory, Scan, Unfinished};
use crate::table::NameTable;
use crate::verify::Verification;

/// Finds the holders of sockets in a /proc, and counts the processes that fit.
///
/// It remembers at which descriptors it found the sockets that it was asked about, keeps their holders open, and looks
/// there first. While each is still there, and its holder's names still fit, /proc is not even listed, unless processes are
/// to be counted. Of all other processes it remembers what their names fitted, and reads them again only now and then.
///
/// How old an answer may be:
///
/// * Whether a descriptor is a socket is read in each call.
/// * The names of a holder are read in each [`find_holders`](ProcessAdapter::find_holders) that tells of it, and at
///   least every 30 seconds where it is only verified.
/// * A process that was passed over, and begins to fit while it runs (exec, or a new name), is found to be present
///   within 60 seconds; a new process at once, and again at the next call, when it may have replaced its program.
/// * How many fit is as of this call for processes that begin or end: /proc is listed in each call that counts, and each
///   process that fits is asked whether it runs. By which names it is counted can be 60 seconds old, for one that begins to fit
///   while it runs as for one that ceases to; of a process that is younger than that, half as old as itself.
/// * The holder of a new socket is found at once, whatever is remembered. Where nobody who fits was found to hold it,
///   and a process that runs already begins to fit, or is renamed and then given the socket, that is found after as much
///   time as the socket had been looked for in vain, and within 60 seconds.
#[derive(Debug)]
pub struct ProcReader {
    procfs: Procfs,
    privileges: Privileges,
    surroundings: Surroundings,
    memory: Memory,
    suspects: Suspects,
    /// Whose ids are remembered.
    selector: SelectorIdentity,
    scratch: Vec<u8>,
    effort: Effort,
    /// Those who live elsewhere.
    residents: Residents,
}

impl ProcReader {
    /// Opens the /proc at `root`: `/proc`, or where a container has its host's.
    ///
    /// `privileges` are those of the thread that will read it. The kernel decides by itself what to show; they
    /// say what it holds back, and by whose lack.
    ///
    /// Raises the soft limit of open descriptors (`RLIMIT_NOFILE`) of the whole process to 9216, or to the hard limit
    /// where that is less: half of it is for holders that are kept open, 4096 at most, and entering one anew costs some
    /// 20 us each time. Programs that the process starts afterwards inherit the limit.
    ///
    /// # Errors
    /// When `root` is no directory, or may not be read.
    pub fn open(root: &Path, privileges: Privileges) -> Result<Self, ProcessError> {
        let descriptor_limit = raise_descriptor_limit();
        let procfs = Procfs::open(root)?;
        Ok(Self {
            surroundings: Surroundings::read(&procfs),
            procfs,
            privileges,
            suspects: Suspects::new(descriptor_limit),
            memory: Memory {
                kept: Kept::new(descriptor_limit),
                table: NameTable::default(),
                conclusions: Conclusions::default(),
                unfinished: Unfinished::default(),
                pods: Pods::default(),
            },
            selector: SelectorIdentity::default(),
            scratch: scratch(),
            effort: Effort::default(),
            residents: Residents::new(descriptor_limit),
        })
    }

    /// The same for an agent that looks at all network namespaces: that somebody lives in another than its own is nothing
    /// to tell then, but where he does.
    #[must_use]
    pub fn in_all_namespaces(self) -> Self {
        Self { surroundings: self.surroundings.surveyed(), ..self }
    }

    /// The same for an agent that may not enter other network namespaces: they are kept hold of by their socket tables.
    #[must_use]
    pub fn without_entering(mut self) -> Self {
        self.residents.are_read = true;
        self
    }

    /// The same for one who wants to know what the pods of holders are called. It is asked for them when a holder is met in a
    /// pod that is not known, eight times at once and once a second at most.
    #[must_use]
    pub fn naming_pods(mut self, list: ListPods) -> Self {
        self.memory.pods = Pods::new(list);
        self
    }

    /// Which processes this /proc hides from those without privilege.
    ///
    /// # Errors
    /// When `self/mountinfo` below the root cannot be read, or does not tell of the root.
    pub fn hidden_processes(&self) -> Result<HiddenProcesses, ProcessError> {
        self.procfs.read_hidden_processes()
    }

    /// What the last call took.
    #[must_use]
    pub fn effort(&self) -> Effort {
        self.effort
    }

    /// How many processes are kept open, each by one descriptor of the agent.
    #[must_use]
    pub fn kept_handles(&self) -> usize {
        self.memory.kept.handles()
    }

    /// Takes in with which patterns is asked: what processes fitted of others means nothing any more.
    fn adopt(&mut self, selector: &ProcessSelector) {
        if self.selector != *selector.identity() {
            self.memory.kept.forget_fits();
            self.suspects.forget_fits();
            self.memory.table.forget_fits();
            self.memory.conclusions.clear();
            self.memory.unfinished = Unfinished::default();
            self.selector = selector.identity().clone();
        }
    }

    /// Does it, and where the agent has no descriptors left, once more without those that are kept.
    fn with_descriptors_to_spare<T>(
        &mut self,
        now: Duration,
        act: impl Fn(&mut Self) -> Result<T, ProcessError>,
    ) -> Result<T, ProcessError> {
        self.effort = Effort::default();
        match act(self) {
            Err(ProcessError::Io { source, .. })
                if is_out_of_descriptors(&source)
                    && (self.kept_handles() > 0 || !self.residents.is_empty()) =>
            {
                self.memory.kept.shed(now);
                self.suspects.shed();
                self.residents.shed();
                act(self)
            }
            outcome => outcome,
        }
    }
}

/// Whether the agent, or the whole host, has as many descriptors open as it may.
fn is_out_of_descriptors(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}

impl ProcessAdapter for ProcReader {
    type Error = ProcessError;

    fn find_namespaces(&mut self, query: &NamespaceQuery<'_>) -> Result<NamespaceScan, ProcessError> {
        self.adopt(query.selector);
        self.with_descriptors_to_spare(query.now, |reader| {
            let Self { procfs, privileges, surroundings, memory, scratch, effort, residents, .. } = reader;
            let table = &mut memory.table;
            Survey { query, procfs, privileges, surroundings, table, residents, scratch, effort }.run()
        })
    }

    fn find_holders(&mut self, query: &HolderQuery<'_>) -> Result<HolderScan, ProcessError> {
        self.adopt(query.selector);
        self.with_descriptors_to_spare(query.now, |reader| {
            let Self { procfs, privileges, surroundings, memory, scratch, effort, .. } = reader;
            Scan::new(query, procfs, privileges, surroundings, memory, scratch, effort).run()
        })
    }

    fn verify_holders(&mut self, query: &VerifyQuery<'_>) -> Result<Vec<Option<Arc<Process>>>, ProcessError> {
        self.adopt(query.selector);
        self.with_descriptors_to_spare(query.now, |reader| {
            let Self { procfs, surroundings, memory, scratch, effort, .. } = reader;
            let Memory { kept, pods, .. } = memory;
            Verification { query, procfs, surroundings, kept, pods, scratch, effort }.run()
        })
    }

    fn find_outsiders(&mut self, query: &OutsiderQuery<'_>) -> Result<OutsiderScan, ProcessError> {
        self.adopt(query.selector);
        self.with_descriptors_to_spare(query.now, |reader| {
            let Self { procfs, privileges, suspects, scratch, .. } = reader;
            Search::new(query, procfs, privileges, suspects, scratch).run()
        })
    }

    fn verify_suspects(
        &mut self,
        query: &SuspectQuery<'_>,
    ) -> Result<Vec<Option<Arc<Process>>>, ProcessError> {
        self.adopt(query.selector);
        Ok(self.suspects.verify(query))
    }
}

#[cfg(test)]
mod tests;
