use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::connection::{Cookie, TcpState};
use crate::namespace::NamespaceId;

fn connection(local: Endpoint, remote: Endpoint) -> Connection {
    Connection {
        local,
        remote,
        state: TcpState::Established,
        interface: 0,
        inode: None,
        cookie: Cookie(1),
        uid: 0,
        cgroup: None,
        namespace: NamespaceId::OWN,
    }
}

fn an_end() -> impl Strategy<Value = Endpoint> {
    (0_u8..3, 0_u16..2).prop_map(|(host, port)| Endpoint::new([10, 0, 0, host].into(), port))
}

fn a_translation() -> impl Strategy<Value = Translation> {
    (an_end(), an_end(), an_end(), an_end()).prop_map(|(backend, peer, service, source)| Translation {
        backend,
        peer,
        service,
        source,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn an_end_is_found_by_both_of_its_endpoints_and_never_by_one(
        told in vec(a_translation(), 0..12),
        local in an_end(),
        remote in an_end(),
    ) {
        let translations = Translations::new(told.clone());
        let socket = connection(local, remote);
        let mut services: Vec<Endpoint> = told
            .iter()
            .filter(|known| (known.backend, known.peer) == (local, remote))
            .map(|known| known.service)
            .collect();
        services.sort_unstable();
        services.dedup();
        prop_assert_eq!(translations.services(&socket).collect::<Vec<_>>(), services);

        let backends: Vec<Endpoint> = told
            .iter()
            .filter(|known| (known.source, known.service) == (local, remote))
            .map(|known| known.backend)
            .collect();
        match translations.backend(&socket) {
            Some(found) => prop_assert!(backends.contains(&found)),
            None => prop_assert!(backends.is_empty()),
        }
        prop_assert!(translations.backends().is_sorted_by(|one, next| one < next));
        prop_assert!(told.iter().all(|known| translations.backends().contains(&known.backend)));
    }
}

#[test]
fn what_is_said_of_endpoints_that_are_there_twice_is_forgotten() {
    let end = |host, port| Endpoint::new([10, 0, 0, host].into(), port);
    let of = |client| Translation {
        backend: end(2, 8080),
        peer: end(client, 40_000),
        service: end(1, 80),
        source: end(client, 40_000),
    };
    let told = Translations::new(vec![of(8), of(9)]);
    let services = HashSet::from([end(1, 80)]);
    let without = |pair| told.without(&[pair].into());
    assert_eq!(without((end(2, 8080), end(8, 40_000))), (Translations::new(vec![of(9)]), services.clone()));
    assert_eq!(without((end(9, 40_000), end(1, 80))), (Translations::new(vec![of(8)]), services));
    assert_eq!(without((end(7, 1), end(7, 2))), (told.clone(), HashSet::new()));
}
