//! Why the exporter cannot start: each variant is something that its operator can correct.

use std::io;
use std::path::PathBuf;

use tokio_rustls::rustls;

use crate::failure::Failure;

/// A configuration that cannot work, or a collector that was asked and did not answer as one.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// Nothing can be sent to this endpoint.
    #[error("endpoint {endpoint}: {problem}")]
    Endpoint {
        /// The endpoint, without what may be secret in it.
        endpoint: String,
        /// What is wrong, and what is allowed.
        problem: &'static str,
    },
    /// Another agent uses the directory.
    #[error(
        "spool {}: it is used by process {holder}: stop that one, or give each agent an export.spool.directory of its own",
        directory.display()
    )]
    SpoolInUse {
        /// The configured directory.
        directory: PathBuf,
        /// The process, as it called itself.
        holder: String,
    },
    /// The directory may not be used by this process as it runs.
    #[error("spool {}: it cannot be used", directory.display())]
    SpoolOutOfReach {
        /// The configured directory.
        directory: PathBuf,
        /// What the kernel said, or what is wrong with it.
        source: io::Error,
    },
    /// This header cannot be sent. Its value is not told: it may be a secret.
    #[error("header {name}: {problem}")]
    Header {
        /// The configured name.
        name: String,
        /// What is wrong, and what is allowed.
        problem: &'static str,
    },
    /// A file of the TLS configuration cannot be read.
    #[error("{}: not readable", path.display())]
    TlsFile {
        /// The configured path.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A file of the TLS configuration does not hold what it should.
    #[error("{}: {problem}", path.display())]
    TlsMaterial {
        /// The configured path.
        path: PathBuf,
        /// What is wrong, and what is needed.
        problem: &'static str,
        /// What the TLS library said, where it was asked.
        source: Option<rustls::Error>,
    },
    /// A client certificate without its key, or a key without its certificate.
    #[error("{}: {problem}", path.display())]
    TlsPair {
        /// The one that is configured.
        path: PathBuf,
        /// What is missing.
        problem: &'static str,
    },
    /// No CA is configured and the system has none either.
    #[error("system trust store: no certificate found; install ca-certificates or configure a CA file")]
    NoSystemRoots,
    /// The TLS library refused the configuration as a whole.
    #[error("TLS: configuration refused")]
    Tls(#[source] rustls::Error),
    /// The collector could not be reached, or what answered is no collector.
    #[error("collector {endpoint}: {} failed", source.stage)]
    Unreachable {
        /// The endpoint, without what may be secret in it.
        endpoint: String,
        /// What happened, and what to do.
        source: Failure,
    },
}
