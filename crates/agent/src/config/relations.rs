//! What no schema can say: settings that have to fit one another.
//!
//! It works on the tree, so that its faults are told together with those of the schema; whatever is at fault by
//! itself is left out.

use std::collections::BTreeMap;
use std::str::FromStr;

use figment::value::{Dict, Value};
use vms_core::address::ServiceIp;
use vms_core::connection::TcpState;
use vms_core::socket::{Network, Transport};

use super::duration::DurationText;
use super::endpoint;
use super::fault::{Fault, KeyPath, Place};
use super::settings::{Protocol, SocketProtocol};
use super::text::{Address, StateName};
use super::tree::{self, Origins};
use crate::environment::Environment;

/// Where the spool is when neither the configuration nor systemd says so.
pub(super) const DEFAULT_SPOOL_DIRECTORY: &str = "/var/lib/vms-agent";

/// Checks how settings fit one another, and fills in the defaults that depend on others.
pub(super) fn relate(
    root: &mut Value,
    origins: &Origins,
    faults: &mut Vec<Fault>,
    warnings: &mut Vec<String>,
    environment: &Environment,
) {
    fill_in(root, environment);
    let mut relations = Relations { root, origins, faults, warnings };
    relations.probes();
    relations.endpoints();
    relations.tls_files();
    relations.backoff();
}

fn fill_in(root: &mut Value, environment: &Environment) {
    let interval = tree::at(root, &"interval".into()).cloned();
    let protocol = protocol(root);
    let Value::Dict(_, settings) = root else { return };
    if let Some(Value::Dict(_, export)) = settings.get_mut("export") {
        let default = Value::from(endpoint::default_endpoint(protocol));
        export.entry("endpoint".to_owned()).or_insert(default);
        if let Some(Value::Dict(_, spool)) = export.get_mut("spool") {
            // systemd.exec(5): several directories are separated by colons; the first is the agent's.
            let given = environment.get("STATE_DIRECTORY").and_then(|list| list.split(':').next());
            let default = Value::from(given.unwrap_or(DEFAULT_SPOOL_DIRECTORY));
            spool.entry("directory".to_owned()).or_insert(default);
        }
    }
    if let (Some(Value::Array(_, probes)), Some(interval)) = (settings.get_mut("probes"), interval) {
        for probe in probes {
            if let Value::Dict(_, probe) = probe {
                probe.entry("interval".to_owned()).or_insert_with(|| interval.clone());
            }
        }
    }
}

fn protocol(root: &Value) -> Protocol {
    let named = tree::at(root, &"export.protocol".into()).and_then(|value| value.deserialize().ok());
    named.unwrap_or_default()
}

fn watch_protocol(probe: &Dict) -> Option<SocketProtocol> {
    probe.get("protocol")?.deserialize().ok()
}

/// The values of a setting that is one or a list, and where each is.
fn several<'v>(probe: &'v Dict, key: &str, path: &KeyPath) -> Vec<(&'v Value, KeyPath)> {
    let path = path.key(key);
    match probe.get(key) {
        None => Vec::new(),
        Some(Value::Array(_, items)) => {
            items.iter().enumerate().map(|(index, item)| (item, path.index(index))).collect()
        }
        Some(value) => vec![(value, path)],
    }
}

struct Relations<'a> {
    root: &'a Value,
    origins: &'a Origins,
    faults: &'a mut Vec<Fault>,
    warnings: &'a mut Vec<String>,
}

impl<'a> Relations<'a> {
    fn probes(&mut self) {
        let Some(Value::Array(_, probes)) = tree::at(self.root, &"probes".into()) else { return };
        let mut names: BTreeMap<&str, (usize, Place)> = BTreeMap::new();
        for (index, probe) in probes.iter().enumerate() {
            let Value::Dict(_, probe) = probe else { continue };
            let path = KeyPath::from("probes").index(index);
            match probe.get("type").and_then(Value::as_str) {
                Some("connection") => {
                    self.watch_states(probe, &path);
                    self.watch_addresses(probe, &path);
                    self.counts(probe, &path);
                }
                Some("process_mon") => self.counts(probe, &path),
                _ => self.families(probe, &path),
            }
            let Some(value) = probe.get("name") else { continue };
            let Some(name) = self.text(value) else { continue };
            let place = self.place(value);
            if let Some((first, first_place)) = names.get(name) {
                let problem = format!("already the name of probes[{first}] ({first_place})");
                let fault = Fault::new(place, path.key("name"), problem).value(self.show(value));
                self.faults.push(fault.allowed("a name that no other probe has"));
            } else {
                names.insert(name, (index, place));
            }
        }
    }

