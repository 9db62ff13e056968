//! A file system that never answers, like one whose server has gone.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// Mounted on a directory until dropped: whoever looks for a file in it waits until then.
#[derive(Debug)]
pub struct Hung {
    directory: PathBuf,
    /// Who holds this is to answer what the kernel asks (`linux/fuse.h`), and does not. When it is closed, all who wait get an
    /// error.
    _server: File,
}

impl Hung {
    /// Mounts one. Agents see it that are started later.
    #[must_use]
    #[track_caller]
    pub fn on(directory: &Path) -> Self {
        let server =
            OpenOptions::new().read(true).write(true).open("/dev/fuse").expect("the kernel has FUSE");
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", server.as_raw_fd());
        let options = CString::new(options).expect("no NUL");
        mount("hung", directory, "fuse", MountFlags::empty(), Some(options.as_c_str()))
            .expect("FUSE can be mounted");
        Self { directory: directory.to_owned(), _server: server }
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        // The directory of the scene goes with it, or says why not.
        unmount(&self.directory, UnmountFlags::DETACH).ok();
    }
}
