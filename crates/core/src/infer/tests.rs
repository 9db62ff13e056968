use std::cell::Cell;
use std::time::SystemTime;

use proptest::prelude::*;

use super::*;
use crate::adapter::Clock;
use crate::budget::CpuShare;
use crate::link::LinkChange;
use crate::look::{DirectionLook, DownReason, LookPlan, PlannedProbe};
use crate::metric::{self, DataPoint, Value};
use crate::monitor::{Monitor, Terms};
use crate::namespace::{Namespace, NamespaceId, NamespaceQuery, NamespaceScan};
use crate::probe::{ConnectionProbe, MatchedSourceLabels};
use crate::process::{Capability, ProcessPattern, SelectorBuilder};
use crate::socket::{SocketFilter, SocketSurvey};
use crate::test_host::{Access, Host, with_manner};

const SERVICE: (&str, u16) = ("10.0.0.1", 5432);

fn probe(name: &str) -> ConnectionProbe {
    let pattern = ProcessPattern { name: name.parse().unwrap(), executable: None };
    ConnectionProbe {
        name: name.into(),
        source_process: pattern.clone(),
        dest_process: pattern,
        dest_ip: SERVICE.0.parse().unwrap(),
        dest_port: SERVICE.1,
        source_ip: None,
        source_port: None,
        interval: Duration::from_secs(15),
        matched_source_labels: MatchedSourceLabels::None,
    }
}

fn look_in(attribution: AttributionMode, host: &Host, name: &str) -> ProbeLook {
    let mut patterns = SelectorBuilder::default();
    let planned = vec![PlannedProbe::new(Arc::new(probe(name)), &mut patterns)];
    let plan = LookPlan::new(planned, [], Arc::new(patterns.build().unwrap()));
    with_manner(|manner| {
        plan.look(&mut host.clone(), &mut host.clone(), &Manner { attribution, ..manner })
            .unwrap()
            .links
            .remove(0)
    })
}

fn infer(host: &Host) -> DirectionLook {
    look_in(AttributionMode::Inferred, host, "app").forward
}

/// Two processes that may not be looked into, in two cgroups of two users; the first, which fits, has a connection.
fn two_services() -> Host {
    let mut host = Host::default();
    host.run("app", Access::Denied, &[7]);
    host.place(0, 20, 1000);
    host.run("other", Access::Denied, &[]);
    host.place(1, 30, 2000);
    host.connect_as(0, ("10.0.0.9", 40000), SERVICE, 7);
    host
}

fn attributions(look: &DirectionLook) -> Vec<Attribution> {
    look.matched.iter().map(|matched| matched.attribution).collect()
}

#[test]
fn a_link_is_up_where_only_a_process_that_fits_is_left_in_the_cgroup() {
    let host = two_services();
    let look = infer(&host);
    assert_eq!((attributions(&look), look.unattributed.len()), (vec![Attribution::Cgroup], 0));
    assert_eq!(look.matched[0].owners[0].pid, Pid(1));
    assert_eq!(look.missing, BTreeSet::from([Capability::SysPtrace]), "the capability lacks all the same");
    let strict = look_in(AttributionMode::Strict, &host, "app").forward;
    assert_eq!((strict.matched.len(), strict.unattributed.len()), (0, 1));
}

#[test]
fn another_process_in_the_cgroup_leaves_it_open_unless_it_is_another_user_s() {
    let mut host = two_services();
    host.run("helper", Access::Denied, &[]);
    host.place(2, 20, 3000);
    assert_eq!(attributions(&infer(&host)), [Attribution::Cgroup]);
    host.place(2, 20, 1000);
    let look = infer(&host);
    assert_eq!((look.matched.len(), look.unattributed.len()), (0, 1));
    assert_eq!(look.down_reason(), Some(DownReason::NotPermitted));
    host.process_mut(2).access = Access::Open;
    assert_eq!(attributions(&infer(&host)), [Attribution::Cgroup], "who may be looked into holds nothing");
}

#[test]
fn the_user_serves_where_no_cgroup_is_told_and_all_his_processes_fit() {
    let mut host = two_services();
    host.place(0, 1, 1000);
    host.disconnect_last();
    host.connect_as(0, ("10.0.0.9", 40000), SERVICE, 7);
    let look = infer(&host);
    assert_eq!(attributions(&look), [Attribution::Uid]);
    host.place(1, 30, 1000);
    assert_eq!((infer(&host).matched.len(), infer(&host).unattributed.len()), (0, 1));
}

