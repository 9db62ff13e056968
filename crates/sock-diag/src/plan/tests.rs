use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;

use Precision::{Exact, Ports};

/// So many endpoints at different addresses, and at as many ports.
fn endpoints(count: u16, ports: u16) -> Vec<Endpoint> {
    let ip = |index| Ipv4Addr::from_bits(0x0a00_0000 + u32::from(index));
    (0..count).map(|index| Endpoint::new(ip(index).into(), 1024 + index % ports * 7)).collect()
}

fn plan(count: u16, ports: u16) -> FamilyPlan {
    FamilyPlan::new(&endpoints(count, ports), 1)
}

fn choices(plan: &FamilyPlan, hosts: &[u32]) -> Vec<Option<Precision>> {
    hosts.iter().map(|host_sockets| plan.choose(*host_sockets)).collect()
}

#[test]
fn one_endpoint_is_picked_exactly_on_every_host_that_has_sockets() {
    assert_eq!(
        choices(&plan(1, 1), &[0, 1, 100, 100_000, u32::MAX]),
        [None, Some(Exact), Some(Exact), Some(Exact), Some(Exact)]
    );
}

#[test]
fn the_more_endpoints_the_larger_a_host_has_to_be_before_a_program_pays() {
    let least = |count| (0..1_000_000).step_by(100).find(|host| plan(count, count).choose(*host).is_some());
    let [few, some, many] = [10, 100, 1000].map(|count| least(count).unwrap());
    assert!(few <= 100 && few < some && some < 1_000 && some < many && many < 30_000, "{few} {some} {many}");
}

#[test]
fn a_hundred_or_a_thousand_endpoints_are_picked_exactly_on_a_large_host() {
    for (count, ports) in [(100, 100), (100, 1), (1000, 1000), (1000, 10), (1000, 1)] {
        assert_eq!(choices(&plan(count, ports), &[0, 100_000]), [None, Some(Exact)], "{count} at {ports}");
    }
}

#[test]
fn endpoints_that_fit_no_exact_program_are_picked_by_ports_if_any() {
    for ports in [1, 10, 200] {
        assert_eq!(choices(&plan(5000, ports), &[0, 100_000]), [None, Some(Ports)], "{ports} ports");
    }
    assert_eq!(plan(5000, 200).choose(100), None, "the audit of 200 ranges takes longer than 100 sockets");
}

#[test]
fn a_program_for_ports_that_lets_through_too_much_is_given_up_until_the_host_is_another() {
    let mut plan = plan(5000, 10);
    plan.learn(Some(Ports), 10_000, 100_000);
    assert_eq!(choices(&plan, &[60_000, 100_000, 200_000]), [Some(Ports); 3]);
    plan.learn(Some(Ports), 95_000, 100_000);
    assert_eq!(choices(&plan, &[50_000, 100_000, 200_000]), [None; 3]);
    assert_eq!(choices(&plan, &[49_999, 200_001]), [Some(Ports); 2]);
    plan.learn(Some(Ports), 10_000, 200_001);
    assert_eq!(plan.choose(150_000), Some(Ports));
}

#[test]
fn a_program_for_ports_that_lets_through_too_much_gives_way_to_an_exact_one_where_that_pays() {
    // One port: the exact program is audited for some 10 ms.
    let mut plan = plan(1200, 1);
    assert_eq!(plan.choose(40_000), Some(Ports));
    plan.learn(Some(Ports), 36_000, 40_000);
    assert_eq!(plan.choose(40_000), Some(Exact));
}

#[test]
fn no_program_is_audited_for_a_family_that_turned_out_to_have_few_sockets() {
    let mut plan = plan(100, 100);
    assert_eq!(plan.choose(200), None);
    plan.learn(None, 3, 200);
    assert_eq!(choices(&plan, &[300, 400, 401]), [None, None, Some(Exact)]);
    plan.learn(None, 400, 400);
    assert_eq!(plan.choose(400), Some(Exact));
}

