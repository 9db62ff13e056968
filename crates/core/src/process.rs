//! Processes as probes see them: by which names they are known, and which configured patterns they fit.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use globset::{Candidate, Glob, GlobBuilder, GlobSet, GlobSetBuilder};

use crate::allowance::Allowance;
use crate::connection::Inode;

/// A process id, as the /proc that is read numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pid(pub u32);

impl fmt::Display for Pid {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// A capability without which the sockets of other users' processes cannot be attributed, or not all of their names be read
/// (capabilities(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Capability {
    /// Needed to read the links in another user's `/proc/PID/fd`, and to see processes that `hidepid` hides.
    SysPtrace,
    /// Needed to open another user's `/proc/PID/fd`, which only its owner may search.
    DacReadSearch,
}

impl Capability {
    /// Both, in the order in which they are reported.
    pub const ALL: [Self; 2] = [Self::SysPtrace, Self::DacReadSearch];

    /// The name as capabilities(7) spells it: the value of the `capability` attribute.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SysPtrace => "CAP_SYS_PTRACE",
            Self::DacReadSearch => "CAP_DAC_READ_SEARCH",
        }
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.as_str())
    }
}

/// A `processName` pattern: `*`, `?`, `[...]` and `{a,b}` over a whole name, ASCII letters in either case.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NameGlob(Arc<str>);

/// Why a text is not a `processName` pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameGlobError {
    /// The empty pattern fits nothing.
    #[error("an empty pattern fits no process")]
    Empty,
    /// A bracket or brace that is not closed, a bad range.
    #[error("{0}")]
    Syntax(String),
}

impl NameGlob {
    /// The pattern that every name fits.
    #[must_use]
    pub fn any() -> Self {
        Self("*".into())
    }

    /// The pattern as configured.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl NameGlob {
    /// The text of a glob that matches this name alone, also as a part of alternatives.
    #[must_use]
    pub fn literal(name: &str) -> String {
        let is_special =
            |character: char| matches!(character, '?' | '*' | '[' | ']' | '{' | '}' | ',' | '\\');
        let escaped = name
            .chars()
            .flat_map(|character| is_special(character).then_some('\\').into_iter().chain([character]));
        escaped.collect()
    }
}

impl FromStr for NameGlob {
    type Err = NameGlobError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Err(NameGlobError::Empty);
        }
        // Thousands of probes may have patterns, and few different ones: only the text is kept of each.
        compile(text).map_err(|error| NameGlobError::Syntax(error.kind().to_string()))?;
        Ok(Self(text.into()))
    }
}

fn compile(text: &str) -> Result<Glob, globset::Error> {
    // A name is no path: `*` also covers the slashes of kernel-thread names such as `kworker/0:1`.
    GlobBuilder::new(text).case_insensitive(true).literal_separator(false).build()
}

impl fmt::Display for NameGlob {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.as_str())
    }
}

/// Which processes a probe means.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ProcessPattern {
    /// Has to match, in whole, one of the names of the process.
    pub name: NameGlob,
    /// Where set, has to be the executable as well.
    pub executable: Option<PathBuf>,
}

/// A fact about a process that the agent may not be allowed to learn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Known<T> {
    /// It is this.
    Is(T),
    /// There is none, for certain: a kernel thread has neither an executable nor arguments.
    Absent,
    /// The kernel refused to tell.
    Denied,
}

/// The names by which a process is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessNames<'a> {
    /// `/proc/PID/comm`, without its line feed: at most 15 bytes, and a thread may rename it.
    pub comm: Known<&'a [u8]>,
    /// `argv[0]`, as in `/proc/PID/cmdline`: whatever the process wrote there.
    pub argv0: Known<&'a [u8]>,
    /// Where `/proc/PID/exe` leads, without the ` (deleted)` of a replaced binary.
    pub executable: Known<&'a Path>,
}

/// Which pattern of a [`ProcessSelector`] is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PatternId(usize);

/// What a process fits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fits {
    /// The patterns that it fits, sorted.
    pub certain: Vec<PatternId>,
    /// The patterns that it might fit, were all its names known; sorted.
    pub possible: Vec<PatternId>,
}

/// All process patterns of all probes, each once, so that one pass over the processes serves every probe.
#[derive(Debug, Clone, Default)]
pub struct ProcessSelector {
    patterns: Vec<ProcessPattern>,
    ids: HashMap<ProcessPattern, PatternId>,
    globs: Vec<GlobSet>,
    of_glob: Vec<Vec<PatternId>>,
    identity: SelectorIdentity,
}

