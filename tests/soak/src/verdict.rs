//! Whether what was seen is as it has to be.

use std::collections::BTreeSet;
use std::time::Duration;

use vms_agent_tests::Usage;

use crate::arguments::Arguments;
use crate::run::{Outcome, say};

/// How often the agent looks, in nanoseconds.
const INTERVAL: u64 = 1_000_000_000;
/// How long after the kill the first cycle is due: the start, and at most an interval.
const BEGINS: u64 = INTERVAL + INTERVAL / 10;
/// How long a cycle may take until it is handed over and, with `always`, on the disk, beside what the machine stood still.
const STORED: u64 = INTERVAL / 4;
/// How old the last answer may be at the end.
const GRACE: u64 = 2 * INTERVAL;
/// False answers that are shown one by one.
const SHOWN: u64 = 10;

/// One thing that has to hold.
#[derive(Debug)]
pub(crate) struct Finding {
    /// What.
    pub(crate) what: &'static str,
    /// The figures.
    pub(crate) figures: String,
    /// Whether it does.
    pub(crate) holds: bool,
}

/// All that has to hold.
pub(crate) fn judge(arguments: &Arguments, outcome: &Outcome) -> Vec<Finding> {
    vec![
        falsity(outcome),
        loss(arguments, outcome),
        lateness(outcome),
        flatness(arguments, outcome, "memory", |usage| usage.resident_kib, memory_slack(arguments)),
        // Pages of the program come in one by one as faults are met for the first time.
        flatness(arguments, outcome, "memory of its own", |usage| usage.own_kib, memory_slack(arguments)),
        flatness(arguments, outcome, "descriptors", |usage| usage.descriptors, 8),
        flatness(arguments, outcome, "threads", |usage| usage.threads, 2),
        Finding {
            what: "the end within its bound",
            figures: format!("{:.1} s", outcome.stop.as_secs_f64()),
            holds: outcome.stop < Duration::from_secs(10),
        },
    ]
}

/// KiB by which the median may grow.
fn memory_slack(arguments: &Arguments) -> u64 {
    if arguments.is_short() { 8192 } else { 2048 }
}

fn falsity(outcome: &Outcome) -> Finding {
    let content = outcome.record.content();
    let (mut right, mut wrong, mut unclear) = (0_u64, 0_u64, 0_u64);
    for (link, answers) in &content.answers {
        for (time, up) in answers {
            match outcome.world.was_up(*link, *time) {
                Some(truth) if truth == *up => right += 1,
                Some(truth) => {
                    wrong += 1;
                    if wrong <= SHOWN {
                        say_false(outcome, *link, *time, truth);
                    }
                }
                None => unclear += 1,
            }
        }
    }
    let contradictory = content.contradictory;
    Finding {
        what: "no false answer",
        figures: format!(
            "{wrong} false of {}, beside {unclear} within 1.5 s of a change; {contradictory} contradictory",
            right + wrong
        ),
        holds: wrong == 0 && contradictory == 0 && right > 0,
    }
}

/// For whoever looks for the cause.
fn say_false(outcome: &Outcome, link: usize, time: u64, truth: bool) {
    let seconds = |moment: u64| (moment as f64 - time as f64) / 1e9;
    let away = outcome.away.iter().map(|(killed, back)| (seconds(*killed), seconds(*back)));
    let away: Vec<_> = away.filter(|(_, back)| back.abs() < 10.0).collect();
    say(&format!(
        "false: link {link} was {} at {:.3} s; seconds from there: changes {:.2?}, replacements {:.2?}, away {away:.2?}",
        if truth { "up" } else { "down" },
        (time - outcome.began) as f64 / 1e9,
        outcome.world.changes_near(link, time).iter().map(|moment| seconds(*moment)).collect::<Vec<_>>(),
        outcome.world.replacements_near(link, time).iter().map(|moment| seconds(*moment)).collect::<Vec<_>>(),
    ));
}

fn say_lost(outcome: &Outcome, link: usize, time: u64) {
    let seconds = |moment: u64| (moment as f64 - time as f64) / 1e9;
    let away = outcome.away.iter().map(|(killed, back)| (seconds(*killed), seconds(*back)));
    let away: Vec<_> = away.filter(|(killed, back)| back.abs().min(killed.abs()) < 15.0).collect();
    let stalled = outcome.metronome.stalled(time, Duration::from_secs(4));
    say(&format!(
        "lost: link {link} at {:.3} s; seconds from there: away {away:.2?}; the machine stood still for {stalled:.2?}",
        (time - outcome.began) as f64 / 1e9,
    ));
}

