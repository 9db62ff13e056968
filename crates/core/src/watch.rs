//! The probe `connection`: how many sockets there are of a kind, in given states, between given endpoints, held by given
//! processes.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::adapter::NameAdapter;
use crate::look::{Holding, LookError, match_holders};
use crate::metric::{self, Attribute, AttributeSet, AttributeValue, DataPoint, Extra, Metric, Value};
use crate::name::{HostName, NameQuery, Resolution, Resolved};
use crate::observer::{Bounds, Finding, Number, Observer, Question, Seen, Standing, Status, Taken, Tally};
use crate::process::{Capability, PatternId, ProcessPattern, ProcessSelector};
use crate::socket::{Network, SocketClause};

/// Addresses of one name that have a point of their own at a time.
const TOLD_ADDRESSES: usize = 64;

/// And since the watch began: one that always has others makes no series without end.
const TOLD_IN_ALL: usize = 1_000;

/// Asks how many sockets there are: the probe `connection`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchProbe {
    /// Identifies the watch; unique among probes.
    pub name: Arc<str>,
    /// Where set, only sockets count that a process holds which fits.
    pub process: Option<ProcessPattern>,
    /// Which sockets count; with names, at addresses that these have as well.
    pub clause: SocketClause,
    /// Hosts whose addresses this host's end may have.
    pub local_names: Vec<HostName>,
    /// Hosts whose addresses the other end may have.
    pub remote_names: Vec<HostName>,
    /// How many are expected.
    pub bounds: Bounds,
    /// Whether what is counted is also told by version of IP.
    pub by_family: bool,
    /// How often to look.
    pub interval: Duration,
    /// What its points say of what is configured, beside `name`: keys of [`metric::WATCH_ATTRIBUTES`] and texts.
    pub labels: Vec<(&'static str, Arc<str>)>,
}

/// An end of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Local,
    Remote,
}

impl WatchProbe {
    /// The names that it takes to be resolved, each with the end of which it is.
    pub(crate) fn names(&self) -> impl Iterator<Item = (End, NameQuery)> {
        let of = |end, names: &'_ [HostName]| {
            let families = self.clause.families;
            let query = move |name: &HostName| (end, NameQuery { name: name.clone(), families });
            names.iter().map(query).collect::<Vec<_>>()
        };
        of(End::Local, &self.local_names).into_iter().chain(of(End::Remote, &self.remote_names))
    }
}

/// A name of a watch, and what it was last taken for.
#[derive(Debug)]
struct Named {
    end: End,
    query: NameQuery,
    /// Without, why it was taken for nothing.
    resolved: Result<Resolved, Arc<str>>,
    /// Of the points that tell of its addresses.
    attributes: Vec<Arc<AttributeSet>>,
    /// The addresses that were told, up to a bound.
    told: BTreeSet<IpAddr>,
}

impl Named {
    fn new((end, query): (End, NameQuery)) -> Self {
        let resolved = Err("it has not been looked up yet".into());
        Self { end, query, resolved, attributes: Vec::new(), told: BTreeSet::new() }
    }

    fn addresses(&self) -> Option<&Arc<[IpAddr]>> {
        self.resolved.as_ref().ok().map(|resolved| &resolved.addresses)
    }

    /// Takes note of what the name means, and returns whether it has other addresses since.
    fn take_in(&mut self, resolution: Resolution, watch: &Arc<str>) -> bool {
        let resolved = match resolution {
            Resolution::Known(resolved) => Ok(resolved),
            Resolution::Unknown(cause) => Err(cause),
        };
        let before = self.addresses().cloned();
        self.resolved = resolved;
        let has_changed = self.addresses() != before.as_ref();
        if has_changed {
            let key = match self.end {
                End::Local => "network.local.address",
                End::Remote => "network.peer.address",
            };
            let set = |address: &IpAddr| {
                Arc::new(AttributeSet::new([
                    Attribute { key: "name", value: AttributeValue::Str(Arc::clone(watch)) },
                    Attribute::new("dns.question.name", self.query.name.as_str()),
                    Attribute::new(key, address.to_string().as_str()),
                ]))
            };
            let told = &mut self.told;
            let mut has_series = |address: &&IpAddr| {
                told.contains(*address) || (told.len() < TOLD_IN_ALL && told.insert(**address))
            };
            let resolved = self.resolved.iter().flat_map(|resolved| resolved.addresses.iter());
            self.attributes = resolved.take(TOLD_ADDRESSES).filter(&mut has_series).map(set).collect();
        }
        has_changed
    }
}

/// A probe `connection`, and what was last counted.
#[derive(Debug)]
pub struct Watch {
    probe: Arc<WatchProbe>,
    /// The probe's, at the addresses that its names have as well.
    clause: SocketClause,
    names: Vec<Named>,
    pattern: Option<PatternId>,
    attributes: Arc<AttributeSet>,
    tally: Tally,
    /// What was counted, IPv4 and IPv6. What serves both is in both.
    by_family: [u64; 2],
}

impl Watch {
    /// A watch of which nothing is known yet.
    #[must_use]
    pub fn new(probe: Arc<WatchProbe>) -> Self {
        let name = Attribute { key: "name", value: AttributeValue::Str(Arc::clone(&probe.name)) };
        let label = |(key, text): &(&'static str, Arc<str>)| Attribute {
            key,
            value: AttributeValue::Str(Arc::clone(text)),
        };
        let attributes: Vec<Attribute> = [name].into_iter().chain(probe.labels.iter().map(label)).collect();
        Self {
            clause: probe.clause.clone(),
            names: probe.names().map(Named::new).collect(),
            pattern: None,
            attributes: Arc::new(AttributeSet::new(attributes)),
            tally: Tally::new(&probe.name, "sockets", probe.bounds),
            by_family: [0; 2],
            probe,
        }
    }

