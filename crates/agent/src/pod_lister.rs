//! What pods are called, as the kubelet's directory tells, without waiting for its disk for long.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::thread;
use std::time::Duration;

use tokio::runtime::Handle;
use tracing::warn;
use vms_process::{PodNames, read_pod_names};

/// How long the directory has to answer. It is in memory almost always, as the kubelet uses it.
const PATIENCE: Duration = Duration::from_millis(500);

/// Lists the names of pods for the thread that measures.
#[derive(Debug)]
pub(crate) struct PodLister {
    root: PathBuf,
    /// The listing that has not answered in time.
    hanging: Option<Receiver<io::Result<PodNames>>>,
    is_failing: bool,
}

impl PodLister {
    /// From that directory.
    pub(crate) fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), hanging: None, is_failing: false }
    }

    /// The names, if they can be had in time. A directory that does not answer is waited for once, and holds one thread.
    pub(crate) fn list(&mut self) -> Option<PodNames> {
        let root = self.root.clone();
        self.list_by(move || read_pod_names(&root))
    }

    fn list_by(&mut self, read: impl FnOnce() -> io::Result<PodNames> + Send + 'static) -> Option<PodNames> {
        self.hanging.take_if(|answer| !matches!(answer.try_recv(), Err(TryRecvError::Empty)));
        if self.hanging.is_some() {
            return None;
        }
        let (sender, answer) = mpsc::channel();
        start(move || {
            // Nobody listens any more once the time has passed.
            sender.send(read()).ok();
        });
        match answer.recv_timeout(PATIENCE) {
            Ok(Ok(names)) => {
                self.is_failing = false;
                return Some(names);
            }
            Ok(Err(error)) => self.tell(&error),
            Err(error) => {
                self.tell(&error);
                self.hanging = Some(answer);
            }
        }
        None
    }

    /// Tells once, until it can be read again.
    fn tell(&mut self, error: &(dyn std::error::Error + 'static)) {
        if !self.is_failing {
            let directory = self.root.display();
            warn!(
                %directory,
                error,
                "what pods are called cannot be read: let the agent's user list that directory, or set `podLogsRoot`"
            );
        }
        self.is_failing = true;
    }
}

/// Does work on a thread of its own. It is the runtime that starts it, where there is one: the measuring thread may start
/// none, and has rights that this takes none of.
fn start(work: impl FnOnce() + Send + 'static) {
    let begin = move || {
        // Without a thread there is no answer, which is told.
        thread::Builder::new().name("vms-pods".to_owned()).spawn(work).ok();
    };
    match Handle::try_current() {
        Ok(runtime) => drop(runtime.spawn(async move { begin() })),
        Err(_no_runtime) => begin(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_does_not_answer_is_waited_for_once_and_asked_again_when_it_has() {
        let mut lister = PodLister::new(Path::new("/nowhere"));
        let (disk, gate) = mpsc::channel::<()>();
        assert!(
            lister
                .list_by(move || gate.recv().map_err(io::Error::other).map(|()| PodNames::default()))
                .is_none()
        );
        for _turn in 0..100 {
            assert!(lister.list_by(|| unreachable!("one thread at a time")).is_none());
        }
        disk.send(()).unwrap();
        // What it answers late may be older than the pod that is asked for.
        while lister.hanging.is_some() {
            lister.list_by(|| Err(io::ErrorKind::NotFound.into()));
        }
        assert!(lister.list_by(|| Ok(PodNames::default())).is_some());
        assert!(lister.list().is_none(), "it is not there");
        assert!(lister.list_by(|| Ok(PodNames::default())).is_some());
    }
}
