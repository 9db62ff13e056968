//! Asks the kernel, and takes in the whole of what it says to that, or tells why there is none.

use std::ops::ControlFlow;

use rustix::io::Errno;

use crate::codec::{Codec, Malformed, Messages, Reply, TooLong};
use crate::error::{Failure, Operation};
use crate::socket::Transport;

/// The kernel's replies come in pieces of at most this size, however large the buffer.
const RECEIVE_BUFFER_BYTES: usize = 32 * 1024;

/// How often a dump, or a batch of requests, should be tried that the kernel breaks off.
pub const ATTEMPTS: u32 = 4;

/// A conversation with the kernel about one network namespace.
#[derive(Debug)]
pub struct Line<T> {
    /// What it goes through.
    pub transport: T,
    /// The port id of a socket with nothing left to read. `None` while that is not certain: then a reply to the
    /// last request could be taken for one to the next.
    idle_port_id: Option<u32>,
}

/// What exchanges need beside a line: one of these serves any number of lines, in turn.
#[derive(Debug, Default)]
pub struct Exchange {
    sequence: u32,
    request: Vec<u8>,
    /// Empty before the first exchange.
    buffer: Box<[u8]>,
}

/// How a dump ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended<B> {
    /// Everything was told.
    Complete {
        /// How much that was.
        told: u32,
    },
    /// The kernel broke it off, or cannot vouch for it: it should be asked again.
    Interrupted,
    /// The kernel gave up. The socket it did so on is opened anew.
    Failed {
        /// Whether it refused the request ([`Operation::Request`]), also one that does not fit, or broke off the reply.
        operation: Operation,
        /// Why.
        errno: Errno,
    },
    /// Who takes in what is told wants no more of it.
    Stopped(B),
}

/// What came of requests that were sent at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answers {
    /// Every answer.
    All,
    /// Not every answer: fewer should be asked for at once.
    Lost,
}

impl<T: Transport> Line<T> {
    /// One on which nothing has been said. The transport is opened when it is first used.
    pub fn new(transport: T) -> Self {
        Self { transport, idle_port_id: None }
    }

