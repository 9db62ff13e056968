use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use vms_core::connection::Inode;
use vms_core::process::{Headcount, PatternId, Pid};

use super::*;
use crate::kept::NAMES_BOUND;
use crate::table::NAMES_TABLE_BOUND;
use crate::test_proc::{Question, START, TestProc};

/// The names in random worlds; those from [`IDLE`] on fit nothing that is asked.
const NAMES: [&str; 7] = ["nginx", "php", "ruby", "idle", "dozing", "asleep", "away"];
const IDLE: usize = 3;
const PIDS: u32 = 9;
const STEPS: usize = 1500;

/// Numbers that are the same in each run (xorshift).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % bound
    }

    fn choose<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        (!from.is_empty()).then(|| from[self.below(from.len())])
    }
}

/// A process of a random world, as it truly is.
#[derive(Debug, Clone)]
struct Truth {
    name: usize,
    sockets: BTreeMap<u32, u64>,
    /// When it came by its name otherwise than by beginning; the step, and the time.
    renamed: Option<(usize, Duration)>,
    /// It has exited, and was not waited for.
    is_dead: bool,
}

impl Truth {
    fn holds(&self, inode: u64) -> bool {
        self.sockets.values().any(|held| *held == inode)
    }

    /// Whether a reader may not have noticed its name yet.
    fn is_renamed_within(&self, bound: Duration, now: Duration) -> bool {
        self.renamed.is_some_and(|(_, time)| now < time + bound)
    }
}

/// That nobody who fits holds a socket, as was found in vain again and again.
#[derive(Debug, Clone, Copy)]
struct Vain {
    since: Duration,
    last: Duration,
    last_step: usize,
}

