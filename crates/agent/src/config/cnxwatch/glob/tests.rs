use vms_core::process::{Known, ProcessNames, ProcessPattern, ProcessSelector};

use super::*;

fn glob(expression: &str) -> String {
    from_expression(expression).unwrap().to_string()
}

fn refusal(expression: &str) -> String {
    from_expression(expression).unwrap_err()
}

/// Whether a process with that comm fits.
fn fits(expression: &str, comm: &str) -> bool {
    let pattern = ProcessPattern { name: from_expression(expression).unwrap(), executable: None };
    let selector = ProcessSelector::new([&pattern]).unwrap();
    let names =
        ProcessNames { comm: Known::Is(comm.as_bytes()), argv0: Known::Absent, executable: Known::Absent };
    !selector.fits(&names).certain.is_empty()
}

#[test]
fn what_a_glob_can_say_becomes_one() {
    for (expression, expected) in [
        ("sshd", "sshd"),
        ("^sshd$", "sshd"),
        (".*", "*"),
        (".+", "?*"),
        (".*.*", "*"),
        ("java.*", "java*"),
        ("grafana-server", "grafana-server"),
        ("kworker/.*", "kworker/*"),
        (r"python3\.11", "python3.11"),
        (r"node_exporter\d", "node_exporter[0-9]"),
        ("php-fpm[78]", "php-fpm[78]"),
        ("[^a-c]x", "[!a-c]x"),
        ("(java|node)", "{java,node}"),
        ("(?:java|node).*", "{java*,node*}"),
        ("(?i)java", "java"),
        ("https?", "{http,https}"),
        ("x.{2}", "x??"),
        ("x.{1,}", "x?*"),
        ("[0-9]{1,2}", "{[0-9],[0-9][0-9]}"),
        ("a.*?b", "a*b"),
        (r"a\*", r"a\*"),
        ("[*]", r"\*"),
    ] {
        assert_eq!(glob(expression), expected, "{expression}");
    }
}

#[test]
fn alternatives_outside_of_a_group_are_anchored_at_one_end() {
    assert_eq!(glob("a|b"), "{a*,*b}");
    assert_eq!(glob("a|b|c"), "{a*,*b*,*c}");
    assert_eq!(glob("^a$|^b$"), "{a,b}");
    assert_eq!(glob("^(a|b)$"), "{a,b}");
    assert_eq!(glob("a|"), "{a*,*}");
}

#[test]
fn what_no_glob_can_say_is_refused_with_the_reason() {
    for (expression, problem) in [
        ("a*", "`*` behind anything but `.`"),
        ("(ab)+", "`+` behind anything but `.`"),
        (r"\d+", "`+` behind anything but `.`"),
        ("[a-z]*x", "`*` behind anything but `.`"),
        (r"a\b", "`\\b`"),
        (r"\S", "`\\S`"),
        ("[[:alpha:]]", "a class such as `[:alpha:]`"),
        ("(?P<x>a)", "a group with `(?`"),
        ("a^b", "a `^` in the middle"),
        ("(^a|b)", "a `^` in the middle"),
        ("a$b", "a `$` in the middle"),
        ("(a", "a `(` is not closed"),
        ("a)", "a `)` closes nothing"),
        ("[a", "a `[` is not closed"),
        ("*a", "`*` repeats nothing"),
        ("a\\", "a `\\` at the end"),
        ("a{2", "`{2}`"),
        ("a{3,2}", "`{3,2}`"),
        ("a{1000}", "`{1000}`"),
        ("a?*", "a repetition of a repetition"),
        ("[+-/]", "the range `+-/`"),
        ("^$", "it matches no name"),
        ("a?a?a?a?a?a?", "more than 32 alternatives"),
        ("((((((((((((((((((a))))))))))))))))))", "too many groups in groups"),
    ] {
        let refused = refusal(expression);
        assert!(refused.starts_with(problem), "{expression}: {refused}");
    }
}

#[test]
fn characters_that_mean_something_in_globs_stand_for_themselves() {
    for c in ['*', '?', '[', ']', '{', '}', ',', '!', '\\', '^', '-', '$', '.', '+', '|', '(', ')'] {
        let alone = format!("x\\{c}");
        assert!(fits(&alone, &format!("x{c}")), "{alone}");
        assert!(!fits(&alone, "xy") && !fits(&alone, "x"), "{alone}");
        let class = format!("x[\\{c}a\\^\\-\\]]");
        for member in [c, 'a', '^', '-', ']'] {
            assert!(fits(&class, &format!("x{member}")), "{class} {member}");
        }
        assert!(!fits(&class, "xy"), "{class}");
        let other = format!("x[^\\{c}a]");
        assert!(fits(&other, "xy") && !fits(&other, &format!("x{c}")) && !fits(&other, "xa"), "{other}");
        let both = format!("(x\\{c}|z[\\{c}])");
        assert!(fits(&both, &format!("x{c}")) && fits(&both, &format!("z{c}")), "{both}");
        assert!(!fits(&both, "x") && !fits(&both, "xa"), "{both}");
    }
    assert!(fits("[!^]", "!") && fits("[!^]", "^") && !fits("[!^]", "a"));
}
