//! Which process holds a socket, from /proc: implements `vms_core::ProcessAdapter`.
//!
//! [`ProcReader`] is the door. Below it, `scan` decides whom to look at and when enough is known, `hints`
//! remembers where sockets were last time, `procfs` does the reading, and `parse` makes sense of what was read.
//!
//! Every process is looked at through one descriptor of its `/proc/PID`, which goes dead with the process: names
//! and descriptors are always of one process, even when its number is given to another in mid-scan. A process
//! that vanishes is normal; one that may not be looked into is reported as such and never taken for "holds
//! nothing".
//!
//! What is not seen: a socket that only a thread with a descriptor table of its own holds (`unshare(CLONE_FILES)`),
//! or that only other threads hold after the first one of its process has exited. `/proc/PID/fd` shows the table
//! of the first thread.

mod error;
mod hints;
mod parse;
mod privileges;
mod procfs;
mod reader;
mod scan;
#[cfg(test)]
mod test_proc;

pub use error::ProcessError;
pub use parse::{HiddenProcesses, HidePid};
pub use privileges::Privileges;
pub use reader::ProcReader;
pub use scan::Effort;
