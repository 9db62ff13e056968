//! Files below /proc and /etc, and names of the kubelet's directories, beside the crate `procfs` and plain restatements.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::os::unix::ffi::OsStrExt;

use procfs::net::TcpNetEntries;
use procfs::process::{FDTarget, MountInfos, Stat};
use procfs::{FromBufRead, FromBufReadSI, FromRead, ProcessCGroups, current_system_info};
use vms_agent::fuzzing;
use vms_core::address::Endpoint;
use vms_core::connection::Inode;
use vms_core::namespace::NamespaceId;
use vms_core::process::Pid;
use vms_process::HidePid;
use vms_process::container;
use vms_process::parse::{self, Device, TaskKind, Units};
use vms_sock_diag::codec::Family;
use vms_sock_diag::host_size::parse_host_sockets;
use vms_sock_diag::proc_net::Table;

use crate::bounded::bounded;

/// The first byte says which file the others are.
pub fn proc_files(data: &[u8]) {
    const FILES: [fn(&[u8]); 10] =
        [stat, comm, cmdline, executable, descriptor, mountinfo, sockstat, status, surroundings, host];
    let Some((kind, text)) = data.split_first() else { return };
    // Beside the others, whose places in the corpus stay what they are.
    match kind {
        0xFD => pod_directory(text),
        0xFE => sockets(text, Family::Inet),
        0xFF => sockets(text, Family::Inet6),
        kind => FILES[usize::from(*kind) % FILES.len()](text),
    }
}

/// `/proc/PID/stat`.
fn stat(text: &[u8]) {
    let kind = bounded(text, 0, 0, || parse::parse_task_kind(text));
    // What stands before the last parenthesis is the owner's to choose, and changes nothing.
    if let Some(end) = text.iter().rposition(|byte| *byte == b')') {
        assert_eq!(parse::parse_task_kind(&text[end..]), kind);
        assert_eq!(parse::parse_task_kind(&[b"1 (x) Z 1 1 1 1 1 1", &text[end..]].concat()), kind);
    }
    let other = stat_by_procfs(text);
    if let Some(other) = &other {
        assert_eq!(kind, Some(task_kind(other)));
    }
    usage(text, other.as_ref());
}

/// What `/proc/PID/stat` says that a process uses.
fn usage(text: &[u8], other: Option<&Stat>) {
    let usage = bounded(text, 0, 0, || parse::parse_usage(text));
    if let Some(end) = text.iter().rposition(|byte| *byte == b')') {
        assert_eq!(parse::parse_usage(&[b"1 (x) Z 1 1 1 1 1 1", &text[end..]].concat()), usage);
    }
    // What was cut off tells the same, or nothing.
    for length in 0..text.len().min(600) {
        let cut = parse::parse_usage(&text[..length]);
        let is_same_line = !text[length..].contains(&b')');
        assert!(!is_same_line || cut.is_none() || cut == usage, "{length}");
    }
    let Some(usage) = usage else { return };
    if let Some(other) = other {
        let [user, system, start] = [other.utime, other.stime, other.starttime];
        assert_eq!((usage.user_ticks, usage.system_ticks, usage.start_ticks), (user, system, start));
        assert_eq!((usage.virtual_bytes, usage.resident_pages), (other.vsize, other.rss));
    }
    for ticks_a_second in [0, 1, 100, 1024, u64::MAX] {
        let told = usage.of(Pid(1), Units { ticks_a_second, page_bytes: 4096 });
        assert_eq!(told.user.as_secs(), usage.user_ticks / ticks_a_second.clamp(1, 1_000_000_000));
        assert_eq!(told.resident_bytes, usage.resident_pages.saturating_mul(4096));
    }
}

fn task_kind(stat: &Stat) -> TaskKind {
    match stat.state {
        'Z' | 'X' | 'x' => TaskKind::Dead,
        _ if stat.flags & 0x0020_0000 != 0 => TaskKind::Kernel,
        _ => TaskKind::User,
    }
}

/// What `procfs` makes of it, where it is as the kernel writes it: it panics at some other lines, and takes signs.
fn stat_by_procfs(text: &[u8]) -> Option<Stat> {
    let line = std::str::from_utf8(text).ok()?;
    let (before, fields) = line.rsplit_once(") ")?;
    let (pid, _name) = before.split_once(" (")?;
    let is_number = |field: &str| {
        let digits = field.strip_prefix('-').unwrap_or(field);
        !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
    };
    let (state, numbers) = fields.strip_suffix('\n').unwrap_or(fields).split_once(' ')?;
    let fits = is_number(pid) && state.len() == 1 && state.is_ascii() && numbers.split(' ').all(is_number);
    if !fits || fields.contains(')') {
        return None;
    }
    Stat::from_read(text).ok()
}

