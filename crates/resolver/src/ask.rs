//! Asking once what a name means.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_resolver::Hosts;
use hickory_resolver::Resolver;
use hickory_resolver::config::{ResolveHosts, ResolverConfig};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::{Query, ResponseCode};
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::system_conf::parse_resolv_conf;
use vms_core::name::NameQuery;

use crate::book::{Answer, Failure};
use crate::udp::Connecting;

/// Addresses of one name: each is compared with those of very many sockets.
const MAX_ADDRESSES: usize = 256;

/// How long asking may take in all: each of some name servers is asked twice for 5 s, unless configured otherwise.
const PATIENCE: Duration = Duration::from_secs(30);

/// When a name is looked for again that is in the hosts file.
const HOSTS_TTL: Duration = Duration::from_secs(30);

/// How long it is believed that a name has no address: less than its zone may say, because it is a fault mostly that is
/// being mended.
const MAX_NEGATIVE_TTL: Duration = Duration::from_secs(30);

/// Where name servers are asked (RFC 1035, section 4.2).
const DNS_PORT: u16 = 53;

/// The files by which names are resolved.
#[derive(Debug, Clone)]
pub struct Files {
    /// Addresses of names: `/etc/hosts` (hosts(5)).
    pub hosts: PathBuf,
    /// Name servers: `/etc/resolv.conf` (resolv.conf(5)).
    pub resolv_conf: PathBuf,
}

impl Default for Files {
    fn default() -> Self {
        Self { hosts: "/etc/hosts".into(), resolv_conf: "/etc/resolv.conf".into() }
    }
}

/// What is asked, as of when the files were last seen to change.
pub(crate) struct Sources {
    files: Files,
    /// At which name servers are asked.
    port: u16,
    hosts: Option<(Stamp, Arc<Hosts>)>,
    servers: Option<(Stamp, Resolver<Connecting>)>,
}

/// The same of both, to ask by.
#[derive(Clone)]
pub(crate) struct Source {
    hosts: Arc<Hosts>,
    servers: Result<Resolver<Connecting>, Failure>,
}

/// By what it shows that a file is another, or was written: device, inode, size and time of change.
type Stamp = Option<(u64, u64, u64, i64, i64)>;

fn stamp(path: &Path) -> Stamp {
    let meta = fs::metadata(path).ok()?;
    Some((meta.dev(), meta.ino(), meta.size(), meta.ctime(), meta.ctime_nsec()))
}

impl Sources {
    pub(crate) fn new(files: Files) -> Self {
        Self { files, port: DNS_PORT, hosts: None, servers: None }
    }

    /// What is to be asked now. Files are read where they have changed.
    pub(crate) fn current(&mut self) -> Source {
        let now = stamp(&self.files.hosts);
        let hosts = match &self.hosts {
            Some((before, hosts)) if *before == now => Arc::clone(hosts),
            _ => {
                // Without one there are no names in it.
                let hosts = Arc::new(read_hosts(&self.files.hosts).unwrap_or_default());
                self.hosts = Some((now, Arc::clone(&hosts)));
                hosts
            }
        };
        let now = stamp(&self.files.resolv_conf);
        let servers = match &self.servers {
            Some((before, servers)) if *before == now => Ok(servers.clone()),
            _ => read_servers(&self.files.resolv_conf, self.port).inspect(|servers| {
                self.servers = Some((now, servers.clone()));
            }),
        };
        Source { hosts, servers }
    }
}

fn read_hosts(path: &Path) -> io::Result<Hosts> {
    let mut hosts = Hosts::default();
    hosts.read_hosts_conf(File::open(path)?)?;
    Ok(hosts)
}

fn read_servers(path: &Path, port: u16) -> Result<Resolver<Connecting>, Failure> {
    let unusable = |error: &dyn std::fmt::Display| {
        Failure::Unanswered(format!("{} cannot be used ({error}): correct it", path.display()).into())
    };
    let mut text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(unusable(&error)),
    };
    if !text.lines().any(|line| line.split_whitespace().next() == Some("nameserver")) {
        // resolv.conf(5): without one it is the name server of this host.
        text.push_str("\nnameserver 127.0.0.1\n");
    }
    let (config, mut options) = parse_resolv_conf(text).map_err(|error| unusable(&error))?;
    let (domain, search, mut servers) = config.into_parts();
    for connection in servers.iter_mut().flat_map(|server| &mut server.connections) {
        connection.port = port;
    }
    let config = ResolverConfig::from_parts(domain, search, servers);
    // That is looked into beforehand, to know what is from where.
    options.use_hosts_file = ResolveHosts::Never;
    options.negative_max_ttl = Some(MAX_NEGATIVE_TTL);
    let mut builder = Resolver::builder_with_config(config, Connecting::default());
    *builder.options_mut() = options;
    builder.build().map_err(|error| unusable(&error))
}