#[test]
fn the_user_does_not_go_before_a_cgroup_in_which_nobody_fits() {
    let mut host = two_services();
    // As a socket is that the service manager made, and handed on.
    host.connection_mut(0).unwrap().cgroup = CgroupId::new(30);
    let look = infer(&host);
    assert_eq!((look.matched.len(), look.unattributed.len()), (0, 1));
}

#[test]
fn a_name_that_may_not_be_read_leaves_it_open() {
    let mut host = two_services();
    host.run("x", Access::NoExecutable, &[]);
    host.place(2, 20, 1000);
    assert_eq!(infer(&host).matched.len(), 0);
}

#[test]
fn what_somebody_else_is_seen_to_hold_is_not_inferred() {
    let mut host = two_services();
    host.run("seen", Access::Open, &[7]);
    let look = infer(&host);
    assert_eq!((look.matched.len(), look.unattributed.len()), (0, 1));
}

#[test]
fn what_has_ended_since_it_was_dumped_is_not_inferred() {
    let host = two_services();
    let mut looks = vec![look_in(AttributionMode::Strict, &host, "app")];
    let mut patterns = SelectorBuilder::default();
    let planned = PlannedProbe::new(Arc::new(probe("app")), &mut patterns);
    let selector = patterns.build().unwrap();
    let mut ended = host.clone();
    ended.disconnect_all();
    let pattern = |_, way| Some(planned.pattern(way));
    let mut infer_from = |connections: &mut Host| {
        with_manner(|manner| {
            let manner = Manner { attribution: AttributionMode::Inferred, ..manner };
            attribute(&mut looks, pattern, &selector, (connections, &mut host.clone()), &manner).unwrap();
        });
        (looks[0].forward.matched.len(), looks[0].forward.unattributed.len())
    };
    assert_eq!(infer_from(&mut ended), (0, 1));
    assert_eq!(infer_from(&mut host.clone()), (1, 0));
}

#[test]
fn why_nothing_can_be_inferred_is_told_where_something_is_left_open() {
    let mut host = two_services();
    assert!(look_in(AttributionMode::Inferred, &host, "app").lacks.is_empty());
    host.run("hidden", Access::Hidden, &[]);
    let look = look_in(AttributionMode::Inferred, &host, "app");
    assert_eq!(look.lacks, BTreeSet::from([InferenceLack::HiddenProcesses]));
    host.connection_mut(0).unwrap().cgroup = None;
    let lacks = look_in(AttributionMode::Inferred, &host, "app").lacks;
    assert!(lacks.contains(&InferenceLack::UntaggedSockets));
}

/// A clock that a test moves.
#[derive(Debug, Default)]
struct Manual(Cell<Duration>);

impl Clock for Manual {
    fn monotonic(&self) -> Duration {
        self.0.get()
    }

    fn wall(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + self.0.get()
    }

    fn since_boot(&self) -> Duration {
        self.monotonic()
    }

    fn cpu(&self) -> Duration {
        Duration::ZERO
    }
}

/// A monitor that walks where it has to, of a world that it is shown anew in each cycle.
struct Watched {
    monitor: Monitor<Shown, Shown, std::rc::Rc<Manual>>,
    clock: std::rc::Rc<Manual>,
    world: std::rc::Rc<std::cell::RefCell<Host>>,
}

impl Clock for std::rc::Rc<Manual> {
    fn monotonic(&self) -> Duration {
        self.as_ref().monotonic()
    }

    fn wall(&self) -> SystemTime {
        self.as_ref().wall()
    }

    fn since_boot(&self) -> Duration {
        self.monotonic()
    }

    fn cpu(&self) -> Duration {
        self.as_ref().cpu()
    }
}

/// A world that goes on while it is watched.
#[derive(Debug, Clone)]
struct Shown(std::rc::Rc<std::cell::RefCell<Host>>);

impl ConnAdapter for Shown {
    type Error = <Host as ConnAdapter>::Error;

