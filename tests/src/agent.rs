//! The real agent binary: on a host, as a user, with a configuration.

use std::fmt;
use std::io::{BufRead, BufReader};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use serde_json::Value;

use crate::cgroup::Cgroup;
use crate::deadline::{eventually, now};
use crate::namespace::{Namespace, enter};
use crate::program;
use crate::scene::Scene;
use crate::trace::Trace;
use crate::usage::Usage;

/// With which rights the agent runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Privileges {
    /// As root with every capability.
    Root,
    /// As root, but without these capabilities (`sys_ptrace`), like in a default container.
    RootWithout(&'static [&'static str]),
    /// As that user, with these capabilities and no other.
    User(u32, &'static [&'static str]),
}

impl Privileges {
    fn uid(self) -> u32 {
        match self {
            Self::Root | Self::RootWithout(_) => 0,
            Self::User(uid, _) => uid,
        }
    }
}

/// Both capabilities that the agent can use, in setpriv's spelling.
pub const BOTH: &[&str] = &["sys_ptrace", "dac_read_search"];

/// How to start the agent.
#[derive(Debug)]
pub struct AgentCommand<'a> {
    scene: &'a Scene,
    host: &'a Namespace,
    config: Option<PathBuf>,
    privileges: Privileges,
    hidepid: Option<u8>,
    mounts: Vec<(PathBuf, PathBuf)>,
    environment: Vec<(String, String)>,
    /// Whether it is in the machine's PID namespace instead of the host's.
    sees_machine: bool,
    /// The root of its cgroup namespace, and where that is mounted anew.
    cgroups: Option<(PathBuf, Option<PathBuf>)>,
    /// What strace is told, where it watches.
    trace: Vec<String>,
    /// Agents of one scene have a spool each; one that is started again finds its own.
    serial: u32,
}

static SERIAL: AtomicU32 = AtomicU32::new(0);

/// What `vms-agent check --format json` said.
#[derive(Debug)]
pub struct Check {
    /// The exit code.
    pub code: i32,
    /// One row a result.
    pub rows: Vec<Row>,
    /// What went to stderr.
    pub stderr: String,
}

/// One result of a probe.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// The probe.
    pub name: String,
    /// `forward` or `reverse`; absent while the link has never matched.
    pub direction: Option<String>,
    /// Whether the link is up.
    pub up: Value,
    /// `up` or `down`.
    pub status: String,
    /// Why it is down.
    pub reason: Option<String>,
    /// Matching connections.
    pub connections: u64,
    /// Connections that may match.
    pub unattributed: u64,
    /// Who holds the connections.
    pub owners: Vec<Owner>,
    /// By what that is known, the surest way; where it may be inferred.
    pub attribution: Option<String>,
    /// Of how many connections it is only inferred.
    pub inferred: Option<u64>,
    /// The configured destination.
    pub dest_ip: String,
    /// The configured destination.
    pub dest_port: u16,
    /// The configured or matched source.
    pub source_ip: Option<String>,
    /// The configured or matched source.
    pub source_port: Option<u16>,
    /// The container, in another network namespace than the agent's.
    pub container_id: Option<String>,
    /// The pod of that container.
    pub pod_uid: Option<String>,
    /// What that pod is called.
    pub pod_name: Option<String>,
    /// Its Kubernetes namespace.
    pub pod_namespace: Option<String>,
    /// To what the destination is translated.
    #[serde(default)]
    pub translated: Vec<Translated>,
}

/// An endpoint to which the destination is translated.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Translated {
    /// Its address.
    pub ip: IpAddr,
    /// Its port.
    pub port: u16,
    /// How many connections go there.
    pub connections: u64,
}

/// A process that holds a connection.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Owner {
    /// Its id.
    pub pid: u32,
    /// Its name.
    pub name: String,
    /// Its executable, where known.
    pub executable: Option<String>,
    /// Its container, where it is in one.
    pub container_id: Option<String>,
    /// The pod of that container.
    pub pod_uid: Option<String>,
    /// What that pod is called.
    pub pod_name: Option<String>,
    /// Its Kubernetes namespace.
    pub pod_namespace: Option<String>,
}

/// The log of an agent that nobody reads.
#[derive(Debug)]
pub struct Unread(ChildStderr);

/// A running agent; killed when dropped.
pub struct Agent {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    output: Arc<Mutex<Vec<String>>>,
    readers: Vec<JoinHandle<()>>,
}

