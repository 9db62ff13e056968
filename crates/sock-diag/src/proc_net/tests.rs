use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

/// The heading, a connection, a listener, one in `TIME_WAIT`, and one in a backlog.
const INET: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode                                                     \n\
    \u{20}  0: 0100007F:9C40 0200007F:1B58 01 00000000:00000000 00:00000000 00000000 65534        0 31415 1 0000000000000000 20 4 30 10 -1                 \n\
    \u{20}  1: 00000000:1B58 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 7 1 0000000000000000 100 0 0 10 0                     \n\
    \u{20}  2: 0100007F:1B58 0200007F:9C40 06 00000000:00000000 03:00000F4B 00000000     0        0 0 3 0000000000000000                                      \n\
    \u{20} 13: 0100007F:1B58 0300007F:9C40 01 0000000A:00000005 02:1FFFFFFFFFF 00000002     0        0 0 3 0000000000000000 20 4 30 10 -1\n";

const INET6: &str = "  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
    \u{20}  0: 0000000000000000FFFF00000100007F:9C40 0000000000000000FFFF00000200007F:1B58 01 00000000:00000000 00:00000000 00000000     0        0 9 1 0000000000000000 20 4 30 10 -1\n\
    \u{20}  1: B80D0120000000000000000001000000:9C40 B80D0120000000000000000002000000:1B58 02 00000001:00000000 01:00000064 00000000     0        0 10 2 0000000000000000 100 0 0 1 7\n";

const THERE: NamespaceId = NamespaceId(5);

fn read(text: &[u8], family: Family, pieces: &[usize]) -> Result<Vec<Connection>, BadLine> {
    let mut told = Vec::new();
    let mut table = Table::new(family, THERE);
    let mut rest = text;
    for piece in pieces {
        let (piece, others) = rest.split_at((*piece).min(rest.len()));
        table.take(piece, |connection| told.push(connection))?;
        rest = others;
    }
    table.take(rest, |connection| told.push(connection))?;
    table.finish()?;
    Ok(told)
}

fn endpoint(text: &str) -> Endpoint {
    let address: std::net::SocketAddr = text.parse().unwrap();
    Endpoint::new(address.ip(), address.port())
}

#[test]
fn each_line_is_a_socket_with_its_endpoints_state_user_and_inode() {
    use TcpState::{Established, Listen, SynSent, TimeWait};

    let told = read(INET.as_bytes(), Family::Inet, &[]).unwrap();
    let of = |one: &Connection| (one.local, one.remote, one.state, one.uid, one.inode.map(Inode::get));
    let (near, far) = (endpoint("127.0.0.1:40000"), endpoint("127.0.0.2:7000"));
    assert_eq!(of(&told[0]), (near, far, TcpState::Established, 65_534, Some(31_415)));
    let states: Vec<TcpState> = told.iter().map(|one| one.state).collect();
    assert_eq!(states, [Established, Listen, TimeWait, Established]);
    assert_eq!(told[3].inode, None);
    assert!(told.iter().all(|one| one.namespace == THERE && one.cookie.is_stand_in()));
    let told = read(INET6.as_bytes(), Family::Inet6, &[]).unwrap();
    assert_eq!((told[0].local, told[0].remote), (near, far), "mapped");
    assert_eq!(
        (told[1].local, told[1].remote),
        (endpoint("[2001:db8::1]:40000"), endpoint("[2001:db8::2]:7000"))
    );
    assert_eq!(told[1].state, SynSent);
}

#[test]
fn a_cookie_that_stands_in_is_that_of_one_socket_and_never_the_kernels() {
    let told = read(INET.as_bytes(), Family::Inet, &[]).unwrap();
    let mut cookies: Vec<Cookie> = told.iter().map(|one| one.cookie).collect();
    let mut table = Table::new(Family::Inet, NamespaceId(6));
    table.take(INET.as_bytes(), |one| cookies.push(one.cookie)).unwrap();
    cookies.sort_unstable();
    cookies.dedup();
    // Inodes are the same in any namespace; what has none is another in each.
    assert_eq!(cookies.len(), 2 + 4);
    for kernels in [1, 1 << 40, u64::MAX, u64::MAX - (1 << 40)] {
        assert!(!Cookie(kernels).is_stand_in());
    }
}