    fn dump(&mut self, filter: &crate::connection::ConnectionFilter) -> Result<Vec<Connection>, Self::Error> {
        self.0.borrow_mut().dump(filter)
    }

    fn lookup(
        &mut self,
        connections: &[Connection],
    ) -> Result<Vec<Option<crate::health::Sighting>>, Self::Error> {
        self.0.borrow_mut().lookup(connections)
    }

    fn interface_index(&self, _namespace: NamespaceId, _name: &str) -> Option<u32> {
        None
    }

    fn attend(
        &mut self,
        namespaces: &[Namespace],
        in_use: &BTreeSet<NamespaceId>,
    ) -> Result<BTreeSet<NamespaceId>, Self::Error> {
        self.0.borrow_mut().attend(namespaces, in_use)
    }

    fn survey(&mut self, filter: &SocketFilter<'_>) -> Result<SocketSurvey<Self::Error>, Self::Error> {
        let connections =
            filter.connections.map_or_else(|| Ok(Vec::new()), |connections| self.dump(connections))?;
        Ok(SocketSurvey { connections, ..SocketSurvey::default() })
    }

    fn dump_in(
        &mut self,
        namespace: NamespaceId,
        filter: &crate::connection::ConnectionFilter,
    ) -> Result<Vec<Connection>, Self::Error> {
        self.0.borrow_mut().dump_in(namespace, filter)
    }
}

impl ProcessAdapter for Shown {
    type Error = <Host as ProcessAdapter>::Error;

    fn find_holders(
        &mut self,
        query: &crate::process::HolderQuery<'_>,
    ) -> Result<crate::process::HolderScan, Self::Error> {
        self.0.borrow_mut().find_holders(query)
    }

    fn verify_holders(
        &mut self,
        query: &crate::process::VerifyQuery<'_>,
    ) -> Result<Vec<Option<Arc<Process>>>, Self::Error> {
        self.0.borrow_mut().verify_holders(query)
    }

    fn find_namespaces(&mut self, query: &NamespaceQuery<'_>) -> Result<NamespaceScan, Self::Error> {
        self.0.borrow_mut().find_namespaces(query)
    }

    fn find_outsiders(&mut self, query: &OutsiderQuery<'_>) -> Result<OutsiderScan, Self::Error> {
        self.0.borrow_mut().find_outsiders(query)
    }

    fn verify_suspects(
        &mut self,
        query: &SuspectQuery<'_>,
    ) -> Result<Vec<Option<Arc<Process>>>, Self::Error> {
        self.0.borrow_mut().verify_suspects(query)
    }
}

impl Watched {
    fn new(host: Host, parts_per_million: u32) -> Self {
        let clock = std::rc::Rc::new(Manual::default());
        let world = std::rc::Rc::new(std::cell::RefCell::new(host));
        let terms = Terms {
            cpu_budget: CpuShare::from_parts_per_million(parts_per_million),
            attribution: AttributionMode::Inferred,
            ..Terms::default()
        };
        let shown = || Shown(std::rc::Rc::clone(&world));
        let monitor =
            Monitor::new(shown(), shown(), std::rc::Rc::clone(&clock), [probe("app")], terms).unwrap();
        Self { monitor, clock, world }
    }

    fn tell(&mut self) -> (Vec<DataPoint>, Vec<LinkChange>) {
        self.clock.0.set(self.clock.0.get() + Duration::from_secs(1));
        let mut points = Vec::new();
        let cycle = self.monitor.measure(&[0], &mut |point| points.push(point));
        (points, cycle.changes)
    }

    fn world(&self) -> std::cell::RefMut<'_, Host> {
        self.world.borrow_mut()
    }
}

fn up(points: &[DataPoint]) -> Vec<i64> {
    values(points, &metric::UP)
}

fn values(points: &[DataPoint], metric: &metric::Metric) -> Vec<i64> {
    let of = points.iter().filter(|point| point.metric == metric);
    of.map(|point| if let Value::Int(value) = point.value { value } else { unreachable!("a count") })
        .collect()
}