impl<'a> AgentCommand<'a> {
    /// The agent as root on a host, without a configuration and with an empty environment.
    #[must_use]
    pub fn new(scene: &'a Scene, host: &'a Namespace) -> Self {
        Self {
            scene,
            host,
            config: None,
            privileges: Privileges::Root,
            hidepid: None,
            mounts: Vec::new(),
            environment: Vec::new(),
            sees_machine: false,
            cgroups: None,
            trace: Vec::new(),
            serial: SERIAL.fetch_add(1, Ordering::Relaxed),
        }
    }

    /// With a configuration file.
    #[must_use]
    #[track_caller]
    pub fn config(self, config: &Value) -> Self {
        let text = config.to_string();
        self.config_text("config.json", &text)
    }

    /// With a configuration file of that name, whose extension tells its language.
    #[must_use]
    #[track_caller]
    pub fn config_text(mut self, name: &str, text: &str) -> Self {
        self.config = Some(self.scene.write(name, text));
        self
    }

    /// With a configuration file that is there.
    #[must_use]
    pub fn config_file(mut self, path: PathBuf) -> Self {
        self.config = Some(path);
        self
    }

    /// With those rights.
    #[must_use]
    pub fn privileges(mut self, privileges: Privileges) -> Self {
        self.privileges = privileges;
        self
    }

    /// With a /proc that is mounted with `hidepid`.
    #[must_use]
    pub fn hidepid(mut self, hidepid: u8) -> Self {
        self.hidepid = Some(hidepid);
        self
    }

    /// Sees all processes of the machine, and the sockets of the host.
    #[must_use]
    pub fn seeing_the_machine(mut self) -> Self {
        self.sees_machine = true;
        self
    }

    /// In a cgroup, which is the root of its cgroup namespace. What is mounted of cgroups is as on the machine, or that
    /// namespace's alone in the place given.
    #[must_use]
    pub fn in_cgroup(mut self, cgroup: &Cgroup, mounted_at: Option<PathBuf>) -> Self {
        self.cgroups = Some((cgroup.path().to_owned(), mounted_at));
        self
    }

    /// With every system call written to a file, by strace.
    #[must_use]
    pub fn traced(mut self, file: &Path) -> Self {
        self.trace = vec!["-f".to_owned(), "-o".to_owned(), file.display().to_string()];
        self
    }

    /// With some system calls written down for a test to read.
    #[must_use]
    pub fn traced_by(mut self, trace: &Trace) -> Self {
        self.trace = trace.arguments().to_vec();
        self
    }

    /// Sees a file, or a directory, in the place of one of the machine's, such as `/etc/hosts`.
    #[must_use]
    pub fn in_place_of(mut self, file: PathBuf, place: impl Into<PathBuf>) -> Self {
        self.mounts.push((file, place.into()));
        self
    }

