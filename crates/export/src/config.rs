//! What the sender needs to know. The agent composes it from its configuration and the standard variables.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// How requests travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// OTLP/gRPC.
    Grpc,
    /// OTLP/HTTP with binary protobuf bodies.
    HttpProtobuf,
}

/// How request bodies are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip (RFC 1952).
    Gzip,
    /// Zstandard (RFC 8878).
    Zstd,
}

/// A value that no output may show.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides a value.
    #[must_use]
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value, for the wire.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("****")
    }
}

/// PEM files for TLS. Without a CA the system's roots are trusted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificates to trust instead of the system's.
    pub ca: Option<PathBuf>,
    /// The certificate chain shown to the server; needs `client_key`.
    pub client_certificate: Option<PathBuf>,
    /// The private key of `client_certificate`.
    pub client_key: Option<PathBuf>,
}

/// How long to wait before a request is sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// After the first failure.
    pub initial: Duration,
    /// At the most, however many failures; what the collector asks for (`RetryInfo`, `Retry-After`) may be longer.
    pub max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { initial: Duration::from_secs(1), max: Duration::from_secs(30) }
    }
}

/// When requests are written to the spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpoolMode {
    /// When the collector does not take them, and what waits at the end of the agent.
    OnFailure,
    /// Each, at once: the end of the agent at any moment loses none.
    Always,
}

/// The spool on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpoolConfig {
    /// When it is used.
    pub mode: SpoolMode,
    /// Where it is: a directory that no other agent uses.
    pub directory: PathBuf,
    /// Bytes of the disk that its files may take, whole blocks counted. Beyond it the oldest requests are dropped.
    pub max_bytes: u64,
    /// How long a request may wait. Older ones are dropped.
    pub max_age: Duration,
    /// The least pause between two requests that are sent from it.
    pub replay_pause: Duration,
}

/// Where and how to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportConfig {
    /// How requests travel.
    pub protocol: Protocol,
    /// `http://` or `https://`, host and port; with [`Protocol::HttpProtobuf`] the full URL with its path.
    pub endpoint: http::Uri,
    /// Sent with each request.
    pub headers: Vec<(String, Secret)>,
    /// For one attempt, from connecting to the end of the answer. Zero means without limit, as the environment
    /// variables' specification has it for every timeout.
    pub timeout: Duration,
    /// How bodies are compressed.
    pub compression: Compression,
    /// For `https` endpoints.
    pub tls: TlsFiles,
    /// Waits between attempts.
    pub backoff: Backoff,
    /// Bytes that may wait, as they go on the wire: compression makes room for many times the points. Beyond it the
    /// oldest requests are dropped and counted. What one cycle measured waits in full even where it alone is more, so
    /// that what waits is never more than this or one cycle, whichever is more; beside it there is the request on its
    /// way.
    pub queue_bytes: usize,
    /// The spool, unless all that waits is to wait in memory.
    pub spool: Option<SpoolConfig>,
}

impl ExportConfig {
    /// [`Self::timeout`] as timers can take it.
    pub(crate) fn attempt_limit(&self) -> Duration {
        const NO_LIMIT: Duration = Duration::from_hours(24 * 365);
        if self.timeout.is_zero() { NO_LIMIT } else { self.timeout.min(NO_LIMIT) }
    }
}
