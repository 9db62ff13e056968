//! The collector rotel, a program of its own, on a host's loopback. It prints what it receives.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::collector::Protocol;
use crate::deadline::eventually;
use crate::environment;
use crate::namespace::Namespace;
use crate::otlp::{Number, Point, Points};
use crate::program;
use crate::scene::Scene;

/// A running rotel; killed when dropped.
pub struct Rotel {
    child: Child,
    printed: Arc<Mutex<Vec<String>>>,
}

impl Rotel {
    /// Starts on the loopback of a host, for both protocols.
    #[must_use]
    #[track_caller]
    pub fn start(scene: &Scene, host: &Namespace) -> Self {
        let program =
            environment::rotel_program().expect("tests that start rotel need it: needs!(Need::Rotel)");
        let mut command = program::command(program);
        command
            .arg("start")
            .args(["--otlp-grpc-endpoint", &Protocol::Grpc.address().to_string()])
            .args(["--otlp-http-endpoint", &Protocol::Http.address().to_string()])
            .args(["--debug-log", "metrics", "--debug-log-verbosity", "detailed"])
            .args(["--exporter", "blackhole"])
            .arg("--pid-file")
            .arg(scene.path().join("rotel.pid"))
            .arg("--log-file")
            .arg(scene.path().join("rotel.log"))
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = host.spawn(&mut command).unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let stdout = child.stdout.take().expect("stdout is piped");
        let printed = Arc::new(Mutex::new(Vec::new()));
        let lines = Arc::clone(&printed);
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Ok(mut lines) = lines.lock() {
                    lines.push(line);
                }
            }
        });
        for protocol in Protocol::ALL {
            eventually("rotel to listen", || host.inside(|| TcpStream::connect(protocol.address()).ok()));
        }
        Self { child, printed }
    }
}

impl Points for Rotel {
    fn points(&self) -> Vec<Point> {
        let printed = self.printed.lock().expect("the reader does not panic").clone();
        parse_points(&printed)
    }
}

impl Drop for Rotel {
    fn drop(&mut self) {
        let _dead_already = self.child.kill();
        let _reaped_already = self.child.wait();
    }
}

impl fmt::Debug for Rotel {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Rotel").field("pid", &self.child.id()).finish_non_exhaustive()
    }
}

/// Whose attributes the lines are.
#[derive(Clone, Copy)]
enum Section {
    Resource,
    Descriptor,
    Point,
    Other,
}

/// Reads the detailed debug log. A point is complete with its last line, `Value` or `Count`.
fn parse_points(lines: &[String]) -> Vec<Point> {
    let mut points = Vec::new();
    let mut section = Section::Other;
    let mut resource = BTreeMap::new();
    let mut descriptor: BTreeMap<String, String> = BTreeMap::new();
    let mut attributes = BTreeMap::new();
    let (mut start, mut time) = (0, 0);
    for line in lines {
        let line = line.trim();
        if line.starts_with("ResourceMetrics #") {
            resource.clear();
        } else if line.starts_with("Resource attributes:") {
            section = Section::Resource;
        } else if line.starts_with("Metric #") {
            descriptor.clear();
        } else if line.starts_with("Descriptor:") {
            section = Section::Descriptor;
        } else if line.contains("DataPoints #") {
            attributes.clear();
            section = Section::Other;
        } else if line.starts_with("Data point attributes:") {
            section = Section::Point;
        } else if let Some((key, value)) = line.strip_prefix("-> ").and_then(|pair| pair.split_once(": ")) {
            match section {
                Section::Resource => drop(resource.insert(key.to_owned(), parse_attribute(value))),
                Section::Descriptor => drop(descriptor.insert(key.to_owned(), value.to_owned())),
                Section::Point => drop(attributes.insert(key.to_owned(), parse_attribute(value))),
                Section::Other => {}
            }
        } else if let Some(number) = line.strip_prefix("StartTimestamp: ") {
            start = number.parse().unwrap_or(0);
        } else if let Some(number) = line.strip_prefix("Timestamp: ") {
            time = number.parse().unwrap_or(0);
        } else if let Some(value) = line.strip_prefix("Value: ").or_else(|| line.strip_prefix("Count: ")) {
            let text = |key: &str| descriptor.get(key).cloned().unwrap_or_default();
            points.push(Point {
                name: text("Name"),
                unit: text("Unit"),
                description: text("Description"),
                kind: parse_kind(&descriptor),
                attributes: attributes.clone(),
                value: parse_number(value),
                time,
                start,
                resource: resource.clone(),
            });
        } else {
            section = Section::Other;
        }
    }
    points
}

fn parse_kind(descriptor: &BTreeMap<String, String>) -> String {
    let is = |key: &str, value: &str| descriptor.get(key).is_some_and(|found| found == value);
    let kind = match descriptor.get("DataType").map(String::as_str) {
        Some("Gauge") => "gauge",
        Some("Histogram") => "histogram",
        Some("Sum") if !is("AggregationTemporality", "AGGREGATION_TEMPORALITY_CUMULATIVE") => {
            "a sum that is not cumulative"
        }
        Some("Sum") if is("IsMonotonic", "true") => "counter",
        Some("Sum") => "updowncounter",
        other => return format!("{other:?}"),
    };
    kind.to_owned()
}

/// `Str(text)` or `Int(80)`.
fn parse_attribute(shown: &str) -> String {
    let inner = |prefix: &str| shown.strip_prefix(prefix).and_then(|rest| rest.strip_suffix(')'));
    match (inner("Str("), inner("Int(")) {
        (Some(text), _) => format!("\"{text}\""),
        (_, Some(number)) => number.to_owned(),
        _ => shown.to_owned(),
    }
}

fn parse_number(shown: &str) -> Number {
    match shown.parse() {
        Ok(number) => Number::Int(number),
        Err(_not_an_integer) => Number::Double(shown.parse().unwrap_or(f64::NAN)),
    }
}

#[cfg(test)]
mod tests;
