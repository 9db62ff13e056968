use proptest::prelude::*;

use super::*;
use crate::connection::{TcpState, TcpStates};
use crate::observer::{Bounds, Finding, Taken};
use crate::process::{ProcessPattern, ProcessSelector, SelectorBuilder};
use crate::socket::{EndClause, Families, PortRange};
use crate::test_host;
use crate::watch::{Watch, WatchProbe};

fn socket(port: u16, inode: u64) -> Socket {
    test_host::socket(port, inode, Families::IPV4)
}

/// A probe for these ports, of sockets that such a process holds or anybody.
#[derive(Debug, Clone)]
struct Wish {
    ports: Vec<u16>,
    process: Option<u8>,
}

impl Wish {
    fn wants(&self, socket: &Socket) -> bool {
        self.ports.contains(&socket.connection.local.port())
    }

    fn pattern(&self) -> Option<ProcessPattern> {
        let name = self.process.map(|process| format!("process-{process}"))?;
        Some(ProcessPattern { name: name.parse().unwrap(), executable: None })
    }

    fn watch(&self, selector: &ProcessSelector) -> Watch {
        let ports = self.ports.iter().map(|port| PortRange::port(*port)).collect();
        let mut watch = Watch::new(Arc::new(WatchProbe {
            name: "watch".into(),
            process: self.pattern(),
            clause: SocketClause {
                transport: Transport::Tcp,
                families: Families::BOTH,
                states: TcpStates::of(&[TcpState::Established]),
                local: EndClause { ports, ..EndClause::default() },
                remote: EndClause::default(),
            },
            local_names: Vec::new(),
            remote_names: Vec::new(),
            bounds: Bounds { least: 0, most: None },
            by_family: false,
            interval: Duration::from_secs(1),
            labels: Vec::new(),
        }));
        watch.adopt(selector);
        watch
    }
}

fn selector(wishes: &[Wish]) -> ProcessSelector {
    let mut patterns = SelectorBuilder::default();
    for pattern in wishes.iter().filter_map(Wish::pattern) {
        patterns.add(&pattern);
    }
    patterns.build().unwrap()
}

/// Of each, whether it is shown what it asks for, where there is room for so many sockets and pairs.
fn divide(wishes: &[Wish], sockets: &[Socket], room: Room) -> Vec<Share> {
    let selector = selector(wishes);
    let watches: Vec<Watch> = wishes.iter().map(|wish| wish.watch(&selector)).collect();
    let outlook = Outlook::new(watches.iter().map(Observer::clauses));
    let mut shares: Vec<Share> =
        watches.iter().map(|watch| Share { question: watch.ask(), ..Share::default() }).collect();
    assert!(outlook.divide(sockets, &mut shares, room, &Allowance::unlimited()));
    shares
}

fn a_wish() -> impl Strategy<Value = Wish> {
    let process = prop::option::weighted(0.8, 0_u8..3);
    // Without a port it would want them all.
    (prop::collection::vec(1_u16..8, 1..4), process).prop_map(|(ports, process)| Wish { ports, process })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// An observer is shown the sockets whose holders it asks for if there is room for these and all those that others ask
    /// for who ask for no more, each counted once.
    #[test]
    fn who_asks_for_few_gets_it_in_any_order_and_what_several_ask_for_counts_once(
        wishes in prop::collection::vec(a_wish(), 1..8),
        ports in prop::collection::vec((1_u16..8, prop::bool::weighted(0.9)), 0..40),
        sockets in 0_usize..40,
        pairs in 20_usize..120,
    ) {
        let world: Vec<Socket> =
            (1..).zip(&ports).map(|(inode, (port, has_file))| socket(*port, if *has_file { inode } else { 0 })).collect();
        let asked = |wish: &Wish| -> BTreeSet<Inode> {
            let wanted = world.iter().filter(|socket| wish.process.is_some() && wish.wants(socket));
            wanted.filter_map(|socket| socket.connection.inode).collect()
        };
        for (wish, share) in wishes.iter().zip(divide(&wishes, &world, Room { sockets, pairs })) {
            let own = asked(wish);
            let others = wishes.iter().filter(|other| other.process.is_some() && asked(other).len() <= own.len());
            let (mut together, mut with_patterns) = (BTreeSet::new(), 0);
            for other in others {
                with_patterns += asked(other).len();
                together.extend(asked(other));
            }
            let has_room = wish.process.is_none() || (together.len() <= sockets && with_patterns <= pairs);
            prop_assert_eq!(share.withheld.is_none(), has_room, "{:?}", wish);
            let shown: BTreeSet<Inode> =
                share.places.iter().filter_map(|place| world[index(*place)].connection.inode).collect();
            prop_assert_eq!(shown, if has_room { own } else { BTreeSet::new() });
            let number = world.iter().filter(|socket| wish.wants(socket)).count();
            prop_assert_eq!(share.number.all, u64::try_from(number).unwrap());
        }
    }
}

