use super::*;

#[test]
fn state_numbers_are_the_kernels() {
    for (index, state) in TcpState::ALL.into_iter().enumerate() {
        assert_eq!(usize::from(state.number()), index + 1);
        assert_eq!(TcpState::from_number(state.number()), Some(state));
    }
    assert_eq!(TcpState::from_number(0), None);
    assert_eq!(TcpState::from_number(14), None);
}

#[test]
fn a_state_set_holds_what_it_was_made_of_and_nothing_else() {
    let set = TcpStates::of(&[TcpState::Established, TcpState::SynSent]);
    assert_eq!(set.bits(), 0b110);
    for state in TcpState::ALL {
        assert_eq!(set.contains(state), matches!(state, TcpState::Established | TcpState::SynSent));
    }
}

#[test]
fn a_filter_wants_either_end_and_only_its_states() {
    let service = Endpoint::new("10.0.0.1".parse().unwrap(), 5432);
    let other = Endpoint::new("10.0.0.2".parse().unwrap(), 40000);
    let filter = ConnectionFilter::new(TcpStates::of(&[TcpState::Established]), [service, service]);
    assert_eq!(filter.endpoints(), [service]);
    let connection = |local, remote, state| Connection {
        local,
        remote,
        state,
        interface: 0,
        inode: Inode::new(7),
        cookie: Cookie(9),
        uid: 0,
        cgroup: None,
        namespace: NamespaceId::OWN,
    };
    assert!(filter.matches(&connection(other, service, TcpState::Established)));
    assert!(filter.matches(&connection(service, other, TcpState::Established)));
    assert!(!filter.matches(&connection(other, other, TcpState::Established)));
    assert!(!filter.matches(&connection(other, service, TcpState::CloseWait)));
    let same_port = Endpoint::new("10.0.0.3".parse().unwrap(), 5432);
    assert!(!filter.matches(&connection(other, same_port, TcpState::Established)));
}
