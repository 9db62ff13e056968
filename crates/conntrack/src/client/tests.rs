use vms_netlink::script::Event::{Answer, ReceiveError};
use vms_netlink::script::{Event, Script, attribute, done, done_with, message, refusal};

use super::*;

/// A table in which telling all is dear.
const LARGE: Table = Table { entries: 1 << 18, buckets: 1 << 18 };

impl Client<Script> {
    fn read_large(&mut self, services: &[Endpoint]) -> Result<Vec<Translation>, Error> {
        self.read(services, || LARGE)
    }
}

fn end(host: u8, port: u16) -> Endpoint {
    Endpoint::new([10, 0, 0, host].into(), port)
}

fn tuple(kind: u16, protocol: u8, source: Endpoint, destination: Endpoint) -> Vec<u8> {
    let octets = |end: Endpoint| match end.ip() {
        std::net::IpAddr::V4(ip) => ip.octets(),
        std::net::IpAddr::V6(ip) => panic!("{ip}"),
    };
    let addresses = [attribute(1, &octets(source)), attribute(2, &octets(destination))].concat();
    let ports = [
        attribute(1, &[protocol]),
        attribute(2, &source.port().to_be_bytes()),
        attribute(3, &destination.port().to_be_bytes()),
    ]
    .concat();
    attribute(kind, &[attribute(1, &addresses), attribute(2, &ports)].concat())
}

/// What tells that the client at that port asked for the service, and that the back end answers.
fn entry_of(protocol: u8, port: u16, service: Endpoint, backend: Endpoint) -> Vec<u8> {
    let client = end(9, port);
    let payload =
        [vec![2, 0, 0, 0], tuple(1, protocol, client, service), tuple(2, protocol, backend, client)].concat();
    message(0x100, 2, &payload)
}

fn entry(port: u16, service: Endpoint, backend: Endpoint) -> Vec<u8> {
    entry_of(6, port, service, backend)
}

fn client(exchanges: impl IntoIterator<Item = Vec<Event>>) -> Client<Script> {
    Client::new(Line::new(Script::new(exchanges)))
}

fn translation(port: u16, service: Endpoint, backend: Endpoint) -> Translation {
    Translation { backend, peer: end(9, port), service, source: end(9, port) }
}

/// Whether each request had a filter.
fn filtered(client: &Client<Script>) -> Vec<bool> {
    client.line.transport.requests.iter().map(|request| request.len() > 20).collect()
}

const SERVICE_PORT: u16 = 80;

fn service() -> Endpoint {
    end(1, SERVICE_PORT)
}

fn backend() -> Endpoint {
    end(2, 8080)
}

#[test]
fn translations_to_the_service_are_told_and_nothing_else() {
    let told = [entry(1, service(), backend()), entry(2, service(), service()), done()].concat();
    let mut client = client([vec![Answer(told)]]);
    assert_eq!(client.read_large(&[service()]).unwrap(), [translation(1, service(), backend())]);
    assert_eq!(filtered(&client), [true]);
    assert_eq!(client.read_large(&[]).unwrap(), [], "nothing is asked for nothing");
}

#[test]
fn a_kernel_that_passes_over_filters_is_asked_for_all_once_and_from_then_on() {
    for foreign in [entry(3, end(7, 7), backend()), entry_of(17, 3, service(), service())] {
        let all = [entry(1, service(), backend()), foreign, done()].concat();
        let services = [service(), end(4, 4)];
        let script = [vec![Answer(all.clone())], vec![Answer(all.clone())], vec![Answer(all)]];
        let mut client = client(script);
        for _look in 0..2 {
            assert_eq!(client.read_large(&services).unwrap(), [translation(1, service(), backend())]);
        }
        assert_eq!(filtered(&client), [true, false, false]);
    }
}

