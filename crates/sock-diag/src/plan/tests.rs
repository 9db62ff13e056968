use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;
use vms_core::namespace::NamespaceId;

use Precision::{Exact, Ports};

/// So many endpoints at different addresses, and at as many ports.
fn endpoints(count: u16, ports: u16) -> Vec<Endpoint> {
    let ip = |index| Ipv4Addr::from_bits(0x0a00_0000 + u32::from(index));
    (0..count).map(|index| Endpoint::new(ip(index).into(), 1024 + index % ports * 7)).collect()
}

fn plan(count: u16, ports: u16) -> FamilyPlan {
    FamilyPlan::new(&endpoints(count, ports), 1)
}

/// What is chosen on hosts of these sizes, all sockets of which are of the family and have been counted.
fn choices(plan: &FamilyPlan, hosts: &[u32]) -> Vec<Option<Precision>> {
    hosts.iter().map(|host_sockets| plan.choose(*host_sockets, Some(all_of(*host_sockets)))).collect()
}

fn all_of(host_sockets: u32) -> Experience {
    seen(host_sockets, host_sockets)
}

fn seen(told: u32, host_sockets: u32) -> Experience {
    Experience { told, host_sockets }
}

#[test]
fn one_endpoint_is_picked_exactly_on_every_host_that_has_sockets() {
    let plan = plan(1, 1);
    let exact = Some(Exact);
    assert_eq!(choices(&plan, &[0, 1, 100, 100_000, u32::MAX]), [None, exact, exact, exact, exact]);
    let uncounted = [0, 1, 100, 100_000, u32::MAX].map(|host_sockets| plan.choose(host_sockets, None));
    assert_eq!(uncounted, [None, exact, exact, exact, exact]);
}

#[test]
fn the_more_endpoints_the_larger_a_host_has_to_be_before_a_program_pays() {
    let least = |count| {
        let plan = plan(count, count);
        (0..1_000_000).step_by(100).find(|host| plan.choose(*host, Some(all_of(*host))).is_some()).unwrap()
    };
    let [few, some, many] = [10, 100, 1000].map(least);
    assert!(few <= 100 && few < some && some < 1_000 && some < many && many < 30_000, "{few} {some} {many}");
}

#[test]
fn a_hundred_or_a_thousand_endpoints_are_picked_exactly_on_a_large_host() {
    for (count, ports) in [(100, 100), (100, 1), (1000, 1000), (1000, 10), (1000, 1)] {
        let mut plan = plan(count, ports);
        if plan.ports.is_some() {
            // At a port that most of the sockets have.
            plan.learn(seen(80_000, 100_000));
        }
        assert_eq!(choices(&plan, &[0, 100_000]), [None, Some(Exact)], "{count} at {ports}");
    }
}

#[test]
fn endpoints_that_fit_no_exact_program_are_picked_by_ports_if_any() {
    for ports in [1, 10, 200] {
        assert_eq!(choices(&plan(5000, ports), &[0, 100_000]), [None, Some(Ports)], "{ports} ports");
    }
    assert_eq!(
        choices(&plan(5000, 200), &[100]),
        [None],
        "the audit of 200 ranges costs more than 100 sockets"
    );
}

#[test]
fn a_program_for_ports_that_lets_through_too_much_is_given_up_until_the_host_is_another() {
    let mut plan = plan(5000, 10);
    plan.learn(seen(10_000, 100_000));
    assert_eq!(choices(&plan, &[60_000, 100_000, 200_000]), [Some(Ports); 3]);
    plan.learn(seen(95_000, 100_000));
    assert_eq!(choices(&plan, &[50_000, 100_000, 200_000]), [None; 3]);
    assert_eq!(choices(&plan, &[49_999, 200_001]), [Some(Ports); 2]);
    plan.learn(seen(10_000, 200_001));
    assert_eq!(choices(&plan, &[150_000]), [Some(Ports)]);
}

#[test]
fn a_program_for_ports_that_lets_through_too_much_gives_way_to_an_exact_one_where_that_pays() {
    // One port: the exact program is audited for some 10 ms.
    let mut plan = plan(1200, 1);
    assert_eq!(choices(&plan, &[40_000]), [Some(Ports)]);
    plan.learn(seen(36_000, 40_000));
    assert_eq!(choices(&plan, &[40_000]), [Some(Exact)]);
}

#[test]
fn no_program_is_audited_for_a_family_that_turned_out_to_have_few_sockets() {
    let plan = plan(1000, 1000);
    assert_eq!(plan.choose(100_000, Some(seen(90_000, 100_000))), Some(Exact));
    assert_eq!(plan.choose(100_000, Some(seen(50, 100_000))), None);
    assert_eq!(plan.choose(200_000, Some(seen(50, 100_000))), None);
}

#[test]
fn where_the_best_program_is_dear_the_first_dump_goes_without_and_counts() {
    let (dear, cheap) = (plan(1000, 1000), plan(100, 100));
    assert_eq!(dear.choose(100_000, None), None);
    assert_eq!(dear.choose(200_001, Some(seen(90_000, 100_000))), None, "the host is another");
    assert_eq!(cheap.choose(100_000, None), Some(Exact));
    assert_eq!(plan(5000, 10).choose(100_000, None), Some(Ports));
}

