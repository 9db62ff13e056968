//! What host names mean, from the hosts file and the DNS.
//!
//! A thread of its own finds out the addresses of the names that are wanted, and does so again as their times to live say
//! ([`Resolver`]). Whoever measures reads what is known ([`NameAdapter`](vms_core::NameAdapter)), and waits for
//! nobody.
//!
//! `book` is what is known, and when to ask again; `ask` asks once; `resolver` is the thread; `udp` reaches name servers.

mod ask;
mod book;
mod resolver;
mod udp;

pub use ask::Files;
pub use resolver::Resolver;
