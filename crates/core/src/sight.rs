//! What observers are shown of one look, and of whose sockets it is found out who holds them.
//!
//! There may be a thousand of them, each of which wants a hundred thousand sockets. Whoever asks for their number alone is told
//! that. To find out who holds a socket takes memory and a search, so there is room for so many; and as nothing is counted in
//! part, an observer gets all that it asks for, or nothing.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use crate::allowance::Allowance;
use crate::connection::Inode;
use crate::look::{LookError, MAX_CANDIDATES};
use crate::observer::{Number, Observer, Question, Seen};
use crate::process::{HolderScan, PatternId};
use crate::socket::{Socket, SocketClause, SocketClauses, Transport};

/// What there is room for.
const ROOM: Room = Room { sockets: MAX_CANDIDATES, pairs: 1 << 20 };

/// How many observers can be told of a socket in a unit of work: 1,000 of 100,000 sockets take a second.
const VISITS_A_UNIT: u32 = 64;

/// Of how much it is found out who holds it, for all observers together.
#[derive(Debug, Clone, Copy)]
struct Room {
    /// Sockets, each of which counts once, whoever asks for it: some 1.1 kB each meanwhile.
    sockets: usize,
    /// A socket and a pattern that its holder may fit, for each observer that asks for them: some 60 bytes each meanwhile.
    pairs: usize,
}

/// What observers want to be shown, worked out beforehand.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outlook {
    clauses: SocketClauses,
    /// The place of the observer that has each clause.
    observer_of: Vec<usize>,
}

/// What is asked of the processes for observers.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    /// Sockets whose holders matter, each with the patterns that a holder has to fit to count.
    pub(crate) wanted: BTreeMap<Inode, BTreeSet<PatternId>>,
    /// Patterns of which it matters how many processes fit them.
    pub(crate) counted: BTreeSet<PatternId>,
    /// Patterns of which it matters where whoever fits them lives.
    pub(crate) located: BTreeSet<PatternId>,
    /// Of those that are counted, patterns of which it matters what the processes use.
    pub(crate) measured: BTreeSet<PatternId>,
}

/// What is to be shown to observers.
#[derive(Debug, Default)]
pub struct Sight {
    sockets: Vec<Socket>,
    shares: Vec<Share>,
    scan: HolderScan,
    /// When the look began, by [`Clock::since_boot`](crate::Clock::since_boot).
    began: Duration,
}

/// What is to be shown to one of them.
#[derive(Debug, Default)]
struct Share {
    question: Question,
    /// How many sockets it wants.
    number: Number,
    /// How many of them somebody can hold.
    held: usize,
    /// Places of those, where it asks who does.
    places: Vec<u32>,
    /// Why it is shown nothing.
    withheld: Option<Withheld>,
}

#[derive(Debug)]
enum Withheld {
    /// They are too many to find out who holds them.
    Crowded,
    /// They were not told, for this reason.
    Untold(Arc<str>),
    /// There was no time to sort them.
    CutShort,
}

impl Share {
    /// Whether it is to be found out who holds the sockets.
    fn asks(&self) -> bool {
        !self.question.holders.is_empty() && self.withheld.is_none()
    }

    fn asks_about(&self, socket: &Socket) -> bool {
        self.asks() && socket.connection.inode.is_some()
    }

    fn withhold(&mut self, why: Withheld) {
        self.places = Vec::new();
        self.withheld = Some(why);
    }
}

impl Outlook {
    /// That of observers with these clauses.
    pub(crate) fn new(observers: impl IntoIterator<Item = Vec<SocketClause>>) -> Self {
        let (mut clauses, mut observer_of) = (Vec::new(), Vec::new());
        for (place, mut own) in observers.into_iter().enumerate() {
            observer_of.extend(own.iter().map(|_| place));
            clauses.append(&mut own);
        }
        Self { clauses: SocketClauses::new(clauses), observer_of }
    }

    /// All of their clauses.
    pub(crate) fn clauses(&self) -> &SocketClauses {
        &self.clauses
    }

    /// Sorts sockets by who wants them, and asks about those for which there is room. Of the transports in `untold` none was
    /// told.
    pub(crate) fn sort(
        &self,
        sockets: Vec<Socket>,
        untold: &BTreeMap<Transport, Arc<str>>,
        observers: &[&dyn Observer],
        allowance: &Allowance<'_>,
    ) -> (Sight, Asked) {
        let mut shares: Vec<Share> = Vec::with_capacity(observers.len());
        shares.extend(observers.iter().map(|one| Share { question: one.ask(), ..Share::default() }));
        for (clause, observer) in self.clauses.all().iter().zip(&self.observer_of) {
            if let (Some(share), Some(cause)) = (shares.get_mut(*observer), untold.get(&clause.transport)) {
                share.withhold(Withheld::Untold(Arc::clone(cause)));
            }
        }
        if !self.divide(&sockets, &mut shares, ROOM, allowance) {
            for observer in &self.observer_of {
                if let Some(share) = shares.get_mut(*observer).filter(|share| share.withheld.is_none()) {
                    share.withhold(Withheld::CutShort);
                }
            }
        }
        let asked = ask(&sockets, &shares);
        (Sight { sockets, shares, ..Sight::default() }, asked)
    }

