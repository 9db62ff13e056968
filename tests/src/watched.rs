//! What most tests watch: one link that is up, on one host, through the probe `link`.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::agent::AgentCommand;
use crate::link::{Link, config, probe};
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
        let (scene, host) = (Scene::new(), Namespace::new());
        let link = Link::new((&scene.program("svc"), &host), (&scene.program("far"), &host));
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
