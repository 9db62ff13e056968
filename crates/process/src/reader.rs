//! The door: a /proc, what the agent may see of it, and what it remembers of the last time.

use std::path::Path;

use vms_core::ProcessAdapter;
use vms_core::process::{HolderQuery, HolderScan};

use crate::error::ProcessError;
use crate::hints::Hints;
use crate::parse::HiddenProcesses;
use crate::privileges::Privileges;
use crate::procfs::{Procfs, scratch};
use crate::scan::{Effort, Scan};

/// Finds the holders of sockets in a /proc.
///
/// It remembers at which descriptors it found the sockets that it was asked about, and looks there first. While
/// each is still there, and its holder's names still fit, /proc is not even listed.
#[derive(Debug)]
pub struct ProcReader {
    procfs: Procfs,
    privileges: Privileges,
    hints: Hints,
    scratch: Vec<u8>,
    effort: Effort,
}

impl ProcReader {
    /// Opens the /proc at `root`: `/proc`, or where a container has its host's.
    ///
    /// `privileges` are those of the thread that will read it. The kernel decides by itself what to show; they
    /// say what it holds back, and by whose lack.
    ///
    /// # Errors
    /// When `root` is no directory, or may not be read.
    pub fn open(root: &Path, privileges: Privileges) -> Result<Self, ProcessError> {
        Ok(Self {
            procfs: Procfs::open(root)?,
            privileges,
            hints: Hints::default(),
            scratch: scratch(),
            effort: Effort::default(),
        })
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
}

impl ProcessAdapter for ProcReader {
    type Error = ProcessError;

    fn find_holders(&mut self, query: &HolderQuery<'_>) -> Result<HolderScan, ProcessError> {
        self.effort = Effort::default();
        let scan = Scan::new(
            query,
            &self.procfs,
            &self.privileges,
            &self.hints,
            &mut self.scratch,
            &mut self.effort,
        );
        let (found, hints) = scan.run()?;
        self.hints.renew(query.wanted, hints);
        Ok(found)
    }
}