#[test]
fn what_is_inferred_is_told_as_such_and_goes_to_another_way_without_a_series_left_behind() {
    let mut watched = Watched::new(two_services(), 1_000_000);
    let (points, changes) = watched.tell();
    assert_eq!((up(&points), values(&points, &metric::ATTRIBUTION)), (vec![1], vec![0, 1, 0]));
    assert_eq!(values(&points, &metric::UNATTRIBUTED), [0]);
    assert_eq!(values(&points, &metric::PERMISSION_MISSING), [1]);
    assert_eq!(changes[0].attribution, Some(Attribution::Cgroup));
    assert_eq!(watched.monitor.outcomes().ok, 1, "there is an answer");
    watched.world().permit_all();
    let (points, changes) = watched.tell();
    assert_eq!((up(&points), values(&points, &metric::ATTRIBUTION)), (vec![1], vec![1, 0, 0]));
    assert_eq!((values(&points, &metric::PERMISSION_MISSING), changes.len()), (vec![0], 0));
    watched.world().disconnect_all();
    let (points, _) = watched.tell();
    assert_eq!((up(&points), values(&points, &metric::ATTRIBUTION)), (vec![0], vec![0, 0, 0]));
}

#[test]
fn connections_that_end_between_walks_are_counted_off_where_they_were_counted() {
    let mut host = two_services();
    host.run("app", Access::Open, &[8]);
    host.place(2, 40, 4000);
    host.connect_as(2, ("10.0.0.9", 40001), SERVICE, 8);
    let mut watched = Watched::new(host, 0);
    assert_eq!(values(&watched.tell().0, &metric::ATTRIBUTION), [1, 1, 0], "one of each");
    watched.world().close(0);
    let (points, _) = watched.tell();
    assert_eq!(values(&points, &metric::ATTRIBUTION), [1, 0, 0]);
    assert_eq!(values(&points, &metric::CONNECTIONS), [1]);
    assert_eq!(watched.world().dumps, 1, "no walk was needed");
}

#[test]
fn between_walks_a_suspect_that_ceases_to_fit_or_moves_takes_the_link_down_at_once() {
    type Step = fn(&mut Host);
    let steps: [Step; 2] = [
        |host| host.place(0, 30, 1000),
        |host| {
            let process = host.process_mut(0);
            (process.comm, process.executable) = ("sh".to_owned(), "sh".to_owned());
        },
    ];
    for step in steps {
        let mut watched = Watched::new(two_services(), 0);
        assert_eq!(up(&watched.tell().0), [1]);
        assert_eq!(up(&watched.tell().0), [1]);
        assert_eq!(watched.world().dumps, 1, "it is verified without a walk");
        step(&mut watched.world());
        let (points, _) = watched.tell();
        assert_eq!(up(&points), [0]);
    }
}

#[test]
fn a_walk_takes_back_what_can_no_longer_be_inferred() {
    let mut watched = Watched::new(two_services(), 1_000_000);
    assert_eq!(up(&watched.tell().0), [1]);
    watched.world().run("helper", Access::Denied, &[]);
    watched.world().place(2, 20, 1000);
    let (points, changes) = watched.tell();
    assert_eq!((up(&points), values(&points, &metric::UNATTRIBUTED)), (vec![0], vec![1]));
    assert_eq!((changes[0].reason, changes[0].attribution), (Some(DownReason::NotPermitted), None));
    watched.world().place(2, 50, 1000);
    assert_eq!(up(&watched.tell().0), [1]);
}

#[test]
fn what_a_walk_cannot_infer_for_once_is_looked_for_again_before_the_link_is_down() {
    let mut watched = Watched::new(two_services(), 1_000_000);
    assert_eq!(up(&watched.tell().0), [1]);
    watched.world().confused = 2;
    let dumps = watched.world().dumps;
    let (points, changes) = watched.tell();
    assert_eq!((up(&points), changes.len()), (vec![1], 0), "by cgroup and by user nothing was known");
    assert_eq!(watched.world().dumps - dumps, 2);
}

