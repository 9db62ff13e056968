//! What the files below /proc/PID say (proc(5)). Nothing here is trusted: their owners choose most of the bytes.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::num::NonZeroU32;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use vms_core::connection::Inode;
use vms_core::process::{Pid, ProcessUsage};

use crate::privileges::Privileges;

/// Which processes of other users a /proc shows: its mount option `hidepid` (proc(5), the kernel's
/// `include/linux/proc_fs.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HidePid {
    /// `off`, `0`: all of them. The kernel's default.
    Off,
    /// `noaccess`, `1`: only that they are there.
    NoAccess,
    /// `invisible`, `2`: none of them.
    Invisible,
    /// `ptraceable`, `4`: only those that the reader could trace (since Linux 5.8).
    Ptraceable,
}

impl HidePid {
    /// The value as the kernel has spelled it since Linux 5.8.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::NoAccess => "noaccess",
            Self::Invisible => "invisible",
            Self::Ptraceable => "ptraceable",
        }
    }
}

/// What a /proc hides, and from whom not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HiddenProcesses {
    /// The mount option `hidepid`.
    pub hide_pid: HidePid,
    /// The mount option `gid`: members of this group are shown everything. The kernel's default is 0.
    pub exempt_group: u32,
}

impl HiddenProcesses {
    /// Whether there can be processes that are kept from someone with these privileges, or all that is in them: then nobody
    /// can be excluded.
    #[must_use]
    pub fn keep_any_from(&self, privileges: &Privileges) -> bool {
        let as_hidden = match self.hide_pid {
            HidePid::NoAccess => HidePid::Invisible,
            other => other,
        };
        Self { hide_pid: as_hidden, ..*self }.are_hidden_from(privileges)
    }

    /// Whether there can be processes of which someone with these privileges does not even see the number.
    #[must_use]
    pub fn are_hidden_from(&self, privileges: &Privileges) -> bool {
        match self.hide_pid {
            HidePid::Off | HidePid::NoAccess => false,
            HidePid::Invisible => !privileges.sys_ptrace && !privileges.groups.contains(&self.exempt_group),
            HidePid::Ptraceable => !privileges.sys_ptrace,
        }
    }
}

/// What `/proc/PID/stat` says about a process that shows no executable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskKind {
    /// It has exited and waits for its parent to notice.
    Dead,
    /// It is part of the kernel.
    Kernel,
    /// Anything else.
    User,
}

/// The entry of /proc that stands for a process: a decimal number without leading zeros.
#[must_use]
pub fn parse_pid(name: &[u8]) -> Option<Pid> {
    if name.first() == Some(&b'0') {
        return None;
    }
    parse_decimal(name).and_then(|number| u32::try_from(number).ok()).map(Pid)
}

/// The name in `/proc/PID/comm`. The kernel ends it with one line feed; any other is part of the name.
#[must_use]
pub fn parse_comm(text: &[u8]) -> &[u8] {
    text.strip_suffix(b"\n").unwrap_or(text)
}

/// `argv[0]` in `/proc/PID/cmdline`; `None` when there is none.
#[must_use]
pub fn parse_argv0(text: &[u8]) -> Option<&[u8]> {
    text.split(|byte| *byte == 0).next().filter(|argument| !argument.is_empty())
}

/// The path that `/proc/PID/exe` leads to, without the mark of a binary that was replaced or removed.
#[must_use]
pub fn parse_executable(link: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(link.strip_suffix(b" (deleted)").unwrap_or(link)))
}

/// The socket that `/proc/PID/fd/N` leads to; `None` when it is something else. No path can be taken for one:
/// paths start with a slash.
#[must_use]
pub fn parse_socket_link(link: &[u8]) -> Option<Inode> {
    let number = link.strip_prefix(b"socket:[")?.strip_suffix(b"]")?;
    Inode::new(parse_decimal(number)?)
}

