use rustix::net::sockopt::socket_timeout;
use vms_core::connection::{TcpState, TcpStates};

use super::*;
use crate::codec::{DumpRequest, Family};

#[test]
fn receiving_does_not_wait_forever() {
    let (socket, _) = NetlinkSocket::open().unwrap();
    assert_eq!(socket_timeout(&socket.fd, Timeout::Recv), Ok(Some(RECEIVE_TIMEOUT)));
}

#[test]
fn a_socket_has_a_port_id_from_the_beginning_and_nothing_to_receive() {
    let (mut socket, port_id) = NetlinkSocket::open().unwrap();
    assert_ne!(port_id, KERNEL.pid());
    set_socket_timeout(&socket.fd, Timeout::Recv, Some(Duration::from_millis(1))).unwrap();
    assert_eq!(socket.receive(&mut [0; 64]), Err(Errno::AGAIN));
}

#[test]
fn a_datagram_that_is_cut_off_tells_its_whole_length() {
    let (mut socket, _) = NetlinkSocket::open().unwrap();
    let states = TcpStates::of(&[TcpState::Established]);
    let mut request = Vec::new();
    // A program that rejects everything: the reply is an NLMSG_DONE of 20 bytes.
    let program = crate::bytecode::compile_exact(&[]).unwrap();
    DumpRequest { sequence: 1, family: Family::Inet, states, program: program.bytes() }
        .encode(&mut request)
        .unwrap();
    socket.send(&request).unwrap();
    assert_eq!(socket.receive(&mut [0; 8]), Ok(Datagram { bytes: 20, from_kernel: true }));
}

#[test]
fn reopening_leaves_a_pending_reply_behind() {
    let (mut socket, first_port_id) = NetlinkSocket::open().unwrap();
    let states = TcpStates::of(&[TcpState::Established]);
    let mut request = Vec::new();
    DumpRequest { sequence: 1, family: Family::Inet6, states, program: &[] }.encode(&mut request).unwrap();
    socket.send(&request).unwrap();
    let second_port_id = socket.reopen().unwrap();
    assert_ne!(first_port_id, second_port_id);
    set_socket_timeout(&socket.fd, Timeout::Recv, Some(Duration::from_millis(1))).unwrap();
    assert_eq!(socket.receive(&mut [0; 64]), Err(Errno::AGAIN));
}
