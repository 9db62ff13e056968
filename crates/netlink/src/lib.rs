//! Netlink, as far as every family of it is the same: a family brings a [`Codec`] for its own messages, and requests.
//!
//! [`codec`] frames messages and attributes, both ways, and is pure; [`socket`] is where they go through; [`exchange`]
//! sends requests and takes in the whole of what is said to them, or tells why there is none. What an errno means to
//! the caller, and what is done about it, is the family's. Reads top down: [`exchange`], [`socket`], [`codec`].
//!
//! With the feature `testing`, `script` is a kernel that says what a test wants.

pub mod codec;
mod error;
pub mod exchange;
#[cfg(any(test, feature = "testing"))]
pub mod script;
pub mod socket;

pub use codec::{Codec, Cursor, Malformed};
pub use error::{Failure, Operation, io_error, is_forbidden};
pub use exchange::{ATTEMPTS, Answers, Ended, Exchange, Line};
pub use socket::{NetlinkSocket, Place, Transport};
