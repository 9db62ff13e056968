//! Opening a directory without waiting for a disk that does not answer.

use std::io;
use std::path::Path;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Duration;

use super::store::{OpenError, Store};

/// How often a directory is tried again that this process has not let go of yet.
const OWN_AGAIN: Duration = Duration::from_millis(10);

/// How often that is tried.
const OWN_TRIES: u32 = 40;

/// A directory that is being opened, in a thread of its own. Where nobody waits for it any more, it is closed again.
#[derive(Debug)]
pub(crate) struct Opening(Receiver<Result<Store, OpenError>>);

impl Opening {
    /// Begins to open it.
    pub(crate) fn begin(path: &Path) -> Self {
        let (sender, receiver) = mpsc::channel();
        let (own_sender, path) = (sender.clone(), path.to_owned());
        // A send that fails gives the store back, and with it the lock.
        let opening = move || drop(own_sender.send(open(&path)));
        let thread = std::thread::Builder::new().name("vms-spool-open".to_owned());
        if let Err(error) = thread.spawn(opening) {
            drop(sender.send(Err(error.into())));
        }
        Self(receiver)
    }

    /// What came of it, or `None` where nothing has in that time.
    pub(crate) fn wait(&self, within: Duration) -> Option<Result<Store, OpenError>> {
        match self.0.recv_timeout(within) {
            Ok(opened) => Some(opened),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => {
                Some(Err(io::Error::other("nothing came of opening it").into()))
            }
        }
    }
}

/// After a reload the thread that kept a directory may still be about to leave it.
fn open(path: &Path) -> Result<Store, OpenError> {
    let mut tries = 1;
    loop {
        match Store::open(path) {
            Err(OpenError::InUse { is_own: true, .. }) if tries < OWN_TRIES => {
                tries += 1;
                std::thread::sleep(OWN_AGAIN);
            }
            opened => return opened,
        }
    }
}