/// `/proc/PID/comm`, and how it is shown.
fn comm(text: &[u8]) {
    let name = parse::parse_comm(text);
    match text.split_last() {
        Some((b'\n', before)) => assert_eq!(name, before),
        _ => assert_eq!(name, text),
    }
    let shown = bounded(name, 32, 256, || parse::display_name(name));
    assert!(!shown.chars().any(char::is_control), "{shown:?}");
    assert!(!shown.contains(['\u{202e}', '\u{2028}', '\u{2066}', '\u{200f}']), "{shown:?}");
    assert_eq!(parse::display_name(shown.as_bytes()), shown, "what is fit to be shown stays as it is");
    if name.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ') {
        assert_eq!(shown.as_bytes(), name);
    }
}

/// `/proc/PID/cmdline`.
fn cmdline(text: &[u8]) {
    let end = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
    let expected = Some(&text[..end]).filter(|name| !name.is_empty());
    assert_eq!(bounded(text, 0, 0, || parse::parse_argv0(text)), expected);
}

/// Where `/proc/PID/exe` leads.
fn executable(link: &[u8]) {
    let path = parse::parse_executable(link).as_os_str().as_bytes();
    if path != link {
        assert_eq!([path, b" (deleted)"].concat(), link);
    }
    let marked = [link, b" (deleted)"].concat();
    assert_eq!(parse::parse_executable(&marked).as_os_str().as_bytes(), link);
}

/// Where `/proc/PID/fd/N` and `/proc/PID/ns/net` lead, and the names of entries.
fn descriptor(link: &[u8]) {
    let inode = bounded(link, 0, 0, || parse::parse_socket_link(link));
    if let Some(inode) = inode {
        let text = std::str::from_utf8(link).expect("digits are UTF-8");
        assert!(matches!(text.parse(), Ok(FDTarget::Socket(number)) if number == inode.get()), "{text}");
        let digits = &text["socket:[".len()..text.len() - 1];
        assert_eq!(digits.trim_start_matches('0'), inode.get().to_string());
    }
    let pid = bounded(link, 0, 0, || parse::parse_pid(link));
    let number = parse::parse_decimal(link);
    assert_eq!(
        number,
        std::str::from_utf8(link)
            .ok()
            .filter(|text| !text.starts_with('+'))
            .and_then(|text| text.parse().ok())
    );
    match pid {
        Some(pid) => assert_eq!(pid.to_string().as_bytes(), link),
        None => assert!(number.is_none_or(|number| number > u32::MAX.into() || link.starts_with(b"0"))),
    }
    if let Some(number) = number.filter(|number| *number > 0) {
        let back = parse::parse_socket_link(format!("socket:[{number}]").as_bytes());
        assert_eq!(back.map(Inode::get), Some(number));
    }
    let network = bounded(link, 0, 0, || parse::parse_namespace_link(link, b"net"));
    let inner = link.strip_prefix(b"net:[").and_then(|rest| rest.strip_suffix(b"]"));
    let inner = inner.and_then(parse::parse_decimal);
    let inner = inner.and_then(|number| u32::try_from(number).ok());
    assert_eq!(network, inner.and_then(NonZeroU32::new));
}

