use super::*;

fn end(text: &str) -> Endpoint {
    let address: std::net::SocketAddr = text.parse().unwrap();
    Endpoint::new(address.ip(), address.port())
}

fn table(entries: u32) -> Table {
    Table { entries, buckets: 262_144 }
}

/// As many IPv4 services at ports of their own.
fn services(count: u16) -> Vec<Endpoint> {
    (1..=count).map(|port| Endpoint::new([10, 96, 0, 10].into(), port)).collect()
}

const EVERYTHING: [(Family, Filter); 1] = [(Family::Any, Filter::None)];

#[test]
fn one_service_is_asked_for_alone_whatever_the_table_holds() {
    for entries in [0, 1_000_000] {
        let ipv4 = choose(&[end("10.96.0.10:80")], true, table(entries));
        assert_eq!(ipv4, [(Family::Inet, Filter::Service([10, 96, 0, 10].into(), 80))]);
        let ipv6 = choose(&[end("[fd00::a]:80"), end("[fd00::b]:80")], true, table(entries));
        assert_eq!(
            ipv6,
            [(Family::Inet6, Filter::Port(80))],
            "and those of one port, where that is the filter"
        );
    }
}

#[test]
fn of_a_table_with_little_in_it_everything_is_told_in_one_walk() {
    assert_eq!(choose(&services(2), true, table(1_000)), [(Family::Inet, Filter::Tcp)]);
    let both = [end("10.96.0.10:80"), end("[fd00::a]:80")];
    assert_eq!(choose(&both, true, table(1_000)), EVERYTHING);
    assert_eq!(choose(&both, true, table(200_000)).len(), 2);
    // Two walks more are as dear as telling these.
    assert_eq!(choose(&services(3), true, table(11_600)).len(), 1);
    assert_eq!(choose(&services(3), true, table(11_700)).len(), 3);
}

#[test]
fn many_services_are_asked_for_together() {
    assert_eq!(choose(&services(1_000), true, LARGE), [(Family::Inet, Filter::Tcp)]);
}

#[test]
fn without_services_or_filters_there_is_nothing_to_choose() {
    assert_eq!(choose(&[], true, LARGE), []);
    assert_eq!(choose(&[], false, LARGE), []);
    assert_eq!(choose(&services(3), false, LARGE), EVERYTHING);
}

#[test]
fn a_table_whose_size_is_not_told_is_a_large_one() {
    assert_eq!(read_table(Path::new("/nowhere")), LARGE);
    let real = read_table(Path::new("/proc"));
    assert!(real.buckets > 0, "{real:?}");
}
