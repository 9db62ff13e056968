//! What a service manager that speaks `sd_notify(3)` is told: ready, reloading, stopping, and alive.
//!
//! Without one (no `NOTIFY_SOCKET`) all of it does nothing.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use sd_notify::NotifyState;

/// How long a manager that does not listen is waited for: by the measuring thread, whose next sign of life tells as much, and
/// by the others.
const FEEDING: Duration = Duration::from_millis(10);
const TELLING: Duration = Duration::from_secs(1);

/// The service manager that started the agent, if one did.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ServiceManager {
    /// Within which time it wants to hear of the agent (`WatchdogSec=`), or kills it.
    watchdog: Option<Duration>,
}

impl ServiceManager {
    /// What the environment says of it.
    pub(crate) fn find() -> Self {
        Self { watchdog: sd_notify::watchdog_enabled() }
    }

    /// How often the watchdog is to be fed: twice in its time, as `sd_watchdog_enabled(3)` recommends.
    pub(crate) fn feed_every(self) -> Option<Duration> {
        self.watchdog.map(|within| within / 2)
    }

    /// Feeds the watchdog. Only what the watchdog is there for may call this.
    pub(crate) fn feed(self) {
        if self.watchdog.is_some() {
            tell(&[NotifyState::Watchdog], FEEDING);
        }
    }

    /// The configuration is in force, and looks follow at their times.
    pub(crate) fn ready(probes: usize) {
        let status = format!("measuring {probes} {}", if probes == 1 { "probe" } else { "probes" });
        tell(&[NotifyState::Ready, NotifyState::Status(&status)], TELLING);
    }

    /// The configuration is being read again; [`Self::ready`] has to follow, whatever comes of it.
    pub(crate) fn reloading() {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => tell(&[NotifyState::Reloading, now], TELLING),
            Err(error) => tracing::debug!(%error, "the service manager is not told of the reload"),
        }
    }

    /// The agent is about to end.
    pub(crate) fn stopping() {
        tell(&[NotifyState::Stopping, NotifyState::Status("delivering what waits")], TELLING);
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "what the service manager put into the environment is read here and by sd_notify alone"
)]
fn tell(state: &[NotifyState<'_>], within: Duration) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET") else { return };
    if let Err(error) = send(&socket, state, within) {
        // A manager that misses the watchdog's food tells that itself, by ending the agent.
        tracing::debug!(%error, "the service manager cannot be told");
    }
}

/// Sends one datagram within that time, to a path or, behind an `@`, an abstract name (`unix(7)`).
///
/// Not by `sd_notify::notify`, which connects its socket first: the measuring thread may not connect any.
fn send(socket: &OsStr, state: &[NotifyState<'_>], within: Duration) -> io::Result<()> {
    let mut message = String::new();
    for line in state {
        writeln!(message, "{line}").map_err(io::Error::other)?;
    }
    let address = match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    let own = UnixDatagram::unbound()?;
    own.set_write_timeout(Some(within))?;
    own.send_to_addr(message.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests;
