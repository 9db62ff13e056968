//! The configuration of `cnxwatch_exporter` 0.1.3, as probes of this agent.
//!
//! What could be told by cnxwatch as anything but 0 is counted as there: its unset and `*` hosts of listeners are one literal
//! address. What could be told as 0 alone, whatever the host does, becomes what was evidently meant. Either way a comment
//! beside the setting says so.

mod glob;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;

use vms_core::name::HostName;

use super::document::{self, Content, Format, Node};
use super::effective::scalar_text;
use super::fault::{ConfigErrors, FAULTS_LIMIT, Fault, KeyPath, Place, Step, quote};
use super::settings::SocketProtocol;
use super::text::Address;
use super::{file, suggest};
use crate::terminal::escape;

/// As the name of any probe.
const NAME_CHARACTERS_LIMIT: usize = 255;

/// A configuration that was taken over.
#[derive(Debug)]
pub(crate) struct Imported {
    /// A configuration file of this agent, with all that could be taken over.
    pub(crate) yaml: String,
    /// What could not.
    pub(crate) refused: Option<ConfigErrors>,
}

/// Reads a configuration of `cnxwatch_exporter`, and makes one of this agent from it.
///
/// # Errors
/// When no sockets can be made out in it.
pub(crate) fn import_file(path: &Path) -> Result<Imported, ConfigErrors> {
    let text = file::read_text(path).map_err(|error| {
        let place = Place::File(path.into(), None);
        ConfigErrors::new(vec![Fault::new(place, KeyPath::default(), format!("cannot be read: {error}"))])
    })?;
    import(&text, path)
}

fn import(text: &str, path: &Path) -> Result<Imported, ConfigErrors> {
    let file: Arc<Path> = path.into();
    let (root, syntax_faults) = document::parse(text, Format::Yaml);
    let place = |line| Place::File(Arc::clone(&file), line);
    let mut faults: Vec<Fault> = syntax_faults
        .into_iter()
        .map(|fault| Fault::new(place(fault.line), fault.path, fault.problem))
        .collect();
    let settings = match root.map(|root| root.content) {
        Some(Content::Map(settings)) => settings,
        _ if !faults.is_empty() => return Err(ConfigErrors::new(faults)),
        _ => BTreeMap::new(),
    };
    for (key, node) in settings.iter().filter(|(key, _)| *key != "sockets") {
        let fault = Fault::new(place(Some(node.line)), KeyPath::default().key(key), "no such key");
        faults.push(fault.allowed("sockets").meant(suggest::nearest(key, ["sockets"])));
    }
    let sockets = match settings.get("sockets").map(|node| &node.content) {
        Some(Content::List(sockets)) if !sockets.is_empty() => sockets.as_slice(),
        _ => {
            let fault = Fault::new(place(None), "sockets".into(), "no sockets are configured");
            faults.push(fault.allowed("a list of at least one socket, as cnxwatch_exporter has it"));
            &[]
        }
    };

    let mut yaml = format!(
        "# From {} of cnxwatch_exporter, by `vms-agent import cnxwatch`.\n\
         # connection_status_up is vms.connection.up here, and connection_status_count is vms.connection.count.\n\
         # Comments tell where a probe differs from what cnxwatch did.\n",
        escape(&path.to_string_lossy())
    );
    let mut names = BTreeSet::new();
    let mut is_begun = false;
    for (index, node) in sockets.iter().enumerate() {
        let path = KeyPath::from("sockets").index(index);
        let mut reader = SocketReader { path, file: &file, line: node.line, faults: Vec::new() };
        let (name, lines) = reader.read(node, &mut names);
        let indent = if is_begun { "  " } else { "" };
        if let Some(lines) = lines.filter(|_| reader.faults.is_empty()) {
            yaml.push_str(if is_begun { "\n" } else { "\nprobes:\n" });
            is_begun = true;
            write_probe(&mut yaml, &lines);
        } else {
            let problems: Vec<String> = reader.faults.iter().map(in_short).collect();
            let shown = if name.is_empty() { reader.path.to_string() } else { quote(&name) };
            let told = format!("{indent}# Not imported: {shown}: {}", problems.join("; "));
            yaml.extend(["\n", &*escape(&told), "\n"]);
        }
        let left = FAULTS_LIMIT.saturating_sub(faults.len());
        for fault in reader.faults.into_iter().take(left) {
            let of = if name.is_empty() { String::new() } else { format!(" (socket {})", quote(&name)) };
            faults.push(Fault { problem: fault.problem + &of, ..fault });
        }
    }
    Ok(Imported { yaml, refused: (!faults.is_empty()).then(|| ConfigErrors::new(faults)) })
}

