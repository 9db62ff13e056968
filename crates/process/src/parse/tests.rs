use std::hint::black_box;

use proptest::prelude::*;

use super::*;
use crate::test_proc::{privileged, unprivileged};

const DEVICE: Device = Device { major: 0, minor: 21 };

fn hidden(options: &str) -> Option<HiddenProcesses> {
    let mountinfo = format!(
        "21 27 0:20 / /sys rw - sysfs sysfs rw\n\
         22 27 0:21 / /proc rw,nosuid,relatime shared:5 master:7 - proc proc {options}\n\
         23 22 0:33 / /proc/sys/fs/binfmt_misc rw - binfmt_misc none rw\n"
    );
    parse_hidden_processes(mountinfo.as_bytes(), DEVICE)
}

#[test]
fn a_comm_loses_the_line_feed_that_the_kernel_adds_and_no_other() {
    assert_eq!(parse_comm(b"nginx\n"), b"nginx");
    assert_eq!(parse_comm(b"two\nlines\n\n"), b"two\nlines\n");
    assert_eq!(parse_comm(b" \xff) \n"), b" \xff) ");
    assert_eq!(parse_comm(b""), b"");
}

#[test]
fn argv0_ends_at_the_first_nul_or_where_the_text_ends() {
    assert_eq!(parse_argv0(b"/usr/sbin/nginx\0-g\0daemon off;\0"), Some(&b"/usr/sbin/nginx"[..]));
    assert_eq!(parse_argv0(b"postgres: writer"), Some(&b"postgres: writer"[..]));
    assert_eq!(parse_argv0(b""), None);
    assert_eq!(parse_argv0(b"\0nginx\0"), None);
}

#[test]
fn an_executable_loses_one_mark_of_deletion() {
    assert_eq!(parse_executable(b"/usr/bin/a (deleted)"), Path::new("/usr/bin/a"));
    assert_eq!(parse_executable(b"/usr/bin/a (deleted) (deleted)"), Path::new("/usr/bin/a (deleted)"));
    assert_eq!(parse_executable(b"/usr/bin/(deleted)"), Path::new("/usr/bin/(deleted)"));
}

#[test]
fn only_the_text_that_the_kernel_makes_of_a_socket_names_one() {
    assert_eq!(parse_socket_link(b"socket:[4026]"), Inode::new(4026));
    assert_eq!(parse_socket_link(b"socket:[18446744073709551615]"), Inode::new(u64::MAX));
    let others: [&[u8]; 10] = [
        b"socket:[0]",
        b"socket:[]",
        b"socket:[18446744073709551616]",
        b"socket:[+1]",
        b"socket:[ 1]",
        b"socket:[1",
        b"socket:[1]x",
        b"/tmp/socket:[1]",
        b"pipe:[1]",
        b"",
    ];
    for link in others {
        assert_eq!(parse_socket_link(link), None, "{}", String::from_utf8_lossy(link));
    }
}

#[test]
fn a_process_is_a_number_that_fits_a_pid() {
    assert_eq!(parse_pid(b"1"), Some(Pid(1)));
    assert_eq!(parse_pid(b"4294967295"), Some(Pid(u32::MAX)));
    for name in ["4294967296", "0", "01", "-1", "+1", "1a", "self", "", "99999999999999999999999"] {
        assert_eq!(parse_pid(name.as_bytes()), None, "{name}");
    }
}

#[test]
fn a_kind_is_told_from_state_and_flags_whatever_the_name_holds() {
    let stat = |name: &str, state: &str, flags: u32| {
        parse_task_kind(format!("7 ({name}) {state} 2 0 0 0 -1 {flags} 0 0 0 0 0 0\n").as_bytes())
    };
    assert_eq!(stat("kthreadd", "S", 0x0020_8040), Some(TaskKind::Kernel));
    assert_eq!(stat("nginx", "S", 0x0040_0140), Some(TaskKind::User));
    assert_eq!(stat("nginx", "Z", 0x0040_0140), Some(TaskKind::Dead));
    assert_eq!(stat(") Z 1 1 1 1 1 2097152 (", "R", 0x0040_0140), Some(TaskKind::User));
    assert_eq!(stat("\\n) Z", "R", 0), Some(TaskKind::User));
    assert_eq!(parse_task_kind(b"7 nginx S 2 0 0 0 -1 0 0"), None);
    assert_eq!(parse_task_kind(b"7 (nginx) S 2 0"), None);
    assert_eq!(parse_task_kind(b"7 (nginx)"), None);
}

