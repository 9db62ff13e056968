//! TCP connections as the kernel tells them through netlink `sock_diag`: implements [`vms_core::ConnAdapter`].
//!
//! One look is one or two dumps, narrowed in the kernel by a program compiled from the endpoints asked for.
//! [`codec`] and [`bytecode`] are pure, and the only places that know the kernel's structs; [`client`] asks,
//! retries and verifies; the socket itself is private. Reads top down: [`client`], [`codec`], [`bytecode`].

pub mod bytecode;
pub mod client;
pub mod codec;
mod error;
mod socket;

pub use client::SockDiag;
pub use error::{Error, Operation};