/// A fault without its place.
fn in_short(fault: &Fault) -> String {
    let key = match fault.path.0.last() {
        Some(Step::Key(key)) => &**key,
        _ => "",
    };
    let value = fault.value.as_deref();
    match (key, value) {
        ("", _) => fault.problem.clone(),
        (key, None) => format!("{key}: {}", fault.problem),
        (key, Some(value)) => format!("{key} = {value}: {}", fault.problem),
    }
}

/// A line of a probe, and the comments that go before it. Comments may go before no line of their own.
#[derive(Debug, Default)]
struct Line {
    comments: Vec<String>,
    text: Option<String>,
}

impl Line {
    fn new(key: &str, value: &str) -> Self {
        Self { comments: Vec::new(), text: Some(format!("{key}: {value}")) }
    }

    fn comment(comment: impl Into<String>) -> Self {
        Self { comments: vec![comment.into()], text: None }
    }

    #[must_use]
    fn with(mut self, comment: impl Into<String>) -> Self {
        self.comments.push(comment.into());
        self
    }
}

fn write_probe(yaml: &mut String, lines: &[Line]) {
    yaml.push_str("  - type: connection\n");
    for Line { comments, text } in lines {
        for comment in comments {
            // What was written there must not become a line of its own.
            yaml.extend(["    # ", &*escape(comment), "\n"]);
        }
        if let Some(text) = text {
            yaml.extend(["    ", text, "\n"]);
        }
    }
}

/// A text as a value of a configuration file, in which a `$` could begin a reference.
fn value_text(text: &str) -> String {
    scalar_text(&text.replace('$', "$$"))
}

/// What cnxwatch knows of a socket; it passes over everything else.
const FIELDS: [&str; 10] =
    ["name", "host", "srcHost", "port", "srcPort", "dstHost", "dstPort", "protocol", "process", "status"];

/// An end's address, as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Host {
    Unset,
    /// `*` or `any`.
    Any,
    Ip(IpAddr),
    Name(HostName),
}

impl Host {
    /// The address, where it is one that a connection can have.
    fn peer(&self) -> Option<IpAddr> {
        match self {
            Self::Ip(ip) if !ip.is_unspecified() => Some(*ip),
            _ => None,
        }
    }

    /// The line of an end that is wanted to be there, where it can be.
    fn line(&self, key: &str) -> Option<Line> {
        match self {
            Self::Name(name) => Some(Line::new(key, &value_text(name.as_str())).with(
                "cnxwatch looks a name up once, when it starts, and takes the first address; here all of its addresses count, and it is looked up again.",
            )),
            host => host.peer().map(|ip| Line::new(key, &value_text(&ip.to_string()))),
        }
    }
}

/// Reads one socket.
struct SocketReader<'a> {
    path: KeyPath,
    file: &'a Arc<Path>,
    line: u32,
    faults: Vec<Fault>,
}

type Fields = BTreeMap<String, Node>;

