//! What several tests of this crate start from.

use std::time::{Duration, SystemTime};

use vms_core::Clock;

use crate::config::{Backoff, Compression, ExportConfig, Protocol, TlsFiles};

/// A configuration without TLS, headers or compression, that waits little.
pub(crate) fn config(protocol: Protocol, endpoint: &str) -> ExportConfig {
    ExportConfig {
        protocol,
        endpoint: endpoint.parse().unwrap(),
        headers: Vec::new(),
        timeout: Duration::from_secs(5),
        compression: Compression::None,
        tls: TlsFiles::default(),
        backoff: Backoff { initial: Duration::from_millis(2), max: Duration::from_millis(10) },
        queue_bytes: 1 << 20,
    }
}

/// A clock that stands still.
pub(crate) struct StoppedClock;

impl Clock for StoppedClock {
    fn monotonic(&self) -> Duration {
        Duration::from_secs(100)
    }

    fn wall(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)
    }
}
