use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};

use vms_core::address::Endpoint;
use vms_core::connection::{Cookie, TcpState, TcpStates};

use super::*;

fn tables() -> Tables {
    let open = |name: &str| OwnedFd::from(File::open(format!("/proc/self/net/{name}")).unwrap());
    let kept = SocketTables { inet: open("tcp"), inet6: Some(open("tcp6")) };
    Tables { namespace: NamespaceId(5), kept: Arc::new(kept) }
}

fn twin(ip: IpAddr) -> (TcpListener, TcpStream, TcpStream, Endpoint) {
    let listener = TcpListener::bind((ip, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let client = TcpStream::connect(address).unwrap();
    let server = listener.accept().unwrap().0;
    (listener, client, server, Endpoint::new(address.ip(), address.port()))
}

#[test]
fn open_tables_are_read_anew_each_time_and_tell_what_was_asked_for() {
    let tables = tables();
    for ip in [Ipv4Addr::LOCALHOST.into(), IpAddr::from(Ipv6Addr::LOCALHOST)] {
        let (listener, client, server, service) = twin(ip);
        let filter = ConnectionFilter::new(TcpStates::of(&[TcpState::Established]), [service]);
        // More than one page.
        let _others: Vec<_> = (0..40).map(|_other| twin(ip)).collect();
        let found = tables.dump(&filter).unwrap();
        assert_eq!(found.len(), 2, "both ends: {found:?}");
        assert!(found.iter().all(|one| one.namespace == NamespaceId(5) && one.inode.is_some()));
        let sightings = tables.lookup(&found).unwrap();
        assert!(sightings.iter().zip(&found).all(|(seen, one)| seen.unwrap().connection == *one));
        assert!(sightings.iter().all(|seen| seen.unwrap().vitals.is_none()));

        // Another socket at the same endpoints is another, and one at others, too.
        let other = Connection { cookie: Cookie(found[0].cookie.0 + 1), ..found[0] };
        let moved = Connection { local: Endpoint::new(ip, 1), ..found[0] };
        assert_eq!(tables.lookup(&[other, moved]).unwrap(), [None, None]);

        drop(client);
        let states = |found: &[Connection]| {
            let told = tables.lookup(found).unwrap();
            told.iter().map(|seen| seen.map(|seen| seen.connection.state)).collect::<Vec<_>>()
        };
        assert!(states(&found).iter().all(|state| *state != Some(TcpState::Established)));
        assert!(tables.dump(&filter).unwrap().is_empty());
        drop((server, listener));
    }
}

#[test]
fn what_is_no_table_is_a_failure_and_not_an_empty_one() {
    let filter = ConnectionFilter::new(
        TcpStates::of(&[TcpState::Established]),
        [Endpoint::new(Ipv4Addr::LOCALHOST.into(), 1)],
    );
    for path in ["/dev/null", "/proc/self/status", "/proc/self"] {
        let open = || OwnedFd::from(File::open(path).unwrap());
        let kept = SocketTables { inet: open(), inet6: None };
        let tables = Tables { namespace: NamespaceId(5), kept: Arc::new(kept) };
        let error = tables.dump(&filter).unwrap_err();
        assert!(matches!(error, Error::MalformedTable(_) | Error::ReadTable(_)), "{path}: {error:?}");
    }
}

#[test]
fn a_table_without_end_is_not_read_to_its_end() {
    let _ends: Vec<_> = (0..40).map(|_end| twin(Ipv4Addr::LOCALHOST.into())).collect();
    let tables = tables();
    let read = |most| {
        let mut told = 0;
        let table = Table::new(Family::Inet, NamespaceId(5));
        let outcome = read_table(&tables.kept.inet, table, most, &mut |_connection| {
            told += 1;
            Ok(())
        });
        (outcome, told)
    };
    let (outcome, told) = read(10);
    assert!(matches!(outcome, Err(Error::TooMany)), "{outcome:?}");
    assert!(told < 100, "one piece has less than that: {told}");
    assert!(read(MAX_TOLD).0.is_ok());
    // What there is no room for ends the reading at once.
    let mut taken = 0;
    let full =
        read_table(&tables.kept.inet, Table::new(Family::Inet, NamespaceId(5)), MAX_TOLD, &mut |_one| {
            taken += 1;
            Err(Error::TooMany)
        });
    assert!(matches!(full, Err(Error::TooMany)));
    assert_eq!(taken, 1);
}