/// A line that a kernel wrote (6.18), of a name that is chosen to look like another line.
const STAT: &str = "4242 (a) S 1 (b) R) S 1 4242 4242 34816 4242 4194304 1139 8527 0 5 31 17 80 25 20 0 2 0 123456 9453568 1337 \
    18446744073709551615 94 95 140 0 0 0 65536 3670020 1266777851 1 0 0 17 1 0 0 0 0 0 96 97 98 140 141 142 143 0\n";

#[test]
fn what_a_process_uses_is_told_by_the_places_of_the_fields_whatever_the_name_holds() {
    let usage = StatUsage {
        user_ticks: 31,
        system_ticks: 17,
        start_ticks: 123_456,
        virtual_bytes: 9_453_568,
        resident_pages: 1337,
    };
    assert_eq!(parse_usage(STAT.as_bytes()), Some(usage));
    for other in [
        STAT.replace(" 1337 ", " -1 "),
        STAT.replace(" 31 ", " +31 "),
        STAT.replace(") S 1 4242", " S 1 4242"),
    ] {
        assert_ne!(parse_usage(other.as_bytes()), Some(usage), "{other}");
    }
    assert_eq!(parse_usage(STAT.replace(" 1337 ", " -1 ").as_bytes()), None);
    assert_eq!(parse_usage(b""), None);
    let units = Units { ticks_a_second: 100, page_bytes: 4096 };
    let expected = ProcessUsage {
        pid: Pid(4242),
        started: Duration::from_millis(1_234_560),
        user: Duration::from_millis(310),
        system: Duration::from_millis(170),
        resident_bytes: 1337 * 4096,
        virtual_bytes: 9_453_568,
    };
    assert_eq!(usage.of(Pid(4242), units), expected);
    assert_eq!(
        usage.of(Pid(1), Units { ticks_a_second: 1024, ..units }).user,
        Duration::from_nanos(31 * 976_562)
    );
}

#[test]
fn a_line_that_is_cut_off_anywhere_tells_all_that_is_used_or_nothing() {
    let whole = parse_usage(STAT.as_bytes());
    for length in 0..STAT.len() {
        let cut = parse_usage(&STAT.as_bytes()[..length]);
        assert!(cut.is_none() || cut == whole, "{}", &STAT[..length]);
    }
}

#[test]
fn hidepid_is_read_as_old_and_new_kernels_write_it() {
    for (options, expected) in [
        ("rw", HidePid::Off),
        ("rw,hidepid=1", HidePid::NoAccess),
        ("rw,hidepid=noaccess", HidePid::NoAccess),
        ("rw,hidepid=2", HidePid::Invisible),
        ("rw,gid=4,hidepid=invisible", HidePid::Invisible),
        ("rw,hidepid=ptraceable,subset=pid", HidePid::Ptraceable),
    ] {
        assert_eq!(hidden(options).map(|hidden| hidden.hide_pid), Some(expected), "{options}");
    }
    assert_eq!(hidden("rw,gid=4,hidepid=invisible").map(|hidden| hidden.exempt_group), Some(4));
    assert_eq!(hidden("rw,hidepid=invisible").map(|hidden| hidden.exempt_group), Some(0));
    assert_eq!(hidden("rw,hidepid=somethingnew"), None);
}

#[test]
fn the_line_of_this_very_proc_counts_and_not_that_of_another() {
    let mountinfo = b"30 27 0:41 / /host/proc rw - proc proc rw,hidepid=invisible\n\
                      31 27 0:21 / /host/proc rw - ext4 /dev/sda1 rw,hidepid=noaccess\n\
                      32 27 0:21 / /odd\xff\\040place rw - proc proc rw,hidepid=ptraceable\n";
    let hidden = parse_hidden_processes(mountinfo, DEVICE).unwrap();
    assert_eq!(hidden.hide_pid, HidePid::Ptraceable);
    assert_eq!(parse_hidden_processes(mountinfo, Device { major: 0, minor: 99 }), None);
    // What stands where paths do ends no fields.
    let odd = b"32 27 0:21 / - rw shared:1 - proc proc rw,hidepid=invisible\n";
    assert_eq!(parse_hidden_processes(odd, DEVICE).map(|hidden| hidden.hide_pid), Some(HidePid::Invisible));
}

