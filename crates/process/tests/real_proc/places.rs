//! Processes in network namespaces of their own.

use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};
use vms_core::namespace::{Approach, Namespace, NamespaceQuery, NamespaceScan};

use super::*;

/// Where those live who fit that name.
fn survey(reader: &mut ProcReader, name: &str) -> NamespaceScan {
    survey_with(reader, name, false)
}

/// The same, and which other namespaces have names.
fn survey_with(reader: &mut ProcReader, name: &str, named: bool) -> NamespaceScan {
    let pattern = ProcessPattern { name: name.parse().unwrap(), executable: None };
    let selector = ProcessSelector::new([&pattern]).unwrap();
    let patterns = BTreeSet::from([selector.id(&pattern).unwrap()]);
    let query = NamespaceQuery {
        selector: &selector,
        patterns: &patterns,
        named,
        now: Duration::from_secs(1000),
        allowance: &Allowance::unlimited(),
    };
    reader.find_namespaces(&query).unwrap()
}

/// What setns(2) takes.
fn handle_of(namespace: &Namespace) -> &Arc<OwnedFd> {
    match &namespace.approach {
        Approach::Enter(handle) => handle,
        Approach::Read(tables) => unreachable!("it is entered: {tables:?}"),
    }
}

/// Runs a copy of `sleep` under that name, in a network namespace of its own.
fn start_apart(name: &str) -> Program {
    let program = Program::start_copy("/bin/sleep", name, |path| {
        let mut command = command(Path::new("unshare"));
        command.args(["--net", "--"]).arg(path).arg("60");
        command
    });
    let comm = format!("/proc/{}/comm", program.pid());
    while fs::read_to_string(&comm).unwrap().trim_end() != name {
        thread::yield_now();
    }
    program
}

#[test]
fn the_network_namespace_of_who_fits_is_kept_for_as_long_as_he_lives_there() {
    if !geteuid().is_root() {
        return skip("needs root, for network namespaces");
    }
    let mut reader = reader("/proc").in_all_namespaces();
    let (one, other) = (start_apart("vmsapart"), start_apart("vmsapart"));
    let here = Program::start("vmsapart", None, &Socket::new(), "60");
    let mut expected: Vec<u64> = [&one, &other]
        .map(|program| fs::metadata(format!("/proc/{}/ns/net", program.pid())).unwrap().ino())
        .into();
    expected.sort_unstable();
    for _remembered in 0..2 {
        let scan = survey(&mut reader, "vmsapart");
        let ids: Vec<u64> = scan.inhabited.iter().map(|inhabited| inhabited.namespace.id.0).collect();
        assert_eq!(ids, expected);
        let handles = scan.inhabited.iter().map(|inhabited| fstat(handle_of(&inhabited.namespace)).unwrap());
        assert!(handles.map(|stat| stat.st_ino).eq(expected.iter().copied()));
        assert!(scan.closed.is_empty());
    }
    let handle =
        std::sync::Arc::downgrade(handle_of(&survey(&mut reader, "vmsapart").inhabited[0].namespace));
    assert!(handle.upgrade().is_some());
    drop((one, other));
    assert!(survey(&mut reader, "vmsapart").inhabited.is_empty());
    assert!(handle.upgrade().is_none(), "and let go of then");
    drop(here);
}

/// A network namespace that `ip netns` knows by that name; forgotten when dropped.
struct Named(String);

impl Named {
    fn new(name: &str) -> Self {
        let name = format!("vmst-{}-{name}", std::process::id());
        assert!(command(Path::new("ip")).args(["netns", "add", &name]).status().unwrap().success());
        Self(name)
    }

    fn inode(&self) -> u64 {
        fs::metadata(format!("/run/netns/{}", self.0)).unwrap().ino()
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        let _swept_later = command(Path::new("ip")).args(["netns", "delete", &self.0]).status();
    }
}

