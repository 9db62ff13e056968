use std::cell::Cell;
use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use tempfile::TempDir;
use vms_core::ProcessAdapter;
use vms_core::connection::Inode;
use vms_core::process::{Pid, Process, VerifyQuery};

use super::*;
use crate::reader::ProcReader;
use crate::test_proc::{Network, Question, TestProc};

const NOW: Duration = Duration::from_secs(1000);

fn uid(number: u32) -> String {
    format!("8c1b3f6e-7d52-4c1c-9f0e-{number:012x}")
}

/// The kubelet's directory, and how often it was listed.
struct Node {
    root: TempDir,
    listings: Arc<AtomicU32>,
}

impl Node {
    fn new() -> Self {
        Self { root: TempDir::new().unwrap(), listings: Arc::default() }
    }

    fn pod(&self, name: &str, uid: &str) {
        fs::create_dir(self.root.path().join(format!("shop_{name}_{uid}"))).unwrap();
    }

    fn pods(&self, root: PathBuf) -> Pods {
        let listings = Arc::clone(&self.listings);
        Pods::new(Box::new(move || {
            listings.fetch_add(1, Ordering::Relaxed);
            read_pod_names(&root).ok()
        }))
    }

    /// How often it was listed since this was last asked.
    fn listings(&self) -> u32 {
        self.listings.swap(0, Ordering::Relaxed)
    }
}

fn told(pods: &mut Pods, uid: &str, now: Duration) -> Option<String> {
    pods.find_name(uid, now).map(|pod| format!("{}/{}", pod.namespace, pod.name))
}

#[test]
fn the_directory_tells_the_names_of_pods_and_of_nothing_else() {
    let node = Node::new();
    node.pod("orders-0", &uid(1));
    for other in ["lost+found", "shop_orders-1", "shop_orders_2_8c1b", "_x_", "a_b_c"] {
        fs::create_dir(node.root.path().join(other)).unwrap();
    }
    let names = read_pod_names(node.root.path()).unwrap();
    assert_eq!(names.of(&uid(1)).map(|pod| (&*pod.namespace, &*pod.name)), Some(("shop", "orders-0")));
    assert_eq!(names.0.len(), 1);
    assert!(read_pod_names(Path::new("/nonexistent/pods")).is_err());
    assert!(read_pod_names(Path::new("/proc/version")).is_err(), "no directory");
}

#[test]
fn one_listing_names_all_who_are_there_and_is_not_repeated_for_them() {
    let node = Node::new();
    for number in 0..20 {
        node.pod(&format!("orders-{number}"), &uid(number));
    }
    let mut pods = node.pods(node.root.path().into());
    for turn in 0..3 {
        for number in 0..20 {
            let name = told(&mut pods, &uid(number), NOW + Duration::from_secs(turn * 3600));
            assert_eq!(name, Some(format!("shop/orders-{number}")));
        }
    }
    assert_eq!(node.listings(), 1);
}

#[test]
fn a_pod_that_comes_is_named_when_it_is_first_met_however_soon_after_another() {
    let node = Node::new();
    let mut pods = node.pods(node.root.path().into());
    for number in 0..LISTINGS_AT_ONCE {
        node.pod(&format!("orders-{number}"), &uid(number));
        assert_eq!(told(&mut pods, &uid(number), NOW), Some(format!("shop/orders-{number}")));
    }
}

#[test]
fn pods_that_do_not_exist_cost_a_listing_a_second_and_little_memory_however_many_are_met() {
    let node = Node::new();
    let mut pods = node.pods(node.root.path().into());
    for number in 0..100_000 {
        let now = NOW + Duration::from_millis(u64::from(number));
        assert_eq!(told(&mut pods, &uid(number), now), None);
    }
    let (listings, kept) = (node.listings(), pods.missed.len());
    assert!((100..=100 + LISTINGS_AT_ONCE).contains(&listings), "{listings}");
    assert!(kept <= 11 + usize::try_from(LISTINGS_AT_ONCE).unwrap(), "{kept}");
}

#[test]
fn one_that_stays_unknown_takes_no_listing_from_those_who_come() {
    let node = Node::new();
    let mut pods = node.pods(node.root.path().into());
    for millis in (0..10_000).step_by(10) {
        assert_eq!(told(&mut pods, &uid(0), NOW + Duration::from_millis(millis)), None);
    }
    assert_eq!(node.listings(), 1);
    let later = NOW + MISSED_TIME;
    node.pod("late", &uid(0));
    assert_eq!(
        told(&mut pods, &uid(0), later),
        Some("shop/late".to_owned()),
        "a while later it is looked for again"
    );
}