/// `/proc/PID/mountinfo`: of what the first line's device is, or of 0:21.
fn mountinfo(text: &[u8]) {
    cgroup_mounts(text);
    let mounts =
        std::str::from_utf8(text).ok().and_then(|text| MountInfos::from_buf_read(text.as_bytes()).ok());
    let number = |majmin: &str| {
        let (major, minor) = majmin.split_once(':')?;
        let is_plain = |digits: &str| digits.len() == 1 || !digits.starts_with(['0', '+']);
        (is_plain(major) && is_plain(minor)).then_some(())?;
        Some(Device { major: major.parse().ok()?, minor: minor.parse().ok()? })
    };
    let first = mounts.iter().flat_map(|mounts| &mounts.0).find_map(|mount| number(&mount.majmin));
    let device = first.unwrap_or(Device { major: 0, minor: 21 });
    let hidden = bounded(text, 0, 0, || parse::parse_hidden_processes(text, device));
    let Some(mounts) = mounts.filter(|mounts| mounts.0.iter().all(|mount| number(&mount.majmin).is_some()))
    else {
        return;
    };
    // What no kernel writes, options twice or without a value, is each implementation's own.
    let expected = mounts.0.iter().find_map(|mount| {
        let option =
            |name: &str| mount.super_options.get(name).map(|value| value.as_deref().unwrap_or_default());
        if number(&mount.majmin) != Some(device) || mount.fs_type != "proc" {
            return None;
        }
        let hide_pid = match option("hidepid") {
            None | Some("0" | "off") => HidePid::Off,
            Some("1" | "noaccess") => HidePid::NoAccess,
            Some("2" | "invisible") => HidePid::Invisible,
            Some("4" | "ptraceable") => HidePid::Ptraceable,
            Some(_) => return None,
        };
        let group = option("gid").unwrap_or("0");
        (!group.starts_with('+')).then_some(())?;
        Some((hide_pid, group.parse().ok()?))
    });
    let count =
        |line: &[u8], word: &str| line.windows(word.len()).filter(|part| *part == word.as_bytes()).count();
    let is_odd = text.split(|byte| *byte == b'\n').any(|line| {
        ["hidepid", "gid"]
            .into_iter()
            .any(|name| count(line, name) > 1 || count(line, name) != count(line, &format!("{name}=")))
    });
    if !is_odd {
        assert_eq!(hidden.map(|hidden| (hidden.hide_pid, hidden.exempt_group)), expected);
    }
}

/// The mounts of cgroups in a `mountinfo`.
fn cgroup_mounts(text: &[u8]) {
    let told = bounded(text, 48, 1024, || parse::parse_cgroup_mounts(text));
    for mount in &told {
        assert!(mount.root.len() + mount.point.len() < text.len());
    }
    let Some(mounts) =
        std::str::from_utf8(text).ok().and_then(|text| MountInfos::from_buf_read(text.as_bytes()).ok())
    else {
        return;
    };
    // What is escaped, and numbers as no kernel writes them, are told otherwise there.
    let is_plain = |digits: &str| !digits.starts_with('+') && digits.parse::<u32>().is_ok();
    let is_odd = mounts.0.iter().any(|mount| {
        let numbers = mount.majmin.split_once(':');
        mount.root.contains('\\')
            || mount.mount_point.as_os_str().as_bytes().contains(&b'\\')
            || !numbers.is_some_and(|(major, minor)| is_plain(major) && is_plain(minor))
    });
    if !is_odd {
        let others = mounts.0.iter().filter(|mount| mount.fs_type == "cgroup2");
        let others = others.map(|mount| (mount.root.as_bytes(), mount.mount_point.as_os_str().as_bytes()));
        let told = told.iter().map(|mount| (mount.root.as_slice(), mount.point.as_slice()));
        assert_eq!(told.collect::<Vec<_>>(), others.collect::<Vec<_>>());
    }
}

/// `/proc/PID/cgroup`, as far as it tells of version 2, and the members of a cgroup.
fn cgroup(text: &[u8]) {
    let path = bounded(text, 0, 0, || parse::parse_cgroup(text));
    if let Some(path) = path {
        assert!(path.starts_with(b"/") && !path.contains(&b'\n'));
        let first = path.split(|byte| *byte == b'/').nth(1);
        assert_eq!(parse::leads_up(path), first == Some(b".."));
    }
    if let Ok(text) = std::str::from_utf8(text)
        && let Ok(other) = ProcessCGroups::from_buf_read(text.as_bytes())
    {
        let other = other.0.into_iter().find(|cgroup| cgroup.hierarchy == 0 && cgroup.controllers.is_empty());
        if let (Some(other), Some(path)) = (other, path) {
            // A line may end in a way that no kernel ends it.
            assert!(!text.starts_with("0::") || path.starts_with(other.pathname.trim_end().as_bytes()));
        }
    }
    if let Some(members) = bounded(text, 16, 64, || parse::parse_members(text)) {
        let lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).collect();
        let told: Vec<String> = members.iter().map(ToString::to_string).collect();
        assert_eq!(told.iter().map(String::as_bytes).collect::<Vec<_>>(), lines);
        assert!(members.iter().all(|pid| pid.0 > 0));
    }
}

