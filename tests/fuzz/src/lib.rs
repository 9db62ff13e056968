//! What the agent's decoders make of any bytes: a target for each, as a plain function.
//!
//! libFuzzer drives them (`fuzz_targets/`, `make fuzz`), and a test replays the corpus with the ordinary toolchain
//! (`tests/replay.rs`, a part of `make test`). A target states what holds whatever the bytes are: that nothing panics, that
//! memory stays in proportion (`bounded`), and, wherever there is one, what another implementation makes of the same.
#![expect(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    reason = "a target ends by panicking: that is a finding"
)]

mod answers;
mod bounded;
mod configuration;
mod conntrack;
mod cursor;
mod netlink;
mod proc_files;
mod programs;
mod spool;

pub use answers::{otlp_grpc_answers, otlp_http_answers};
pub use configuration::{configuration, configuration_documents, configuration_texts};
pub use conntrack::conntrack_replies;
pub use netlink::{netlink_replies, tcp_info};
pub use proc_files::proc_files;
pub use programs::filter_programs;
pub use spool::spool_records;

/// A target.
pub type Target = fn(&[u8]);

/// Every target, by the name of its corpus and of its binary.
pub const TARGETS: [(&str, Target); 11] = [
    ("configuration", configuration),
    ("configuration_documents", configuration_documents),
    ("configuration_texts", configuration_texts),
    ("conntrack_replies", conntrack_replies),
    ("filter_programs", filter_programs),
    ("netlink_replies", netlink_replies),
    ("otlp_grpc_answers", otlp_grpc_answers),
    ("otlp_http_answers", otlp_http_answers),
    ("proc_files", proc_files),
    ("spool_records", spool_records),
    ("tcp_info", tcp_info),
];
