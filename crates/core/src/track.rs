//! The connections of a series that are looked up again each cycle, and what the kernel tells of them.
//!
//! Counters only grow, although connections come and go: what each has added since it was first seen is summed up here.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::connection::{Connection, Cookie, Inode, TcpState};
use crate::health::{Sighting, Vitals};
use crate::infer::{Attribution, Attributions};
use crate::process::{PatternId, Process};

/// A connection that satisfied a probe.
#[derive(Debug, Clone)]
pub(crate) struct Tracked {
    connection: Connection,
    inode: Inode,
    /// The processes that hold it and fit. None while it is not known who holds it now: then only a walk can tell.
    owners: Vec<Arc<Process>>,
    /// By what that is known.
    attribution: Attribution,
    first_seen: Duration,
    /// When last the peer owed no answer.
    settled_at: Duration,
    vitals: Option<Vitals>,
    /// Whether what it carried before it was first seen counts.
    counts_whole: bool,
}

/// What the walk before knew of a connection that now begins to be tracked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Past {
    /// It was not there: it is younger than that walk, and all that it ever carried counts.
    Unseen,
    /// It was there, in other hands, or there was no walk before: how much it carried until then is not the link's.
    Addressed,
    /// It satisfied the probe already, and was beyond a bound.
    Matched,
}

/// What has been counted since the series began; it never goes backwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Totals {
    pub(crate) reconnects: u64,
    pub(crate) retransmits: u64,
    pub(crate) sent_bytes: u64,
    pub(crate) received_bytes: u64,
}

/// How the connections of a series fare together, at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Health {
    /// The smallest, the mean and the largest smoothed round-trip time.
    pub(crate) rtt: Option<[Duration; 3]>,
    /// How long ago data last arrived on any of them.
    pub(crate) since_data: Duration,
    /// How long ago an acknowledgment last arrived on any of them.
    pub(crate) since_acknowledgment: Duration,
    /// How long the one that has waited longest for an acknowledgment has done so.
    pub(crate) acknowledgment_wait: Duration,
    pub(crate) unacknowledged_bytes: u64,
    pub(crate) unsent_bytes: u64,
    pub(crate) unread_bytes: u64,
}

/// The tracked connections of one series.
#[derive(Debug, Clone, Default)]
pub(crate) struct Track {
    connections: Vec<Tracked>,
    /// Connections that ended and were not replaced yet.
    vacant: u64,
    /// What ended when they were last looked up.
    ended: Attributions,
    totals: Totals,
}

impl Tracked {
    pub(crate) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The inode of its socket: by it a process is known to hold it.
    pub(crate) fn inode(&self) -> Inode {
        self.inode
    }

    pub(crate) fn owners(&self) -> &[Arc<Process>] {
        &self.owners
    }

    /// By what it is known that they do.
    pub(crate) fn attribution(&self) -> Attribution {
        self.attribution
    }

    /// Whether it is known to satisfy the probe.
    pub(crate) fn is_held(&self) -> bool {
        !self.owners.is_empty()
    }

    /// Whether what the kernel tells of it was not asked for yet. Where it tells no cookie, it tells nothing else either.
    pub(crate) fn is_unexamined(&self) -> bool {
        self.vitals.is_none() && !self.connection.cookie.is_stand_in()
    }

    /// Whether this is the connection, as it has to be to count.
    pub(crate) fn is_seen_in(&self, sighting: &Sighting) -> bool {
        let seen = &sighting.connection;
        let known = &self.connection;
        seen.state == TcpState::Established
            && (seen.namespace, seen.cookie, seen.local, seen.remote, seen.inode)
                == (known.namespace, known.cookie, known.local, known.remote, Some(self.inode))
    }

    /// Takes in what the kernel tells, and adds what is new of it.
    fn examine(&mut self, vitals: Option<Vitals>, now: Duration, totals: &mut Totals) {
        let Some(vitals) = vitals else { return };
        let before = match self.vitals {
            Some(before) => before,
            None if self.counts_whole => Vitals::default(),
            None => vitals,
        };
        totals.retransmits += vitals.retransmits.saturating_sub(before.retransmits);
        totals.sent_bytes += vitals.sent_bytes.saturating_sub(before.sent_bytes);
        totals.received_bytes += vitals.received_bytes.saturating_sub(before.received_bytes);
        if !vitals.awaits_answer() || self.vitals.is_none() {
            self.settled_at = now;
        }
        self.vitals = Some(vitals);
    }
}