/// Tells a selector and its clones from every other, for whoever remembers ids: those of one mean nothing to another,
/// even where both were compiled from the same patterns in another order.
#[derive(Debug, Clone, Default)]
pub struct SelectorIdentity(Arc<()>);

impl PartialEq for SelectorIdentity {
    fn eq(&self, other: &Self) -> bool {
        // What is remembered keeps the allocation, so that no later selector can have its address.
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for SelectorIdentity {}

/// Patterns that are each valid, and together more than the matcher can hold.
#[derive(Debug, thiserror::Error)]
#[error("the process patterns cannot be compiled")]
pub struct SelectorError(#[from] globset::Error);

/// Globs per compiled set: a set of thousands would meet the matcher's size limit.
const GLOBS_A_SET: usize = 256;

/// Collects the patterns of a [`ProcessSelector`].
#[derive(Debug, Clone, Default)]
pub struct SelectorBuilder {
    patterns: Vec<ProcessPattern>,
    ids: HashMap<ProcessPattern, PatternId>,
}

impl SelectorBuilder {
    /// Adds a pattern; equal ones share an id.
    pub fn add(&mut self, pattern: &ProcessPattern) -> PatternId {
        if let Some(id) = self.ids.get(pattern) {
            return *id;
        }
        let id = PatternId(self.patterns.len());
        self.ids.insert(pattern.clone(), id);
        self.patterns.push(pattern.clone());
        id
    }

    /// Compiles the patterns.
    ///
    /// # Errors
    /// When the matcher refuses a set of globs that are each valid: more memory than it grants itself.
    pub fn build(self) -> Result<ProcessSelector, SelectorError> {
        let mut globs: Vec<&NameGlob> = Vec::new();
        let mut of_glob: Vec<Vec<PatternId>> = Vec::new();
        let mut glob_index: HashMap<&str, usize> = HashMap::new();
        for (index, pattern) in self.patterns.iter().enumerate() {
            let glob = *glob_index.entry(pattern.name.as_str()).or_insert_with(|| {
                globs.push(&pattern.name);
                of_glob.push(Vec::new());
                globs.len() - 1
            });
            if let Some(ids) = of_glob.get_mut(glob) {
                ids.push(PatternId(index));
            }
        }
        let mut sets = Vec::new();
        for chunk in globs.chunks(GLOBS_A_SET) {
            let mut set = GlobSetBuilder::new();
            for glob in chunk {
                set.add(compile(glob.as_str())?);
            }
            sets.push(set.build()?);
        }
        let identity = SelectorIdentity::default();
        Ok(ProcessSelector { patterns: self.patterns, ids: self.ids, globs: sets, of_glob, identity })
    }
}

impl ProcessSelector {
    /// Compiles the patterns.
    ///
    /// # Errors
    /// As [`SelectorBuilder::build`].
    pub fn new<'a>(patterns: impl IntoIterator<Item = &'a ProcessPattern>) -> Result<Self, SelectorError> {
        let mut builder = SelectorBuilder::default();
        for pattern in patterns {
            builder.add(pattern);
        }
        builder.build()
    }

    /// The id under which a pattern was compiled.
    #[must_use]
    pub fn id(&self, pattern: &ProcessPattern) -> Option<PatternId> {
        self.ids.get(pattern).copied()
    }

    /// What tells this selector and its clones from every other.
    #[must_use]
    pub fn identity(&self) -> &SelectorIdentity {
        &self.identity
    }

    /// Which patterns a process with these names fits, and which it might fit.
    #[must_use]
    pub fn fits(&self, names: &ProcessNames<'_>) -> Fits {
        let mut by_name = BTreeSet::new();
        let executable_name = match names.executable {
            Known::Is(path) => path.file_name().map(std::os::unix::ffi::OsStrExt::as_bytes),
            Known::Absent | Known::Denied => None,
        };
        let mut seen: [Option<&[u8]>; 3] = [None; 3];
        let spellings = [is(names.comm), is(names.argv0).map(base_name), executable_name];
        for (slot, spelling) in seen.iter_mut().zip(spellings) {
            *slot = spelling;
        }
        for (index, spelling) in seen.iter().enumerate() {
            let repeated = seen.iter().take(index).any(|earlier| earlier == spelling);
            if let Some(name) = spelling.filter(|name| !name.is_empty() && !repeated) {
                self.match_name(name, &mut by_name);
            }
        }
        let all_names_known = !matches!(names.comm, Known::Denied)
            && !matches!(names.argv0, Known::Denied)
            && !matches!(names.executable, Known::Denied);
        let mut fits = Fits::default();
        if all_names_known {
            for id in by_name {
                if self.executable_fits(id, names.executable) == Some(true) {
                    fits.certain.push(id);
                }
            }
            return fits;
        }
        for id in (0..self.patterns.len()).map(PatternId) {
            match (by_name.contains(&id), self.executable_fits(id, names.executable)) {
                (_, Some(false)) => {}
                (true, Some(true)) => fits.certain.push(id),
                _ => fits.possible.push(id),
            }
        }
        fits
    }

    fn match_name(&self, name: &[u8], matched: &mut BTreeSet<PatternId>) {
        let candidate = Candidate::from_bytes(name);
        let mut hits = Vec::new();
        for (set_index, set) in self.globs.iter().enumerate() {
            set.matches_candidate_into(&candidate, &mut hits);
            for hit in &hits {
                if let Some(ids) = self.of_glob.get(set_index * GLOBS_A_SET + hit) {
                    matched.extend(ids);
                }
            }
        }
    }

    /// Whether the executable is the one asked for; `None` when that cannot be known.
    fn executable_fits(&self, id: PatternId, executable: Known<&Path>) -> Option<bool> {
        match (self.patterns.get(id.0).and_then(|pattern| pattern.executable.as_deref()), executable) {
            (None, _) => Some(true),
            (Some(wanted), Known::Is(path)) => Some(wanted == path),
            (Some(_), Known::Absent) => Some(false),
            (Some(_), Known::Denied) => None,
        }
    }
}

fn is<T>(known: Known<T>) -> Option<T> {
    match known {
        Known::Is(value) => Some(value),
        Known::Absent | Known::Denied => None,
    }
}

/// What follows the last slash.
fn base_name(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or(path)
}

/// The container of a process, as far as its cgroups tell.
///
/// Which one it is its id and the uid of its pod tell. What the pod is called is no part of that: it may become known later,
/// and of the same container the same series has to go on.
#[derive(Debug, Clone)]
pub struct Container {
    /// Its id.
    pub id: Option<Arc<str>>,
    /// The uid of its pod.
    pub pod_uid: Option<Arc<str>>,
    /// What its pod is called, where that is known.
    pub pod_name: Option<Arc<PodName>>,
}

/// What a pod is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodName {
    /// The Kubernetes namespace in which it is.
    pub namespace: Arc<str>,
    /// Its name there.
    pub name: Arc<str>,
}

impl Container {
    fn identity(&self) -> (&Option<Arc<str>>, &Option<Arc<str>>) {
        (&self.id, &self.pod_uid)
    }
}

impl PartialEq for Container {
    fn eq(&self, other: &Self) -> bool {
        self.identity() == other.identity()
    }
}

impl Eq for Container {}

impl PartialOrd for Container {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Container {
    fn cmp(&self, other: &Self) -> Ordering {
        self.identity().cmp(&other.identity())
    }
}

impl Hash for Container {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.identity().hash(state);
    }
}

/// A process that holds a wanted socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub pid: Pid,
    /// Its comm, with what is no UTF-8 replaced.
    pub name: String,
    /// Its executable, where the kernel told.
    pub executable: Option<PathBuf>,
    /// The patterns that it fits, sorted.
    pub fits: Vec<PatternId>,
    /// Its container; only told where the connections of all network namespaces are looked at, or every holder is wanted.
    pub container: Option<Arc<Container>>,
    /// It is of another user namespace than the agent; only told where the connections of all network namespaces are looked at.
    /// Any user can make one, and in it a network with whatever connections he likes.
    pub is_stranger: bool,
}