#[test]
fn namespaces_that_have_names_are_told_where_nobody_lives_who_fits() {
    if !geteuid().is_root() {
        return skip("needs root, for network namespaces");
    }
    let mut reader = reader("/proc").in_all_namespaces();
    let (empty, lived_in) = (Named::new("empty"), Named::new("full"));
    let program = Program::start_copy("/bin/sleep", "vmsnamed", |path| {
        let mut command = command(Path::new("ip"));
        command.args(["netns", "exec", &lived_in.0]).arg(path).arg("60");
        command
    });
    let comm = format!("/proc/{}/comm", program.pid());
    while fs::read_to_string(&comm).unwrap().trim_end() != "vmsnamed" {
        thread::yield_now();
    }
    let ids = |scan: &NamespaceScan| -> (Vec<u64>, Vec<u64>) {
        let inhabited = scan.inhabited.iter().map(|inhabited| inhabited.namespace.id.0);
        (inhabited.collect(), scan.named.iter().map(|namespace| namespace.id.0).collect())
    };
    let (inhabited, named) = ids(&survey_with(&mut reader, "vmsnamed", true));
    assert_eq!(inhabited, [lived_in.inode()]);
    assert!(named.contains(&empty.inode()) && !named.contains(&lived_in.inode()), "{named:?}");
    assert_eq!(ids(&survey_with(&mut reader, "vmsnamed", false)), (inhabited, Vec::new()));
    drop(program);
    let (inhabited, named) = ids(&survey_with(&mut reader, "vmsnamed", true));
    assert!(inhabited.is_empty() && named.contains(&lived_in.inode()));
    let own = fs::metadata("/proc/self/ns/net").unwrap().ino();
    assert!(!named.contains(&own));
}

#[test]
fn an_agent_beside_the_first_process_knows_who_lives_elsewhere() {
    if !geteuid().is_root() {
        return skip("needs root, for network namespaces");
    }
    let mut reader = reader("/proc");
    let apart = start_apart("vmselse");
    let answer = ask(&mut reader, "vmselse", None, &[]);
    assert_eq!(answer.scan.elsewhere, [answer.id].into());
    let here = Program::start("vmshere", None, &Socket::new(), "60");
    assert!(ask(&mut reader, "vmshere", None, &[]).scan.elsewhere.is_empty());
    drop((apart, here));
}

#[test]
fn who_may_enter_no_network_namespace_keeps_it_by_its_tables() {
    if !geteuid().is_root() {
        return skip("needs root, for network namespaces");
    }
    let (one, other) = (start_apart("vmstables"), start_apart("vmstables"));
    // One that lives with another, and does not show it as the other does.
    let beside = Program::start_copy("/bin/sleep", "vmstables", |path| {
        let mut command = command(Path::new("nsenter"));
        command.arg(format!("--net=/proc/{}/ns/net", one.pid())).args(["--", "setpriv", "--reuid=65534"]);
        command.args(["--inh-caps=-all", "--"]).arg(path).arg("60");
        command
    });
    while fs::read_to_string(format!("/proc/{}/comm", beside.pid())).unwrap().trim_end() != "vmstables" {
        thread::yield_now();
    }
    let inode = |program: &Program| fs::metadata(format!("/proc/{}/net/dev", program.pid())).unwrap().ino();
    let mut expected = vec![inode(&one), inode(&other)];
    assert_eq!(inode(&beside), expected[0]);
    expected.sort_unstable();
    let powerless = || {
        let none = CapabilitySet::empty();
        set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })
            .unwrap();
        let mut reader = reader("/proc").in_all_namespaces().without_entering();
        // Others might fit whose executables may not be read.
        let survey = |reader: &mut ProcReader| {
            let mut scan = survey(reader, "vmstables");
            scan.inhabited.retain(|inhabited| expected.contains(&inhabited.namespace.id.0));
            scan
        };
        for _remembered in 0..2 {
            let scan = survey(&mut reader);
            let ids: Vec<u64> = scan.inhabited.iter().map(|inhabited| inhabited.namespace.id.0).collect();
            assert_eq!(ids, expected);
            assert!(scan.closed.is_empty());
            for inhabited in &scan.inhabited {
                let Approach::Read(tables) = &inhabited.namespace.approach else { panic!("{inhabited:?}") };
                assert!(tables.inet6.is_some());
            }
        }
        let survivor = survey(&mut reader).inhabited.swap_remove(0);
        let Approach::Read(tables) = survivor.namespace.approach else { panic!("it is read") };
        (Arc::downgrade(&tables), reader)
    };
    let (tables, mut reader) = thread::scope(|scope| scope.spawn(powerless).join().unwrap());
    assert!(tables.upgrade().is_some());
    drop((one, other, beside));
    let left = survey(&mut reader, "vmstables").inhabited;
    assert!(left.iter().all(|inhabited| !expected.contains(&inhabited.namespace.id.0)));
    assert!(tables.upgrade().is_none(), "and let go of then");
}
