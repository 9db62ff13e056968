//! The agent, its configuration as Kubernetes mounts it, and its restarts.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use serde_json::{Value, json};
use vms_agent_tests::deadline::{now, unix_nanoseconds};
use vms_agent_tests::{Agent, AgentCommand, Namespace, Protocol, Scene, Usage, probe};

use crate::record::link_name;
use crate::world::World;

/// How long a start or a reload may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The running agent.
pub(crate) struct Subject<'a> {
    command: AgentCommand<'a>,
    agent: Agent,
    directory: PathBuf,
    settings: Value,
    serial: u32,
    turn: u32,
    /// When it was away: from just before the kill until it had started.
    pub(crate) away: Vec<(u64, u64)>,
    /// Reloads that were applied, and refused as they had to be.
    pub(crate) reloads: (u32, u32),
    /// Lines of the logs of runs that were killed, by level.
    logged: (usize, usize),
}

impl<'a> Subject<'a> {
    /// Starts it.
    pub(crate) fn start(
        scene: &'a Scene,
        host: &'a Namespace,
        world: &World,
        links: usize,
        spool: &str,
    ) -> Result<Self> {
        let directory = scene.public_directory("etc");
        let process = scene.name("svc");
        let probes: Vec<Value> =
            (0..links).map(|link| probe(&link_name(link), &process, world.service(link))).collect();
        let mut settings = json!({
            "interval": "1s",
            "cpuBudget": "100%",
            "probes": probes,
            "export": {
                "endpoint": Protocol::Grpc.endpoint(),
                "compression": "zstd",
                "timeout": "2s",
                "backoff": { "initial": "100ms", "max": "1s" },
            },
        });
        let place = scene.own_directory("spool", 0);
        let spool = spool.replace("{dir}", &place.display().to_string());
        settings["export"]["spool"] = serde_json::from_str(&spool).context("--spool")?;
        write_version(&directory, 0, &settings)?;
        symlink("v0", directory.join("..data"))?;
        symlink("..data/config.json", directory.join("config.json"))?;
        let command = AgentCommand::new(scene, host).config_file(directory.join("config.json"));
        let agent = command.start();
        let (away, reloads, logged) = (Vec::new(), (0, 0), (0, 0));
        let subject = Self { command, agent, directory, settings, serial: 0, turn: 0, away, reloads, logged };
        subject.wait_for("started", 1)?;
        let without_spool = subject.agent.log_with(&["the spool", "cannot be used"]);
        ensure!(without_spool.is_empty(), "{without_spool:#?}");
        Ok(subject)
    }

    /// What it uses.
    pub(crate) fn usage(&self) -> Option<Usage> {
        Usage::read(self.agent.pid())
    }

    /// Kills it and starts it again.
    pub(crate) fn kill(&mut self) -> Result<()> {
        let killed = unix_nanoseconds();
        self.agent.kill();
        self.remember_log();
        self.agent = self.command.start();
        self.wait_for("\"started\"", 1)?;
        self.away.push((killed, unix_nanoseconds()));
        Ok(())
    }

    /// Puts another configuration in its place, by a symbolic link, and tells the agent.
    pub(crate) fn reload(&mut self) -> Result<()> {
        let turn = self.turn % 5;
        self.turn += 1;
        let valid = turn != 3;
        let mut next = self.settings.clone();
        match turn {
            // Another way out, while the former may have something to deliver.
            0 => next["export"]["timeout"] = json!("1500ms"),
            1 => next["log"] = json!({ "level": "info,vms_export=warn" }),
            2 => {
                let extra = probe("extra", "nobody", ([127, 0, 0, 1], 9).into());
                next["probes"].as_array_mut().expect("a list").push(extra);
            }
            3 => next["interval"] = json!("soon"),
            _ => next["export"]["timeout"] = json!("2500ms"),
        }
        self.mount(&next)?;
        let said = if valid { "configuration reloaded" } else { "the old one stays in force" };
        let before = self.agent.log_with(&[said]).len();
        self.agent.signal(Signal::HUP);
        self.wait_for(said, before + 1)?;
        let (applied, refused) = &mut self.reloads;
        *(if valid { applied } else { refused }) += 1;
        if !valid {
            // A start would refuse it too.
            self.mount(&self.settings.clone())?;
        }
        Ok(())
    }

    /// Puts a configuration in place as kubelet does: in a directory of its own, to which a link is turned.
    fn mount(&mut self, settings: &Value) -> Result<()> {
        self.serial += 1;
        write_version(&self.directory, self.serial, settings)?;
        let link = self.directory.join("..next");
        symlink(format!("v{}", self.serial), &link)?;
        fs::rename(&link, self.directory.join("..data"))?;
        fs::remove_dir_all(self.directory.join(format!("v{}", self.serial - 1)))?;
        Ok(())
    }

    /// Ends it.
    pub(crate) fn stop(&mut self) -> Duration {
        let took = self.agent.stop();
        self.remember_log();
        took
    }

    /// How many requests are in its spool.
    pub(crate) fn spooled(&self) -> usize {
        let directory = self.settings["export"]["spool"]["directory"].as_str().unwrap_or_default();
        let Ok(items) = fs::read_dir(directory) else { return 0 };
        items.flatten().filter(|item| item.path().extension().is_some_and(|end| end == "otlp")).count()
    }

    /// Warnings and errors that it logged in all.
    pub(crate) fn logged(&self) -> (usize, usize) {
        self.logged
    }

    fn remember_log(&mut self) {
        self.logged.0 += self.agent.log_with(&["\"level\":\"WARN\"", "vms_export"]).len();
        self.logged.1 += self.agent.log_with(&["\"level\":\"ERROR\""]).len();
    }

    fn wait_for(&self, text: &str, times: usize) -> Result<()> {
        let began = now();
        while self.agent.log_with(&[text]).len() < times {
            ensure!(began.elapsed() < PATIENCE, "the agent did not say {text:?}: {:#?}", self.agent.log());
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

fn write_version(directory: &std::path::Path, serial: u32, settings: &Value) -> Result<()> {
    let version = directory.join(format!("v{serial}"));
    fs::create_dir(&version)?;
    fs::write(version.join("config.json"), settings.to_string())?;
    Ok(())
}