impl Source {
    /// Asks for the addresses of a name.
    pub(crate) async fn ask(&self, query: &NameQuery) -> Result<Answer, Failure> {
        match tokio::time::timeout(PATIENCE, self.try_ask(query)).await {
            Ok(outcome) => outcome,
            Err(_elapsed) => Err(unanswered(&format!("nothing within {} s", PATIENCE.as_secs()))),
        }
    }

    async fn try_ask(&self, query: &NameQuery) -> Result<Answer, Failure> {
        let mut kinds = Vec::new();
        kinds.extend(query.families.ipv4.then_some(RecordType::A));
        kinds.extend(query.families.ipv6.then_some(RecordType::AAAA));
        let name = Name::from_ascii(query.name.as_str())
            .map_err(|error| Failure::NoAddress(format!("it is no host name ({error})").into()))?;
        let in_file = self.in_hosts(&name, &kinds);
        if !in_file.is_empty() {
            return usable(Answer { addresses: in_file, ttl: HOSTS_TTL });
        }
        let servers = self.servers.as_ref().map_err(Clone::clone)?;
        // Which of the names that a search list makes of it is the one: of that, all kinds.
        let name = match kinds.as_slice() {
            [_] => name,
            _ => servers.lookup_ip(name).await.map_err(|error| failure(&error))?.query().name().clone(),
        };
        let mut answer = Answer { addresses: BTreeSet::new(), ttl: Duration::MAX };
        for kind in kinds {
            match servers.lookup(name.clone(), kind).await {
                Ok(lookup) => add(&mut answer, &lookup),
                Err(error) if has_none(&error) => {}
                Err(error) => return Err(failure(&error)),
            }
        }
        usable(answer)
    }

    fn in_hosts(&self, name: &Name, kinds: &[RecordType]) -> BTreeSet<IpAddr> {
        let found =
            kinds.iter().filter_map(|kind| self.hosts.lookup_static_host(&Query::query(name.clone(), *kind)));
        found.flat_map(|lookup| addresses(&lookup)).collect()
    }
}

fn addresses(lookup: &Lookup) -> Vec<IpAddr> {
    lookup.answers().iter().filter_map(|record| record.data.ip_addr()).map(|ip| ip.to_canonical()).collect()
}

fn add(answer: &mut Answer, lookup: &Lookup) {
    answer.addresses.extend(addresses(lookup));
    let now: Instant = tokio::time::Instant::now().into_std();
    answer.ttl = answer.ttl.min(lookup.valid_until().saturating_duration_since(now));
}

/// An answer by which sockets can be told.
fn usable(mut answer: Answer) -> Result<Answer, Failure> {
    let had_any = !answer.addresses.is_empty();
    // Servers that block names answer so. What is bound to all addresses has that one.
    answer.addresses.retain(|address| !address.is_unspecified());
    if answer.addresses.len() > MAX_ADDRESSES {
        let problem = format!(
            "it has {} addresses, more than {MAX_ADDRESSES}: write a range of addresses (CIDR) instead",
            answer.addresses.len()
        );
        return Err(Failure::NoAddress(problem.into()));
    }
    match answer.addresses.is_empty() {
        false => Ok(answer),
        true if had_any => {
            Err(Failure::NoAddress("it is answered with 0.0.0.0 or ::, as by a server that blocks it".into()))
        }
        true => Err(no_address()),
    }
}

fn no_address() -> Failure {
    Failure::NoAddress(
        "it has no address, by the hosts file and the name servers: correct it, or add it there".into(),
    )
}

/// Whether it was answered that there is no such record, or no such name.
fn has_none(error: &NetError) -> bool {
    let NetError::Dns(DnsError::NoRecordsFound(none)) = error else { return false };
    matches!(none.response_code, ResponseCode::NoError | ResponseCode::NXDomain)
}

fn failure(error: &NetError) -> Failure {
    if has_none(error) { no_address() } else { unanswered(error) }
}

fn unanswered(error: &dyn std::fmt::Display) -> Failure {
    let problem = format!("no answer ({error}): see whether the name servers in /etc/resolv.conf answer");
    Failure::Unanswered(problem.into())
}

#[cfg(test)]
mod tests;
