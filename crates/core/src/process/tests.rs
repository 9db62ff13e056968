use super::*;

fn pattern(name: &str, executable: Option<&str>) -> ProcessPattern {
    ProcessPattern { name: name.parse().unwrap(), executable: executable.map(PathBuf::from) }
}

fn names<'a>(comm: &'a str, argv0: &'a str, executable: &'a str) -> ProcessNames<'a> {
    ProcessNames {
        comm: Known::Is(comm.as_bytes()),
        argv0: Known::Is(argv0.as_bytes()),
        executable: Known::Is(Path::new(executable)),
    }
}

fn fits(pattern: &ProcessPattern, names: &ProcessNames<'_>) -> &'static str {
    let selector = ProcessSelector::new([pattern]).unwrap();
    let fits = selector.fits(names);
    match (fits.certain.len(), fits.possible.len()) {
        (0, 0) => "no",
        (1, 0) => "yes",
        (0, 1) => "perhaps",
        other => unreachable!("{other:?}"),
    }
}

#[test]
fn any_of_the_three_names_is_enough() {
    let long = names("a-service-with-", "/opt/x/a-service-with-a-long-name", "/opt/x/launcher");
    for glob in ["a-service-with-", "a-service-with-a-long-name", "launcher"] {
        assert_eq!(fits(&pattern(glob, None), &long), "yes", "{glob}");
    }
    assert_eq!(fits(&pattern("/opt/x/launcher", None), &long), "no", "names are base names");
}

#[test]
fn a_glob_covers_the_whole_name_in_any_case() {
    let java = names("java", "java", "/usr/lib/jvm/bin/java");
    for (glob, expected) in [
        ("java", "yes"),
        ("JAVA", "yes"),
        ("jav", "no"),
        ("ava", "no"),
        ("j*", "yes"),
        ("j?va", "yes"),
        ("j[a-c]va", "yes"),
        ("j[!a]va", "no"),
        ("{node,java}", "yes"),
        ("*", "yes"),
        ("javaw", "no"),
    ] {
        assert_eq!(fits(&pattern(glob, None), &java), expected, "{glob}");
    }
    let upper = names("JAVA", "JAVA", "/x/JAVA");
    assert_eq!(fits(&pattern("java", None), &upper), "yes");
}

#[test]
fn the_executable_path_is_exact_and_adds_to_the_name() {
    let java = names("java", "java", "/usr/lib/jvm/bin/java");
    assert_eq!(fits(&pattern("java", Some("/usr/lib/jvm/bin/java")), &java), "yes");
    assert_eq!(fits(&pattern("java", Some("/usr/bin/java")), &java), "no");
    assert_eq!(fits(&pattern("node", Some("/usr/lib/jvm/bin/java")), &java), "no");
}

#[test]
fn what_may_not_be_read_makes_a_fit_possible_never_impossible() {
    let hidden = ProcessNames { executable: Known::Denied, ..names("python3", "python3", "/") };
    assert_eq!(fits(&pattern("python3", None), &hidden), "yes", "the comm already fits");
    assert_eq!(fits(&pattern("python3.11", None), &hidden), "perhaps");
    assert_eq!(fits(&pattern("python3", Some("/usr/bin/python3.11")), &hidden), "perhaps");
    let nothing = ProcessNames { comm: Known::Denied, argv0: Known::Denied, executable: Known::Denied };
    assert_eq!(fits(&pattern("x", None), &nothing), "perhaps");
}

#[test]
fn a_kernel_thread_has_a_comm_only() {
    let thread =
        ProcessNames { comm: Known::Is(b"kworker/0:1"), argv0: Known::Absent, executable: Known::Absent };
    assert_eq!(fits(&pattern("kworker*", None), &thread), "yes");
    assert_eq!(fits(&pattern("*", None), &thread), "yes");
    assert_eq!(fits(&pattern("*", Some("/sbin/init")), &thread), "no");
}

#[test]
fn names_that_are_no_utf8_or_hold_separators_do_not_break_the_match() {
    let odd = ProcessNames {
        comm: Known::Is(b"\xff\xfe.bin"),
        argv0: Known::Is(b"nginx: worker process"),
        executable: Known::Is(Path::new("/usr/sbin/nginx")),
    };
    assert_eq!(fits(&pattern("*.bin", None), &odd), "yes");
    assert_eq!(fits(&pattern("nginx: worker*", None), &odd), "yes");
    assert_eq!(fits(&pattern("nginx", None), &odd), "yes");
    let dots = ProcessNames { comm: Known::Is(b".."), argv0: Known::Is(b"a/"), executable: Known::Absent };
    assert_eq!(fits(&pattern("..", None), &dots), "yes");
    assert_eq!(fits(&pattern("a", None), &dots), "no");
}

#[test]
fn equal_patterns_share_an_id_and_many_globs_all_work() {
    let patterns: Vec<ProcessPattern> = (0..600)
        .map(|n| pattern(&format!("service-{n}"), None))
        .chain([pattern("service-0", None)])
        .collect();
    let selector = ProcessSelector::new(&patterns).unwrap();
    assert_eq!(selector.patterns.len(), 600);
    for n in [0, 255, 256, 511, 512, 599] {
        let name = format!("service-{n}");
        let found = selector.fits(&names(&name, &name, "/bin/x"));
        assert_eq!(found.certain, [selector.id(&pattern(&name, None)).unwrap()]);
    }
}

#[test]
fn bad_globs_are_refused_with_what_is_wrong() {
    assert_eq!("".parse::<NameGlob>(), Err(NameGlobError::Empty));
    for bad in ["[a", "{a", "[z-a]"] {
        assert!(matches!(bad.parse::<NameGlob>(), Err(NameGlobError::Syntax(_))), "{bad}");
    }
}

#[test]
fn a_selector_is_itself_and_its_clones_and_no_other() {
    let patterns = [pattern("nginx", None)];
    let selector = ProcessSelector::new(&patterns).unwrap();
    assert_eq!(selector.identity(), selector.clone().identity());
    let recompiled = ProcessSelector::new(&patterns).unwrap();
    assert_ne!(selector.identity(), recompiled.identity());
    assert_ne!(ProcessSelector::default().identity(), ProcessSelector::default().identity());
}