    /// What names mean that have to be understood.
    ///
    /// # Errors
    /// When one is not.
    fn require_names(&self) -> Result<(), LookError> {
        for named in &self.names {
            if let Err(cause) = &named.resolved {
                let (name, cause) = (named.query.name.clone(), Arc::clone(cause));
                return Err(LookError::Unresolved { name, cause });
            }
        }
        Ok(())
    }

    /// Whether sockets at further addresses would change nothing that so many tell, where names may have some by now.
    ///
    /// # Errors
    /// When they would.
    fn require_current_names(&self, count: u64) -> Result<(), LookError> {
        let Bounds { most, .. } = self.probe.bounds;
        match self.probe.bounds.status(count) {
            Status::Up if most.is_none() => return Ok(()),
            Status::Warning => return Ok(()),
            Status::Up | Status::Down => {}
        }
        for resolved in self.names.iter().filter_map(|named| named.resolved.as_ref().ok()) {
            if let Some(cause) = &resolved.overdue {
                let (name, cause) = (resolved.name.clone(), Arc::clone(cause));
                return Err(LookError::Unresolved { name, cause });
            }
        }
        Ok(())
    }

    fn point(
        &self,
        metric: &'static Metric,
        extra: Option<Extra>,
        count: u64,
        time: SystemTime,
    ) -> DataPoint {
        DataPoint::count(metric, &self.attributes, extra, count, time)
    }
}

impl Observer for Watch {
    fn adopt(&mut self, selector: &ProcessSelector) {
        self.pattern = self.probe.process.as_ref().and_then(|pattern| selector.id(pattern));
    }

    fn resolve(&mut self, names: &dyn NameAdapter) -> bool {
        let mut has_changed = false;
        for named in &mut self.names {
            has_changed |= named.take_in(names.resolution(&named.query), &self.probe.name);
        }
        if has_changed {
            self.clause = self.probe.clause.clone();
            for named in &self.names {
                let end = match named.end {
                    End::Local => &mut self.clause.local,
                    End::Remote => &mut self.clause.remote,
                };
                let addresses = named.addresses().into_iter().flat_map(|addresses| addresses.iter());
                end.networks.extend(addresses.map(|address| Network::host(*address)));
            }
        }
        has_changed
    }

    fn clauses(&self) -> Vec<SocketClause> {
        // An end without an address that is known would be any.
        if self.require_names().is_err() { Vec::new() } else { vec![self.clause.clone()] }
    }

    fn ask(&self) -> Question {
        Question { holders: self.pattern.into_iter().collect(), ..Question::default() }
    }

    fn take_in(&mut self, seen: &Seen<'_>) -> Result<Taken, LookError> {
        self.require_names()?;
        let (mut number, mut unattributed, mut missing) = (seen.number, 0, BTreeSet::new());
        if let Some(pattern) = self.pattern {
            seen.require_sight(pattern)?;
            number = Number::default();
            for socket in seen.sockets {
                match match_holders(&socket.connection, pattern, seen.scan) {
                    Holding::Fits(_) => number.add(socket.families),
                    Holding::Other => {}
                    Holding::Undecided => return Err(LookError::CutShort),
                    Holding::Unknown(capabilities) => {
                        unattributed += 1;
                        missing.extend(capabilities);
                    }
                }
            }
        }
        self.require_current_names(number.all)?;
        let taken = self.tally.take_in(number.all, unattributed, missing, seen.is_second);
        if taken != Taken::Doubt {
            self.by_family = [number.ipv4, number.ipv6];
        }
        Ok(taken)
    }

    fn report(&mut self, time: SystemTime, emit: &mut dyn FnMut(DataPoint)) {
        let Some(standing) = self.tally.standing() else { return };
        let is = |status| u64::from(standing.status == status);
        emit(self.point(&metric::WATCH_UP, None, u64::from(standing.status != Status::Down), time));
        for status in Status::ALL {
            let extra = Some(Extra { key: "state", value: status.as_str() });
            emit(self.point(&metric::WATCH_STATUS, extra, is(status), time));
        }
        if self.probe.by_family {
            for (family, count) in ["ipv4", "ipv6"].into_iter().zip(self.by_family) {
                let extra = Some(Extra { key: "network.type", value: family });
                emit(self.point(&metric::WATCH_COUNT, extra, count, time));
            }
        } else {
            emit(self.point(&metric::WATCH_COUNT, None, standing.count, time));
        }
        if self.pattern.is_some() {
            emit(self.point(&metric::WATCH_UNATTRIBUTED, None, standing.unattributed, time));
        }
        for named in &self.names {
            let Ok(resolved) = &named.resolved else { continue };
            for attributes in &named.attributes {
                emit(DataPoint {
                    metric: &metric::WATCH_RESOLVED,
                    attributes: Arc::clone(attributes),
                    extra: None,
                    time,
                    start: None,
                    value: Value::Double(resolved.age.as_secs_f64()),
                });
            }
        }
    }

    fn finding(&self) -> Option<Finding> {
        let resolved = || self.names.iter().filter_map(|named| named.resolved.clone().ok()).collect();
        self.tally
            .standing()
            .map(|standing| Finding::Standing(Standing { resolved: resolved(), ..standing.clone() }))
    }

    fn unattributed(&self) -> u64 {
        self.tally.unattributed()
    }

    fn missing(&self) -> BTreeSet<Capability> {
        self.tally.missing()
    }
}
