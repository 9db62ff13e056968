//! What most tests watch: one link that is up, on one host, through the probe `link`.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;

use crate::agent::AgentCommand;
use crate::link::{Link, config, probe};
use crate::metronome::Metronome;
use crate::namespace::Namespace;
use crate::otlp::Points;
use crate::scene::Scene;

/// The metric that says whether the link is up.
pub const UP: &str = "vms.connection_mon.up";
/// The attributes of the link.
pub const FORWARD: &[(&str, &str)] = &[("name", "link"), ("direction", "forward")];

/// A link that is up, and a host to watch it on.
#[derive(Debug)]
pub struct Watched {
    /// Whose the programs at its ends are.
    pub scene: Scene,
    /// Where they run.
    pub host: Namespace,
    /// The link.
    pub link: Link,
}

impl Watched {
    /// A new link.
    #[must_use]
    #[track_caller]
    pub fn new() -> Self {
        Self::of_user(0)
    }

    /// One whose processes are that user's.
    #[must_use]
    #[track_caller]
    pub fn of_user(uid: u32) -> Self {
        let (scene, host) = (Scene::new(), Namespace::new());
        let (near, far) = (scene.program("svc").user(uid), scene.program("far").user(uid));
        let link = Link::new((&near, &host), (&far, &host));
        Self { scene, host, link }
    }

    /// A probe of the link.
    #[must_use]
    pub fn probe(&self, name: &str) -> Value {
        probe(name, &self.scene.name("svc"), self.link.service())
    }

    /// An agent without a configuration.
    #[must_use]
    pub fn command(&self) -> AgentCommand<'_> {
        AgentCommand::new(&self.scene, &self.host)
    }

    /// An agent that watches the link.
    #[must_use]
    #[track_caller]
    pub fn agent(&self) -> AgentCommand<'_> {
        self.command().config(&config(&[self.probe("link")]))
    }

    /// The same with a spool, in that mode.
    #[must_use]
    #[track_caller]
    pub fn spooling(&self, mode: &str) -> AgentCommand<'_> {
        self.agent().variable("VMS_EXPORT__SPOOL__MODE", mode)
    }
}

impl Default for Watched {
    fn default() -> Self {
        Self::new()
    }
}

/// When the link was measured, as far as that arrived.
#[must_use]
pub fn times(collector: &impl Points) -> BTreeSet<u64> {
    collector.series(UP, FORWARD).iter().map(|point| point.time).collect()
}

/// Asserts that from the first to the last of these times, in nanoseconds since 1970, no look is missing and none was late,
/// but for what the machine itself stood still.
#[track_caller]
pub fn assert_no_gap<'a>(times: impl IntoIterator<Item = &'a u64>, metronome: &Metronome) {
    /// Cycles are 200 ms apart.
    const LATE: Duration = Duration::from_millis(350);
    let times: Vec<u64> = times.into_iter().copied().collect();
    assert!(times.len() > 2, "measured {} times", times.len());
    for pair in times.windows(2) {
        let apart = Duration::from_nanos(pair[1] - pair[0]);
        let stalled = metronome.stalled(u64::midpoint(pair[0], pair[1]), apart);
        assert!(apart <= LATE + stalled, "{apart:?} apart, the machine stood still for {stalled:?}");
    }
}

/// The points that the agent counted as lost for that reason.
#[must_use]
pub fn lost(collector: &impl Points, reason: &str) -> i64 {
    let counts = collector.series("otel.sdk.exporter.metric_data_point.exported", &[("error.type", reason)]);
    counts.iter().map(|point| point.value.as_int()).max().unwrap_or_default()
}
