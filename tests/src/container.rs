//! Containers: podman with runc, in a store of the test's own.
//!
//! An image is one program with the libraries that it needs, and nothing else. A pod has a network of its own without a cable
//! to anywhere; [`Pod::host`] is its inside, and [`Namespace::join`] lays the cable.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::deadline::eventually;
use crate::namespace::Namespace;
use crate::program;

/// Where stores are, one of each engine.
const STORES: &str = "/tmp";
const STORE: &str = "vmst-containers-";

static SERIAL: AtomicU32 = AtomicU32::new(0);
static SWEEP: Once = Once::new();

/// A container engine whose images and containers nobody else sees; all are gone when dropped.
#[derive(Debug)]
pub struct Engine {
    store: PathBuf,
}

/// A program as an image.
#[derive(Debug, Clone, Copy)]
pub struct Image<'a> {
    /// Its name and tag.
    pub name: &'a str,
    /// The program.
    pub program: &'a Path,
    /// Where it is in the image: what starts.
    pub entrypoint: &'a str,
    /// Its arguments, where none are given.
    pub arguments: &'a [&'a str],
    /// As whom it runs: `UID:GID`.
    pub user: &'a str,
}

/// A pod that runs.
#[derive(Debug)]
pub struct Pod<'a> {
    engine: &'a Engine,
    name: String,
}

impl Engine {
    /// Without images and containers.
    #[must_use]
    #[track_caller]
    pub fn new() -> Self {
        SWEEP.call_once(sweep);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let store = PathBuf::from(STORES).join(format!("{STORE}{}-{serial}", std::process::id()));
        fs::create_dir(&store).expect("the directory for temporary files can be written");
        // Without limits of its own podman asks for more than this user may have. The other two are for hosts
        // without systemd.
        let config = "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1000:1000\"]\n\
                      [engine]\nruntime = \"runc\"\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"none\"\n";
        fs::write(store.join("containers.conf"), config).expect("the store can be written");
        Self { store }
    }

    /// Makes an image.
    #[track_caller]
    pub fn import(&self, image: &Image<'_>) {
        let root = self.store.join("image");
        let put = |from: &Path, to: &str| {
            let to = root.join(to.trim_start_matches('/'));
            fs::create_dir_all(to.parent().expect("a file lies in a directory"))
                .expect("the store can be written");
            fs::copy(from, &to).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
        };
        put(image.program, image.entrypoint);
        for library in libraries(image.program) {
            put(Path::new(&library), &library);
        }
        // Where deploy/Containerfile has the spool, and for whom.
        let state = root.join("var/lib/vms-agent");
        fs::create_dir_all(&state).expect("the store can be written");
        fs::set_permissions(&state, Permissions::from_mode(0o1777)).expect("the directory is ours");
        let archive = self.store.join("image.tar");
        let mut tar = program::command("tar");
        program::run(tar.args([
            "-C".as_ref(),
            root.as_os_str(),
            "-cf".as_ref(),
            archive.as_os_str(),
            ".".as_ref(),
        ]));
        let list = |words: &[&str]| serde_json::to_string(words).expect("words are JSON");
        let mut podman = self.podman(&["import", "--quiet"]);
        podman.args(["--change", &format!("ENTRYPOINT {}", list(&[image.entrypoint]))]);
        podman.args(["--change", &format!("CMD {}", list(image.arguments))]);
        podman.args(["--change", &format!("USER {}", image.user)]);
        program::run(podman.arg(&archive).arg(image.name));
        fs::remove_dir_all(&root).expect("the store can be written");
    }