    /// With an environment variable.
    #[must_use]
    pub fn variable(mut self, name: &str, value: impl Into<String>) -> Self {
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    /// `vms-agent check --format json`.
    #[must_use]
    #[track_caller]
    pub fn check(&self) -> Check {
        let output = self.output(&["check", "--format", "json"]);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        let Some(code) = output.status.code() else { panic!("check: {}\n{stderr}", output.status) };
        let rows = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
            panic!("check: exit {code}: {error}\n{}\n{stderr}", String::from_utf8_lossy(&output.stdout))
        });
        Check { code, rows, stderr }
    }

    /// Checks until the result is as wanted: a connection takes a moment to show on both ends.
    #[track_caller]
    pub fn check_until(&self, what: &str, wanted: impl Fn(&Check) -> bool) -> Check {
        let mut last = None;
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            eventually(what, || {
                let check = self.check();
                let found = wanted(&check);
                last = Some(check);
                found.then_some(())
            });
        }));
        match (found, last) {
            (Ok(()), Some(check)) => check,
            (_, last) => panic!("{what}: {last:#?}"),
        }
    }

    /// Any command of the agent, run to its end.
    #[must_use]
    #[track_caller]
    pub fn output(&self, arguments: &[&str]) -> Output {
        let mut command = self.command(arguments);
        self.inside(|| program::output(&mut command))
    }

    /// `vms-agent run`.
    #[must_use]
    #[track_caller]
    pub fn start(&self) -> Agent {
        self.start_as(&["run"])
    }

    /// Any command of the agent that goes on until it is told to end.
    #[must_use]
    #[track_caller]
    pub fn start_as(&self, arguments: &[&str]) -> Agent {
        let (mut agent, log) = self.spawn(arguments);
        log.read(&mut agent);
        agent
    }

    /// `vms-agent run`, whose log goes into the smallest pipe there is, and is not read for the time being.
    #[must_use]
    #[track_caller]
    pub fn start_unread(&self) -> (Agent, Unread) {
        let (agent, log) = self.spawn(&["run"]);
        rustix::pipe::fcntl_setpipe_size(&log.0, 4096).expect("a pipe can have that size");
        (agent, log)
    }

    #[track_caller]
    fn spawn(&self, arguments: &[&str]) -> (Agent, Unread) {
        let mut command = self.command(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child =
            self.inside(|| command.spawn()).unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let (log, output) = (Arc::default(), Arc::default());
        let readers = vec![collect_lines(child.stdout.take().expect("stdout is piped"), &output)];
        let unread = Unread(child.stderr.take().expect("stderr is piped"));
        (Agent { child, log, output, readers }, unread)
    }

    /// Does it where the agent is to be.
    fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        if !self.sees_machine {
            return self.host.inside(work);
        }
        let network = self.host.entrance();
        let result = thread::scope(|scope| {
            let worker = scope.spawn(move || {
                enter(&network);
                work()
            });
            worker.join()
        });
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Where its spool is, also when it is started again.
    #[must_use]
    #[track_caller]
    pub fn state_directory(&self) -> PathBuf {
        self.scene.own_directory(&format!("state-{}", self.serial), self.privileges.uid())
    }

    fn command(&self, arguments: &[&str]) -> Command {
        // The host's own /proc, for this process alone.
        let hidepid = self.hidepid.unwrap_or(0);
        let mut script = format!("mount -t proc -o hidepid={hidepid} proc /proc && ");
        for (file, place) in &self.mounts {
            let (file, place) = (file.display().to_string(), place.display().to_string());
            script.extend(["mount --bind '", &file, "' '", &place, "' && "]);
        }
        if let Some((cgroup, mounted_at)) = &self.cgroups {
            let (cgroup, place) = (cgroup.display().to_string(), mounted_at.as_ref());
            let mount =
                place.map(|place| format!("umount {0} && mount -t cgroup2 none {0} && ", place.display()));
            let mount = mount.unwrap_or_default();
            script.extend(["echo $$ > '", &cgroup, "/cgroup.procs' && exec unshare --cgroup -- sh -c '"]);
            script.extend([&mount, "exec \"$@\"' sh \"$@\""]);
        } else {
            script.push_str("exec \"$@\"");
        }
        let mut words = ["unshare", "--mount", "--", "sh", "-c", &script, "sh"].map(str::to_owned).to_vec();
        let list = |sign: &str, capabilities: &[&str]| {
            capabilities.iter().map(|name| format!("{sign}{name}")).collect::<Vec<_>>().join(",")
        };
        match self.privileges {
            Privileges::Root => {}
            Privileges::RootWithout(capabilities) => {
                words.extend([
                    "setpriv".to_owned(),
                    format!("--bounding-set={}", list("-", capabilities)),
                    format!("--inh-caps={}", list("-", capabilities)),
                    "--".to_owned(),
                ]);
            }
            Privileges::User(uid, capabilities) => {
                words.extend([
                    "setpriv".to_owned(),
                    format!("--reuid={uid}"),
                    format!("--regid={uid}"),
                    "--clear-groups".to_owned(),
                ]);
                let only = if capabilities.is_empty() {
                    "-all".to_owned()
                } else {
                    format!("-all,{}", list("+", capabilities))
                };
                words.push(format!("--inh-caps={only}"));
                words.push(format!("--ambient-caps={only}"));
                words.push(format!("--bounding-set={only}"));
                words.push("--".to_owned());
            }
        }
        if !self.trace.is_empty() {
            // -D: the agent stays the process that was started.
            words.extend(["strace", "-D"].map(str::to_owned));
            words.extend(self.trace.iter().cloned());
        }
        words.push(self.scene.agent_program().display().to_string());
        let mut command = program::command(&words[0]);
        command.args(&words[1..]).args(arguments).env_clear().current_dir("/");
        // For the wrappers above; the agent itself starts nothing.
        command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        if let Some(config) = &self.config {
            command.arg("--config").arg(config);
        }
        // Apart from an agent that is installed here, and from those of other tests.
        command.env("RUNTIME_DIRECTORY", self.scene.own_directory("runtime", self.privileges.uid()));
        command.env("STATE_DIRECTORY", self.state_directory());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }
}

impl Check {
    /// The only row.
    #[must_use]
    #[track_caller]
    pub fn row(&self) -> &Row {
        assert_eq!(self.rows.len(), 1, "one row: {self:#?}");
        &self.rows[0]
    }

    /// The only row of a probe.
    #[must_use]
    #[track_caller]
    pub fn row_of(&self, name: &str) -> &Row {
        let rows: Vec<&Row> = self.rows.iter().filter(|row| row.name == name).collect();
        assert_eq!(rows.len(), 1, "one row of {name}: {self:#?}");
        rows[0]
    }
}