impl SocketReader<'_> {
    /// Its name, and the probe that it becomes.
    fn read(&mut self, node: &Node, names: &mut BTreeSet<String>) -> (String, Option<Vec<Line>>) {
        let Content::Map(fields) = &node.content else {
            self.fault(Fault::new(self.place(node.line), self.path.clone(), "not a map of fields"));
            return (String::new(), None);
        };
        let name = self.text(fields, "name").unwrap_or_default();
        let lines = self.probe(fields, &name, names);
        (name, lines)
    }

    fn probe(&mut self, fields: &Fields, name: &str, names: &mut BTreeSet<String>) -> Option<Vec<Line>> {
        let mut lines = self.name(fields, name, names);
        let protocol = self.choice(fields, "protocol", &["tcp", "tcp4", "tcp6", "udp", "udp4", "udp6"]);
        let status = self.choice(fields, "status", &["listen", "established"]);
        let (host_key, local) = self.host(fields, ["srcHost", "host"], &mut lines);
        let (_, local_port) = self.port(fields, ["srcPort", "port"], &mut lines);
        let (_, remote) = self.host(fields, ["dstHost", "dstHost"], &mut lines);
        let (_, remote_port) = self.port(fields, ["dstPort", "dstPort"], &mut lines);
        let process = self.process(fields);
        let (protocol, status) = (protocol?, status?);
        let is_listening = status.is_empty() || status == "listen";
        let ends = Ends { local: local?, remote: remote?, is_listening };

        let family = self.family(fields, &protocol, &ends)?;
        if is_listening {
            self.refuse_peer(fields, &ends.remote, remote_port);
            if ends.local == Host::Unset {
                lines.push(Line::comment("Without host cnxwatch does not start here: any address counts."));
            }
            if local_port.is_none() {
                lines.push(Line::comment(
                    "Without port cnxwatch does not start here, and 0 is none to it: any port counts.",
                ));
            }
        }
        lines.extend(process);
        let any =
            if family.is_ipv4 { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { Ipv6Addr::UNSPECIFIED.into() };
        let address = |ip: IpAddr| Line::new("localAddress", &value_text(&ip.to_string()));
        let literal = match &ends.local {
            Host::Ip(ip) if is_listening => Some(address(*ip)),
            Host::Any if is_listening => Some(
                address(any)
                    .with(format!("{host_key} * is {any} to cnxwatch, and no other; see exact below.")),
            ),
            host => host.line("localAddress"),
        };
        let is_literal = literal.is_some();
        match literal {
            Some(line) => lines.push(line),
            None if !is_listening => {
                lines.push(Line::comment(format!(
                    "Where no srcHost is named cnxwatch wants {any} at this end, which no connection has, and tells 0: any address counts."
                )));
            }
            None => {}
        }
        if let Some(port) = local_port {
            lines.push(Line::new("localPort", &port.to_string()));
        }
        match ends.remote.line("remoteAddress") {
            Some(line) => lines.push(line),
            None if !is_listening => {
                lines.push(Line::comment(format!(
                    "Where no dstHost is named cnxwatch wants {any} at the other end, which no connection has, and tells 0: any address counts."
                )));
            }
            None => {}
        }
        if let Some(port) = remote_port {
            lines.push(Line::new("remotePort", &port.to_string()));
        }
        lines.push(family.line);
        lines.push(match (is_listening, family.is_udp) {
            (true, true) => Line::new("states", "unconnected").with(
                "UDP has no listen, so that cnxwatch tells 0: what waits for datagrams of anybody counts.",
            ),
            (true, false) => Line::new("states", "LISTEN"),
            (false, _) => Line::new("states", "ESTABLISHED"),
        });
        if is_listening && is_literal {
            lines.push(Line::new("exact", "true").with(
                "As cnxwatch: only what is bound to that very address counts. With false, what is bound to all addresses does as well.",
            ));
        }
        Some(lines)
    }

    /// The name, and what is passed over.
    fn name(&mut self, fields: &Fields, name: &str, names: &mut BTreeSet<String>) -> Vec<Line> {
        // What is no text has been told as such.
        if name.is_empty() && self.faults.is_empty() {
            let place = self.place(self.line);
            self.fault(
                Fault::new(place, self.path.clone(), "`name` is missing").allowed("a text that is not empty"),
            );
        }
        if fields.get("name").is_some_and(|node| matches!(node.content, Content::Float(_))) {
            // 1.10 is 1.1 here, and what is written there.
            self.refuse(fields, "name", "a number: put it in quotes", "a text");
        }
        let mut unique = name.to_owned();
        let mut count = 1_u32;
        while !names.insert(unique.clone()) {
            count += 1;
            unique = format!("{name}-{count}");
        }
        if unique.chars().count() > NAME_CHARACTERS_LIMIT {
            self.refuse(
                fields,
                "name",
                "too long",
                &format!("a text of 1 to {NAME_CHARACTERS_LIMIT} characters"),
            );
        }
        let line = Line::new("name", &value_text(&unique));
        let is_renamed = unique != name;
        let mut lines = vec![if is_renamed {
            line.with(format!("Names are unique here: another socket is {} as well.", quote(name)))
        } else {
            line
        }];
        for (key, node) in fields.iter().filter(|(key, _)| !FIELDS.contains(&key.as_str())) {
            let shown = scalar(node).map_or_else(|| "...".to_owned(), |text| quote(&text));
            let comment = match key.as_str() {
                "processName" => format!(
                    "cnxwatch passes over processName {shown}, as its field is called process: whoever holds the socket, it counts."
                ),
                key => format!("cnxwatch knows no field {}, and passes over {shown}.", quote(key)),
            };
            lines.push(Line::comment(comment));
        }
        lines
    }

    /// The first of the keys that is set, and its address; a key that is passed over because of it is told.
    fn host<'k>(
        &mut self,
        fields: &Fields,
        keys: [&'k str; 2],
        lines: &mut Vec<Line>,
    ) -> (&'k str, Option<Host>) {
        let (key, text) = self.first(fields, keys, lines);
        let Some(text) = text else { return (key, None) };
        if text.is_empty() {
            return (key, Some(Host::Unset));
        }
        if text == "*" || text.eq_ignore_ascii_case("any") {
            return (key, Some(Host::Any));
        }
        if let Ok(ip) = text.parse::<IpAddr>() {
            return (key, Some(Host::Ip(ip.to_canonical())));
        }
        let problem = match text.parse::<Address>() {
            Ok(Address::Host(name)) => return (key, Some(Host::Name(name))),
            Ok(Address::Range(_)) => "cnxwatch knows no ranges of addresses".to_owned(),
            Err(error) => error.to_string(),
        };
        self.refuse(fields, key, &problem, "an IPv4 or IPv6 address, a host name, or * for any");
        (key, None)
    }

    /// As [`SocketReader::host`], of ports. Of what is refused there is none.
    fn port<'k>(
        &mut self,
        fields: &Fields,
        keys: [&'k str; 2],
        lines: &mut Vec<Line>,
    ) -> (&'k str, Option<u16>) {
        let (key, text) = self.first(fields, keys, lines);
        let Some(text) = text.filter(|text| !text.is_empty()) else { return (key, None) };
        let allowed = "a port from 1 to 65535";
        match text.parse::<i64>() {
            // None is wanted, to cnxwatch.
            Ok(0) => return (key, None),
            Ok(number) => match u16::try_from(number) {
                Ok(port) => return (key, Some(port)),
                Err(_out_of_range) => {
                    let taken_for = number.rem_euclid(1 << 16);
                    let problem = format!(
                        "no port, and cnxwatch takes it for {taken_for}: write the one that is meant"
                    );
                    self.refuse(fields, key, &problem, allowed);
                }
            },
            Err(_no_number) => self.refuse(fields, key, "not a number", allowed),
        }
        (key, None)
    }

    /// The text of the first of the keys that is set; the text is empty where none is, and `None` where it is none.
    fn first<'k>(
        &mut self,
        fields: &Fields,
        [key, other]: [&'k str; 2],
        lines: &mut Vec<Line>,
    ) -> (&'k str, Option<String>) {
        let text = self.text(fields, key);
        if key == other {
            return (key, text);
        }
        let rest = self.text(fields, other);
        match (text.as_deref(), rest) {
            (Some(""), rest) => (other, rest),
            (_, Some(rest)) if !rest.is_empty() => {
                lines.push(Line::comment(format!(
                    "cnxwatch passes over {other} {}: {key} goes before it.",
                    quote(&rest)
                )));
                (key, text)
            }
            _ => (key, text),
        }
    }

    fn process(&mut self, fields: &Fields) -> Option<Line> {
        let expression = self.text(fields, "process").filter(|text| !text.is_empty())?;
        match glob::from_expression(&expression) {
            Ok(glob) => {
                let told = format!(
                    "cnxwatch matches {} with comm alone, and tells upper from lower case; here executable and argv[0] count as well.",
                    quote(&format!("^{expression}$"))
                );
                Some(Line::new("processName", &value_text(glob.as_str())).with(told))
            }
            Err(problem) => {
                let problem = format!("no glob says the same: {problem}");
                self.refuse(
                    fields,
                    "process",
                    &problem,
                    "an expression of literals, `.`, `.*`, [...] and alternatives",
                );
                None
            }
        }
    }

    /// What is listening has no other end.
    fn refuse_peer(&mut self, fields: &Fields, remote: &Host, port: Option<u16>) {
        let problem = "a socket that listens has no other end, so that cnxwatch tells 0";
        let allowed = "none, or `status: established`";
        if remote.line("").is_some() {
            self.refuse(fields, "dstHost", problem, allowed);
        }
        if port.is_some() {
            self.refuse(fields, "dstPort", problem, allowed);
        }
    }

    /// Which sockets the addresses are of.
    fn family(&mut self, fields: &Fields, written: &str, ends: &Ends) -> Option<Family> {
        let is_udp = written.starts_with("udp");
        let is_ipv6_table = written.ends_with('6');
        let local = match &ends.local {
            Host::Ip(ip) if ends.is_listening => Some(*ip),
            host => host.peer(),
        };
        let is_named = [&ends.local, &ends.remote].iter().any(|host| matches!(host, Host::Name(_)));
        let is_ipv4 = match (local, ends.remote.peer()) {
            (Some(local), Some(remote)) if local.is_ipv4() != remote.is_ipv4() => {
                let family = if local.is_ipv4() { "IPv4" } else { "IPv6" };
                self.refuse(
                    fields,
                    "dstHost",
                    "no connection leads to it from srcHost",
                    &format!("an {family} address"),
                );
                return None;
            }
            (Some(ip), _) | (None, Some(ip)) => ip.is_ipv4(),
            (None, None) => !is_ipv6_table,
        };
        // Which version the addresses of a name are of is not known here.
        let is_open =
            is_named && local.or_else(|| ends.remote.peer()).is_none() && !written.ends_with(['4', '6']);
        let protocol = match (is_udp, is_ipv4) {
            (false, _) if is_open => SocketProtocol::Tcp,
            (true, _) if is_open => SocketProtocol::Udp,
            (false, true) => SocketProtocol::Tcp4,
            (false, false) => SocketProtocol::Tcp6,
            (true, true) => SocketProtocol::Udp4,
            (true, false) => SocketProtocol::Udp6,
        };
        let shown = if written.is_empty() { "tcp" } else { written };
        let line = Line::new("protocol", protocol.as_str());
        let line = match (is_ipv4, is_ipv6_table) {
            _ if shown.ends_with('4') => {
                line.with(format!("cnxwatch takes {shown}, and then never tells of it."))
            }
            _ if is_open => line.with(format!(
                "To cnxwatch {shown} is IPv4, so that it tells 0 where the first address of a name is of IPv6; here both count."
            )),
            (true, true) => line.with(format!(
                "To cnxwatch {shown} is IPv6 sockets, of which those of dual-stack programs have IPv4 addresses; here IPv4 sockets count as well."
            )),
            (false, false) => {
                line.with(format!("To cnxwatch {shown} is IPv4, so that it tells 0 for an IPv6 address."))
            }
            (true, false) if !ends.is_listening => line.with(format!(
                "IPv4 connections of dual-stack programs count as well: cnxwatch has those under {} alone.",
                if is_udp { "udp6" } else { "tcp6" }
            )),
            _ => line,
        };
        Some(Family { is_ipv4, is_udp, line })
    }

    /// One of the choices, or empty where nothing is set.
    fn choice(&mut self, fields: &Fields, key: &str, choices: &[&str]) -> Option<String> {
        let text = self.text(fields, key)?;
        if text.is_empty() || choices.contains(&text.as_str()) {
            return Some(text);
        }
        let near = suggest::nearest(&text, choices.iter().copied()).map(str::to_owned);
        self.refuse(fields, key, "not one of the choices", &choices.join(", "));
        if let Some(fault) = self.faults.last_mut() {
            fault.meant = near;
        }
        None
    }

    /// The text of a field; empty where nothing is set, and `None`, with a fault, where it is none.
    fn text(&mut self, fields: &Fields, key: &str) -> Option<String> {
        let Some(node) = fields.get(key) else { return Some(String::new()) };
        let text = scalar(node);
        if text.is_none() {
            let fault = Fault::new(self.place(node.line), self.path.key(key), "not a text");
            self.fault(fault);
        }
        text
    }

    fn refuse(&mut self, fields: &Fields, key: &str, problem: &str, allowed: &str) {
        let line = fields.get(key).map_or(self.line, |node| node.line);
        let fault = Fault::new(self.place(line), self.path.key(key), problem).allowed(allowed);
        let shown = fields.get(key).and_then(scalar).map(|text| quote(&text));
        self.fault(match shown {
            Some(shown) => fault.value(shown),
            None => fault,
        });
    }

    fn fault(&mut self, fault: Fault) {
        self.faults.push(fault);
    }

    fn place(&self, line: u32) -> Place {
        Place::File(Arc::clone(self.file), Some(line))
    }
}

/// The addresses of a socket, and whether it has the second end.
#[derive(Debug)]
struct Ends {
    local: Host,
    remote: Host,
    is_listening: bool,
}

/// The version of IP, the transport, and the line that says both.
struct Family {
    is_ipv4: bool,
    is_udp: bool,
    line: Line,
}

/// A scalar as text, which is what all fields are to cnxwatch.
fn scalar(node: &Node) -> Option<String> {
    Some(match &node.content {
        Content::Null => String::new(),
        Content::Bool(boolean) => boolean.to_string(),
        Content::Integer(integer) => integer.to_string(),
        Content::Float(float) => float.to_string(),
        Content::Text(text) => text.clone(),
        Content::List(_) | Content::Map(_) => return None,
    })
}

#[cfg(test)]
mod tests;