/// The inode of the namespace to which a link in `/proc/PID/ns` leads, if it is of that kind: `net:[4026531833]`
/// (namespaces(7)).
#[must_use]
pub fn parse_namespace_link(link: &[u8], kind: &[u8]) -> Option<NonZeroU32> {
    let number = parse_decimal(link.strip_prefix(kind)?.strip_prefix(b":[")?.strip_suffix(b"]")?)?;
    NonZeroU32::new(u32::try_from(number).ok()?)
}

/// A number in decimal digits and nothing else: no sign, no blank.
#[must_use]
pub fn parse_decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// The kind of process that a line of `/proc/PID/stat` describes; `None` when it is no such line.
///
/// The name in it can hold parentheses and blanks: fields are counted from the last parenthesis. The kernel's
/// flag is `PF_KTHREAD` (`include/linux/sched.h`).
#[must_use]
pub fn parse_task_kind(stat: &[u8]) -> Option<TaskKind> {
    const PF_KTHREAD: u64 = 0x0020_0000;
    const FLAGS_AFTER_STATE: usize = 5;
    let mut fields = fields_after_name(stat)?;
    let state = fields.next()?;
    let flags = parse_decimal(fields.nth(FLAGS_AFTER_STATE)?)?;
    Some(match state {
        b"Z" | b"X" | b"x" => TaskKind::Dead,
        [_] if flags & PF_KTHREAD != 0 => TaskKind::Kernel,
        [_] => TaskKind::User,
        _ => return None,
    })
}

/// The fields of a line of `/proc/PID/stat` that follow the name: the state and numbers.
fn fields_after_name(stat: &[u8]) -> Option<impl Iterator<Item = &[u8]>> {
    let after_name = stat.rsplit(|byte| *byte == b')').next()?;
    (after_name.len() < stat.len()).then(|| after_name.trim_ascii().split(|byte| *byte == b' '))
}

/// What a line of `/proc/PID/stat` says that a process uses, in the kernel's units (proc(5); `do_task_stat` in
/// `fs/proc/array.c`). Everybody may read these fields; only addresses are kept from others.
///
/// CPU times are of all threads, those that have exited included, where the line is the process's, and of one thread where it is
/// from `/proc/PID/task`. Those of children are their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatUsage {
    /// CPU time in user mode, field 14 (`utime`).
    pub user_ticks: u64,
    /// CPU time in the kernel, field 15 (`stime`).
    pub system_ticks: u64,
    /// When it started, since boot, field 22 (`starttime`): in the time namespace of the reader, since Linux 5.6.
    pub start_ticks: u64,
    /// Its address space, field 23 (`vsize`). 0 of what has no memory: a part of the kernel, or a thread that has exited.
    pub virtual_bytes: u64,
    /// Its resident memory, field 24 (`rss`). The kernel counts it for each processor apart: it may be some dozen pages off.
    pub resident_pages: u64,
}

/// What the kernel counts in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Units {
    /// Clock ticks of a second, `USER_HZ`.
    pub ticks_a_second: u64,
    /// Bytes of a page.
    pub page_bytes: u64,
}

impl StatUsage {
    /// The same in seconds and bytes.
    #[must_use]
    pub fn of(self, pid: Pid, units: Units) -> ProcessUsage {
        let time = |ticks: u64| units.duration(ticks);
        ProcessUsage {
            pid,
            started: time(self.start_ticks),
            user: time(self.user_ticks),
            system: time(self.system_ticks),
            resident_bytes: self.resident_pages.saturating_mul(units.page_bytes),
            virtual_bytes: self.virtual_bytes,
        }
    }
}

impl Units {
    fn duration(self, ticks: u64) -> Duration {
        const NANOSECONDS: u64 = 1_000_000_000;
        let ticks_a_second = self.ticks_a_second.clamp(1, NANOSECONDS);
        let (seconds, rest) = (ticks / ticks_a_second, ticks % ticks_a_second);
        Duration::from_secs(seconds)
            .saturating_add(Duration::from_nanos(rest * (NANOSECONDS / ticks_a_second)))
    }
}

