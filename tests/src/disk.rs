//! Small disks that fill up, turn read-only, stop answering, or break.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use crate::agent::Agent;
use crate::program;

/// A file system of its own, mounted on a directory until dropped.
#[derive(Debug)]
pub struct Disk {
    directory: PathBuf,
}

/// A file system that lets nobody write, without an error, until dropped.
#[derive(Debug)]
pub struct Frozen<'a>(&'a Disk);

const BALLAST: &str = "ballast";

impl Disk {
    /// One of so many bytes in memory.
    #[must_use]
    #[track_caller]
    pub fn in_memory(directory: &Path, bytes: u64) -> Self {
        let options = format!("size={bytes},mode=0700");
        program::run(program::command("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(directory));
        Self { directory: directory.to_owned() }
    }

    /// An ext4 file system of 16 MiB in a file, which is made where there is none. It turns read-only after an error.
    #[must_use]
    #[track_caller]
    pub fn in_file(directory: &Path, image: &Path) -> Self {
        if !image.exists() {
            let file = File::create(image).expect("the image can be made");
            file.set_len(16 << 20).expect("the image can be made");
            program::run(program::command("mkfs.ext4").args(["-q", "-m", "0"]).arg(image));
        }
        let options = ["-t", "ext4", "-o", "loop,errors=remount-ro"];
        program::run(program::command("mount").args(options).arg(image).arg(directory));
        Self { directory: directory.to_owned() }
    }

    /// Fills it, but for about so many bytes.
    #[track_caller]
    pub fn fill(&self, but_for: u64) {
        let mut ballast = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.directory.join(BALLAST))
            .expect("a file can be made");
        loop {
            match ballast.write_all(&[0; 4096]) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => break,
                Err(error) => panic!("{}: {error}", self.directory.display()),
            }
        }
        let length = ballast.metadata().expect("the file is there").len();
        ballast.set_len(length.saturating_sub(but_for)).expect("a file can be cut");
        ballast.sync_all().expect("a file can be synchronized");
    }

    /// Has room again.
    #[track_caller]
    pub fn free(&self) {
        std::fs::remove_file(self.directory.join(BALLAST)).expect("it was filled");
    }

    /// Mounts it anew in that way: `ro` or `rw`.
    #[track_caller]
    pub fn remount(&self, way: &str) {
        program::run(program::command("mount").arg("-o").arg(format!("remount,{way}")).arg(&self.directory));
    }

    /// The same for an agent that runs, whose mount namespace is its own.
    #[track_caller]
    pub fn remount_for(&self, agent: &Agent, way: &str) {
        let target = agent.pid().to_string();
        let enter = ["--target", target.as_str(), "--mount", "mount", "-o", &format!("remount,{way}")];
        program::run(program::command("nsenter").args(enter).arg(&self.directory));
    }

    /// Lets nobody write.
    #[must_use]
    #[track_caller]
    pub fn freeze(&self) -> Frozen<'_> {
        program::run(program::command("fsfreeze").arg("--freeze").arg(&self.directory));
        Frozen(self)
    }

    /// Whether a file can be written, down to the disk.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        let path = self.directory.join("attempt");
        File::create(path).and_then(|mut file| file.write_all(b"?").and_then(|()| file.sync_all())).is_ok()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // What uses it still, ends soon.
        program::output(program::command("umount").arg("--lazy").arg(&self.directory));
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        program::output(program::command("fsfreeze").arg("--unfreeze").arg(&self.0.directory));
    }
}