    /// The same, opened now.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn open(mut transport: T) -> Result<Self, Errno> {
        let idle_port_id = Some(transport.reopen()?);
        Ok(Self { transport, idle_port_id })
    }

    /// The next datagram of the kernel's; `None` when messages were lost.
    fn receive<'a>(&mut self, buffer: &'a mut [u8]) -> Result<Option<&'a [u8]>, Failure> {
        loop {
            let datagram = match self.transport.receive(buffer) {
                Ok(datagram) => datagram,
                Err(Errno::NOBUFS) => return Ok(None),
                Err(errno) => return Err(Failure::Failed { operation: Operation::Reply, errno }),
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
}

impl Exchange {
    /// One request for a dump and all of its reply, of which each message is handed to `take`.
    ///
    /// `encode` is given the sequence number of the request and where it goes. The kernel may tell of no more than
    /// `room`, and then of what else the same datagram holds.
    ///
    /// # Errors
    /// When the line cannot be opened or read, the reply makes no sense, or there is no room for it.
    pub fn dump<C: Codec, T: Transport, B>(
        &mut self,
        line: &mut Line<T>,
        room: u32,
        encode: impl FnOnce(u32, &mut Vec<u8>) -> Result<(), TooLong>,
        mut take: impl FnMut(C::Told) -> ControlFlow<B>,
    ) -> Result<Ended<B>, Failure> {
        let port_id = self.begin(line)?;
        let sequence = self.next_sequence();
        let sent = encode(sequence, &mut self.request)
            .map_err(|_too_long| Errno::MSGSIZE)
            .and_then(|()| line.transport.send(&self.request));
        match sent {
            Ok(()) => {}
            Err(Errno::NOBUFS) => return Ok(Ended::Interrupted),
            Err(errno) => return Ok(Ended::Failed { operation: Operation::Request, errno }),
        }
        let mut told = 0_u32;
        loop {
            // A table that grows while it is walked may be told of without end.
            if told > room {
                return Err(Failure::TooMany);
            }
            let Some(datagram) = line.receive(&mut self.buffer)? else { return Ok(Ended::Interrupted) };
            for message in Messages::new(datagram) {
                let message = message?;
                if !message.answers(sequence, port_id) {
                    continue;
                }
                if message.interrupted() {
                    return Ok(Ended::Interrupted);
                }
                match message.decode::<C>()? {
                    Reply::Told(one) => {
                        told = told.saturating_add(1);
                        if let ControlFlow::Break(why) = take(one) {
                            return Ok(Ended::Stopped(why));
                        }
                    }
                    Reply::Nothing => {}
                    Reply::Done => {
                        line.idle_port_id = Some(port_id);
                        return Ok(Ended::Complete { told });
                    }
                    Reply::Lost => return Ok(Ended::Interrupted),
                    Reply::Failed { errno, refused } => {
                        let operation = if refused { Operation::Request } else { Operation::Reply };
                        return Ok(match Errno::from_raw_os_error(errno) {
                            Errno::NOBUFS => Ended::Interrupted,
                            errno => Ended::Failed { operation, errno },
                        });
                    }
                }
            }
        }
    }

    /// A request for each of `asked`, all in one send, and the answer to each, which come in the same order.
    ///
    /// `take` is given what was asked for and what was told, or the errno that was told instead; one that it returns
    /// is a failure.
    ///
    /// # Errors
    /// When the line cannot be opened or used, an answer makes no sense, or it is an errno that `take` returns.
    pub fn ask<C: Codec, T: Transport, Q>(
        &mut self,
        line: &mut Line<T>,
        asked: &[Q],
        encode: impl Fn(u32, &Q, &mut Vec<u8>),
        mut take: impl FnMut(&Q, Result<C::Told, Errno>) -> Result<(), Errno>,
    ) -> Result<Answers, Failure> {
        let refused = |errno| Failure::Failed { operation: Operation::Request, errno };
        let port_id = self.begin(line)?;
        let first = self.sequence.wrapping_add(1);
        for one in asked {
            encode(self.next_sequence(), one, &mut self.request);
        }
        match line.transport.send(&self.request) {
            Ok(()) => {}
            // More than the socket's send buffer, which the host's administrator may have made small.
            Err(Errno::NOBUFS | Errno::MSGSIZE) => return Ok(Answers::Lost),
            Err(errno) => return Err(refused(errno)),
        }
        let mut unanswered = asked.iter().enumerate();
        let mut next = unanswered.next();
        while next.is_some() {
            let Some(datagram) = line.receive(&mut self.buffer)? else { return Ok(Answers::Lost) };
            for message in Messages::new(datagram) {
                let message = message?;
                let answered = message.answered(first, asked.len(), port_id);
                let (Some(answered), Some((index, one))) = (answered, next) else { continue };
                if answered != index {
                    return Ok(Answers::Lost);
                }
                let told = match message.decode::<C>()? {
                    Reply::Told(told) => Ok(told),
                    Reply::Failed { errno, .. } => match Errno::from_raw_os_error(errno) {
                        Errno::NOBUFS | Errno::AGAIN => return Ok(Answers::Lost),
                        errno => Err(errno),
                    },
                    Reply::Lost => return Ok(Answers::Lost),
                    Reply::Nothing | Reply::Done => continue,
                };
                take(one, told).map_err(refused)?;
                next = unanswered.next();
            }
        }
        line.idle_port_id = Some(port_id);
        Ok(Answers::All)
    }

    /// Makes room for a request and its reply, and tells the port id for them. Where they end well, it is idle again.
    fn begin<T: Transport>(&mut self, line: &mut Line<T>) -> Result<u32, Failure> {
        if self.buffer.is_empty() {
            self.buffer = vec![0; RECEIVE_BUFFER_BYTES].into_boxed_slice();
        }
        self.request.clear();
        if let Some(port_id) = line.idle_port_id.take() {
            return Ok(port_id);
        }
        line.transport.reopen().map_err(|errno| Failure::Failed { operation: Operation::Open, errno })
    }

    fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }
}

#[cfg(test)]
mod tests;