/// What a process uses by a line of `/proc/PID/stat`; `None` when it is no such line, or not all of it.
#[must_use]
pub fn parse_usage(stat: &[u8]) -> Option<StatUsage> {
    const USER_AFTER_STATE: usize = 10;
    const START_AFTER_SYSTEM: usize = 6;
    let mut fields = fields_after_name(stat)?;
    let [_] = fields.next()? else { return None };
    let usage = StatUsage {
        user_ticks: parse_decimal(fields.nth(USER_AFTER_STATE)?)?,
        system_ticks: parse_decimal(fields.next()?)?,
        start_ticks: parse_decimal(fields.nth(START_AFTER_SYSTEM)?)?,
        virtual_bytes: parse_decimal(fields.next()?)?,
        resident_pages: parse_decimal(fields.next()?)?,
    };
    // Another field: the line was not cut off in the middle of a number.
    fields.next().map(|_| usage)
}

/// A device number as `/proc/PID/mountinfo` writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device {
    /// The driver's number; 0 for what is no real device, such as /proc.
    pub major: u32,
    /// The number that the driver gave it.
    pub minor: u32,
}

/// The options of the /proc with that device number, from `/proc/PID/mountinfo`; `None` when no line tells them.
///
/// The device is what identifies a /proc: each has its own, its bind mounts share it, and its options are the
/// same wherever it is mounted. Mount points can be stacked, renamed and relative to another root.
#[must_use]
pub fn parse_hidden_processes(mountinfo: &[u8], device: Device) -> Option<HiddenProcesses> {
    mountinfo.split(|byte| *byte == b'\n').find_map(|line| parse_proc_mount(line, device))
}

fn parse_proc_mount(line: &[u8], device: Device) -> Option<HiddenProcesses> {
    const DEVICE_AFTER_IDS: usize = 2;
    const OPTIONS_AFTER_DEVICE: usize = 2;
    let mut fields = line.split(|byte| *byte == b' ');
    let mut numbers = fields.nth(DEVICE_AFTER_IDS)?.split(|byte| *byte == b':');
    let major = parse_decimal(numbers.next()?)?;
    let minor = parse_decimal(numbers.next()?)?;
    if (major, minor) != (u64::from(device.major), u64::from(device.minor)) {
        return None;
    }
    // Root, mount point and the mount's own options follow, and optional fields up to a lone hyphen; then file system,
    // source, and its options.
    fields.nth(OPTIONS_AFTER_DEVICE)?;
    fields.find(|field| *field == b"-")?;
    if fields.next()? != b"proc" {
        return None;
    }
    let options = fields.nth(1)?;
    let mut hidden = HiddenProcesses { hide_pid: HidePid::Off, exempt_group: 0 };
    for option in options.split(|byte| *byte == b',') {
        if let Some(value) = option.strip_prefix(b"hidepid=") {
            hidden.hide_pid = match value {
                b"0" | b"off" => HidePid::Off,
                b"1" | b"noaccess" => HidePid::NoAccess,
                b"2" | b"invisible" => HidePid::Invisible,
                b"4" | b"ptraceable" => HidePid::Ptraceable,
                _ => return None,
            };
        } else if let Some(value) = option.strip_prefix(b"gid=") {
            hidden.exempt_group = u32::try_from(parse_decimal(value)?).ok()?;
        }
    }
    Some(hidden)
}

/// The path of a process's cgroup of version 2, from `/proc/PID/cgroup` (cgroups(7)): its line `0::`. It is relative to the
/// reader's cgroup namespace, and leads upward where the process is in none of that namespace's cgroups
/// ([`leads_up`]).
#[must_use]
pub fn parse_cgroup(text: &[u8]) -> Option<&[u8]> {
    // No name of a cgroup holds a line feed: the kernel refuses them.
    let path = text.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"0::"))?;
    path.starts_with(b"/").then_some(path)
}

/// Whether a path of a cgroup leads out of the reader's cgroup namespace.
#[must_use]
pub fn leads_up(path: &[u8]) -> bool {
    path == b"/.." || path.starts_with(b"/../")
}

/// A hierarchy of cgroups of version 2, as a line of `/proc/PID/mountinfo` tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupMount {
    /// What identifies it: each has its own.
    pub device: Device,
    /// Which cgroup is mounted, relative to the reader's cgroup namespace.
    pub root: Vec<u8>,
    /// Where.
    pub point: Vec<u8>,
}

