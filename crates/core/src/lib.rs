//! What a link between two services is, what a probe asks about it, and how an answer is found.
//!
//! Everything here is pure: no I/O, no runtime, no wire format. The kernel's sockets come in through
//! [`ConnAdapter`], their holders through [`ProcessAdapter`], time through [`Clock`]; answers leave as
//! [`metric::DataPoint`]s and [`link::LinkChange`]s. The crate reads top down: [`address`], [`connection`] and
//! [`process`] are the vocabulary, [`probe`] what is configured, [`look`] one answer, [`link`] answers over
//! time, [`monitor`] the whole of it, [`schedule`] when to ask.

pub mod adapter;
pub mod address;
pub mod allowance;
pub mod budget;
mod causes;
pub mod connection;
pub mod discovery;
pub mod health;
pub mod infer;
pub mod link;
pub mod look;
pub mod metric;
pub mod monitor;
pub mod name;
pub mod namespace;
pub mod observer;
pub mod presence;
pub mod probe;
pub mod process;
pub mod schedule;
pub mod sight;
pub mod socket;
#[cfg(test)]
mod test_host;
mod track;
pub mod translation;
pub mod usage;
pub mod watch;

pub use adapter::{Clock, ConnAdapter, NameAdapter, ProcessAdapter, TranslationAdapter};
pub use causes::with_causes;
