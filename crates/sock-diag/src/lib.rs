//! TCP connections, and sockets of other kinds, as the kernel tells them through netlink `sock_diag`: implements
//! [`vms_core::ConnAdapter`].
//!
//! One dump is one or two walks of the kernel's table, narrowed in the kernel by a program compiled from the
//! endpoints asked for: exactly, by ports only, or not at all, whichever costs least for so many endpoints on a
//! host of that size. A survey is that for each table that can have what is asked for (TCP sockets, those that listen, UDP
//! sockets), and also narrowed by clauses. A lookup asks for single sockets that are known, and costs the same on any host.
//!
//! [`codec`] and [`bytecode`] are pure, and the only places that know the kernel's structs; [`client`] asks,
//! retries and verifies, through [`vms_netlink`]; the choice of walks and programs and other network namespaces (`home`) are
//! private. Where namespaces may not be entered, [`proc_net`] takes in their tables as text, which `tables` reads. What
//! decodes is public, also for `tests/fuzz`. Reads top down: [`client`], `plan`, `walk`, [`codec`], [`bytecode`].

pub mod bytecode;
pub mod client;
pub mod codec;
mod error;
mod home;
pub mod host_size;
mod plan;
pub mod proc_net;
mod tables;
mod walk;

pub use client::SockDiag;
pub use error::Error;
pub use home::may_enter_namespaces;
pub use vms_netlink::Operation;
