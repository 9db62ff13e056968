//! The edges: what the core asks of the host.

use std::collections::BTreeSet;
use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::address::Endpoint;
use crate::connection::{Connection, ConnectionFilter};
use crate::health::Sighting;
use crate::infer::{OutsiderQuery, OutsiderScan, SuspectQuery};
use crate::name::{NameQuery, Resolution};
use crate::namespace::{Namespace, NamespaceId, NamespaceQuery, NamespaceScan};
use crate::process::{HolderQuery, HolderScan, Process, VerifyQuery};
use crate::socket::{SocketFilter, SocketSurvey};
use crate::translation::Translation;

/// A source of connections.
pub trait ConnAdapter {
    /// Why connections could not be told. It never stands for "none".
    type Error: Error + Send + Sync + 'static;

    /// Attends to these network namespaces from now on, beside the agent's own. Others are let go of, but for those in
    /// `in_use`. Returns those that the agent may not enter.
    ///
    /// # Errors
    /// When one could not be entered for another reason than the want of a permission.
    fn attend(
        &mut self,
        namespaces: &[Namespace],
        in_use: &BTreeSet<NamespaceId>,
    ) -> Result<BTreeSet<NamespaceId>, Self::Error>;

    /// The network namespaces that are attended to without being entered, which is slower. Of their connections it is told
    /// neither to which interface they are bound nor how they fare.
    fn unentered(&self) -> BTreeSet<NamespaceId> {
        BTreeSet::new()
    }

    /// Every connection of the agent's network namespace that [`ConnectionFilter::matches`], IPv4 and IPv6, and no other.
    ///
    /// # Errors
    /// When the kernel refused, broke off, or answered nonsense: then nothing is known, not even what had arrived.
    fn dump(&mut self, filter: &ConnectionFilter) -> Result<Vec<Connection>, Self::Error>;

    /// Every socket of the agent's network namespace that the filter asks for, and no other, but for those of transports that it
    /// says could not be told: a kernel may know TCP alone.
    ///
    /// The cost is that of the tables in which such sockets can be: listening sockets have one of their own.
    ///
    /// # Errors
    /// As [`ConnAdapter::dump`], where nothing could be asked.
    fn survey(&mut self, filter: &SocketFilter<'_>) -> Result<SocketSurvey<Self::Error>, Self::Error>;

    /// The same as [`ConnAdapter::dump`] of a network namespace that is attended to.
    ///
    /// # Errors
    /// As [`ConnAdapter::dump`].
    fn dump_in(
        &mut self,
        namespace: NamespaceId,
        filter: &ConnectionFilter,
    ) -> Result<Vec<Connection>, Self::Error>;

    /// Looks at single connections again, found by an earlier dump: each as it is now, in the order given, or `None`
    /// when its socket is gone. A socket that took its place on the same endpoints is not it.
    ///
    /// The cost is that of what is asked for, however many other sockets the host has.
    ///
    /// # Errors
    /// When the kernel refused, broke off, or answered nonsense: then nothing is known of any of them.
    fn lookup(&mut self, connections: &[Connection]) -> Result<Vec<Option<Sighting>>, Self::Error>;

    /// The index of the interface with that name in that network namespace, or `None` when there is none now.
    fn interface_index(&self, namespace: NamespaceId, name: &str) -> Option<u32>;
}

/// A source of processes and of the sockets that they hold.
pub trait ProcessAdapter {
    /// Why holders could not be told. A process that vanishes, or may not be looked into, is no such error.
    type Error: Error + Send + Sync + 'static;

    /// In which network namespaces processes live that fit, beside the agent's own.
    ///
    /// # Errors
    /// When processes cannot be listed at all.
    fn find_namespaces(&mut self, query: &NamespaceQuery<'_>) -> Result<NamespaceScan, Self::Error>;

    /// Who holds the sockets asked for.
    ///
    /// # Errors
    /// When processes cannot be listed at all.
    fn find_holders(&mut self, query: &HolderQuery<'_>) -> Result<HolderScan, Self::Error>;

    /// Whether processes that were found to hold sockets hold them still, in the order given: the process as it is known
    /// now, or `None` when it is gone, has closed the socket, or may not be looked into any more. A process that was
    /// given the number of one that is gone is not it, unless it holds the socket.
    ///
    /// # Errors
    /// When nothing can be told of any process.
    fn verify_holders(&mut self, query: &VerifyQuery<'_>) -> Result<Vec<Option<Arc<Process>>>, Self::Error>;

    /// Who could hold sockets that nobody was seen to hold, because he may not be looked into. What cannot be told for
    /// certain is left out, which is all of it unless an implementation says otherwise.
    ///
    /// # Errors
    /// When processes cannot be listed at all.
    fn find_outsiders(&mut self, _query: &OutsiderQuery<'_>) -> Result<OutsiderScan, Self::Error> {
        Ok(OutsiderScan::default())
    }

    /// Whether processes that were told by [`find_outsiders`](Self::find_outsiders) are still what was inferred from, in the
    /// order given: the process as it is known now, or `None` when it is gone, dead or elsewhere, or not known any more.
    ///
    /// # Errors
    /// When nothing can be told of any process.
    fn verify_suspects(
        &mut self,
        query: &SuspectQuery<'_>,
    ) -> Result<Vec<Option<Arc<Process>>>, Self::Error> {
        Ok(vec![None; query.suspects.len()])
    }
}

/// A source of translations.
pub trait TranslationAdapter: fmt::Debug {
    /// Every connection that is known to have asked for one of these services and to go elsewhere, and no other. Their
    /// states are not told: a connection may long have ended that is still in the list.
    ///
    /// # Errors
    /// When they cannot be told: then nothing is known of any of them.
    fn translations(&mut self, services: &[Endpoint]) -> Result<Vec<Translation>, Untold>;
}

/// Why translations could not be told. It never stands for "none".
#[derive(Debug, thiserror::Error)]
pub enum Untold {
    /// They are not to be had here, and will not be unless somebody changes that.
    #[error("translations (NAT) are not told here")]
    Unavailable(#[source] Box<dyn Error + Send + Sync>),
    /// They could not be told this time.
    #[error("translations (NAT) could not be read")]
    Failed(#[source] Box<dyn Error + Send + Sync>),
}

/// A source of what host names mean.
pub trait NameAdapter: fmt::Debug {
    /// What is known of a name at present. Nobody is asked, and nothing is waited for.
    fn resolution(&self, query: &NameQuery) -> Resolution;
}

/// Time, passed in so that tests can hold it still.
pub trait Clock {
    /// Time since some fixed moment; never goes backwards.
    fn monotonic(&self) -> Duration;

    /// The time of day, for time stamps.
    fn wall(&self) -> SystemTime;

    /// Time since the host was started, that of its sleep included: the clock by which the kernel tells when a process began
    /// (`CLOCK_BOOTTIME`).
    fn since_boot(&self) -> Duration;

    /// The CPU time, user and system, that the calling thread has used.
    fn cpu(&self) -> Duration;
}
