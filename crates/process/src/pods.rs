//! What pods are called. Their cgroups do not tell: the names of the directories do that the kubelet makes for their logs.
//!
//! The kubelet makes a pod's directory before anything runs in the pod (`createPodSandbox`), so that whoever is met in a pod
//! has a name there already. Nobody in a pod can make one: the directory above is root's.
//!
//! They lie on a disk, which may not answer. So who asks brings what lists them ([`ListPods`]), and waits no longer than he
//! wants to.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{Dir, Mode, OFlags, open};
use vms_core::process::{Container, PodName};

use crate::container::parse_pod_directory;
use crate::procfs::ProcessDir;

/// How many directories one listing looks at. A node has 110 pods unless configured otherwise, and some that have ended.
const MAX_DIRECTORIES: usize = 4096;

/// Listings that may follow upon one another, where pods come one by one; beyond them there is one each [`LISTING_TIME`].
const LISTINGS_AT_ONCE: u32 = 8;

/// What a listing counts for: any user can have cgroups with the names of pods that there never were.
const LISTING_TIME: Duration = Duration::from_secs(1);

/// For how long a pod that no directory was found of is not looked for again.
const MISSED_TIME: Duration = Duration::from_secs(10);

/// The names of pods, by their uids.
#[derive(Debug, Clone, Default)]
pub struct PodNames(HashMap<Box<str>, Arc<PodName>>);

/// Lists the names of all pods; `None` where they cannot be had, or not in time.
pub type ListPods = Box<dyn FnMut() -> Option<PodNames> + Send>;

/// Reads the names of pods from the directory in which each has one for its logs.
///
/// # Errors
/// When it cannot be opened or read.
pub fn read_pod_names(root: &Path) -> io::Result<PodNames> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = open(root, flags, Mode::empty())?;
    let mut names = HashMap::new();
    // What is no pod's counts as well: it costs as much.
    for entry in Dir::new(root)?.take(MAX_DIRECTORIES) {
        if let Some((uid, name)) = parse_pod_directory(entry?.file_name().to_bytes()) {
            names.insert(uid.into(), Arc::new(name));
        }
    }
    Ok(PodNames(names))
}

impl PodNames {
    /// What the pod with that uid is called.
    #[must_use]
    pub fn of(&self, uid: &str) -> Option<&Arc<PodName>> {
        self.0.get(uid)
    }
}

/// The names that are known, and when to ask for more.
#[derive(Default)]
pub(crate) struct Pods {
    /// `None` where names are not wanted.
    list: Option<ListPods>,
    known: PodNames,
    /// Those that a listing did not have, and when.
    missed: HashMap<Box<str>, Duration>,
    /// Until when the time of the listings so far lasts.
    spent_until: Duration,
}

impl Pods {
    pub(crate) fn new(list: ListPods) -> Self {
        Self { list: Some(list), ..Self::default() }
    }

    /// The container of a process, with the name of its pod.
    pub(crate) fn read_container(&mut self, dir: &ProcessDir, now: Duration) -> Option<Arc<Container>> {
        let container = dir.read_container()?;
        let pod_name = container.pod_uid.as_deref().and_then(|uid| self.find_name(uid, now));
        Some(Arc::new(Container { pod_name, ..container }))
    }

    /// What the pod with that uid is called.
    fn find_name(&mut self, uid: &str, now: Duration) -> Option<Arc<PodName>> {
        if let Some(name) = self.known.of(uid) {
            return Some(Arc::clone(name));
        }
        let is_missed = |since: &Duration| now.saturating_sub(*since) < MISSED_TIME;
        if self.missed.get(uid).is_some_and(is_missed) || !self.may_list(now) {
            return None;
        }
        // Pods that have ended leave with the former names.
        self.known = self.list.as_mut()?()?;
        let name = self.known.of(uid).cloned();
        if name.is_none() {
            // As few as there are listings in that time.
            self.missed.retain(|_, since| is_missed(since));
            self.missed.insert(uid.into(), now);
        }
        name
    }

    /// Whether there is time for a listing; if so, it is spent.
    fn may_list(&mut self, now: Duration) -> bool {
        let spent_until = self.spent_until.max(now) + LISTING_TIME;
        let may = self.list.is_some() && spent_until <= now + LISTING_TIME * LISTINGS_AT_ONCE;
        if may {
            self.spent_until = spent_until;
        }
        may
    }
}

impl fmt::Debug for Pods {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { list, known, missed, spent_until } = self;
        formatter
            .debug_struct("Pods")
            .field("list", &list.is_some())
            .field("known", known)
            .field("missed", missed)
            .field("spent_until", spent_until)
            .finish()
    }
}

#[cfg(test)]
mod tests;
