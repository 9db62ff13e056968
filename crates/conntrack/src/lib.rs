//! Which connections have their destination translated (NAT), as the kernel's connection tracking tells it through
//! netlink `ctnetlink`: implements [`vms_core::TranslationAdapter`].
//!
//! One look asks for the connections to some services, of the network namespace of the thread that asks. The kernel
//! filters them, where it can; what it tells is verified all the same.
//!
//! [`codec`] is pure, and the only place that knows the kernel's structs; [`client`] asks, retries and verifies, through
//! [`vms_netlink`]; the choice of the dumps is private. What decodes is public, also for `tests/fuzz`. Reads top down: [`client`], [`codec`].

pub mod client;
pub mod codec;
mod error;
mod plan;

pub use client::Conntrack;
pub use error::Error;
pub use vms_netlink::Operation;