#[test]
fn a_kernel_that_refuses_filters_is_asked_without() {
    for errno in [Errno::INVAL, Errno::OPNOTSUPP] {
        let all = [entry(1, service(), backend()), done()].concat();
        let mut client = client([vec![Answer(refusal(errno.raw_os_error()))], vec![Answer(all)]]);
        assert_eq!(client.read_large(&[service()]).unwrap().len(), 1, "{errno:?}");
    }
}

#[test]
fn many_services_are_asked_for_together() {
    let services: Vec<Endpoint> = (1..=99).filter(|port| *port != 98).map(|port| end(1, port)).collect();
    let told = [entry(1, end(1, 9), backend()), entry(2, end(1, 98), backend()), done()].concat();
    let mut client = client([vec![Answer(told)]]);
    assert_eq!(client.read_large(&services).unwrap(), [translation(1, end(1, 9), backend())]);
}

#[test]
fn an_interrupted_dump_is_begun_afresh_and_given_up_after_some() {
    let whole = || vec![Answer([entry(1, service(), backend()), done()].concat())];
    for event in [ReceiveError(Errno::NOBUFS), Answer(refusal(4)), Answer(done_with(11))] {
        let exchange = vec![event];
        let mut client = client([exchange.clone(), whole()]);
        assert_eq!(client.read_large(&[service()]).unwrap().len(), 1);
        assert_eq!(client.line.transport.reopened, 2);
        let mut client = self::client(vec![exchange; 4]);
        assert!(matches!(client.read_large(&[service()]), Err(Error::Interrupted { attempts: 4 })));
    }
}

#[test]
fn what_broke_off_is_never_told_as_none() {
    type IsExpected = fn(&Error) -> bool;
    let cases: [(Vec<Event>, IsExpected); 5] = [
        (vec![Answer(refusal(1))], |error| matches!(error, Error::PermissionMissing { .. })),
        (vec![Answer(done_with(12))], |error| matches!(error, Error::Io { .. })),
        (vec![Answer(message(0x100, 2, &[2, 0, 0, 0]))], |error| matches!(error, Error::Malformed(_))),
        (vec![Answer(vec![1, 2, 3])], |error| matches!(error, Error::Malformed(_))),
        (vec![ReceiveError(Errno::AGAIN)], |error| matches!(error, Error::Io { .. })),
    ];
    for (exchange, is_expected) in cases {
        let error = client([exchange]).read_large(&[service()]).unwrap_err();
        assert!(is_expected(&error), "{error:?}");
    }
    // A subsystem that is not there says EINVAL to anything.
    let script = [vec![Answer(refusal(22))], vec![Answer(refusal(22))]];
    assert!(matches!(client(script).read_large(&[service()]), Err(Error::Unsupported { .. })));
    for errno in [Errno::PROTONOSUPPORT, Errno::AFNOSUPPORT, Errno::MFILE] {
        let mut client = client([]);
        client.line.transport.open_error = Some(errno);
        let error = client.read_large(&[service()]).unwrap_err();
        assert_eq!(
            (matches!(error, Error::Unsupported { .. }), matches!(error, Error::PermissionMissing { .. })),
            (errno == Errno::PROTONOSUPPORT, errno == Errno::AFNOSUPPORT)
        );
    }
}

#[test]
fn more_than_there_is_room_for_is_an_error() {
    let many: Vec<u8> = (1..=4).flat_map(|port| entry(port, service(), end(2, port))).collect();
    let rooms = [
        Room { told: 3, found: 9, backends: 9 },
        Room { told: 9, found: 3, backends: 9 },
        Room { told: 9, found: 9, backends: 3 },
    ];
    for room in rooms {
        let mut client = client([vec![Answer(many.clone()), Answer(done())]]);
        client.room = room;
        assert!(matches!(client.read_large(&[service()]), Err(Error::TooMany)), "{room:?}");
    }
    let mut client = client([vec![Answer(many), Answer(done())]]);
    client.room = Room { told: 4, found: 4, backends: 4 };
    assert_eq!(client.read_large(&[service()]).unwrap().len(), 4);
}
