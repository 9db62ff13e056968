//! What the soak is asked to do.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

/// Watches the agent for a long time, and checks what it told and used.
#[derive(Debug, Parser)]
pub(crate) struct Arguments {
    /// For how long; the last third with kills.
    #[arg(long, default_value_t = 30.0)]
    pub(crate) minutes: f64,
    /// Where chance begins: the same seed makes the same schedule.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Links that are watched.
    #[arg(long, default_value_t = 200)]
    pub(crate) links: usize,
    /// `export.spool` as JSON, in which `{dir}` stands for a directory of the soak's. With another mode than `always`, kills
    /// lose what is in memory.
    #[arg(long, default_value = r#"{"mode":"always","directory":"{dir}"}"#)]
    pub(crate) spool: String,
    /// Where to write soak.md and soak.svg.
    #[arg(long)]
    pub(crate) output: Option<PathBuf>,
}

impl Arguments {
    /// For how long all of it.
    pub(crate) fn lasts(&self) -> Duration {
        Duration::from_secs_f64(self.minutes * 60.0)
    }

    /// Whether what is killed loses nothing.
    pub(crate) fn keeps_all(&self) -> bool {
        self.spool.contains("always")
    }

    /// For how long without kills.
    pub(crate) fn steady(&self) -> Duration {
        self.lasts() * 2 / 3
    }

    /// Too short to tell growth from warming up.
    pub(crate) fn is_short(&self) -> bool {
        self.minutes < 5.0
    }
}
