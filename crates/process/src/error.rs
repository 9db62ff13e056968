//! Why nothing can be said about processes at all.

use std::io;
use std::path::PathBuf;

/// Why the holders of sockets could not be told.
///
/// What goes wrong with a single process is not among these: that is part of the answer.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The agent may not list processes.
    #[error("{}: permission_missing (processes cannot be listed)", path.display())]
    PermissionMissing {
        /// The root of the /proc in question.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The root holds no process, not even this one: an empty directory, not a /proc.
    #[error("{}: no processes; is procfs mounted there?", path.display())]
    Unsupported {
        /// The root of the /proc in question.
        path: PathBuf,
    },
    /// A file of /proc holds what it should not.
    #[error("{}: malformed ({what})", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The kernel could not do it, whoever asked: no such directory, no descriptors left, no memory left.
    #[error("{}: cannot be read", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}