    /// Gives each its share, as far as there is room. All are counted first: who asks for too many never has a list. Returns
    /// whether there was time for it.
    fn divide(
        &self,
        sockets: &[Socket],
        shares: &mut [Share],
        room: Room,
        allowance: &Allowance<'_>,
    ) -> bool {
        let mut are_asked_about = vec![false; sockets.len()];
        let was_counted = self.each_wanted((0..).zip(sockets), shares, allowance, |place, socket, share| {
            share.number.add(socket.families);
            if share.asks_about(socket) {
                share.held += 1;
                if let Some(is_asked_about) = are_asked_about.get_mut(index(place)) {
                    *is_asked_about = true;
                }
            }
        });
        if !was_counted {
            return false;
        }
        admit(shares, room.pairs, |share| share.held.saturating_mul(share.question.holders.len()));
        let asked_about =
            (0..).zip(sockets).zip(are_asked_about).filter_map(|(socket, is)| is.then_some(socket));
        let was_listed = self.each_wanted(asked_about, shares, allowance, |place, socket, share| {
            if share.asks_about(socket) {
                share.places.push(place);
            }
        });
        let mut seen: HashSet<u32> = HashSet::new();
        admit(shares, room.sockets, |share| share.places.iter().filter(|place| seen.insert(**place)).count());
        was_listed
    }

    /// Visits each socket with each that wants it, once, however many of its clauses do. Returns whether there was time for all.
    fn each_wanted<'a>(
        &self,
        sockets: impl Iterator<Item = (u32, &'a Socket)>,
        shares: &mut [Share],
        allowance: &Allowance<'_>,
        mut visit: impl FnMut(u32, &Socket, &mut Share),
    ) -> bool {
        let mut last = vec![None; shares.len()];
        for (place, socket) in sockets {
            let mut visits = 0;
            for observer in self.clauses.wanting(socket).filter_map(|clause| self.observer_of.get(clause)) {
                if let (Some(share), Some(last)) = (shares.get_mut(*observer), last.get_mut(*observer))
                    && *last != Some(place)
                {
                    *last = Some(place);
                    visits += 1;
                    visit(place, socket, share);
                }
            }
            if allowance.is_spent_after(1 + visits / VISITS_A_UNIT) {
                return false;
            }
        }
        true
    }
}

/// Lets in whoever asks for fewest sockets, with all who ask for as many, for as long as there is room for all of them; the others
/// are shown nothing. So it is nothing to one who asks for few how many others ask for, or in what order.
fn admit(shares: &mut [Share], room: usize, mut cost: impl FnMut(&Share) -> usize) {
    let mut asking: Vec<&mut Share> = shares.iter_mut().filter(|share| share.asks()).collect();
    asking.sort_unstable_by_key(|share| share.held);
    let mut taken = 0_usize;
    for equals in asking.chunk_by_mut(|one, other| one.held == other.held) {
        taken = equals.iter().fold(taken, |taken, share| taken.saturating_add(cost(share)));
        if taken > room {
            for share in equals {
                share.withhold(Withheld::Crowded);
            }
        }
    }
}

/// What those ask about who are shown something.
fn ask(sockets: &[Socket], shares: &[Share]) -> Asked {
    let mut asked = Asked::default();
    for share in shares.iter().filter(|share| share.withheld.is_none()) {
        let Question { holders, counted, measured } = &share.question;
        asked.counted.extend(counted);
        asked.measured.extend(measured);
        asked.located.extend(holders);
        let shown = share.places.iter().filter_map(|place| sockets.get(index(*place)));
        for inode in shown.filter_map(|socket| socket.connection.inode) {
            asked.wanted.entry(inode).or_default().extend(holders);
        }
    }
    asked
}

fn index(place: u32) -> usize {
    usize::try_from(place).unwrap_or(usize::MAX)
}

impl Sight {
    /// Takes in what was found out about processes, in a look that began then.
    pub(crate) fn with(self, scan: HolderScan, began: Duration) -> Self {
        Self { scan, began, ..self }
    }

    /// Shows to an observer, given by its place, what it asked for.
    ///
    /// # Errors
    /// When there was too much of it, or it was not told.
    pub fn show<T>(
        &self,
        place: usize,
        is_second: bool,
        observer: impl FnOnce(&Seen<'_>) -> Result<T, LookError>,
    ) -> Result<T, LookError> {
        let share = self.shares.get(place).ok_or(LookError::Crowded)?;
        match &share.withheld {
            Some(Withheld::Crowded) => return Err(LookError::Crowded),
            Some(Withheld::CutShort) => return Err(LookError::CutShort),
            Some(Withheld::Untold(cause)) => return Err(LookError::Unsurveyed(Arc::clone(cause))),
            None => {}
        }
        let sockets: Vec<&Socket> =
            share.places.iter().filter_map(|place| self.sockets.get(index(*place))).collect();
        let (number, scan) = (share.number, &self.scan);
        observer(&Seen { number, sockets: &sockets, scan, began: self.began, is_second })
    }
}

#[cfg(test)]
mod tests;