impl Row {
    /// Whether the link is up, in every field that says so.
    #[must_use]
    #[track_caller]
    pub fn is_up(&self) -> bool {
        let up = self.up == Value::Bool(true) || self.up == 1;
        assert_eq!(self.status, if up { "up" } else { "down" }, "status and up agree: {self:#?}");
        assert_eq!(self.connections > 0, up, "connections and up agree: {self:#?}");
        assert_eq!(self.reason.is_some(), !up, "a reason while down, and only then: {self:#?}");
        up
    }

    /// The reason, asserted to be that of a link that is down.
    #[must_use]
    #[track_caller]
    pub fn down_reason(&self) -> &str {
        assert!(!self.is_up(), "down: {self:#?}");
        self.reason.as_deref().expect("a link that is down has a reason")
    }

    /// The process ids of the owners, sorted.
    #[must_use]
    pub fn owner_pids(&self) -> Vec<u32> {
        let mut pids: Vec<u32> = self.owners.iter().map(|owner| owner.pid).collect();
        pids.sort_unstable();
        pids
    }
}

impl Unread {
    /// How many bytes wait to be read.
    #[must_use]
    #[track_caller]
    pub fn bytes(&self) -> u64 {
        rustix::io::ioctl_fionread(&self.0).expect("a pipe tells")
    }

    /// Reads it from now on.
    pub fn read(self, agent: &mut Agent) {
        agent.readers.push(collect_lines(self.0, &agent.log));
    }
}

impl Agent {
    /// What it has logged so far, one JSON object a line.
    #[must_use]
    #[track_caller]
    pub fn log(&self) -> Vec<Value> {
        let lines = self.log.lock().expect("no reader panics").clone();
        lines
            .iter()
            .map(|line| {
                serde_json::from_str(line).unwrap_or_else(|error| panic!("log line: {error}: {line}"))
            })
            .collect()
    }

    /// The log lines that contain all of the texts, in any field.
    #[must_use]
    pub fn log_with(&self, texts: &[&str]) -> Vec<String> {
        let lines = self.log.lock().expect("no reader panics");
        lines.iter().filter(|line| texts.iter().all(|text| line.contains(text))).cloned().collect()
    }

    /// Waits for a log line that contains all of the texts.
    #[track_caller]
    pub fn wait_for_log(&self, texts: &[&str]) {
        let said = || (!self.log_with(texts).is_empty()).then_some(());
        eventually(&format!("a log line with {texts:?}"), said);
    }

    /// What went to stdout so far.
    #[must_use]
    pub fn stdout(&self) -> Vec<String> {
        self.output.lock().expect("no reader panics").clone()
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// What it uses at this moment.
    #[must_use]
    #[track_caller]
    pub fn usage(&self) -> Usage {
        Usage::of(self.pid())
    }

    /// Kills it, without a chance to say or store anything.
    pub fn kill(&mut self) {
        let _dead_already = self.child.kill();
        let _reaped_already = self.child.wait();
    }

    /// Sends a signal.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("the agent runs");
    }

    /// Whether it is still running.
    #[must_use]
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("the agent is our child").is_none()
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        let status = eventually("the agent's end", || self.child.try_wait().expect("the agent is our child"));
        for reader in self.readers.drain(..) {
            reader.join().expect("no reader panics");
        }
        status
    }

    /// Sends SIGTERM, and returns how long the agent took to end with exit code 0.
    #[track_caller]
    pub fn stop(&mut self) -> Duration {
        self.stop_with(Signal::TERM)
    }

    /// Sends a signal, and returns how long the agent took to end with exit code 0.
    #[track_caller]
    pub fn stop_with(&mut self, signal: Signal) -> Duration {
        let start = now();
        self.signal(signal);
        let status = self.wait();
        assert_eq!(status.code(), Some(0), "{status}");
        start.elapsed()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _dead_already = self.child.kill();
        let _reaped_already = self.child.wait();
        if thread::panicking()
            && let Ok(log) = self.log.lock()
        {
            for line in log.iter().skip(log.len().saturating_sub(60)) {
                // Not to stderr itself: the test runner shows this with the failure.
                #[expect(clippy::print_stderr, reason = "a failing test shows what the agent said")]
                {
                    eprintln!("agent: {line}");
                }
            }
        }
    }
}

impl fmt::Debug for Agent {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Agent").field("process", &self.child.id()).finish_non_exhaustive()
    }
}

fn collect_lines(from: impl std::io::Read + Send + 'static, to: &Arc<Mutex<Vec<String>>>) -> JoinHandle<()> {
    let to = Arc::clone(to);
    thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            if let Ok(mut lines) = to.lock() {
                lines.push(line);
            }
        }
    })
}