#[test]
fn a_directory_that_is_not_there_claims_nothing_and_is_tried_again_once_a_second() {
    let node = Node::new();
    let root = node.root.path().join("pods");
    let mut pods = node.pods(root.clone());
    for millis in 0..60_000 {
        let now = NOW + Duration::from_millis(millis);
        assert_eq!(told(&mut pods, &uid(u32::try_from(millis % 7).unwrap()), now), None);
    }
    let tries = node.listings();
    assert!((60..=60 + LISTINGS_AT_ONCE).contains(&tries), "{tries}");
    fs::create_dir(&root).unwrap();
    fs::create_dir(root.join(format!("shop_orders_{}", uid(3)))).unwrap();
    assert_eq!(told(&mut pods, &uid(3), NOW + Duration::from_mins(2)), Some("shop/orders".to_owned()));
}

#[test]
fn what_is_known_outlasts_a_listing_that_fails_and_not_one_that_has_it_no_longer() {
    let known = |uid: &str| {
        let pod = PodName { namespace: "shop".into(), name: "orders".into() };
        PodNames(HashMap::from([(uid.into(), Arc::new(pod))]))
    };
    let answers = Mutex::new(vec![Some(known(&uid(2))), None, Some(known(&uid(1)))]);
    let mut pods = Pods::new(Box::new(move || answers.lock().unwrap().pop().unwrap()));
    let second = Cell::new(0);
    let mut is_named = |number| {
        second.set(second.get() + 1);
        told(&mut pods, &uid(number), NOW + Duration::from_secs(second.get())).is_some()
    };
    assert!(is_named(1));
    assert!(!is_named(2), "the listing failed");
    assert!(is_named(1));
    assert!(is_named(2));
    assert!(Pods::default().find_name(&uid(1), NOW).is_none(), "names are not wanted");
}

#[test]
fn holders_are_told_with_their_pods_names_where_their_containers_matter_and_else_nobody_lists() {
    let node = Node::new();
    node.pod("orders-0", &uid(1));
    let (proc, network) = (TestProc::new(), Network::new(100));
    proc.own_network(&network);
    drop(proc.process(10, "nginx").socket(3, 77).network(&network));
    fs::write(proc.path().join("10/cgroup"), format!("0::/kubepods/burstable/pod{}/x\n", uid(1))).unwrap();
    let (question, listings) = (Question::new(&["nginx"]).wants(77, &[0]), Arc::clone(&node.listings));
    let reader = || {
        let (root, listings) = (node.root.path().to_owned(), Arc::clone(&listings));
        proc.reader().naming_pods(Box::new(move || {
            listings.fetch_add(1, Ordering::Relaxed);
            read_pod_names(&root).ok()
        }))
    };
    let name = |process: &Process| {
        let pod = process.container.as_deref().and_then(|container| container.pod_name.as_deref());
        pod.map(|pod| pod.name.to_string())
    };
    let found = |reader: &mut ProcReader, question: &Question| {
        let holders = reader.find_holders(&question.query()).unwrap().holders;
        name(&holders[&Inode::new(77).unwrap()][0])
    };
    assert_eq!(found(&mut reader(), &question), None);
    assert_eq!(node.listings(), 0);
    let named = Some("orders-0".to_owned());
    assert_eq!(found(&mut reader().in_all_namespaces(), &question), named);
    // And where a known holder is entered anew.
    let mut verifying = reader().in_all_namespaces();
    let holdings = [(Inode::new(77).unwrap(), Pid(10))];
    let query = VerifyQuery { selector: question.selector(), holdings: &holdings, now: NOW };
    let verified = verifying.verify_holders(&query).unwrap();
    assert_eq!(verified[0].as_deref().and_then(name), named);
    assert_eq!(found(&mut reader(), &question.every_holder()), named);
    assert_eq!(node.listings(), 3);
}

#[test]
fn a_directory_of_any_size_is_read_to_a_bound() {
    let node = Node::new();
    for number in 0..u32::try_from(MAX_DIRECTORIES).unwrap() + 50 {
        node.pod("orders", &uid(number));
    }
    let names = read_pod_names(node.root.path()).unwrap();
    // The two that every directory has are among those looked at.
    assert!((MAX_DIRECTORIES - 2..=MAX_DIRECTORIES).contains(&names.0.len()), "{}", names.0.len());
}