#[test]
fn a_socket_that_was_seen_with_somebody_meanwhile_is_left_open() {
    let host = two_services();
    let connection = host.connections()[0];
    let mut patterns = SelectorBuilder::default();
    let planned = PlannedProbe::new(Arc::new(probe("app")), &mut patterns);
    let selector = patterns.build().unwrap();
    let pattern = planned.pattern(Direction::Forward);
    let cgroups = connection.cgroup.into_iter().collect();
    let (uids, sockets, allowance) = (BTreeSet::new(), HashSet::new(), Allowance::unlimited());
    let query = OutsiderQuery {
        selector: &selector,
        cgroups: &cgroups,
        uids: &uids,
        sockets: &sockets,
        now: Duration::ZERO,
        allowance: &allowance,
    };
    let mut scan = host.clone().find_outsiders(&query).unwrap();
    let left_open = |scan: &OutsiderScan| {
        let mut open = vec![Open { probe: 0, direction: Direction::Forward, connection, pattern }];
        infer_all(&mut open, scan, Attribution::Cgroup, &mut Vec::new());
        open.len()
    };
    assert_eq!(left_open(&scan), 0);
    scan.seen.extend(connection.inode);
    assert_eq!(left_open(&scan), 1);
}

#[test]
fn what_was_inferred_is_forgotten_when_it_is_not_to_be_any_more() {
    let mut watched = Watched::new(two_services(), 0);
    assert_eq!(up(&watched.tell().0), [1]);
    let cpu_budget = CpuShare::from_parts_per_million(0);
    let terms = Terms { attribution: AttributionMode::Strict, cpu_budget, ..Terms::default() };
    watched.monitor.set_terms(terms);
    let (points, _) = watched.tell();
    assert_eq!((up(&points), values(&points, &metric::UNATTRIBUTED)), (vec![0], vec![1]));
    assert_eq!(values(&points, &metric::ATTRIBUTION), [], "nothing is told of it");
}