struct World {
    proc: TestProc,
    dice: Dice,
    processes: BTreeMap<u32, Truth>,
    /// Numbers that no process has had since processes were listed last.
    vacated: Vec<u32>,
    sockets: u64,
    step: usize,
    now: Duration,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut world = Self {
            proc: TestProc::new(),
            dice: Dice(seed),
            processes: BTreeMap::new(),
            vacated: Vec::new(),
            sockets: 0,
            step: 0,
            now: Duration::ZERO,
        };
        for pid in 1..5 {
            world.begin(pid);
        }
        world
    }

    fn begin(&mut self, pid: u32) {
        let name = self.dice.below(NAMES.len());
        drop(self.proc.process(pid, NAMES[name]));
        // A file system may give its directory the inode of the one before: then only its name could tell.
        let renamed = self.vacated.contains(&pid).then_some((self.step, self.now));
        self.processes.insert(pid, Truth { name, sockets: BTreeMap::new(), renamed, is_dead: false });
    }

    fn end(&mut self, pid: u32) {
        self.proc.remove(pid);
        self.processes.remove(&pid);
        self.vacated.push(pid);
    }

    fn open(&mut self, pid: u32, inode: u64) {
        let truth = self.processes.get_mut(&pid).unwrap();
        let descriptor = (3..99).find(|number| !truth.sockets.contains_key(number)).unwrap();
        truth.sockets.insert(descriptor, inode);
        drop(self.proc.process(pid, NAMES[truth.name]).socket(descriptor, inode));
    }

    fn close(&mut self, pid: u32, descriptor: u32) {
        let truth = self.processes.get_mut(&pid).unwrap();
        truth.sockets.remove(&descriptor);
        drop(self.proc.process(pid, NAMES[truth.name]).close(descriptor));
    }

    fn rename(&mut self, pid: u32) {
        let name = self.dice.below(NAMES.len());
        drop(self.proc.process(pid, NAMES[name]));
        let truth = self.processes.get_mut(&pid).unwrap();
        if truth.name != name {
            (truth.name, truth.renamed) = (name, Some((self.step, self.now)));
        }
    }

    fn die(&mut self, pid: u32) {
        let truth = self.processes.get_mut(&pid).unwrap();
        truth.is_dead = true;
        let mut process = self.proc.process(pid, NAMES[truth.name]).bare(b'Z', 0x0040_0140);
        for descriptor in std::mem::take(&mut truth.sockets).into_keys() {
            process = process.close(descriptor);
        }
        fs::create_dir_all(self.proc.path().join(format!("{pid}/task"))).unwrap();
    }

    /// How many processes of that name run: at least, of whom a reader has to know, and at most.
    fn count(&self, name: usize, bound: Duration) -> (u64, u64) {
        let mut counts = (0, 0);
        for truth in self.processes.values().filter(|truth| !truth.is_dead) {
            let is_doubtful = truth.is_renamed_within(bound, self.now);
            counts.0 += u64::from(truth.name == name && !is_doubtful);
            counts.1 += u64::from(truth.name == name || is_doubtful);
        }
        counts
    }

    /// Something happens, or nothing.
    fn go_on(&mut self) {
        self.step += 1;
        self.now += Duration::from_millis([1, 100, 1000, 7000, 15_000][self.dice.below(5)]);
        let (dead, living): (Vec<u32>, Vec<u32>) =
            self.processes.keys().partition(|pid| self.processes[pid].is_dead);
        let Some(pid) = self.dice.choose(&living) else { return self.begin(1) };
        if self.dice.below(8) == 0
            && let Some(pid) = self.dice.choose(&dead)
        {
            return self.end(pid);
        }
        let held: Vec<(u32, u64)> =
            self.processes[&pid].sockets.iter().map(|(descriptor, inode)| (*descriptor, *inode)).collect();
        let held = self.dice.choose(&held);
        match (self.dice.below(19), held) {
            (0, _) => {
                let free: Vec<u32> = (1..=PIDS).filter(|pid| !self.processes.contains_key(pid)).collect();
                if let Some(pid) = self.dice.choose(&free) {
                    self.begin(pid);
                }
            }
            (1, _) if living.len() > 1 => self.end(pid),
            (2, _) => self.rename(pid),
            (3 | 4, _) => {
                self.sockets += 1;
                self.open(pid, self.sockets);
            }
            // Handed on: another process holds it as well, and perhaps instead.
            (5, Some((descriptor, inode))) => {
                if let Some(heir) = self.dice.choose(&living) {
                    self.open(heir, inode);
                    if self.dice.below(2) == 0 {
                        self.close(pid, descriptor);
                    }
                }
            }
            // Moved to another descriptor.
            (6, Some((descriptor, inode))) => {
                self.open(pid, inode);
                self.close(pid, descriptor);
            }
            (7, Some((descriptor, _))) => self.close(pid, descriptor),
            // Its number is given to another process, which may have got its socket.
            (8, _) => {
                self.end(pid);
                self.begin(pid);
                if let Some((_, inode)) = held
                    && self.dice.below(2) == 0
                {
                    self.open(pid, inode);
                }
            }
            (9, _) if living.len() > 1 => self.die(pid),
            _ => {}
        }
    }

    /// The processes of that name that hold that socket.
    fn holders(&self, inode: u64, name: usize) -> Vec<(u32, &Truth)> {
        let holds = |(_, truth): &(&u32, &Truth)| truth.name == name && truth.holds(inode);
        self.processes.iter().filter(holds).map(|(pid, truth)| (*pid, truth)).collect()
    }
}

fn question(wanted: &[(u64, usize)], census: usize, counted: &[usize], question: Question) -> Question {
    let mut question = about(counted, question);
    for (inode, pattern) in wanted {
        question = question.wants(*inode, &[*pattern]);
    }
    question.counts(census)
}

/// Asks how many processes have these names.
fn about(counted: &[usize], question: Question) -> Question {
    counted.iter().copied().fold(question.about_nothing(), Question::asks_how_many)
}

/// Holds what was counted to what is true, where a reader may not have noticed names that are younger than `bound`.
fn check_counts(
    world: &World,
    headcounts: &BTreeMap<PatternId, Headcount>,
    question: &Question,
    counted: &[usize],
    bound: Duration,
) {
    assert_eq!(headcounts.len(), counted.len());
    for name in counted {
        let Headcount { fitting, possible } = headcounts[&question.id(*name)];
        let (least, most) = world.count(*name, bound);
        assert!(
            (least..=most).contains(&fitting) && possible == 0,
            "step {}: {fitting} and {possible} are {} instead of {least} to {most}",
            world.step,
            NAMES[*name]
        );
    }
}

