//! Asking once what a name means.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
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
    servers: Option<(Stamp, Arc<Servers>)>,
}

/// The same of both, to ask by.
#[derive(Clone)]
pub(crate) struct Source {
    hosts: Result<Arc<Hosts>, Failure>,
    servers: Result<Arc<Servers>, Failure>,
}

/// Name servers, and which names to ask them for.
struct Servers {
    /// Asks for absolute names.
    resolver: Resolver<Connecting>,
    /// The domains in which a name is looked for.
    search: Vec<Name>,
    /// With so many dots a name is taken as it is first.
    dots: usize,
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
            Some((before, hosts)) if *before == now => Ok(Arc::clone(hosts)),
            _ => read_hosts(&self.files.hosts).map(Arc::new).inspect(|hosts| {
                self.hosts = Some((now, Arc::clone(hosts)));
            }),
        };
        let now = stamp(&self.files.resolv_conf);
        let servers = match &self.servers {
            Some((before, servers)) if *before == now => Ok(Arc::clone(servers)),
            _ => read_servers(&self.files.resolv_conf, self.port).map(Arc::new).inspect(|servers| {
                self.servers = Some((now, Arc::clone(servers)));
            }),
        };
        Source { hosts, servers }
    }
}

fn unusable(path: &Path, error: &dyn fmt::Display) -> Failure {
    Failure::Untold(format!("{} cannot be used ({error}): correct it", path.display()).into())
}

/// The text of a file. One that is not there is empty; what is no UTF-8, as in a comment, is replaced.
fn read_text(path: &Path) -> Result<String, Failure> {
    match fs::read(path) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(unusable(path, &error)),
    }
}

fn read_hosts(path: &Path) -> Result<Hosts, Failure> {
    let (mut hosts, text) = (Hosts::default(), read_text(path)?);
    hosts.read_hosts_conf(text.as_bytes()).map_err(|error| unusable(path, &error))?;
    Ok(hosts)
}

fn read_servers(path: &Path, port: u16) -> Result<Servers, Failure> {
    let mut text = read_text(path)?;
    if !text.lines().any(|line| line.split_whitespace().next() == Some("nameserver")) {
        // resolv.conf(5): without one it is the name server of this host.
        text.push_str("\nnameserver 127.0.0.1\n");
    }
    let (config, mut options) = parse_resolv_conf(text).map_err(|error| unusable(path, &error))?;
    let (domain, search, mut servers) = config.into_parts();
    for connection in servers.iter_mut().flat_map(|server| &mut server.connections) {
        connection.port = port;
    }
    let search = if search.is_empty() { domain.into_iter().collect() } else { search };
    let dots = options.ndots;
    // The hosts file is looked into beforehand, to know what is from where; and what is known is kept in the book, with its age.
    options.use_hosts_file = ResolveHosts::Never;
    options.cache_size = 0;
    let config = ResolverConfig::from_parts(None, Vec::new(), servers);
    let mut builder = Resolver::builder_with_config(config, Connecting::default());
    *builder.options_mut() = options;
    let resolver = builder.build().map_err(|error| unusable(path, &error))?;
    Ok(Servers { resolver, search, dots })
}

impl Servers {
    /// The absolute names that a name may stand for, in the order in which they are asked for (resolv.conf(5)).
    fn candidates(&self, name: &Name) -> Vec<Name> {
        let mut absolute = name.clone();
        absolute.set_fqdn(true);
        if name.is_fqdn() {
            return vec![absolute];
        }
        let in_domain = |domain: &Name| {
            let mut candidate = name.clone().append_domain(domain).ok()?;
            candidate.set_fqdn(true);
            Some(candidate)
        };
        let mut candidates: Vec<Name> = self.search.iter().filter_map(in_domain).collect();
        // A name has one dot less than labels.
        let is_first = usize::from(name.num_labels()) > self.dots || name.is_localhost();
        candidates.insert(if is_first { 0 } else { candidates.len() }, absolute);
        candidates
    }

    /// The addresses of the first candidate that there is. None is passed over that may be there: the next is another host.
    async fn ask(&self, name: &Name, kinds: &[RecordType]) -> Result<Answer, Failure> {
        for candidate in self.candidates(name) {
            let mut answer = Answer { addresses: BTreeSet::new(), ttl: Duration::MAX };
            let mut exists = false;
            for kind in kinds {
                match self.resolver.lookup(candidate.clone(), *kind).await {
                    Ok(lookup) => add(&mut answer, &lookup),
                    Err(error) => match emptiness(&error) {
                        Some(ResponseCode::NXDomain) => {}
                        Some(_) => exists = true,
                        None => return Err(unanswered(&error)),
                    },
                }
            }
            if !answer.addresses.is_empty() {
                return Ok(answer);
            }
            if exists {
                break;
            }
        }
        let problem =
            "it has no address, by the hosts file and the name servers: correct it, or add it there";
        Err(Failure::NoAddress(problem.into()))
    }
}

impl Source {
    /// Asks for the addresses of a name.
    pub(crate) async fn ask(&self, query: &NameQuery) -> Result<Answer, Failure> {
        match tokio::time::timeout(PATIENCE, self.try_ask(query)).await {
            Ok(outcome) => outcome.and_then(usable),
            Err(_elapsed) => Err(unanswered(&format!("nothing within {} s", PATIENCE.as_secs()))),
        }
    }

    async fn try_ask(&self, query: &NameQuery) -> Result<Answer, Failure> {
        let mut kinds = Vec::new();
        kinds.extend(query.families.ipv4.then_some(RecordType::A));
        kinds.extend(query.families.ipv6.then_some(RecordType::AAAA));
        let name = Name::from_ascii(query.name.as_str())
            .map_err(|error| Failure::NoAddress(format!("it is no host name ({error})").into()))?;
        let hosts = self.hosts.as_ref().map_err(Clone::clone)?;
        let found =
            kinds.iter().filter_map(|kind| hosts.lookup_static_host(&Query::query(name.clone(), *kind)));
        let in_file: BTreeSet<IpAddr> = found.flat_map(|lookup| addresses(&lookup)).collect();
        if !in_file.is_empty() {
            return Ok(Answer { addresses: in_file, ttl: HOSTS_TTL });
        }
        self.servers.as_ref().map_err(Clone::clone)?.ask(&name, &kinds).await
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
    // Servers that block names answer so. What is bound to all addresses has that one.
    answer.addresses.retain(|address| !address.is_unspecified());
    let problem = match answer.addresses.len() {
        0 => {
            "it is answered with 0.0.0.0 or ::, as by a server that blocks it: have it let through, or add it to the hosts file"
                .to_owned()
        }
        count if count > MAX_ADDRESSES => {
            format!("it has {count} addresses, more than {MAX_ADDRESSES}: write a range of addresses (CIDR) instead")
        }
        _ => return Ok(answer),
    };
    Err(Failure::Untold(problem.into()))
}

/// With which code it was answered that there is no such record, or no such name.
fn emptiness(error: &NetError) -> Option<ResponseCode> {
    let NetError::Dns(DnsError::NoRecordsFound(none)) = error else { return None };
    Some(none.response_code).filter(|code| matches!(code, ResponseCode::NoError | ResponseCode::NXDomain))
}

fn unanswered(error: &dyn fmt::Display) -> Failure {
    let problem = format!("no answer ({error}): see whether the name servers in /etc/resolv.conf answer");
    Failure::Untold(problem.into())
}

#[cfg(test)]
mod tests;