/// The mounts of cgroups of version 2 in a `/proc/PID/mountinfo`.
#[must_use]
pub fn parse_cgroup_mounts(mountinfo: &[u8]) -> Vec<CgroupMount> {
    mountinfo.split(|byte| *byte == b'\n').filter_map(parse_cgroup_mount).collect()
}

fn parse_cgroup_mount(line: &[u8]) -> Option<CgroupMount> {
    const DEVICE_AFTER_IDS: usize = 2;
    let mut fields = line.split(|byte| *byte == b' ');
    let mut numbers = fields.nth(DEVICE_AFTER_IDS)?.split(|byte| *byte == b':');
    let mut number = || u32::try_from(parse_decimal(numbers.next()?)?).ok();
    let device = Device { major: number()?, minor: number()? };
    let (root, point) = (unescape(fields.next()?), unescape(fields.next()?));
    // The mount's own options, and optional fields up to a lone hyphen.
    fields.next()?;
    fields.find(|field| *field == b"-")?;
    (fields.next()? == b"cgroup2").then_some(CgroupMount { device, root, point })
}

/// What the kernel writes in octal in paths: blanks, tabs, line feeds and backslashes (`mangle`, `fs/proc_namespace.c`).
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, others)) = rest.split_first() {
        let octal = others.first_chunk().filter(|_| *first == b'\\').and_then(|digits| parse_octal(*digits));
        plain.push(octal.unwrap_or(*first));
        rest = if octal.is_some() { others.get(3..).unwrap_or_default() } else { others };
    }
    plain
}

fn parse_octal(digits: [u8; 3]) -> Option<u8> {
    let text = std::str::from_utf8(&digits).ok()?;
    digits.iter().all(|digit| (b'0'..b'8').contains(digit)).then(|| u8::from_str_radix(text, 8).ok())?
}

/// The processes in `cgroup.procs`; `None` when one of them has no number where the reader is.
#[must_use]
pub fn parse_members(text: &[u8]) -> Option<Vec<Pid>> {
    let lines = text.strip_suffix(b"\n").unwrap_or(text).split(|byte| *byte == b'\n');
    lines.filter(|line| !line.is_empty()).map(parse_pid).collect()
}

/// The users of a process, from `/proc/PID/status` (proc(5)): real, effective, saved, of the file system. The name in it is
/// escaped by the kernel, and can be no line of its own.
#[must_use]
pub fn parse_uids(status: &[u8]) -> Option<[u32; 4]> {
    let mut fields = numbers_of(status, b"Uid:")?;
    let mut number = || u32::try_from(fields.next()??).ok();
    Some([number()?, number()?, number()?, number()?])
}

/// The numbers of a process, from `/proc/PID/status`, in each PID namespace from that of the /proc inward (since Linux 4.1).
#[must_use]
pub fn parse_pid_numbers(status: &[u8]) -> Option<Vec<u64>> {
    numbers_of(status, b"NSpid:")?.collect()
}

/// The numbers behind a key of `/proc/PID/status`, separated by tabs.
fn numbers_of<'a>(status: &'a [u8], key: &[u8]) -> Option<impl Iterator<Item = Option<u64>> + use<'a>> {
    let line = status.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(key))?;
    Some(line.split(|byte| *byte == b'\t').filter(|field| !field.is_empty()).map(parse_decimal))
}

/// A name fit for a log line or a terminal: what is no UTF-8 is replaced; control characters, and those that
/// reorder or break a line, are escaped.
#[must_use]
pub fn display_name(name: &[u8]) -> String {
    let mut shown = String::with_capacity(name.len());
    for character in String::from_utf8_lossy(name).chars() {
        if character.is_control() || is_layout(character) {
            // Writing to a String cannot fail.
            let _infallible = write!(shown, "{}", character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

/// Line and paragraph separators, and the marks that change the direction of text.
fn is_layout(character: char) -> bool {
    matches!(character, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests;