/// Users and numbers in a `status`, by the first line of each.
fn owners(text: &[u8]) {
    let line = |key: &str| {
        let line = text.split(|byte| *byte == b'\n').find(|line| line.starts_with(key.as_bytes()))?;
        let fields = line[key.len()..].split(|byte| *byte == b'\t').filter(|field| !field.is_empty());
        Some(fields.map(parse::parse_decimal).collect::<Vec<_>>())
    };
    let uids = bounded(text, 0, 0, || parse::parse_uids(text));
    let first: Option<Vec<u32>> = line("Uid:").filter(|numbers| numbers.len() >= 4).and_then(|numbers| {
        numbers
            .into_iter()
            .take(4)
            .map(|number| number.and_then(|number| u32::try_from(number).ok()))
            .collect()
    });
    assert_eq!(uids.map(Vec::from), first);
    let numbers = bounded(text, 8, 64, || parse::parse_pid_numbers(text));
    assert_eq!(numbers, line("NSpid:").and_then(|numbers| numbers.into_iter().collect()));
}

/// `/proc/net/sockstat`.
fn sockstat(text: &[u8]) {
    let sockets = bounded(text, 0, 0, || parse_host_sockets(text));
    let expected =
        String::from_utf8_lossy(text).split('\n').find(|line| line.starts_with("TCP:")).and_then(|line| {
            let words: Vec<&str> = line["TCP:".len()..].split_ascii_whitespace().collect();
            let place = words.iter().position(|word| *word == "alloc")?;
            words.get(place + 1)?.parse().ok()
        });
    // A line that is no text says nothing.
    if sockets != expected {
        assert!(sockets.is_none() && std::str::from_utf8(text).is_err(), "{sockets:?} {expected:?}");
    }
}

/// `/proc/PID/net/tcp`, in pieces, beside what `procfs` makes of it.
fn sockets(text: &[u8], family: Family) {
    let read = |pieces: usize| {
        let mut told = Vec::new();
        let mut table = Table::new(family, NamespaceId(1));
        for piece in text.chunks(pieces) {
            table.take(piece, |connection| told.push(connection))?;
        }
        table.finish().map(|()| told)
    };
    let whole = bounded(text, 8, 4096, || read(text.len().max(1)));
    assert_eq!(read(7), whole, "in pieces");
    let Ok(told) = whole else { return };
    let lines = text.split(|byte| *byte == b'\n').count() - 1;
    assert_eq!(told.len() + 1, lines, "no line is passed over");
    let read = match family {
        Family::Inet => TcpNetEntries::from_buf_read(text, current_system_info()).map(|entries| entries.0),
        Family::Inet6 => TcpNetEntries::from_buf_read(text, current_system_info()).map(|entries| entries.0),
    };
    // It knows fewer states.
    let Ok(entries) = read else { return };
    assert_eq!(entries.len(), told.len());
    for (entry, connection) in entries.iter().zip(&told) {
        let endpoint = |address: SocketAddr| Endpoint::new(address.ip(), address.port());
        assert_eq!(
            (endpoint(entry.local_address), endpoint(entry.remote_address)),
            (connection.local, connection.remote)
        );
        assert_eq!((entry.uid, entry.inode), (connection.uid, connection.inode.map_or(0, Inode::get)));
        assert_eq!(entry.state.to_u8(), connection.state.number());
    }
}

/// `/proc/PID/status`.
fn status(text: &[u8]) {
    owners(text);
    let text = String::from_utf8_lossy(text);
    let status = bounded(text.as_bytes(), 8, 256, || fuzzing::parse_status(&text));
    let values = |key: &str| {
        let lines = text.lines().filter_map(move |line| line.split_once(':'));
        lines.filter(move |(name, _)| *name == key).map(|(_, value)| value.trim()).collect::<Vec<_>>()
    };
    let numbers = |value: &str| {
        value.split_whitespace().map_while(|number| number.parse::<u32>().ok()).collect::<Vec<_>>()
    };
    let last = |key: &str| values(key).last().map(|value| numbers(value)).unwrap_or_default();
    assert_eq!(status.name, values("Name").last().copied().unwrap_or_default());
    assert_eq!(status.parent, last("PPid").first().copied());
    assert_eq!(status.pid_namespaces, last("NSpid").len());
    assert_eq!(status.uid, last("Uid").get(1).copied().unwrap_or(0));
    let groups = values("Gid").iter().filter(|value| numbers(value).len() > 3).count()
        + values("Groups").iter().map(|value| numbers(value).len()).sum::<usize>();
    assert_eq!(status.groups.len(), groups);
    for (told, key) in status.capabilities.into_iter().zip(["CapEff", "CapPrm", "CapBnd"]) {
        let mask = values(key).last().map_or(0, |value| u64::from_str_radix(value, 16).unwrap_or(0));
        assert_eq!(told, mask, "{key}");
    }
    if let Ok(other) = procfs::process::Status::from_buf_read(text.as_bytes())
        && values("Uid").len() == 1
        && !text.contains('+')
    {
        assert_eq!(status.uid, other.euid);
    }
}