    /// A connection has addresses of one family.
    fn families(&mut self, probe: &Dict, path: &KeyPath) {
        let address = |key| {
            let value: &Value = probe.get(key)?;
            Some((value, self.text(value)?.parse::<ServiceIp>().ok()?))
        };
        let (Some((dest_value, dest)), Some((source_value, source))) =
            (address("destServiceIp"), address("sourceServiceIp"))
        else {
            return;
        };
        if dest.ip().is_ipv4() != source.ip().is_ipv4() {
            let family = if dest.ip().is_ipv4() { "IPv4" } else { "IPv6" };
            let problem = format!("no connection leads from it to destServiceIp = {}", self.show(dest_value));
            let fault = Fault::new(self.place(source_value), path.key("sourceServiceIp"), problem);
            self.faults.push(fault.value(self.show(source_value)).allowed(format!("an {family} address")));
        }
    }

    /// Which states a socket of that protocol can have, and which of them are ever seen.
    fn watch_states(&mut self, probe: &Dict, path: &KeyPath) {
        let Some(protocol) = watch_protocol(probe) else { return };
        let is_udp = protocol.transport() == Transport::Udp;
        let by_process = ["processName", "processPath"].into_iter().find(|key| probe.contains_key(*key));
        for (value, path) in several(probe, "states", path) {
            let Some(StateName(state)) = self.parse(value) else { continue };
            match (state, by_process) {
                (TcpState::Established | TcpState::Close, _) if is_udp => {}
                _ if is_udp => {
                    let problem = format!("no state of UDP, which is the protocol ({})", protocol.as_str());
                    let fault = Fault::new(self.place(value), path, problem).value(self.show(value));
                    self.faults.push(fault.allowed("established (with a peer) or unconnected"));
                }
                (TcpState::Close, _) => {
                    self.warn(
                        value,
                        &path,
                        "the kernel lists no TCP socket in this state, so that none counts",
                    );
                }
                (TcpState::TimeWait | TcpState::SynReceived, Some(key)) => {
                    let problem =
                        format!("no process holds a socket in this state, so that with `{key}` none counts");
                    self.warn(value, &path, &problem);
                }
                _ => {}
            }
        }
    }

    /// A socket serves the protocol's version of IP, and has both ends of one.
    fn watch_addresses(&mut self, probe: &Dict, path: &KeyPath) {
        let Some(protocol) = watch_protocol(probe) else { return };
        let mut ends: Vec<Vec<(&Value, KeyPath, Network)>> = Vec::new();
        for key in ["localAddress", "remoteAddress"] {
            let written = several(probe, key, path);
            let networks = written.into_iter().filter_map(|(value, path)| {
                // What a name will mean is not known here.
                let Address::Range(network) = self.parse(value)? else { return None };
                // What is bound to all addresses may serve another version than its own.
                (!network.address().is_unspecified()).then_some((value, path, network))
            });
            let networks: Vec<_> = networks.collect();
            for (value, path, network) in &networks {
                if !protocol.families().serves(network.address()) {
                    let problem = format!("no socket of the protocol {} has it", protocol.as_str());
                    let fault = Fault::new(self.place(value), path.clone(), problem).value(self.show(value));
                    let family = if network.address().is_ipv4() { "IPv6" } else { "IPv4" };
                    self.faults.push(fault.allowed(format!("an {family} address")));
                }
            }
            // Only where all that is written has a version.
            if networks.len() == several(probe, key, path).len() {
                ends.push(networks);
            }
        }
        let [local, remote] = ends.as_slice() else { return };
        let Some((value, path, _)) = remote.first() else { return };
        let is_ipv4 = |(_, _, network): &(&Value, KeyPath, Network)| network.address().is_ipv4();
        let can_meet = local.iter().any(|own| remote.iter().any(|other| is_ipv4(own) == is_ipv4(other)));
        if !local.is_empty() && !can_meet {
            let family = if local.iter().any(is_ipv4) { "IPv4" } else { "IPv6" };
            let problem = "no connection leads to it from localAddress";
            let fault = Fault::new(self.place(value), path.clone(), problem).value(self.show(value));
            self.faults.push(fault.allowed(format!("an {family} address")));
        }
    }