#[test]
fn processes_are_hidden_from_those_without_capability_and_outside_the_exempt_group() {
    let in_group_4 = Privileges { groups: [4, 1000].into(), ..unprivileged() };
    for (options, from_unprivileged, from_group_4) in [
        ("rw", false, false),
        ("rw,hidepid=noaccess", false, false),
        ("rw,hidepid=invisible", true, true),
        ("rw,hidepid=invisible,gid=4", true, false),
        ("rw,hidepid=ptraceable,gid=4", true, true),
    ] {
        let hidden = hidden(options).unwrap();
        assert_eq!(hidden.are_hidden_from(&unprivileged()), from_unprivileged, "{options}");
        assert_eq!(hidden.are_hidden_from(&in_group_4), from_group_4, "{options}");
        assert!(!hidden.are_hidden_from(&privileged()), "{options}");
    }
}

#[test]
fn a_displayed_name_cannot_forge_a_line_or_hide_its_direction() {
    assert_eq!(display_name(b"nginx"), "nginx");
    assert_eq!(display_name("ngi\u{f1}x".as_bytes()), "ngi\u{f1}x");
    assert_eq!(display_name(b"a\nlevel=error\x1b[2J"), "a\\nlevel=error\\u{1b}[2J");
    assert_eq!(display_name("a\u{202e}b\u{2028}c\u{85}".as_bytes()), "a\\u{202e}b\\u{2028}c\\u{85}");
    assert_eq!(display_name(b"a\xffb"), "a\u{fffd}b");
    // The explicit directional characters (Unicode UAX #9, section 2), and the separators of lines and paragraphs.
    for character in [
        '\u{61c}', '\u{200e}', '\u{200f}', '\u{2028}', '\u{2029}', '\u{202a}', '\u{202b}', '\u{202c}',
        '\u{202d}', '\u{202e}', '\u{2066}', '\u{2067}', '\u{2068}', '\u{2069}',
    ] {
        assert_eq!(display_name(character.to_string().as_bytes()), character.escape_unicode().to_string());
    }
}

proptest! {
    #[test]
    fn no_bytes_make_a_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        black_box(parse_pid(&bytes));
        black_box(parse_comm(&bytes));
        black_box(parse_argv0(&bytes));
        black_box(parse_executable(&bytes));
        black_box(parse_socket_link(&bytes));
        black_box(parse_task_kind(&bytes));
        black_box(parse_usage(&bytes));
        black_box(parse_hidden_processes(&bytes, DEVICE));
        prop_assert!(!display_name(&bytes).chars().any(char::is_control));
    }

    #[test]
    fn nothing_near_a_real_line_makes_a_parser_panic(
        cut in 0_usize..80,
        noise in "[()0-9SZ :,=-]{0,20}",
    ) {
        for line in [
            "7 (a) b) S 2 0 0 0 -1 2129984 0 0 0 0 0 0 0 0 20 0 1 0 5 8192 2 9",
            "22 27 0:21 / /proc rw,relatime - proc proc rw,gid=4,hidepid=invisible",
            "socket:[4026531840]",
        ] {
            let cut = cut.min(line.len());
            let bytes = [&line.as_bytes()[..cut], noise.as_bytes(), &line.as_bytes()[cut..]].concat();
            black_box(parse_task_kind(&bytes));
            black_box(parse_usage(&bytes));
            black_box(parse_hidden_processes(&bytes, DEVICE));
            black_box(parse_socket_link(&bytes));
        }
    }

    #[test]
    fn what_is_used_is_read_back_and_no_number_is_too_large(
        ticks in any::<[u64; 3]>(), memory in any::<[u64; 2]>(), page_bytes in any::<u64>(), ticks_a_second in any::<u64>(),
        name in "[()A-Z0-9 \n-]{0,15}",
    ) {
        let ([user_ticks, system_ticks, start_ticks], [virtual_bytes, resident_pages]) = (ticks, memory);
        let line = format!(
            "1 ({name}) R 1 1 1 0 -1 0 0 0 0 0 {user_ticks} {system_ticks} 0 0 -2 -20 1 0 {start_ticks} {virtual_bytes} \
             {resident_pages} 0 0\n"
        );
        let usage = StatUsage { user_ticks, system_ticks, start_ticks, virtual_bytes, resident_pages };
        prop_assert_eq!(parse_usage(line.as_bytes()), Some(usage));
        black_box(usage.of(Pid(1), Units { ticks_a_second, page_bytes }));
    }

    #[test]
    fn every_inode_is_read_back(number in 1_u64..) {
        prop_assert_eq!(parse_socket_link(format!("socket:[{number}]").as_bytes()), Inode::new(number));
    }
}

