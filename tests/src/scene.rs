//! What one test owns: a directory, and names that no other test uses.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use tempfile::TempDir;

use crate::environment;
use crate::peer::Program;

static SERIAL: AtomicU32 = AtomicU32::new(0);

/// A directory that every user can read, and a tag for the names of processes; gone when dropped.
#[derive(Debug)]
pub struct Scene {
    directory: TempDir,
    tag: String,
}

impl Scene {
    /// A new scene.
    #[must_use]
    #[track_caller]
    pub fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("vmst-").tempdir().expect("a temporary directory");
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).expect("the directory is ours");
        let serial = SERIAL.fetch_add(1, Ordering::SeqCst);
        // Test programs run one after another, but an earlier run's processes may still be dying.
        let tag = format!("{:x}{serial:02x}", std::process::id() & 0xffff);
        Self { directory, tag }
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The name with the scene's tag at its end: a process name that is nobody else's.
    #[must_use]
    pub fn name(&self, stem: &str) -> String {
        format!("{stem}{}", self.tag)
    }

    /// The helper program under a name, tagged like every name of the scene.
    #[must_use]
    #[track_caller]
    pub fn program(&self, stem: &str) -> Program {
        self.program_at(&self.name(stem))
    }

    /// The helper program at a path below the scene's directory.
    #[must_use]
    #[track_caller]
    pub fn program_at(&self, path: &str) -> Program {
        Program::new(self.install(&environment::peer_program(), path))
    }

    /// The agent, where every user can start it.
    #[must_use]
    #[track_caller]
    pub fn agent_program(&self) -> PathBuf {
        let path = self.path().join("vms-agent");
        if path.exists() {
            return path;
        }
        let agent =
            environment::agent_program().expect("tests that start the agent need it: needs!(Need::Agent)");
        self.install(&agent, "vms-agent")
    }

    /// A file with that content, readable by every user.
    #[must_use]
    #[track_caller]
    pub fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.path().join(name);
        fs::write(&path, content).expect("the scene's directory can be written");
        path
    }

    /// A directory that every user can write to.
    #[must_use]
    #[track_caller]
    pub fn public_directory(&self, name: &str) -> PathBuf {
        let path = self.path().join(name);
        fs::create_dir(&path).expect("the scene's directory can be written");
        fs::set_permissions(&path, Permissions::from_mode(0o777)).expect("the directory is ours");
        path
    }

    /// What a service manager would make for agents of this scene that run as that user: a directory of their own.
    #[must_use]
    #[track_caller]
    pub fn own_directory(&self, purpose: &str, uid: u32) -> PathBuf {
        let path = self.path().join(format!("{purpose}-{uid}"));
        // What is mounted there by now may not let itself be changed.
        if !path.exists() {
            fs::create_dir(&path).expect("the scene's directory can be written");
            chown(&path, Some(uid), Some(uid)).expect("tests that start the agent are root's");
        }
        path
    }

    /// A program at a path below the scene's directory: a hard link where the file systems allow, for a name of its own is all
    /// that makes it another one.
    #[track_caller]
    #[must_use]
    pub fn install(&self, from: &Path, path: &str) -> PathBuf {
        let to = self.path().join(path);
        if to.exists() {
            return to;
        }
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent).expect("the scene's directory can be written");
        }
        if fs::hard_link(from, &to).is_err() {
            fs::copy(from, &to).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
        }
        to
    }
}

impl Default for Scene {
    fn default() -> Self {
        Self::new()
    }
}