/// What it takes of memory to sort so many sockets for so many observers that want all of them, beside the sockets.
fn memory(sockets: u64, observers: usize, process: Option<u8>) -> u64 {
    let wishes = vec![Wish { ports: (1..=8).collect(), process }; observers];
    let selector = selector(&wishes);
    let watches: Vec<Watch> = wishes.iter().map(|wish| wish.watch(&selector)).collect();
    let outlook = Outlook::new(watches.iter().map(Observer::clauses));
    let observers: Vec<&dyn Observer> = watches.iter().map(|watch| -> &dyn Observer { watch }).collect();
    let sockets: Vec<Socket> =
        (1..=sockets).map(|inode| socket(1 + u16::try_from(inode % 8).unwrap(), inode)).collect();
    let mut sorted = None;
    let taken = allocation_counter::measure(|| {
        sorted = Some(outlook.sort(sockets, &BTreeMap::new(), &observers, &Allowance::unlimited()));
    });
    taken.bytes_max
}

#[test]
fn memory_does_not_grow_with_the_pairs_of_sockets_and_probes() {
    // A byte a socket, and for each observer what it is told.
    let counted = memory(30_000, 100, None);
    assert!(counted < 30_000 + 100 * 400, "{counted}");
    // Who asks for too many gets no list.
    let crowded = memory(30_000, 100, Some(1));
    assert!(crowded < 30_000 + 100 * 800, "{crowded}");
    // What all of them ask for is a list for each, and one question.
    let asked = memory(5_000, 100, Some(1));
    assert!(asked < 100 * (2 * 5_000 * 4 + 800) + 5_000 * 200, "{asked}");
}

#[test]
fn what_was_not_told_is_withheld_from_those_alone_who_want_it() {
    let mut wish = Wish { ports: vec![1], process: Some(1) };
    let selector = selector(std::slice::from_ref(&wish));
    let tcp = wish.watch(&selector);
    wish.ports = vec![2];
    let udp = wish.watch(&selector);
    let mut clauses = [tcp.clauses(), udp.clauses()];
    clauses[1][0].transport = Transport::Udp;
    let outlook = Outlook::new(clauses);
    let untold = BTreeMap::from([(Transport::Udp, "no udp_diag".into())]);
    let (sight, asked) = outlook.sort(vec![socket(1, 7)], &untold, &[&tcp, &udp], &Allowance::unlimited());
    assert_eq!(asked.wanted.len(), 1);
    let show = |place| {
        let mut watch = wish.watch(&selector);
        sight.show(place, true, |seen| watch.take_in(seen).map(|taken| (taken, watch.finding())))
    };
    let Ok((Taken::Answer(_), Some(Finding::Standing(standing)))) = show(0) else { panic!("it was told") };
    assert_eq!(standing.count, 0, "nobody holds it");
    let Err(LookError::Unsurveyed(cause)) = show(1) else { panic!("it was not told") };
    assert_eq!(&*cause, "no udp_diag");
}

#[test]
fn what_there_is_no_time_to_sort_is_told_in_part_to_nobody() {
    let wishes: Vec<Wish> = [None, Some(1)].map(|process| Wish { ports: vec![1], process }).into();
    let selector = selector(&wishes);
    let sockets: Vec<Socket> = (1..=3_000).map(|inode| socket(1, inode)).collect();
    let mut watches: Vec<Watch> = wishes.iter().map(|wish| wish.watch(&selector)).collect();
    // Whoever wants no socket is told what else it asks for.
    let clauses = watches.iter().map(Observer::clauses).chain([Vec::new()]);
    let outlook = Outlook::new(clauses);
    let none = wishes[0].watch(&selector);
    for (units, is_whole) in [(100, false), (3_500, false), (10_000, true)] {
        let observers: Vec<&dyn Observer> = vec![&watches[0], &watches[1], &none];
        let allowance = Allowance::of_units(units);
        let (sight, asked) = outlook.sort(sockets.clone(), &BTreeMap::new(), &observers, &allowance);
        assert_eq!(asked.wanted.len(), if is_whole { sockets.len() } else { 0 }, "{units}");
        for (place, watch) in watches.iter_mut().enumerate() {
            let told = sight.show(place, true, |seen| watch.take_in(seen));
            match told {
                Ok(_) => assert!(is_whole, "{units}"),
                Err(error) => assert!(matches!(error, LookError::CutShort) && !is_whole, "{units}: {error}"),
            }
        }
        assert!(sight.show(2, true, |seen| Ok(seen.number)).is_ok_and(|number| number == Number::default()));
    }
}