/// What the agent asks about the holders of sockets, once a cycle for all probes together.
#[derive(Debug, Clone, Copy)]
pub struct HolderQuery<'a> {
    /// The patterns that ids refer to.
    pub selector: &'a ProcessSelector,
    /// The sockets in question, each with the patterns that a holder has to fit to count.
    pub wanted: &'a BTreeMap<Inode, BTreeSet<PatternId>>,
    /// Patterns of which it matters whether any process fits them, sockets or not.
    pub census: &'a BTreeSet<PatternId>,
    /// Patterns of which it matters where whoever fits them lives, should the agent turn out not to share the network
    /// namespace of the host whose processes it sees ([`HolderScan::is_displaced`]).
    pub located: &'a BTreeSet<PatternId>,
    /// Patterns of which it matters how many processes fit them. Part of the census, but for where they live and for parts of the
    /// kernel, which are not counted.
    pub counted: &'a BTreeSet<PatternId>,
    /// Of the patterns that are counted, those of which it matters what the processes use that fit them.
    pub measured: &'a BTreeSet<PatternId>,
    /// Find every holder, instead of stopping when each wanted socket has one that fits each of its patterns.
    pub every_holder: bool,
    /// The moment of asking, on a clock that never goes backwards: what is remembered of names has an age.
    pub now: Duration,
    /// The time that the search may take. When it is spent, what is open is told to be so ([`HolderScan::undecided`]).
    pub allowance: &'a Allowance<'a>,
}

