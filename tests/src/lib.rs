//! What the whole-agent tests stand on: hosts that are network namespaces, programs that hold sockets, the real
//! agent binary, and collectors that read back what it sent.
//!
//! A [`Scene`] is what one test owns: a directory, and names that no other test uses. [`Namespace`] is a host, [`Peer`] a program on it, [`AgentCommand`] starts the agent there.
//! [`Collector`] and [`Rotel`] receive, [`Responder`] receives and answers as it is told.
//!
//! Everything here panics when it fails: what the harness cannot do, the test did not prove.
#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    reason = "a failure of the harness is the failure of the test"
)]

pub mod agent;
pub mod authority;
pub mod cgroup;
pub mod collector;
pub mod container;
pub mod container_group;
pub mod deadline;
pub mod disk;
pub mod environment;
pub mod faulty;
pub mod hung;
pub mod link;
pub mod lives;
pub mod metronome;
pub mod namespace;
pub mod nat;
pub mod otlp;
pub mod outage;
pub mod peer;
pub mod program;
pub mod responder;
pub mod rotel;
pub mod scene;
pub mod scrape;
mod served;
pub mod skip;
pub mod spool;
pub mod tls;
pub mod trace;
pub mod usage;
pub mod watched;

pub use agent::{Agent, AgentCommand, Check, Privileges, Row};
pub use cgroup::Cgroup;
pub use collector::{Collector, Protocol};
pub use container::{Engine, Image, Pod};
pub use container_group::ContainerGroup;
pub use deadline::eventually;
pub use faulty::{Arrival, Fate, Fault, Faulty, Stored};
pub use hung::Hung;
pub use link::{Link, config, probe, probe_with};
pub use metronome::Metronome;
pub use namespace::{Namespace, SocketState};
pub use otlp::{Number, Point, Points};
pub use outage::{Inject, Outage, SpoolMode};
pub use peer::{Listener, Peer, Program, Stream};
pub use responder::{Answer, Responder};
pub use rotel::Rotel;
pub use scene::Scene;
pub use trace::{Call, Trace};
pub use usage::Usage;
pub use watched::Watched;