/// What was told of a holder: the socket, and the process.
type Told = (u64, u32);

/// Asks the reader for holders, and holds it to what is true and to what it may remember.
fn check_holders(
    world: &World,
    reader: &mut ProcReader,
    question: &Question,
    (wanted, census, counted): (&[(u64, usize)], usize, &[usize]),
    bound: Duration,
    vain: &mut BTreeMap<(u64, usize), Vain>,
) -> Vec<Told> {
    let (now, step) = (world.now, world.step);
    let scan = reader.find_holders(&question.query()).unwrap();
    check_counts(world, &scan.headcounts, question, counted, bound);
    let mut told = Vec::new();
    for (inode, holders) in &scan.holders {
        for process in holders {
            let truth = &world.processes[&process.pid.0];
            assert!(truth.holds(inode.get()), "step {step}: {} does not hold {inode:?}", process.pid);
            let ids: Vec<PatternId> =
                (0..IDLE).filter(|name| *name == truth.name).map(|name| question.id(name)).collect();
            assert_eq!(process.fits, ids, "step {step}: {}", process.pid);
            told.push((inode.get(), process.pid.0));
        }
    }
    let is_found = |(inode, pattern): (u64, usize)| {
        let holders = scan.holders.get(&Inode::new(inode).unwrap());
        holders.into_iter().flatten().any(|process| process.fits.contains(&question.id(pattern)))
    };
    // Where one socket has to be looked for anew, all names are read, and nothing that is true may be missed.
    let may_believe = wanted.iter().all(|pair| {
        let believed = vain.get(pair).is_some_and(|vain| {
            now < vain.last + NAMES_TABLE_BOUND.min(vain.last.saturating_sub(vain.since))
        });
        believed || !world.holders(pair.0, pair.1).is_empty() && is_found(*pair)
    });
    for pair in wanted {
        let truly = world.holders(pair.0, pair.1);
        if is_found(*pair) {
            vain.remove(pair);
        } else if truly.is_empty() {
            let entry = vain.entry(*pair).or_insert(Vain { since: now, last: now, last_step: step });
            (entry.last, entry.last_step) = (now, step);
        } else {
            assert!(may_believe, "step {step}: {pair:?} is held by {truly:?}");
            let concluded = vain[pair].last_step;
            for (pid, truth) in truly {
                let renamed = truth.renamed.is_some_and(|(step, _)| step > concluded);
                assert!(renamed, "step {step}: {pid} held or could hold {pair:?} under its name before");
            }
        }
    }
    let present = scan.present.contains(&question.id(census));
    let mut fitting = world.processes.values().filter(|truth| truth.name == census && !truth.is_dead);
    if present {
        assert!(fitting.next().is_some(), "step {step}: nobody is {}", NAMES[census]);
    } else {
        assert!(fitting.all(|truth| truth.is_renamed_within(NAMES_TABLE_BOUND, now)), "step {step}");
    }
    assert!(scan.uncertain.is_empty() && scan.obscured.is_empty());
    told
}

/// Verifies what was told, and holds the reader to what is true.
fn check_verified(world: &World, reader: &mut ProcReader, question: &Question, told: &[Told]) {
    let holdings: Vec<(Inode, Pid)> =
        told.iter().map(|(inode, pid)| (Inode::new(*inode).unwrap(), Pid(*pid))).collect();
    let query = VerifyQuery { selector: question.selector(), holdings: &holdings, now: START + world.now };
    let verified = reader.verify_holders(&query).unwrap();
    assert_eq!(verified.len(), told.len());
    for ((inode, pid), process) in told.iter().zip(verified) {
        let truth = world.processes.get(pid).filter(|truth| truth.holds(*inode));
        assert_eq!(process.is_some(), truth.is_some(), "step {}: {pid} and {inode}", world.step);
        let (Some(process), Some(truth)) = (process, truth) else { continue };
        if !truth.is_renamed_within(NAMES_BOUND, world.now) {
            assert_eq!(process.name, NAMES[truth.name], "step {}: {pid}", world.step);
            assert_eq!(process.fits.contains(&question.id(0)), truth.name == 0);
        }
    }
}

