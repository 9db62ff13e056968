//! Opening a directory without waiting for a disk that does not answer.

use std::io;
use std::path::Path;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Duration;

use super::store::{OpenError, Store};

/// After what time a directory is tried again that is in use.
const AGAIN: Duration = Duration::from_millis(10);

/// How often it is tried: [`examine_directory`](super::store::examine_directory) holds the lock for a moment.
const TRIES: u32 = 3;

/// How often at a reload: the thread that kept it may still be about to leave it.
const OWN_TRIES: u32 = 40;

/// A directory that is being opened, in a thread of its own. Where nobody waits for it any more, it is closed again.
#[derive(Debug)]
pub(crate) struct Opening(Receiver<Result<Store, OpenError>>);

impl Opening {
    /// Begins to open it, at the start or at a reload.
    pub(crate) fn begin(path: &Path, is_reload: bool) -> Self {
        let (sender, receiver) = mpsc::channel();
        let (own_sender, path) = (sender.clone(), path.to_owned());
        // A send that fails gives the store back, and with it the lock.
        let opening = move || drop(own_sender.send(open(&path, is_reload)));
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

fn open(path: &Path, is_reload: bool) -> Result<Store, OpenError> {
    let mut tried = 0;
    loop {
        let opened = Store::open(path);
        let Err(OpenError::InUse { is_own, .. }) = opened else { return opened };
        tried += 1;
        if tried == if is_own && is_reload { OWN_TRIES } else { TRIES } {
            return opened;
        }
        std::thread::sleep(AGAIN);
    }
}
