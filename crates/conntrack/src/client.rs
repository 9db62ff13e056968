//! Asks the kernel, as often as it takes, and lets through only what was asked for.

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use vms_core::TranslationAdapter;
use vms_core::adapter::Untold;
use vms_core::address::Endpoint;
use vms_core::translation::{MAX_BACKENDS, Translation};

use crate::codec::{DumpRequest, Entry, Family, Filter, Malformed, Messages, Reply};
use crate::error::{Error, Operation};
use crate::plan::{Table, choose, read_table};
use crate::socket::{NetlinkSocket, Transport, io_error};

/// The kernel's replies come in pieces of at most this size, however large the buffer.
const RECEIVE_BUFFER_BYTES: usize = 32 * 1024;

/// How often a dump is tried that the kernel breaks off.
const ATTEMPTS: u32 = 4;

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
        Self { client: Client::new(NetlinkSocket::default()), proc_root: proc_root.to_owned() }
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
    transport: T,
    /// The port id of a socket with nothing left to read. `None` while that is not certain: then a reply to the
    /// last request could be taken for one to the next.
    idle_port_id: Option<u32>,
    sequence: u32,
    /// Whether the kernel, as far as is known, tells only what a filter lets through.
    filters: bool,
    room: Room,
    request: Vec<u8>,
    buffer: Box<[u8]>,
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
    fn new(transport: T) -> Self {
        Self {
            transport,
            idle_port_id: None,
            sequence: 0,
            filters: true,
            room: Room { told: MAX_TOLD, found: MAX_FOUND, backends: MAX_BACKENDS },
            request: Vec::new(),
            buffer: Box::default(),
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
        if self.buffer.is_empty() {
            self.buffer = vec![0; RECEIVE_BUFFER_BYTES].into_boxed_slice();
        }
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
            let port_id = match self.idle_port_id.take() {
                Some(port_id) => port_id,
                None => self.transport.reopen().map_err(|errno| classify(Operation::Open, errno))?,
            };
            match self.exchange(family, filter, port_id, search)? {
                Outcome::Complete => {
                    self.idle_port_id = Some(port_id);
                    return Ok(true);
                }
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
    fn exchange(
        &mut self,
        family: Family,
        filter: Filter,
        port_id: u32,
        search: &mut Search,
    ) -> Result<Outcome, Error> {
        self.sequence = self.sequence.wrapping_add(1);
        let sequence = self.sequence;
        DumpRequest { sequence, family, filter }.encode(&mut self.request);
        match self.transport.send(&self.request) {
            Ok(()) => {}
            Err(Errno::NOBUFS) => return Ok(Outcome::Interrupted),
            Err(errno) => return Err(classify(Operation::Request, errno)),
        }
        let mut told = 0_u32;
        loop {
            // A table that grows while it is walked may tell of entries without end.
            if told > self.room.told {
                return Err(Error::TooMany);
            }
            let Some(datagram) = receive(&mut self.transport, &mut self.buffer)? else {
                return Ok(Outcome::Interrupted);
            };
            for message in Messages::new(datagram) {
                let message = message?;
                if !message.answers(sequence, port_id) {
                    continue;
                }
                if message.interrupted() {
                    return Ok(Outcome::Interrupted);
                }
                match message.decode()? {
                    Reply::Entry(entry) => {
                        told = told.saturating_add(1);
                        if !filter.admits(&entry) {
                            return Ok(Outcome::Unfiltered);
                        }
                        search.take_in(&entry, self.room)?;
                    }
                    Reply::Other if filter != Filter::None => return Ok(Outcome::Unfiltered),
                    Reply::Other => told = told.saturating_add(1),
                    Reply::Nothing => {}
                    Reply::Done => return Ok(Outcome::Complete),
                    Reply::Lost => return Ok(Outcome::Interrupted),
                    Reply::Failed { errno, refused } => {
                        return match Errno::from_raw_os_error(errno) {
                            Errno::NOBUFS | Errno::INTR | Errno::AGAIN => Ok(Outcome::Interrupted),
                            Errno::INVAL | Errno::OPNOTSUPP if filter != Filter::None => {
                                Ok(Outcome::Unfiltered)
                            }
                            errno if refused => Err(classify(Operation::Request, errno)),
                            errno => Err(classify(Operation::Reply, errno)),
                        };
                    }
                }
            }
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

/// The next datagram of the kernel's; `None` when messages were lost.
fn receive<'a, T: Transport>(transport: &mut T, buffer: &'a mut [u8]) -> Result<Option<&'a [u8]>, Error> {
    loop {
        let datagram = match transport.receive(buffer) {
            Ok(datagram) => datagram,
            Err(Errno::NOBUFS) => return Ok(None),
            Err(errno) => return Err(classify(Operation::Reply, errno)),
        };
        if datagram.from_kernel {
            let bytes = buffer.get(..datagram.bytes).ok_or(Malformed {
                offset: RECEIVE_BUFFER_BYTES,
                expected: "the end of the datagram",
                found: u64::try_from(datagram.bytes).unwrap_or(u64::MAX),
            })?;
            return Ok(Some(bytes));
        }
    }
}

/// What an errno means to the caller.
fn classify(operation: Operation, errno: Errno) -> Error {
    let source = io_error(errno);
    match (operation, errno) {
        // systemd's RestrictAddressFamilies= answers EAFNOSUPPORT; every kernel has netlink.
        (_, Errno::PERM | Errno::ACCESS) | (Operation::Open, Errno::AFNOSUPPORT) => {
            Error::PermissionMissing { operation, source }
        }
        // No NETLINK_NETFILTER; and to a subsystem that is not there, nfnetlink says EINVAL.
        (Operation::Open, Errno::PROTONOSUPPORT)
        | (Operation::Request, Errno::INVAL | Errno::NOENT | Errno::OPNOTSUPP) => {
            Error::Unsupported { operation, source }
        }
        _ => Error::Io { operation, source },
    }
}

#[cfg(test)]
mod tests;
