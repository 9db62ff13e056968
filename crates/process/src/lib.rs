//! Which process holds a socket, and how many run under a name, from /proc: implements `vms_core::ProcessAdapter`.
//!
//! [`ProcReader`] is the door. Below it, `scan` decides whom to look at and when enough is known, keeps its books in
//! `ledger`, and counts in `scan/headcount`; `verify` looks at known holders again. Three things are remembered from call to
//! call: in `kept`, where sockets were found, with a handle of each holder; in `table`, what the names of all processes
//! fitted, by which they are counted; in `conclusions`, which sockets nobody who fits holds. `network` tells in which
//! network namespace a process lives, `places` in which those live who fit, `named` which have names, `pods` what the pods
//! are called in which holders run. Where holders are to be inferred, `outsiders` tells who may not be looked into, by
//! `cgroup` and by user. `procfs` does the reading, and [`parse`] makes sense of what was read: it is pure, and public for
//! `tests/fuzz`.
//!
//! Every process is looked at through one descriptor of its `/proc/PID`, which goes dead with the process: names
//! and descriptors are always of one process, even when its number is given to another in mid-scan. Only whether a
//! process runs that is counted by what is remembered of it is asked by its number, just after it was listed; where it is
//! read what it uses, its directory has to be the one that was listed. A process
//! that vanishes is normal; one that may not be looked into is reported as such and never taken for "holds
//! nothing".
//!
//! What is not seen: a socket that only a thread with a descriptor table of its own holds (`unshare(CLONE_FILES)`),
//! or that only other threads hold after the first one of its process has exited. `/proc/PID/fd` shows the table
//! of the first thread.

mod cgroup;
mod conclusions;
pub mod container;
mod descriptors;
mod effort;
mod error;
mod kept;
mod ledger;
mod named;
mod network;
mod outsiders;
pub mod parse;
mod places;
mod pods;
mod privileges;
mod procfs;
mod reader;
mod scan;
mod table;
#[cfg(test)]
mod test_proc;
mod verify;

pub use effort::Effort;
pub use error::ProcessError;
pub use parse::{HiddenProcesses, HidePid};
pub use pods::{ListPods, PodNames, read_pod_names};
pub use privileges::Privileges;
pub use reader::ProcReader;