#[test]
fn the_cgroup_of_version_2_is_told_among_those_of_version_1() {
    let text = b"4:memory:/a\n1:name=systemd:/b\n0::/system.slice/db.service\n";
    assert_eq!(parse_cgroup(text), Some(&b"/system.slice/db.service"[..]));
    assert_eq!(parse_cgroup(b"0::/\n"), Some(&b"/"[..]));
    assert_eq!(parse_cgroup(b"0::/../0::/x:y\n"), Some(&b"/../0::/x:y"[..]), "a name can hold anything");
    assert_eq!(parse_cgroup(b"4:memory:/a\n10::/b\n"), None, "a host without");
    assert_eq!(parse_cgroup(b"0::relative\n"), None);
}

#[test]
fn mounts_of_cgroups_of_version_2_are_told_with_their_escapes() {
    let mountinfo = b"31 27 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n\
        41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n\
        42 31 0:40 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n\
        43 31 0:38 /../a\\040b /mnt/x\\134y\\011 rw - cgroup2 none rw\n";
    let mount = |root: &[u8], point: &[u8]| CgroupMount {
        device: Device { major: 0, minor: 38 },
        root: root.to_vec(),
        point: point.to_vec(),
    };
    assert_eq!(
        parse_cgroup_mounts(mountinfo),
        [mount(b"/", b"/sys/fs/cgroup/unified"), mount(b"/../a b", b"/mnt/x\\y\t")]
    );
    assert_eq!(parse_cgroup_mounts(b"41 31 0:38 / /x rw - cgroup2"), [mount(b"/", b"/x")]);
    assert_eq!(parse_cgroup_mounts(b"41 31 0: / /x rw - cgroup2\n\n- cgroup2\n"), []);
}

#[test]
fn a_path_leads_out_of_the_namespace_by_its_first_name_and_nothing_that_looks_like_it() {
    for path in ["/..", "/../other", "/../../other"] {
        assert!(leads_up(path.as_bytes()), "{path}");
    }
    for path in ["/", "/..other", "/a/..b", "/..."] {
        assert!(!leads_up(path.as_bytes()), "{path}");
    }
}

#[test]
fn the_members_of_a_cgroup_are_all_told_or_none() {
    assert_eq!(parse_members(b"1\n4242\n"), Some(vec![Pid(1), Pid(4242)]));
    assert_eq!(parse_members(b""), Some(vec![]));
    assert_eq!(parse_members(b"1\n0\n4242\n"), None, "one is not of this PID namespace");
    assert_eq!(parse_members(b"1\nx\n"), None);
}

#[test]
fn users_and_numbers_are_found_in_a_status() {
    let status = b"Name:\tUid:\\n\nUmask:\t0022\nPid:\t7\nUid:\t1000\t0\t4294967295\t5\nGid:\t1\t2\t3\t4\nNSpid:\t7\t1\n";
    assert_eq!(parse_uids(status), Some([1000, 0, u32::MAX, 5]));
    assert_eq!(parse_pid_numbers(status), Some(vec![7, 1]));
    assert_eq!(parse_uids(b"Uid:\t1000\t0\t5\n"), None);
    assert_eq!(parse_uids(b"Uid:\t1\t2\t3\t4294967296\n"), None);
    assert_eq!(parse_uids(b"Name:\tx\n"), None);
    assert_eq!(parse_pid_numbers(b"NSpid:\t7\tx\n"), None);
}