/// What the agent asks about holders that it knows.
#[derive(Debug, Clone, Copy)]
pub struct VerifyQuery<'a> {
    /// The patterns that ids refer to.
    pub selector: &'a ProcessSelector,
    /// Sockets, each with a process that was found to hold it.
    pub holdings: &'a [(Inode, Pid)],
    /// The moment of asking, on a clock that never goes backwards.
    pub now: Duration,
}

/// A place into which the agent was not permitted to look.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Obscured {
    /// A process that certainly fits the pattern could not be looked into; otherwise only ones that might.
    pub certain: bool,
    /// The capabilities whose absence caused it.
    pub missing: BTreeSet<Capability>,
}

/// The processes that fit a pattern. Kernel threads are none, nor is what has exited and was not waited for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Headcount {
    /// How many fit for certain.
    pub fitting: u64,
    /// How many more might, were all their names known. Where there can be processes of which not even the number is shown
    /// (`hidepid`), nobody knows how many these are, and all of them are one more here: what fits is as many at least, and
    /// never told as if it were all.
    pub possible: u64,
}

/// What a process uses, all its threads together, at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessUsage {
    /// Its id.
    pub pid: Pid,
    /// When it started, on the clock of [`Clock::since_boot`](crate::Clock::since_boot), to a hundredth of a second. Together with
    /// its id it tells a process from every other, and stays what it is when the process replaces its program.
    pub started: Duration,
    /// The CPU time that it has used since then in user mode.
    pub user: Duration,
    /// The same in the kernel.
    pub system: Duration,
    /// Its resident memory, in which pages that it shares with others are counted as well.
    pub resident_bytes: u64,
    /// Its address space.
    pub virtual_bytes: u64,
}

/// What was found out about the holders of sockets.
#[derive(Debug, Clone, Default)]
pub struct HolderScan {
    /// The holders found of each wanted socket. A socket that nobody holds is not in it.
    pub holders: HashMap<Inode, Vec<Arc<Process>>>,
    /// Of the patterns asked for, those that some process certainly fits. Complete for the census.
    pub present: BTreeSet<PatternId>,
    /// Patterns that some process might fit whose names could not all be read. Complete for the census.
    pub uncertain: BTreeSet<PatternId>,
    /// Of the patterns that are counted, how many processes fit them. One that is missing was not counted to the end, because
    /// the allowance was spent: there are no counts of a part.
    pub headcounts: BTreeMap<PatternId, Headcount>,
    /// Of the patterns that are measured, what each process uses that counts as fitting. One is missing that was not counted,
    /// or of which a process counts whose usage could not be read: nothing is told of a part.
    pub usages: BTreeMap<PatternId, Vec<ProcessUsage>>,
    /// The capabilities whose absence is to blame for that processes are counted which might fit.
    pub nameless: BTreeSet<Capability>,
    /// Patterns for which some process that fits, or might, could not be looked into.
    ///
    /// For these, wanted sockets without a fitting holder were looked for in every process that can be read, so
    /// that a socket known to be held by somebody else is in `holders`.
    pub obscured: BTreeMap<PatternId, Obscured>,
    /// Sockets without a holder that fits, of which the allowance was spent before it was known that they have none.
    /// Where there are any, the census may be incomplete as well: all of it that is not present is uncertain then.
    pub undecided: HashSet<Inode>,
    /// Of the census, patterns that a process fits which lives in another network namespace than the agent. Where
    /// displaced, also of the patterns to be located, but for those that are `here`.
    pub elsewhere: BTreeSet<PatternId>,
    /// Where displaced: the same of patterns that such a process might fit, were all its names known.
    pub maybe_elsewhere: BTreeSet<PatternId>,
    /// Where displaced: of the patterns to be located, those that a process fits which lives in the agent's network
    /// namespace, or holds a socket of it that was wanted for that pattern.
    pub here: BTreeSet<PatternId>,
    /// The agent's network namespace is not known to be that of the first process it sees: it sees the processes of one
    /// host and, it may be, the sockets of another.
    pub is_displaced: bool,
}

#[cfg(test)]
mod tests;
