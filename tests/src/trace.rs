//! What strace saw of a program: the system calls of each thread, whole and in their order.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::deadline::eventually;

/// A trace of some system calls, in a file for each thread.
#[derive(Debug)]
pub struct Trace {
    file: PathBuf,
    arguments: Vec<String>,
}

/// A call that has returned.
#[derive(Debug, Clone)]
pub struct Call {
    /// What was called.
    pub name: String,
    /// When, in nanoseconds since 1970: the kernel did nothing before.
    pub began: u64,
    /// When it had returned: the thread went on after it.
    pub ended: u64,
    /// The files and directories whose descriptors it was given.
    pub files: Vec<PathBuf>,
    /// The texts and bytes that it was given.
    pub texts: Vec<Vec<u8>>,
    /// What it returned; negative where it failed.
    pub result: i64,
}

impl Trace {
    /// One of those calls, as strace selects them, in files that begin like that.
    #[must_use]
    pub fn new(file: PathBuf, calls: &str) -> Self {
        // Paths of descriptors (-y), times and durations to the microsecond, and all bytes as they are.
        let words = ["-ff", "-y", "-ttt", "-T", "-xx", "-s", "16777216", "-e", &format!("trace={calls}")];
        let mut arguments = words.map(str::to_owned).to_vec();
        arguments.extend(["-o".to_owned(), file.display().to_string()]);
        Self { file, arguments }
    }

    /// The first of those calls, so many of each thread, do nothing for so long before they begin: whoever does not wait for
    /// them is found out.
    #[must_use]
    pub fn delaying(mut self, calls: &str, first: usize, by: Duration) -> Self {
        let delay = format!("inject={calls}:delay_enter={}:when=1..{first}", by.as_micros());
        self.arguments.extend(["-e".to_owned(), delay]);
        self
    }

    /// What strace is told.
    #[must_use]
    pub fn arguments(&self) -> &[String] {
        &self.arguments
    }

    /// The calls that returned, of each thread, once all of them have ended.
    #[must_use]
    #[track_caller]
    pub fn threads(&self) -> Vec<Vec<Call>> {
        eventually("the end of the trace", || {
            let threads: Vec<String> = self.files().iter().map(read).collect();
            let is_whole = |thread: &String| thread.lines().last().is_some_and(|line| line.contains("+++ "));
            (!threads.is_empty() && threads.iter().all(is_whole)).then_some(threads)
        })
        .iter()
        .map(|thread| thread.lines().filter_map(parse_call).collect())
        .collect()
    }

    fn files(&self) -> Vec<PathBuf> {
        let directory = self.file.parent().expect("a file lies in a directory");
        let beginning = format!("{}.", self.file.display());
        let items = fs::read_dir(directory).expect("the directory of the trace");
        let paths = items.map(|item| item.expect("the directory of the trace").path());
        paths.filter(|path| path.display().to_string().starts_with(&beginning)).collect()
    }
}

fn read(file: impl AsRef<Path>) -> String {
    fs::read_to_string(file).expect("all that is not ASCII is escaped")
}

/// `1700000000.123456 fsync(3<\x2f\x74>) = 0 (DELAYED) <0.000016>`; nothing for signals, ends, and what did not return.
fn parse_call(line: &str) -> Option<Call> {
    let (began, rest) = line.split_once(' ')?;
    let (name, rest) = rest.split_once('(')?;
    let (arguments, result) = rest.rsplit_once(") = ")?;
    let number = result.split([' ', '<']).next()?;
    let took = result.rsplit_once('<')?.1.strip_suffix('>')?;
    // Nothing else has quotes or angle brackets: they are escaped.
    let paths = arguments.split('<').skip(1).filter_map(|part| Some(part.split_once('>')?.0));
    let files = paths.map(|path| PathBuf::from(OsString::from_vec(unescape(path)))).collect();
    let texts = arguments.split('"').skip(1).step_by(2).map(unescape).collect();
    let began = nanoseconds(began)?;
    let result = number.parse().ok()?;
    Some(Call { name: name.to_owned(), began, ended: began + nanoseconds(took)?, files, texts, result })
}

/// Seconds with six digits behind the point.
fn nanoseconds(text: &str) -> Option<u64> {
    let (seconds, micros) = text.split_once('.')?;
    assert_eq!(micros.len(), 6, "microseconds: {text}");
    Some(seconds.parse::<u64>().ok()? * 1_000_000_000 + micros.parse::<u64>().ok()? * 1000)
}

fn unescape(text: &str) -> Vec<u8> {
    let bytes = text.split("\\x").skip(1);
    bytes.map(|byte| u8::from_str_radix(byte, 16).expect("two digits")).collect()
}