impl Track {
    pub(crate) fn connections(&self) -> &[Tracked] {
        &self.connections
    }

    pub(crate) fn totals(&self) -> Totals {
        self.totals
    }

    /// Those known to satisfy the probe.
    pub(crate) fn held(&self) -> impl Iterator<Item = &Tracked> {
        self.connections.iter().filter(|tracked| tracked.is_held())
    }

    /// Whether any is known to satisfy the probe.
    pub(crate) fn is_held(&self) -> bool {
        self.held().next().is_some()
    }

    /// Whether any is, also if a walk that saw some of them (`is_seen`) could not infer who holds those.
    pub(crate) fn stays_held(&self, is_seen: impl Fn(Cookie) -> bool) -> bool {
        self.held()
            .any(|tracked| tracked.attribution == Attribution::Holder || !is_seen(tracked.connection.cookie))
    }

    /// Takes in what was found by looking each connection up: `sighting` answers for them in order, and `owner` for the
    /// owners of those that are still there. Returns how many have ended.
    pub(crate) fn verify<'a>(
        &mut self,
        pattern: PatternId,
        now: Duration,
        mut sighting: impl FnMut() -> Option<&'a Sighting>,
        mut owner: impl FnMut() -> Option<Arc<Process>>,
    ) -> u64 {
        let (totals, lost) = (&mut self.totals, &mut self.ended);
        *lost = Attributions::default();
        let before = self.connections.len();
        self.connections.retain_mut(|tracked| {
            let seen = sighting().filter(|sighting| tracked.is_seen_in(sighting));
            match seen {
                Some(sighting) => {
                    let owners = tracked.owners.len();
                    tracked.owners.retain_mut(|known| {
                        let still = owner().filter(|owner| owner.fits.binary_search(&pattern).is_ok());
                        still.map(|owner| *known = owner).is_some()
                    });
                    // Of those who alone could hold it, the one who does may be the one who has changed.
                    if tracked.attribution != Attribution::Holder && tracked.owners.len() < owners {
                        tracked.owners.clear();
                    }
                    tracked.examine(sighting.vitals, now, totals);
                }
                None => lost.extend([tracked.attribution]),
            }
            seen.is_some()
        });
        let ended = u64::try_from(before - self.connections.len()).unwrap_or(u64::MAX);
        self.vacant += ended;
        ended
    }

    /// Forgets who holds the connections: it could not be verified.
    pub(crate) fn distrust(&mut self) {
        for tracked in &mut self.connections {
            tracked.owners.clear();
        }
    }

    /// What ended when they were last looked up.
    pub(crate) fn ended(&self) -> &Attributions {
        &self.ended
    }

    /// Takes in by what it is known who holds the connections that a walk found. It forgets who was inferred to hold one
    /// that the walk saw (`is_seen`), and could not infer it of again.
    pub(crate) fn attribute(
        &mut self,
        found: &HashMap<Cookie, Attribution>,
        is_seen: impl Fn(Cookie) -> bool,
    ) {
        for tracked in &mut self.connections {
            let cookie = tracked.connection.cookie;
            match found.get(&cookie) {
                Some(attribution) => tracked.attribution = *attribution,
                None if tracked.attribution != Attribution::Holder && is_seen(cookie) => {
                    tracked.owners.clear();
                }
                None => {}
            }
        }
    }

    /// Forgets who was inferred to hold connections.
    pub(crate) fn distrust_inferred(&mut self) {
        for tracked in
            self.connections.iter_mut().filter(|tracked| tracked.attribution != Attribution::Holder)
        {
            tracked.owners.clear();
        }
    }

    /// Takes in who holds the connections that a walk found, and drops those of which nobody can tell who holds them.
    /// `may_live` tells of which it is not known that they are gone, whoever holds them.
    pub(crate) fn renew(
        &mut self,
        found: &HashMap<Cookie, &[Arc<Process>]>,
        may_live: impl Fn(Cookie) -> bool,
    ) {
        let vacant = &mut self.vacant;
        self.connections.retain_mut(|tracked| {
            let cookie = tracked.connection.cookie;
            if let Some(owners) = found.get(&cookie) {
                tracked.owners = owners.to_vec();
            }
            // What lives on in other hands leaves no place for another.
            if !tracked.is_held() && !may_live(cookie) {
                *vacant += 1;
            }
            tracked.is_held()
        });
    }

    /// Begins to track a connection, for whose socket that inode stands.
    pub(crate) fn admit(
        &mut self,
        connection: Connection,
        inode: Inode,
        owners: &[Arc<Process>],
        now: Duration,
        past: Past,
    ) {
        if self.vacant > 0 && past != Past::Matched {
            self.vacant -= 1;
            self.totals.reconnects += 1;
        }
        if self.connections.is_empty() {
            // Most links have one connection, and there may be thousands of links: no room is held for more.
            self.connections.reserve_exact(1);
        }
        self.connections.push(Tracked {
            connection,
            inode,
            owners: owners.to_vec(),
            attribution: Attribution::Holder,
            first_seen: now,
            settled_at: now,
            vitals: None,
            counts_whole: past == Past::Unseen,
        });
    }

    /// Takes in what the kernel tells of those that were not asked about before; `sighting` answers for them in order.
    pub(crate) fn examine_new<'a>(
        &mut self,
        now: Duration,
        mut sighting: impl FnMut() -> Option<&'a Sighting>,
    ) {
        let totals = &mut self.totals;
        for tracked in self.connections.iter_mut().filter(|tracked| tracked.is_unexamined()) {
            // What has ended meanwhile is noticed in the next cycle: this is about how it fares, not whether it is there.
            if let Some(sighting) = sighting().filter(|sighting| tracked.is_seen_in(sighting)) {
                tracked.examine(sighting.vitals, now, totals);
            }
        }
    }

    /// How long ago the oldest of them was first seen.
    pub(crate) fn age(&self, now: Duration) -> Option<Duration> {
        self.held().map(|tracked| now.saturating_sub(tracked.first_seen)).max()
    }

    /// How they fare together; `None` where the kernel tells of none.
    pub(crate) fn health(&self, now: Duration) -> Option<Health> {
        let mut health: Option<Health> = None;
        let mut rtts = Rtts::default();
        for tracked in self.held() {
            let Some(vitals) = &tracked.vitals else { continue };
            let sum = health.get_or_insert(Health {
                since_data: vitals.since_data,
                since_acknowledgment: vitals.since_acknowledgment,
                ..Health::default()
            });
            sum.since_data = sum.since_data.min(vitals.since_data);
            sum.since_acknowledgment = sum.since_acknowledgment.min(vitals.since_acknowledgment);
            if vitals.awaits_answer() {
                // Data that is sent after a long silence has not waited since the acknowledgment before that.
                let wait = vitals.since_acknowledgment.min(now.saturating_sub(tracked.settled_at));
                sum.acknowledgment_wait = sum.acknowledgment_wait.max(wait);
            }
            sum.unacknowledged_bytes += vitals.unacknowledged_bytes;
            sum.unsent_bytes += vitals.unsent_bytes;
            sum.unread_bytes += vitals.unread_bytes;
            rtts.extend(vitals.rtt);
        }
        health.map(|health| Health { rtt: rtts.summary(), ..health })
    }
}

#[derive(Default)]
struct Rtts {
    range: Option<(Duration, Duration)>,
    sum: Duration,
    count: u32,
}

impl Rtts {
    fn extend(&mut self, rtt: Option<Duration>) {
        let Some(rtt) = rtt else { return };
        let (least, most) = self.range.unwrap_or((rtt, rtt));
        self.range = Some((least.min(rtt), most.max(rtt)));
        self.sum += rtt;
        self.count += 1;
    }

    fn summary(&self) -> Option<[Duration; 3]> {
        self.range.map(|(least, most)| [least, self.sum / self.count.max(1), most])
    }
}

#[cfg(test)]
mod tests;
