//! Store and forward: requests that could not be delivered wait in a directory, one file each, and are sent when the
//! collector answers again.
//!
//! A file is written under another name, synchronized, renamed into place, and the directory synchronized: what is
//! told as spooled survives the end of the process at any moment, and a power loss as far as the disk keeps what
//! `fsync` reported. Damage costs the one request that it hits. A file is deleted once the collector has its request.
//!
//! `record` is what a file holds, `index` what is known of all files without opening them, `store` the directory,
//! and `keeper` the thread that alone touches the disk.

pub(crate) mod index;
pub(crate) mod keeper;
pub(crate) mod notice;
pub(crate) mod opening;
mod record;
pub(crate) mod store;

pub(crate) use record::unix_milliseconds as record_ms;
pub use record::{Record, RecordError, decode_record, encode_record};
pub use store::{SpoolCondition, examine_directory, make_directory};
