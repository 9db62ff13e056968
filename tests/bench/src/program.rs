//! Other programs, and this one as its own child.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

/// A program to be started.
#[expect(clippy::disallowed_methods, reason = "the benchmark is about other programs")]
pub(crate) fn program(name: impl AsRef<OsStr>) -> Command {
    Command::new(name)
}

/// The present moment.
#[expect(clippy::disallowed_methods, reason = "the benchmark measures time")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Runs a program that has to succeed.
pub(crate) fn succeed<'a>(name: &str, arguments: impl IntoIterator<Item = &'a str>) -> Result<()> {
    let arguments: Vec<&str> = arguments.into_iter().collect();
    let output = program(name).args(&arguments).output().with_context(|| format!("{name} does not start"))?;
    ensure!(output.status.success(), "{name} {}: {}", arguments.join(" "), describe(&output));
    Ok(())
}

/// How a program ended, and what it said.
pub(crate) fn describe(output: &Output) -> String {
    let text = |bytes| String::from_utf8_lossy(bytes).trim_end().to_owned();
    format!("{}\n{}{}", output.status, text(&output.stdout), text(&output.stderr))
}

/// A program that is killed when its owner gives it up.
#[derive(Debug)]
pub(crate) struct Running(Child);

impl Running {
    /// Starts it; what it writes is dropped.
    pub(crate) fn start(command: &mut Command) -> std::io::Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().map(Self)
    }

    /// Its process.
    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// Fails if it has ended.
    pub(crate) fn ensure_alive(&mut self) -> Result<()> {
        let ended = self.0.try_wait()?;
        ensure!(ended.is_none(), "it ended too early: {ended:?}");
        Ok(())
    }

    /// Asks it to end; it must do so without an error.
    pub(crate) fn stop(mut self) -> Result<()> {
        self.ensure_alive()?;
        let pid = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw).context("a PID is positive")?;
        kill_process(pid, Signal::TERM)?;
        let status = self.0.wait()?;
        ensure!(status.success(), "it ended with {status}");
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Either it has ended already, or it ends now: nothing else can happen to one's own child.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// This program as its own child that does what it is told, a line at a time, and says when that is done.
/// It ends when its standard input does.
#[derive(Debug)]
pub(crate) struct Servant {
    running: Running,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Servant {
    /// Starts this program in a role; `wrapper` is a command that runs what is appended to it.
    pub(crate) fn start<'a>(wrapper: &[&str], role: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let this = std::env::current_exe()?;
        let mut command = match wrapper.split_first() {
            Some((name, arguments)) => {
                let mut command = program(name);
                command.args(arguments).arg(this);
                command
            }
            None => program(this),
        };
        Self::of(command.args(role))
    }

    /// Starts another program that does as it is told.
    pub(crate) fn of(command: &mut Command) -> Result<Self> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let orders = child.stdin.take().context("the input was piped")?;
        let answers = BufReader::new(child.stdout.take().context("the output was piped")?);
        Ok(Self { running: Running(child), orders, answers })
    }

    /// Its process.
    pub(crate) fn id(&self) -> u32 {
        self.running.id()
    }

    /// Gives an order without waiting for the answer.
    pub(crate) fn order(&mut self, line: &str) -> Result<()> {
        writeln!(self.orders, "{line}").context("a process that should hold connections has ended")
    }

    /// Waits for the answer to one order.
    pub(crate) fn answer(&mut self) -> Result<String> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        ensure!(line.ends_with('\n'), "a process that should hold connections has ended");
        Ok(line.trim_end().to_owned())
    }

    /// Gives an order and waits until it is carried out.
    pub(crate) fn ask(&mut self, line: &str) -> Result<String> {
        self.order(line)?;
        self.answer()
    }
}