/// Cycles of links that never arrived, although nothing excuses them.
fn loss(arguments: &Arguments, outcome: &Outcome) -> Finding {
    let content = outcome.record.content();
    let mut lost = 0_u64;
    let mut excused = 0_u64;
    let mut refused = 0_u64;
    let mut skipped: BTreeSet<u64> = BTreeSet::new();
    let mut told: BTreeSet<u64> = BTreeSet::new();
    for (link, answers) in &content.answers {
        let known: BTreeSet<u64> = answers.keys().copied().collect();
        let refusals = content.refused.iter().filter(|(of, _)| of == link).map(|(_, time)| *time);
        let refusals: BTreeSet<u64> = refusals.collect();
        refused += refusals.difference(&known).count() as u64;
        let times: Vec<u64> = known.union(&refusals).copied().filter(|time| *time <= outcome.ended).collect();
        for pair in times.windows(2) {
            let missing = ((pair[1] - pair[0]) + INTERVAL / 2) / INTERVAL;
            for cycle in 1..missing {
                let time = pair[0] + cycle * INTERVAL;
                if is_excused(arguments, outcome, time) {
                    excused += 1;
                } else if is_skipped(outcome, time) {
                    skipped.insert(time / (INTERVAL / 2));
                } else {
                    lost += 1;
                    if (told.len() as u64) < SHOWN && told.insert(time / INTERVAL) {
                        say_lost(outcome, *link, time);
                    }
                }
            }
        }
    }
    let answers: usize =
        content.answers.values().map(|answers| answers.range(..=outcome.ended).count()).sum();
    // Were all links told of to the end?
    let complete = content.answers.values().filter(|answers| {
        answers.last_key_value().is_some_and(|(time, _)| *time + 2 * GRACE > outcome.ended)
    });
    let complete = complete.count();
    Finding {
        what: if arguments.keeps_all() {
            "nothing lost, kills included"
        } else {
            "nothing lost without a kill"
        },
        figures: format!(
            "{lost} answers lost of {answers}; {refused} refused for good by the collector, {excused} not measured or not \
             handed over around a kill, {} cycles skipped by a machine that stood still; {} arrived more than once; {} kills \
             found requests in the spool, {} were left in it at the end",
            skipped.len(),
            content.doubled,
            outcome.killed_with,
            outcome.left
        ),
        holds: lost == 0 && complete == arguments.links && outcome.left == 0,
    }
}

fn is_excused(arguments: &Arguments, outcome: &Outcome, time: u64) -> bool {
    // Memory ends with its process, and with it what waits; a spool does not. A former way out may still have had something
    // older than the newest that arrived.
    let older = if arguments.is_short() { 0 } else { 15 * INTERVAL };
    if !arguments.keeps_all() && time > outcome.stored_until.saturating_sub(older) {
        return true;
    }
    let stalled = outcome.metronome.stalled(time, Duration::from_secs(1));
    let stored = STORED + u64::try_from(stalled.as_nanos()).unwrap_or(u64::MAX);
    outcome.away.iter().any(|(killed, back)| time + stored > *killed && time < back + BEGINS)
}

fn is_skipped(outcome: &Outcome, time: u64) -> bool {
    outcome.metronome.stalled(time, Duration::from_secs(2)) > Duration::from_millis(500)
}

fn lateness(outcome: &Outcome) -> Finding {
    let content = outcome.record.content();
    let (late, skipped) =
        (content.counted("vms.agent.cycles.late"), content.counted("vms.agent.cycles.skipped"));
    let cycles = (outcome.ended - outcome.began) / INTERVAL;
    let stalls = (0..cycles).filter(|cycle| {
        let time = outcome.began + cycle * INTERVAL;
        outcome.metronome.stalled(time, Duration::from_secs(1)) > Duration::from_millis(20)
    });
    let stalls = stalls.count() as u64;
    Finding {
        what: "no probe late",
        figures: format!(
            "{late} of {cycles} cycles later than 5 % of the interval, {skipped} skipped; in {stalls} seconds the machine \
             itself stood still for 20 ms or more"
        ),
        holds: late + skipped <= stalls,
    }
}

/// The median of the first quarter after warming up beside that of the last, before kills began.
fn flatness(
    arguments: &Arguments,
    outcome: &Outcome,
    what: &'static str,
    of: impl Fn(&Usage) -> u64,
    slack: u64,
) -> Finding {
    let steady = arguments.steady().as_secs_f64();
    let warm: Vec<u64> = outcome
        .samples
        .iter()
        .filter(|(time, _)| *time > steady / 10.0 && *time < steady)
        .map(|(_, usage)| of(usage))
        .collect();
    let quarter = warm.len() / 4;
    let (first, last) = (median(&warm[..quarter]), median(&warm[warm.len() - quarter..]));
    let most = warm.iter().max().copied().unwrap_or_default();
    let unit = if what.starts_with("memory") { " KiB" } else { "" };
    Finding {
        what,
        figures: format!(
            "median {first}{unit} in the first quarter, {last}{unit} in the last; at most {most}{unit}"
        ),
        holds: quarter > 0 && last <= first + slack,
    }
}

fn median(values: &[u64]) -> u64 {
    let mut values = values.to_vec();
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or_default()
}