#[test]
fn what_the_kernel_does_not_write_is_told_with_its_line() {
    let line = |text: &str| INET.replace("0100007F:9C40 0200007F:1B58 01 00000000:00000000", text);
    for (text, expected) in [
        ("0100007f:9C40 0200007F:1B58 01 00000000:00000000", "the local endpoint"),
        ("0100007F9C40 0200007F:1B58 01 00000000:00000000", "the local endpoint"),
        ("0100007F:9C40 0200007F:1B5 01 00000000:00000000", "the remote endpoint"),
        ("0100007F:9C40 000200007F:1B58 01 00000000:00000000", "the remote endpoint"),
        ("0100007F:9C40 0200007F:1B58 00 00000000:00000000", "a TCP state"),
        ("0100007F:9C40 0200007F:1B58 0E 00000000:00000000", "a TCP state"),
        ("0100007F:9C40 0200007F:1B58 01 00000000", "the queues"),
        ("0100007F:9C40 0200007F:1B58 00000000:00000000", "a TCP state"),
    ] {
        let told = read(line(text).as_bytes(), Family::Inet, &[]);
        assert_eq!(told, Err(BadLine { line: 2, expected }), "{text}");
    }
    let replaced = |from: &str, to: &str| read(INET.replace(from, to).as_bytes(), Family::Inet, &[]);
    assert_eq!(replaced("31415", "-1"), Err(BadLine { line: 2, expected: "the inode" }));
    assert_eq!(replaced("65534", "4294967296"), Err(BadLine { line: 2, expected: "the user" }));
    assert_eq!(replaced("  13:", "  13"), Err(BadLine { line: 5, expected: "the number of the line" }));
    assert_eq!(replaced("  sl  ", "  "), Err(BadLine { line: 1, expected: "the heading" }));
    assert!(
        read(INET.as_bytes(), Family::Inet6, &[]).is_err()
            && read(INET6.as_bytes(), Family::Inet, &[]).is_err()
    );
    let long = [INET, &"9".repeat(MAX_LINE_BYTES + 1)].concat();
    assert_eq!(
        read(long.as_bytes(), Family::Inet, &[]),
        Err(BadLine { line: 6, expected: "the end of the line" })
    );
}

#[test]
fn every_truncation_within_a_line_errs() {
    for (text, family) in [(INET, Family::Inet), (INET6, Family::Inet6)] {
        for end in 0..text.len() {
            let part = &text.as_bytes()[..end];
            assert_eq!(read(part, family, &[]).is_ok(), part.ends_with(b"\n"), "{end}");
        }
    }
}

proptest! {
    #[test]
    fn however_it_is_cut_into_pieces_it_says_the_same(pieces in vec(0_usize..400, 0..20)) {
        for (text, family) in [(INET, Family::Inet), (INET6, Family::Inet6)] {
            prop_assert_eq!(read(text.as_bytes(), family, &pieces), read(text.as_bytes(), family, &[]));
        }
    }

    /// No mutation panics or is passed over: each line is a socket, or the table is none.
    #[test]
    fn a_mutation_loses_no_line(changes in vec((any::<Index>(), any::<u8>()), 1..4), pieces in vec(0_usize..400, 0..4)) {
        for (text, family) in [(INET, Family::Inet), (INET6, Family::Inet6)] {
            let mut text = text.as_bytes().to_vec();
            for (place, byte) in &changes {
                *place.get_mut(&mut text) = *byte;
            }
            let told = read(&text, family, &pieces);
            prop_assert_eq!(&told, &read(&text, family, &[]));
            if let Ok(told) = told {
                let lines = text.split(|byte| *byte == b'\n').count();
                prop_assert_eq!(told.len() + 2, lines);
            }
        }
    }

    #[test]
    fn noise_is_no_table(noise in vec(any::<u8>(), 0..2000), pieces in vec(0_usize..400, 0..4)) {
        for family in [Family::Inet, Family::Inet6] {
            prop_assert_eq!(read(&noise, family, &pieces), read(&noise, family, &[]));
        }
    }
}