    fn counts(&mut self, probe: &Dict, path: &KeyPath) {
        let count = |key| Some((probe.get(key)?, tree::integer(probe.get(key)?)?));
        let (Some((least_value, least)), Some((most_value, most))) = (count("minCount"), count("maxCount"))
        else {
            return;
        };
        if least > most {
            let problem = format!("less than minCount ({least}, {})", self.place(least_value));
            let fault = Fault::new(self.place(most_value), path.key("maxCount"), problem);
            self.faults.push(
                fault
                    .value(self.show(most_value))
                    .allowed(format!("an integer of at least {least}, or a smaller minCount")),
            );
        }
    }

    fn endpoints(&mut self) {
        let protocol = protocol(self.root);
        let insecure = self.at("export.insecure").and_then(Value::to_bool).unwrap_or_default();
        for (key, path) in ["endpoint", "metricsEndpoint"].map(|key| (key, KeyPath::from("export").key(key)))
        {
            let Some(value) = tree::at(self.root, &path) else { continue };
            let Some(text) = self.text(value).filter(|text| !text.is_empty()) else { continue };
            let parsed = if key == "endpoint" {
                endpoint::parse_base(protocol, text, insecure).map(|endpoints| endpoints.base)
            } else {
                endpoint::parse(protocol, text, insecure)
            };
            match parsed {
                Ok(uri) => self.advise(&path, value, protocol, &uri),
                Err(problem) => {
                    let fault = Fault::new(self.place(value), path, problem).value(self.show(value));
                    self.faults.push(fault.allowed(endpoint::allowed(protocol)));
                }
            }
        }
    }

    /// What is allowed, and seldom meant.
    fn advise(&mut self, path: &KeyPath, value: &Value, protocol: Protocol, uri: &http::Uri) {
        let (other, usual) = match protocol {
            Protocol::Grpc => (4318, "http/protobuf"),
            Protocol::HttpProtobuf => (4317, "grpc"),
        };
        if uri.port_u16() == Some(other) {
            self.warn(
                value,
                path,
                &format!("port {other} is the usual one of {usual}: check `export.protocol`"),
            );
        }
        if protocol == Protocol::Grpc && uri.port_u16().is_none() {
            let port = if uri.scheme_str() == Some("https") { 443 } else { 80 };
            self.warn(value, path, &format!("no port is given, so that {port} is used"));
        }
    }

    fn tls_files(&mut self) {
        let certificate = self.at("export.tls.clientCertificateFile");
        let key = self.at("export.tls.clientKeyFile");
        let (alone, path, other) = match (certificate, key) {
            (Some(value), None) => (value, "export.tls.clientCertificateFile", "clientKeyFile"),
            (None, Some(value)) => (value, "export.tls.clientKeyFile", "clientCertificateFile"),
            _ => return,
        };
        let problem = format!("`{other}` is missing: a client certificate and its key go together");
        let fault = Fault::new(self.place(alone), path.into(), problem).value(self.show(alone));
        self.faults.push(fault.allowed("both, or neither"));
    }

    fn backoff(&mut self) {
        let duration =
            |path| Some((path, self.at(path)?, self.text(self.at(path)?)?.parse::<DurationText>().ok()?));
        let (Some((_, initial_value, initial)), Some((path, max_value, max))) =
            (duration("export.backoff.initial"), duration("export.backoff.max"))
        else {
            return;
        };
        if initial > max {
            // The later of the two is the one that was set without regard to the other.
            let (value, path) = if self.place(initial_value) > self.place(max_value) {
                (initial_value, "export.backoff.initial")
            } else {
                (max_value, path)
            };
            let problem = format!("initial ({initial}) is longer than max ({max})");
            self.faults.push(Fault::new(self.place(value), path.into(), problem).value(self.show(value)));
        }
    }

    fn at(&self, path: &str) -> Option<&'a Value> {
        tree::at(self.root, &path.into())
    }

    fn text<'v>(&self, value: &'v Value) -> Option<&'v str> {
        value.as_str().filter(|_| !self.origins.of(value).unusable)
    }

    fn parse<T: FromStr>(&self, value: &Value) -> Option<T> {
        self.text(value)?.parse().ok()
    }

    fn place(&self, value: &Value) -> Place {
        self.origins.of(value).place.clone()
    }

    fn show(&self, value: &Value) -> String {
        tree::show(value, self.origins.of(value).secret)
    }

    fn warn(&mut self, value: &Value, path: &KeyPath, problem: &str) {
        let warning = Fault::new(self.place(value), path.clone(), problem).value(self.show(value));
        self.warnings.push(warning.to_string());
    }
}
