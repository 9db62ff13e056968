//! Asks the kernel, as often as it takes, and lets through only what was asked for.

use rustix::io::Errno;
use vms_core::ConnAdapter;
use vms_core::address::Endpoint;
use vms_core::connection::{Connection, ConnectionFilter};

use crate::bytecode::{Program, compile};
use crate::codec::{DumpRequest, Family, Malformed, Messages, Reply};
use crate::error::{Error, Operation};
use crate::socket::{NetlinkSocket, Transport, io_error};

/// The kernel's replies come in pieces of at most this size, however large the buffer.
const RECEIVE_BUFFER_BYTES: usize = 32 * 1024;

/// How often a dump is tried that the kernel breaks off.
const ATTEMPTS: u32 = 4;

/// Sets of endpoints whose programs are kept beside the present ones. Each holds up to 128 KiB.
const EARLIER_PROGRAMS: usize = 7;

/// The TCP connections of one network namespace: that of the thread that opened it.
///
/// Needs no capability. The socket is kept from one dump to the next; after a failure it is opened anew, by the
/// thread that dumps next, which has to be in the same network namespace.
#[derive(Debug)]
pub struct SockDiag {
    client: Client<NetlinkSocket>,
}

impl SockDiag {
    /// Opens the netlink socket.
    ///
    /// # Errors
    /// [`Error::PermissionMissing`] or [`Error::Unsupported`] where this host does not allow or have it,
    /// [`Error::Io`] where it lacks file descriptors or memory.
    pub fn open() -> Result<Self, Error> {
        let (socket, port_id) = NetlinkSocket::open().map_err(|errno| classify(Operation::Open, errno))?;
        Ok(Self { client: Client::new(socket, Some(port_id)) })
    }
}

impl ConnAdapter for SockDiag {
    type Error = Error;

    /// One walk of the kernel's table for `AF_INET6` sockets, and one for `AF_INET` sockets if any endpoint is
    /// IPv4; none if nothing is asked for. Sorted by cookie.
    fn dump(&mut self, filter: &ConnectionFilter) -> Result<Vec<Connection>, Error> {
        self.client.dump(filter)
    }

    fn interface_index(&self, name: &str) -> Option<u32> {
        self.client.transport.interface_index(name)
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
    programs: Programs,
    /// Those used before, the latest first.
    earlier: Vec<Programs>,
    request: Vec<u8>,
    buffer: Box<[u8]>,
}

/// How an exchange ended that may be tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// Every socket was told.
    Complete,
    /// The kernel broke it off, or cannot vouch for it.
    Interrupted,
    /// The kernel does not take the program.
    ProgramRefused,
}

impl<T: Transport> Client<T> {
    fn new(transport: T, idle_port_id: Option<u32>) -> Self {
        Self {
            transport,
            idle_port_id,
            sequence: 0,
            programs: Programs::default(),
            earlier: Vec::new(),
            request: Vec::new(),
            buffer: vec![0; RECEIVE_BUFFER_BYTES].into_boxed_slice(),
        }
    }

    fn dump(&mut self, filter: &ConnectionFilter) -> Result<Vec<Connection>, Error> {
        let mut found = Vec::new();
        if filter.endpoints().is_empty() || filter.states().bits() == 0 {
            return Ok(found);
        }
        self.choose_programs(filter.endpoints());
        if filter.endpoints().iter().any(|endpoint| endpoint.ip().is_ipv4()) {
            self.dump_family(Family::Inet, filter, &mut found)?;
        }
        self.dump_family(Family::Inet6, filter, &mut found)?;
        // Where two pieces of a dump meet within a hash chain that grew in between, a socket comes twice.
        found.sort_unstable_by_key(|connection| connection.cookie);
        found.dedup_by_key(|connection| connection.cookie);
        Ok(found)
    }

    /// Compiles, unless these endpoints were asked for before: probes with different intervals take turns.
    fn choose_programs(&mut self, endpoints: &[Endpoint]) {
        if self.programs.endpoints == endpoints {
            return;
        }
        let known = self.earlier.iter().position(|programs| programs.endpoints == endpoints);
        let next = match known {
            Some(index) => self.earlier.remove(index),
            None => Programs::compile(endpoints),
        };
        let last = std::mem::replace(&mut self.programs, next);
        self.earlier.insert(0, last);
        self.earlier.truncate(EARLIER_PROGRAMS);
    }