/// `/proc/PID/cgroup` and, behind a NUL, `/proc/PID/mountinfo`.
fn surroundings(text: &[u8]) {
    cgroup(text.split(|byte| *byte == 0).next().unwrap_or_default());
    let text = String::from_utf8_lossy(text);
    let (cgroup, mountinfo) = text.split_once('\0').unwrap_or((&text, ""));
    let found = bounded(text.as_bytes(), 64, 4096, || fuzzing::find_surroundings(cgroup, mountinfo));
    if let Some(id) = &found.container_id {
        assert_eq!(id.len(), 64);
        assert!(
            id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) && text.contains(id.as_str())
        );
    }
    if let Some(uid) = &found.pod_uid {
        assert!(uid.len() == 32 || uid.len() == 36, "{uid}");
        assert!(text.replace('_', "-").contains(uid.as_str()));
    }
    if let Ok(other) = ProcessCGroups::from_buf_read(cgroup.as_bytes())
        && !cgroup.starts_with('#')
        && !cgroup.contains("\n#")
    {
        assert_eq!(found.cgroups, other.0.into_iter().map(|cgroup| cgroup.pathname).collect::<Vec<_>>());
    }
    if let Ok(other) = MountInfos::from_buf_read(mountinfo.as_bytes()) {
        let mounts = other.0.into_iter().map(|mount| (mount.root, mount.mount_point.display().to_string()));
        assert_eq!(found.mounts, mounts.collect::<Vec<_>>());
    }
}

/// A directory of the logs of a pod, beside what the kubelet would make of what it tells.
fn pod_directory(name: &[u8]) {
    // The uid is a part of the name, and the other parts are copied.
    let told = bounded(name, 2, 64, || container::parse_pod_directory(name));
    let is_label = |label: &str| {
        let plain = label.chars().all(|it| it.is_ascii_digit() || it.is_ascii_lowercase() || it == '-');
        plain && !label.trim_matches('-').is_empty() && label.trim_matches('-') == label
    };
    let Some((uid, pod)) = told else {
        // It is none for a reason.
        if let Ok(text) = std::str::from_utf8(name)
            && let [namespace, pod, uid] = text.split('_').collect::<Vec<_>>()[..]
        {
            let is_uid = match uid.len() {
                32 => uid.bytes().all(|byte| byte.is_ascii_hexdigit()),
                36 => uid.bytes().enumerate().all(|(place, byte)| match place {
                    8 | 13 | 18 | 23 => byte == b'-',
                    _ => byte.is_ascii_hexdigit(),
                }),
                _ => false,
            };
            let is_name = (1..=253).contains(&pod.len()) && pod.split('.').all(is_label);
            assert!(!(is_uid && is_name && namespace.len() <= 63 && is_label(namespace)), "{text}");
        }
        return;
    };
    assert_eq!(format!("{}_{}_{uid}", pod.namespace, pod.name).as_bytes(), name);
    assert!(name.len() <= 63 + 1 + 253 + 1 + 36);
    assert!(is_label(&pod.namespace) && pod.name.split('.').all(is_label));
    assert!(matches!(uid.len(), 32 | 36), "{uid}");
}

/// `os-release` and `machine-id`.
fn host(text: &[u8]) {
    let text = String::from_utf8_lossy(text);
    for key in ["NAME", "VERSION_ID", "PRETTY_NAME"] {
        if let Some(value) = bounded(text.as_bytes(), 8, 256, || fuzzing::parse_os_release(&text, key)) {
            assert!(!value.is_empty() && value.len() < text.len());
            let quoted = format!("{key}='{value}'");
            if !value.contains(['\'', '\n', '\r']) {
                assert_eq!(fuzzing::parse_os_release(&quoted, key), Some(value));
            }
        }
    }
    if let Some(id) = fuzzing::parse_machine_id(&text) {
        assert_eq!(id.len(), 32);
        assert_eq!(fuzzing::parse_machine_id(&format!("{id}\n")), Some(id));
    }
}