/// One process of a world: its name, what may be learned of it, its cgroup and its user.
type Inhabitant = (&'static str, Access, u64, u32);

fn an_inhabitant() -> impl Strategy<Value = Inhabitant> {
    let access = prop_oneof![
        3 => Just(Access::Open),
        6 => Just(Access::Denied),
        1 => Just(Access::NoExecutable),
    ];
    let cgroup = prop_oneof![1 => Just(1_u64), 6 => 20..23_u64];
    (prop_oneof![3 => Just("app"), 2 => Just("b")], access, cgroup, 1000..1003_u32)
}

/// A world without the known errors: each socket is held by who made it, and by others only of his cgroup and user.
fn a_world() -> impl Strategy<Value = Host> {
    (
        proptest::collection::vec(an_inhabitant(), 1..7),
        proptest::collection::vec((any::<usize>(), any::<bool>()), 0..6),
    )
        .prop_map(|(inhabitants, sockets)| {
            let mut host = Host::default();
            for (index, (name, access, cgroup, uid)) in inhabitants.iter().enumerate() {
                host.run(name, *access, &[]);
                host.place(index, *cgroup, *uid);
            }
            for ((maker, is_shared), serial) in sockets.into_iter().zip(1_u16..) {
                let maker = maker % inhabitants.len();
                host.connect_as(maker, ("10.0.0.9", 40000 + serial), SERVICE, serial.into());
                for (index, other) in inhabitants.iter().enumerate() {
                    let shares =
                        is_shared && (other.2, other.3) == (inhabitants[maker].2, inhabitants[maker].3);
                    if index == maker || shares {
                        host.process_mut(index).inodes.push(serial.into());
                    }
                }
            }
            host
        })
}

/// The sockets that a process with that name holds.
fn truly_held(host: &Host, name: &str) -> BTreeSet<Cookie> {
    let holders = host.processes().iter().filter(|process| process.comm == name);
    holders.flat_map(|process| process.inodes.iter().map(|inode| Cookie(*inode))).collect()
}

/// What can be told of a socket that no process that may be looked into holds, found the slow way.
fn naively(host: &Host, connection: &Connection) -> Option<Attribution> {
    let left = |is_there: &dyn Fn(u64, u32) -> bool| -> Vec<(&str, Access)> {
        let all = host.processes().iter().enumerate();
        all.filter(|(_, process)| process.access != Access::Open)
            .filter(|(index, _)| is_there(host.origins[index].0, host.origins[index].1))
            .map(|(_, process)| (process.comm.as_str(), process.access))
            .collect()
    };
    let all_fit = |left: &[(&str, Access)]| !left.is_empty() && left.iter().all(|(name, _)| *name == "app");
    match connection.cgroup {
        Some(cgroup) => all_fit(&left(&|known, uid| known == cgroup.get() && uid == connection.uid))
            .then_some(Attribution::Cgroup),
        None => all_fit(&left(&|_, uid| uid == connection.uid)).then_some(Attribution::Uid),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Where the known errors are excluded no link is up that is not, and each is that can be known to be.
    #[test]
    fn no_false_up_is_inferred_and_nothing_that_can_be_is_left_open(host in a_world()) {
        let (strict, inferred) =
            (look_in(AttributionMode::Strict, &host, "app").forward, infer(&host));
        let truth = truly_held(&host, "app");
        for matched in &inferred.matched {
            prop_assert!(truth.contains(&matched.connection.cookie), "false up: {matched:?}");
            prop_assert!(!matched.owners.is_empty());
        }
        let of = |look: &DirectionLook, attribution| -> BTreeSet<Cookie> {
            let matched = look.matched.iter().filter(|matched| matched.attribution == attribution);
            matched.map(|matched| matched.connection.cookie).collect()
        };
        prop_assert_eq!(of(&strict, Attribution::Holder), of(&inferred, Attribution::Holder));
        for connection in &strict.unattributed {
            let is_held = host.processes().iter().any(|process| {
                process.access == Access::Open && process.inodes.contains(&connection.cookie.0)
            });
            let expected = if is_held { None } else { naively(&host, connection) };
            let found = inferred.matched.iter().find(|matched| matched.connection == *connection);
            prop_assert_eq!(found.map(|matched| matched.attribution), expected, "{:?}", connection);
            prop_assert_eq!(found.is_none(), inferred.unattributed.contains(connection));
        }
        prop_assert_eq!(strict.missing, inferred.missing);
    }

    /// Between walks and in them: processes come, go, and go on as others, and sockets end with those who hold them.
    #[test]
    fn no_cycle_tells_of_a_link_that_is_not_there(
        host in a_world(),
        events in proptest::collection::vec((0..6_u8, any::<usize>(), an_inhabitant()), 1..24),
        parts_per_million in prop_oneof![Just(0_u32), Just(1_000_000)],
    ) {
        let mut watched = Watched::new(host, parts_per_million);
        for ((kind, which, inhabitant), serial) in events.into_iter().zip(100_u16..) {
            {
                let mut world = watched.world();
                let index = which % world.processes().len();
                match kind {
                    0 => world.close(which),
                    1 => {
                        let place = world.processes().len();
                        world.run(inhabitant.0, inhabitant.1, &[]);
                        world.place(place, inhabitant.2, inhabitant.3);
                    }
                    // It ends, and all that it alone held: what is left of it is in no cgroup and of no user.
                    2 => {
                        let held = std::mem::take(&mut world.process_mut(index).inodes);
                        world.origins.remove(&index);
                        let name = "gone".to_owned();
                        (world.process_mut(index).comm, world.process_mut(index).executable) = (name.clone(), name);
                        world.process_mut(index).access = Access::Open;
                        let kept: BTreeSet<u64> =
                            world.processes().iter().flat_map(|process| process.inodes.iter().copied()).collect();
                        for inode in held.into_iter().filter(|inode| !kept.contains(inode)) {
                            let place = world.connections().iter().position(|known| known.cookie == Cookie(inode));
                            if let Some(place) = place {
                                world.close(place);
                            }
                        }
                    }
                    3 => {
                        let process = world.process_mut(index);
                        if process.comm != "gone" {
                            (process.comm, process.executable) = (inhabitant.0.to_owned(), inhabitant.0.to_owned());
                        }
                    }
                    4 if world.origins.contains_key(&index) => {
                        world.connect_as(index, ("10.0.0.9", 40000 + serial), SERVICE, serial.into());
                        world.process_mut(index).inodes.push(serial.into());
                    }
                    _ => {}
                }
            }
            let (points, _) = watched.tell();
            let open: BTreeSet<Cookie> =
                watched.world().connections().iter().map(|connection| connection.cookie).collect();
            let truth = truly_held(&watched.world(), "app").intersection(&open).count();
            let told = up(&points).into_iter().max().unwrap_or(0);
            prop_assert!(told == 0 || truth > 0, "false up after {kind}");
        }
    }
}