#[test]
fn two_dumps_share_the_sockets_of_the_host_until_they_were_counted() {
    let endpoints = endpoints(100, 100);
    let least = |dumps| {
        let plan = FamilyPlan::new(&endpoints, dumps);
        (0..100_000).find(|host| plan.choose(*host, None).is_some()).unwrap()
    };
    // To the socket, but for where halves are rounded.
    assert!(least(1) > 100 && least(2).abs_diff(2 * least(1)) <= 2);
    let ipv4 = Plan::new(&endpoints);
    let ipv6 = Plan::new(&[Endpoint::new(Ipv6Addr::LOCALHOST.into(), 443)]);
    assert_eq!((ipv4.inet.dumps, ipv4.inet6.dumps, ipv6.inet6.dumps), (2, 2, 1));
}

#[test]
fn a_program_that_the_kernel_refuses_is_not_chosen_again() {
    let mut plan = plan(1000, 10);
    assert!(!plan.program(Some(Exact)).is_empty() && !plan.program(Some(Ports)).is_empty());
    plan.discard(Some(Exact));
    assert_eq!(choices(&plan, &[100_000]), [Some(Ports)]);
    plan.discard(Some(Ports));
    assert_eq!(choices(&plan, &[u32::MAX]), [None]);
    assert!(plan.program(None).is_empty());
}

#[test]
fn a_program_for_ports_is_made_only_where_an_exact_one_costs_something() {
    assert!(plan(50, 50).ports.is_none());
    assert!(plan(100, 100).ports.is_some());
}

#[test]
fn every_number_of_endpoints_has_a_plan_on_every_host() {
    let ip = |index: u16| IpAddr::from(Ipv6Addr::new(0xfd00, index, 0, 0, 0, 0, 0, 1));
    for count in [1, 100, 1_000, 5_000, 60_000_u16] {
        let endpoints: Vec<Endpoint> = (0..count).map(|index| Endpoint::new(ip(index), index)).collect();
        let plan = Plan::new(&endpoints);
        for host_sockets in [0, 1, 1_000, 100_000, u32::MAX] {
            let family = plan.family(Family::Inet6);
            for counted in [None, Some(all_of(host_sockets))] {
                let chosen = family.choose(host_sockets, counted);
                assert_eq!(chosen.is_none(), family.program(chosen).is_empty(), "{count} on {host_sockets}");
                assert!(family.program(chosen).len() <= 65_528);
            }
        }
    }
}

#[test]
fn a_connection_with_a_port_of_an_endpoint_at_either_end_is_looked_at() {
    let connection = |local, remote| {
        let end = |port| Endpoint::new(Ipv4Addr::LOCALHOST.into(), port);
        Connection {
            local: end(local),
            remote: end(remote),
            state: vms_core::connection::TcpState::Established,
            interface: 0,
            inode: None,
            cookie: vms_core::connection::Cookie(1),
            uid: 0,
            cgroup: None,
            namespace: NamespaceId::OWN,
        }
    };
    let ports = [0, 63, 64, 443, 65_535];
    let plan = Plan::new(&ports.map(|port| Endpoint::new(Ipv6Addr::LOCALHOST.into(), port)));
    for port in (0..1000).chain(65_000..=65_535) {
        let wanted = ports.contains(&port);
        assert_eq!(plan.has_port_of(&connection(port, 1)), wanted, "{port}");
        assert_eq!(plan.has_port_of(&connection(1, port)), wanted, "{port}");
    }
    assert!(!Plan::default().has_port_of(&connection(0, 0)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever the host turns out to have, within a few dumps none costs more than one without a program.
    #[test]
    fn from_experience_no_dump_costs_more_than_one_without_a_program(
        count in 1..6000_u16,
        ports in 1..2000_u16,
        host_sockets in prop_oneof![0..2000_u32, 0..200_000_u32],
        (of_family, by_ports) in (0..=100_u32, 0..=100_u32),
    ) {
        let mut plan = plan(count, ports);
        let sockets = host_sockets / 100 * of_family;
        let told_by_ports = sockets / 100 * by_ports;
        let mut counted = None;
        for look in 0..5 {
            let chosen = plan.choose(host_sockets, counted);
            let (program, let_through) = match chosen {
                Some(Exact) => (plan.exact.as_ref().unwrap(), 0),
                Some(Ports) => (plan.ports.as_ref().unwrap(), told_by_ports),
                None => {
                    counted = Some(seen(sockets, host_sockets));
                    continue;
                }
            };
            let without = f64::from(sockets) * LET_THROUGH_NANOSECONDS;
            let cost = cost(program, f64::from(sockets), f64::from(let_through));
            // Before anything was counted, only what is cheap is tried.
            let excess = if counted.is_none() { f64::from(host_sockets) * LET_THROUGH_NANOSECONDS } else { 0.0 };
            prop_assert!(look < 2 || cost <= without + excess + 1.0, "look {look}: {chosen:?} {cost} {without}");
            if chosen == Some(Ports) {
                plan.learn(seen(told_by_ports, host_sockets));
            }
        }
    }
}
