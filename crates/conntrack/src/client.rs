//! Asks the kernel, as often as it takes, and lets through only what was asked for.

use std::collections::{BTreeSet, HashSet};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::net::netlink::NETFILTER;
use vms_core::TranslationAdapter;
use vms_core::adapter::Untold;
use vms_core::address::Endpoint;
use vms_core::translation::{MAX_BACKENDS, Translation};
use vms_netlink::{ATTEMPTS, Ended, Exchange, Line, NetlinkSocket, Transport};

use crate::codec::{DumpRequest, Entries, Entry, Family, Filter};
use crate::error::{Error, classify};
use crate::plan::{Table, choose, read_table};

/// How many entries one dump may tell of in one attempt, asked for or not.
const MAX_TOLD: u32 = 1 << 20;

/// How many translations one look may find: of 80 bytes each.
const MAX_FOUND: usize = 1 << 17;

/// The translations of one network namespace: that of the thread that asks.
///
/// Needs `CAP_NET_ADMIN`, of the thread that opens the socket and of the one that asks. The socket is opened when it is
/// first needed, and anew after a failure: what was not permitted or not loaded then may be later.
#[derive(Debug)]
pub struct Conntrack {
    client: Client<NetlinkSocket>,
    proc_root: PathBuf,
}

impl Conntrack {
    /// Opens nothing yet.
    ///
    /// `proc_root` is where `/proc` is. Its `sys/net/netfilter` is read before each look, to choose what costs the kernel least
    /// with a table of that size; where it cannot be read, the table is taken for a large one.
    #[must_use]
    pub fn new(proc_root: &Path) -> Self {
        let line = Line::new(NetlinkSocket::new(NETFILTER, ()));
        Self { client: Client::new(line), proc_root: proc_root.to_owned() }
    }

    /// Every tracked TCP connection to one of these services whose destination is translated.
    ///
    /// # Errors
    /// [`Error::PermissionMissing`] or [`Error::Unsupported`] where this host does not allow or have it; any other where it
    /// could not be told this time.
    pub fn read(&mut self, services: &[Endpoint]) -> Result<Vec<Translation>, Error> {
        self.client.read(services, || read_table(&self.proc_root))
    }
}

impl TranslationAdapter for Conntrack {
    fn translations(&mut self, services: &[Endpoint]) -> Result<Vec<Translation>, Untold> {
        self.read(services).map_err(|error| match error {
            Error::PermissionMissing { .. } | Error::Unsupported { .. } => {
                Untold::Unavailable(Box::new(error))
            }
            _ => Untold::Failed(Box::new(error)),
        })
    }
}

/// The protocol, apart from the socket.
#[derive(Debug)]
struct Client<T> {
    line: Line<T>,
    exchange: Exchange,
    /// Whether the kernel, as far as is known, tells only what a filter lets through.
    filters: bool,
    room: Room,
}

/// What a look may take in.
#[derive(Debug, Clone, Copy)]
struct Room {
    told: u32,
    found: usize,
    backends: usize,
}

/// What is being found.
struct Search {
    services: HashSet<Endpoint>,
    found: Vec<Translation>,
    backends: BTreeSet<Endpoint>,
}

/// How an exchange ended that may be tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// Every entry was told.
    Complete,
    /// The kernel broke it off, or cannot vouch for it.
    Interrupted,
    /// The kernel does not take the filter, or passes over it.
    Unfiltered,
}

impl<T: Transport> Client<T> {
    fn new(line: Line<T>) -> Self {
        Self {
            line,
            exchange: Exchange::default(),
            filters: true,
            room: Room { told: MAX_TOLD, found: MAX_FOUND, backends: MAX_BACKENDS },
        }
    }

    fn read(
        &mut self,
        services: &[Endpoint],
        table: impl FnOnce() -> Table,
    ) -> Result<Vec<Translation>, Error> {
        let mut search = Search {
            services: services.iter().copied().collect(),
            found: Vec::new(),
            backends: BTreeSet::new(),
        };
        let table = table();
        for (family, filter) in choose(services, self.filters, table) {
            if !self.dump(family, filter, &mut search)? {
                search.found.clear();
                for (family, filter) in choose(services, self.filters, table) {
                    self.dump(family, filter, &mut search)?;
                }
                break;
            }
        }
        Ok(search.found)
    }

    /// Asks until the answer is whole; `false` where the kernel does not filter, and what it told is of no use.
    fn dump(&mut self, family: Family, filter: Filter, search: &mut Search) -> Result<bool, Error> {
        let found_before = search.found.len();
        for _attempt in 0..ATTEMPTS {
            search.found.truncate(found_before);
            match self.exchange(family, filter, search)? {
                Outcome::Complete => return Ok(true),
                Outcome::Interrupted => {}
                Outcome::Unfiltered => {
                    self.filters = false;
                    search.found.truncate(found_before);
                    return Ok(false);
                }
            }
        }
        Err(Error::Interrupted { attempts: ATTEMPTS })
    }

    /// One request and all of its reply.
    fn exchange(&mut self, family: Family, filter: Filter, search: &mut Search) -> Result<Outcome, Error> {
        let room = self.room;
        let ended = self.exchange.dump::<Entries, _, _>(
            &mut self.line,
            room.told,
            |sequence, out| DumpRequest { sequence, family, filter }.encode(out),
            |entry| match entry {
                Some(entry) if filter.admits(&entry) => match search.take_in(&entry, room) {
                    Ok(()) => ControlFlow::Continue(()),
                    Err(error) => ControlFlow::Break(Err(error)),
                },
                None if filter == Filter::None => ControlFlow::Continue(()),
                _ => ControlFlow::Break(Ok(Outcome::Unfiltered)),
            },
        )?;
        match ended {
            Ended::Complete { .. } => Ok(Outcome::Complete),
            Ended::Interrupted | Ended::Failed { errno: Errno::INTR | Errno::AGAIN, .. } => {
                Ok(Outcome::Interrupted)
            }
            Ended::Failed { errno: Errno::INVAL | Errno::OPNOTSUPP, .. } if filter != Filter::None => {
                Ok(Outcome::Unfiltered)
            }
            Ended::Failed { operation, errno } => Err(classify(operation, errno)),
            Ended::Stopped(outcome) => outcome,
        }
    }
}

impl Search {
    /// Takes in what is asked for.
    fn take_in(&mut self, entry: &Entry, room: Room) -> Result<(), Error> {
        let Some(translation) = entry.translation() else { return Ok(()) };
        if !self.services.contains(&translation.service) {
            return Ok(());
        }
        self.backends.insert(translation.backend);
        if self.found.len() == room.found || self.backends.len() > room.backends {
            return Err(Error::TooMany);
        }
        self.found.push(translation);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