    fn dump_family(
        &mut self,
        family: Family,
        filter: &ConnectionFilter,
        found: &mut Vec<Connection>,
    ) -> Result<(), Error> {
        let found_before = found.len();
        for _attempt in 0..ATTEMPTS {
            found.truncate(found_before);
            let port_id = match self.idle_port_id.take() {
                Some(port_id) => port_id,
                None => self.transport.reopen().map_err(|errno| classify(Operation::Open, errno))?,
            };
            match self.exchange(family, filter, port_id, found)? {
                Outcome::Complete => {
                    self.idle_port_id = Some(port_id);
                    return Ok(());
                }
                Outcome::Interrupted => {}
                Outcome::ProgramRefused => self.programs.discard(family),
            }
        }
        Err(Error::Interrupted { attempts: ATTEMPTS })
    }

    /// One request and all of its reply.
    fn exchange(
        &mut self,
        family: Family,
        filter: &ConnectionFilter,
        port_id: u32,
        found: &mut Vec<Connection>,
    ) -> Result<Outcome, Error> {
        self.sequence = self.sequence.wrapping_add(1);
        let program = self.programs.program(family);
        let request = DumpRequest { sequence: self.sequence, family, states: filter.states(), program };
        if request.encode(&mut self.request).is_err() {
            return Ok(Outcome::ProgramRefused);
        }
        let filtered = !program.is_empty();
        match self.transport.send(&self.request) {
            Ok(()) => {}
            Err(Errno::NOBUFS) => return Ok(Outcome::Interrupted),
            // More than the socket's send buffer, which the host's administrator may have made small.
            Err(Errno::MSGSIZE) if filtered => return Ok(Outcome::ProgramRefused),
            Err(errno) => return Err(classify(Operation::Request, errno)),
        }
        loop {
            let datagram = match self.transport.receive(&mut self.buffer) {
                Ok(datagram) => datagram,
                Err(Errno::NOBUFS) => return Ok(Outcome::Interrupted),
                Err(errno) => return Err(classify(Operation::Reply, errno)),
            };
            if !datagram.from_kernel {
                continue;
            }
            let bytes = self.buffer.get(..datagram.bytes).ok_or(Malformed {
                offset: RECEIVE_BUFFER_BYTES,
                expected: "the end of the datagram",
                found: u64::try_from(datagram.bytes).unwrap_or(u64::MAX),
            })?;
            for message in Messages::new(bytes) {
                let message = message?;
                if !message.answers(self.sequence, port_id) {
                    continue;
                }
                if message.interrupted() {
                    return Ok(Outcome::Interrupted);
                }
                match message.decode()? {
                    // The program may have let through more than was asked for.
                    Reply::Connection(connection) if filter.matches(&connection) => found.push(connection),
                    Reply::Connection(_) | Reply::Nothing => {}
                    Reply::Done => return Ok(Outcome::Complete),
                    Reply::Lost => return Ok(Outcome::Interrupted),
                    Reply::Failed { errno, refused } => {
                        return match Errno::from_raw_os_error(errno) {
                            Errno::NOBUFS => Ok(Outcome::Interrupted),
                            Errno::INVAL if refused && filtered => Ok(Outcome::ProgramRefused),
                            errno if refused => Err(classify(Operation::Request, errno)),
                            errno => Err(classify(Operation::Reply, errno)),
                        };
                    }
                }
            }
        }
    }
}

/// The programs for one set of endpoints. The same probes ask for the same endpoints each cycle.
#[derive(Debug, Default)]
struct Programs {
    endpoints: Vec<Endpoint>,
    inet: Option<Program>,
    inet6: Option<Program>,
}

impl Programs {
    fn compile(endpoints: &[Endpoint]) -> Self {
        // An AF_INET socket has IPv4 addresses only; an AF_INET6 socket may have mapped ones.
        let ipv4: Vec<Endpoint> =
            endpoints.iter().copied().filter(|endpoint| endpoint.ip().is_ipv4()).collect();
        Self { endpoints: endpoints.to_vec(), inet: compile(&ipv4), inet6: compile(endpoints) }
    }

    /// The bytes of the program for that family; none to ask without one.
    fn program(&self, family: Family) -> &[u8] {
        let program = match family {
            Family::Inet => &self.inet,
            Family::Inet6 => &self.inet6,
        };
        program.as_ref().map_or(&[], Program::bytes)
    }

    /// Goes on without a program: all sockets in the states asked for then come, and are filtered here.
    fn discard(&mut self, family: Family) {
        match family {
            Family::Inet => self.inet = None,
            Family::Inet6 => self.inet6 = None,
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
        // No NETLINK_SOCK_DIAG, no handler of the family, no handler of TCP.
        (Operation::Open, Errno::PROTONOSUPPORT) | (_, Errno::NOENT | Errno::OPNOTSUPP) => {
            Error::Unsupported { operation, source }
        }
        _ => Error::Io { operation, source },
    }
}

#[cfg(test)]
mod tests;