    /// Starts what a Kubernetes manifest says, in a network of its own.
    #[must_use]
    #[track_caller]
    pub fn play(&self, name: &str, manifest: &str) -> Pod<'_> {
        let file = self.store.join(format!("{name}.yaml"));
        fs::write(&file, manifest).expect("the store can be written");
        let output = program::output(self.podman(&["play", "kube", "--network", "none"]).arg(&file));
        // It fails where one of several containers has ended, and complains of a systemd that is not there.
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        Pod { engine: self, name: name.to_owned() }
    }

    /// Starts a container that goes on by itself, with these options.
    #[track_caller]
    pub fn start(&self, name: &str, options: &[&str], image: &str, arguments: &[&str]) {
        let words = [&["run", "--detach", "--name", name], options, &[image], arguments];
        let output = self.output(&words.concat());
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Runs a container to its end, with these options, and what it printed.
    #[must_use]
    #[track_caller]
    pub fn run(&self, options: &[&str], image: &str, arguments: &[&str]) -> Output {
        self.output(&[&["run", "--rm"], options, &[image], arguments].concat())
    }

    #[track_caller]
    fn output(&self, words: &[&str]) -> Output {
        program::output(&mut self.podman(words))
    }

    fn podman(&self, words: &[&str]) -> Command {
        let mut command = program::command("podman");
        command.env("CONTAINERS_CONF", self.store.join("containers.conf"));
        command.arg("--root").arg(self.store.join("root")).arg("--runroot").arg(self.store.join("run"));
        command.args(words).stdin(Stdio::null());
        command
    }

    fn end(&self) {
        // Not `run`: a panic in a drop during a panic would abort the test program.
        let _ended_or_swept_later = self.podman(&["pod", "rm", "--force", "--all", "--time", "0"]).output();
        let _ended_or_swept_later = self.podman(&["rm", "--force", "--all", "--time", "0"]).output();
        // What is mounted there would be emptied with it.
        let _unmounted_already = program::command("umount").arg(self.store.join("root/overlay")).output();
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        if !mounts.contains(&*self.store.to_string_lossy()) {
            let _gone_or_swept_later = fs::remove_dir_all(&self.store);
        }
    }
}

impl Default for Engine {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.end();
    }
}

impl Engine {
    /// What a container has printed so far.
    #[must_use]
    #[track_caller]
    pub fn log(&self, container: &str) -> String {
        let output = self.output(&["logs", container]);
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat()
    }
}

impl Pod<'_> {
    /// The process of one of its containers, as the machine numbers it.
    #[must_use]
    #[track_caller]
    pub fn pid(&self, container: &str) -> u32 {
        let container = self.full(container);
        let shown = self.engine.output(&["inspect", "--format", "{{.State.Pid}}", &container]);
        let pid = String::from_utf8_lossy(&shown.stdout).trim().parse().unwrap_or(0);
        assert!(pid > 0, "{container} does not run: {}", self.engine.log(&container));
        pid
    }

    /// The id of one of its containers: 64 hexadecimal digits.
    #[must_use]
    #[track_caller]
    pub fn container_id(&self, container: &str) -> String {
        let shown = self.engine.output(&["inspect", "--format", "{{.Id}}", &self.full(container)]);
        String::from_utf8_lossy(&shown.stdout).trim().to_owned()
    }

    /// The inside of one of its containers, as a host.
    #[must_use]
    #[track_caller]
    pub fn host(&self, container: &str, number: u8) -> Namespace {
        Namespace::of_process(self.pid(container), number)
    }

    /// What a program of one of its containers says when it is started there beside the others.
    #[must_use]
    #[track_caller]
    pub fn exec(&self, container: &str, words: &[&str]) -> Output {
        let container = self.full(container);
        self.engine.output(&[&["exec", &container], words].concat())
    }

    /// What a container has printed so far.
    #[must_use]
    #[track_caller]
    pub fn log(&self, container: &str) -> String {
        self.engine.log(&self.full(container))
    }

    /// Tells a container's program to end, as Kubernetes does, and the exit code with which it did.
    #[must_use]
    #[track_caller]
    pub fn stop(&self, container: &str) -> i32 {
        let container = self.full(container);
        let told = self.engine.output(&["kill", "--signal", "TERM", &container]);
        assert!(told.status.success(), "{told:?}");
        eventually(&format!("{container} to end"), || {
            let shown = self.engine.output(&[
                "inspect",
                "--format",
                "{{.State.Status}} {{.State.ExitCode}}",
                &container,
            ]);
            let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
            shown.trim().strip_prefix("exited ")?.parse().ok()
        })
    }

    fn full(&self, container: &str) -> String {
        format!("{}-{container}", self.name)
    }
}

/// The shared libraries of a program, with their loader; none of a static one.
#[track_caller]
fn libraries(of: &Path) -> Vec<String> {
    let shown = program::output(program::command("ldd").arg(of));
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    shown.split_whitespace().filter(|word| word.starts_with('/')).map(str::to_owned).collect()
}

/// Ends what runs that died left behind.
fn sweep() {
    let Ok(entries) = fs::read_dir(STORES) else { return };
    for entry in entries.filter_map(Result::ok) {
        let name = entry.file_name().to_string_lossy().into_owned();
        let maker: Option<u32> =
            name.strip_prefix(STORE).and_then(|rest| rest.split('-').next()?.parse().ok());
        if let Some(maker) = maker
            && !fs::exists(format!("/proc/{maker}")).unwrap_or(true)
        {
            Engine { store: entry.path() }.end();
        }
    }
}