#[test]
fn two_dumps_share_the_sockets_of_the_host_until_they_were_counted() {
    let endpoints = endpoints(500, 500);
    let least = |dumps| {
        let plan = FamilyPlan::new(&endpoints, dumps);
        (0..100_000).find(|host| plan.choose(*host).is_some()).unwrap()
    };
    // To the socket, but for where halves are rounded.
    assert!(least(2).abs_diff(2 * least(1)) <= 2);
    let ipv4 = Plan::new(&endpoints);
    let ipv6 = Plan::new(&[Endpoint::new(Ipv6Addr::LOCALHOST.into(), 443)]);
    assert_eq!((ipv4.inet.dumps, ipv4.inet6.dumps, ipv6.inet6.dumps), (2, 2, 1));
}

#[test]
fn a_program_that_the_kernel_refuses_is_not_chosen_again() {
    let mut plan = plan(1000, 10);
    assert!(!plan.program(Some(Exact)).is_empty() && !plan.program(Some(Ports)).is_empty());
    plan.discard(Some(Exact));
    assert_eq!(plan.choose(100_000), Some(Ports));
    plan.discard(Some(Ports));
    assert_eq!(plan.choose(u32::MAX), None);
    assert!(plan.program(None).is_empty());
}

#[test]
fn a_program_for_ports_is_made_only_where_an_exact_one_costs_something() {
    assert!(plan(50, 50).ports.is_none());
    assert!(plan(100, 100).ports.is_some());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Once it was seen what each way tells, none is taken that costs more than to do without.
    #[test]
    fn what_is_chosen_from_experience_never_costs_more_than_no_program(
        count in 1..6000_u16,
        ports in 1..2000_u16,
        host_sockets in prop_oneof![0..2000_u32, 0..200_000_u32],
        of_family in 0.0..=1.0,
        by_ports in 0.0..=1.0,
    ) {
        let mut plan = plan(count, ports);
        let sockets = f64::from(host_sockets) * of_family;
        let whole = |number: f64| format!("{number:.0}").parse::<u32>().unwrap();
        let told = |precision: Option<Precision>| match precision {
            Some(Exact) => 0,
            Some(Ports) => whole(sockets * by_ports),
            None => whole(sockets),
        };
        // Each look teaches what it saw: no way is tried twice that another undercuts.
        let mut last = None;
        for _look in 0..4 {
            last = plan.choose(host_sockets);
            plan.learn(last, told(last), host_sockets);
        }
        plan.learn(None, told(None), host_sockets);
        plan.learn(Some(Ports), told(Some(Ports)), host_sockets);
        let chosen = plan.choose(host_sockets);
        let program = match chosen {
            Some(Exact) => plan.exact.as_ref(),
            Some(Ports) => plan.ports.as_ref(),
            None => None,
        };
        let without = f64::from(told(None)) * LET_THROUGH_NANOSECONDS;
        if let Some(program) = program {
            prop_assert!(cost(program, f64::from(told(None)), f64::from(told(chosen))) <= without + 1.0);
        }
        prop_assert!(last.is_none() || !plan.program(last).is_empty());
    }
}

#[test]
fn every_number_of_endpoints_has_a_plan_on_every_host() {
    let ip = |index: u16| IpAddr::from(Ipv6Addr::new(0xfd00, index, 0, 0, 0, 0, 0, 1));
    for count in [1, 100, 1_000, 5_000, 60_000_u16] {
        let endpoints: Vec<Endpoint> = (0..count).map(|index| Endpoint::new(ip(index), index)).collect();
        let plan = Plan::new(&endpoints);
        for host_sockets in [0, 1, 1_000, 100_000, u32::MAX] {
            let family = plan.family(Family::Inet6);
            let chosen = family.choose(host_sockets);
            assert_eq!(chosen.is_none(), family.program(chosen).is_empty(), "{count} on {host_sockets}");
            assert!(family.program(chosen).len() <= 65_528);
        }
    }
}
