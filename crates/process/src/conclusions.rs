//! Of which sockets it is known that nobody who fits holds them, and how long that may be believed.
//!
//! What is remembered of names (`table`) can be old, so a socket for which no holder is found is looked for once more
//! with all names read anew. That is dear, and a socket can be held by somebody else for days: so what it concluded is
//! believed for a while, as long as the socket had been asked for by then, up to the bound of remembered names. A new
//! socket is thus looked for anew at the next call as well: who is about to exec, or to hand it on, is not missed for
//! long.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

use vms_core::connection::Inode;
use vms_core::process::PatternId;

use crate::table::NAMES_TABLE_BOUND;

/// How many are remembered of sockets that were not asked for this time.
const MAX_IDLE: usize = 16384;

/// What complete searches concluded.
#[derive(Debug, Default)]
pub(crate) struct Conclusions {
    pairs: HashMap<(Inode, PatternId), Conclusion>,
}

/// That nobody who fitted held the socket.
#[derive(Debug, Clone, Copy)]
struct Conclusion {
    first_reached: Duration,
    reached: Duration,
}

impl Conclusion {
    fn holds(&self, now: Duration) -> bool {
        let age = self.reached.saturating_sub(self.first_reached);
        now.saturating_sub(self.reached) < age.min(NAMES_TABLE_BOUND)
    }
}

impl Conclusions {
    /// Whether it may still be believed that nobody who fits that pattern holds that socket, unless he is known to fit.
    pub(crate) fn holds(&self, socket: Inode, pattern: PatternId, now: Duration) -> bool {
        self.pairs.get(&(socket, pattern)).is_some_and(|conclusion| conclusion.holds(now))
    }

    /// Takes in that a search in which all names were read found nobody for these.
    pub(crate) fn conclude(&mut self, unsettled: &HashSet<(Inode, PatternId)>, now: Duration) {
        for pair in unsettled {
            let conclusion =
                self.pairs.entry(*pair).or_insert(Conclusion { first_reached: now, reached: now });
            conclusion.reached = now;
        }
    }

    /// Forgets what was asked for and has a holder now, what is long past, and what is too much.
    pub(crate) fn sweep(
        &mut self,
        wanted: &BTreeMap<Inode, BTreeSet<PatternId>>,
        unsettled: &HashSet<(Inode, PatternId)>,
        now: Duration,
    ) {
        let is_settled = |pair: &(Inode, PatternId)| {
            !unsettled.contains(pair)
                && wanted.get(&pair.0).is_some_and(|patterns| patterns.contains(&pair.1))
        };
        self.pairs.retain(|pair, conclusion| {
            now.saturating_sub(conclusion.reached) < NAMES_TABLE_BOUND * 2 && !is_settled(pair)
        });
        if self.pairs.len() > unsettled.len().saturating_add(MAX_IDLE) {
            self.pairs.retain(|pair, _| unsettled.contains(pair));
        }
    }

    pub(crate) fn clear(&mut self) {
        self.pairs.clear();
    }
}

#[cfg(test)]
mod tests;