fn live_in_a_random_world(seed: u64) {
    let mut world = World::new(seed);
    let mut reader = world.proc.reader();
    let mut asked = Question::new(&NAMES[..IDLE]);
    let mut vain = BTreeMap::new();
    let mut told: Vec<Told> = Vec::new();
    let mut passed_over = 0;
    for _ in 0..STEPS {
        world.go_on();
        if world.dice.below(200) == 0 {
            // A reload: the same patterns under other ids.
            asked = Question::new(&NAMES[..IDLE]);
        }
        if world.dice.below(2) == 0 {
            check_verified(&world, &mut reader, &asked, &told);
        }
        let recent: Vec<u64> =
            (world.sockets.saturating_sub(8)..=world.sockets).filter(|inode| *inode > 0).collect();
        // Each socket is wanted by one pattern, and sometimes by another; not all are asked for each time.
        let mut wanted: Vec<(u64, usize)> = Vec::new();
        for inode in recent {
            if world.dice.below(4) > 0 {
                wanted.push((inode, usize::try_from(inode).unwrap() % IDLE));
            }
            if world.dice.below(6) == 0 {
                wanted.push((inode, world.dice.below(IDLE)));
            }
        }
        wanted.sort_unstable();
        wanted.dedup();
        let census = world.dice.below(IDLE);
        let mut counted: Vec<usize> = (0..IDLE).collect();
        counted.truncate(world.dice.below(IDLE + 1));
        asked = question(&wanted, census, &counted, asked);
        asked.at(world.now);
        // A reader that remembers nothing agrees with the truth, and so the truth is one that a reader can find.
        let mut fresh = world.proc.reader();
        let questions = (wanted.as_slice(), census, counted.as_slice());
        check_holders(&world, &mut fresh, &asked, questions, Duration::ZERO, &mut BTreeMap::new());
        let bound = NAMES_TABLE_BOUND;
        told.extend(check_holders(&world, &mut reader, &asked, questions, bound, &mut vain));
        if reader.effort().listings > 0 {
            world.vacated.clear();
            let living = world.processes.len();
            passed_over += usize::from(fresh.effort().names >= living && reader.effort().names < living);
        }
        if world.dice.below(3) == 0 {
            let all: Vec<usize> = (0..IDLE).collect();
            asked = about(&all, asked);
            let scan = reader.find_holders(&asked.query()).unwrap();
            check_counts(&world, &scan.headcounts, &asked, &all, bound);
            world.vacated.clear();
        }
        check_verified(&world, &mut reader, &asked, &told);
        told.sort_unstable();
        told.dedup();
        let forgotten = told.len().saturating_sub(20);
        told.drain(..forgotten);
    }
    assert!(passed_over > STEPS / 20, "what is remembered is of use: {passed_over} times");
}

#[test]
fn what_is_remembered_never_hides_a_holder_nor_makes_one_up() {
    for seed in [1, 2] {
        live_in_a_random_world(seed);
    }
}

#[test]
fn handles_are_closed_for_want_of_descriptors_and_for_nothing_else() {
    let proc = TestProc::new();
    drop(proc.process(7, "nginx").socket(3, 1));
    let mut reader = proc.reader();
    reader.find_holders(&Question::new(&["nginx"]).wants(1, &[0]).query()).unwrap();
    for (errno, attempts, kept) in
        [(Errno::NOMEM, 1, 1), (Errno::IO, 1, 1), (Errno::NFILE, 2, 0), (Errno::MFILE, 1, 0)]
    {
        let tried = Cell::new(0);
        let fail = |_: &mut ProcReader| {
            tried.set(tried.get() + 1);
            Err::<(), _>(ProcessError::Io { path: "/proc".into(), source: errno.into() })
        };
        reader.with_descriptors_to_spare(START, fail).unwrap_err();
        assert_eq!((tried.get(), reader.kept_handles()), (attempts, kept), "{errno}");
    }
}
