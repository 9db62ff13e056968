use rustix::net::netlink::SOCK_DIAG;
use rustix::net::sockopt::socket_timeout;

use super::*;
use crate::codec::encode_message;

/// A socket of a protocol that every kernel has, and its port id.
fn opened() -> (NetlinkSocket, u32) {
    let mut socket = NetlinkSocket::new(SOCK_DIAG, ());
    let port_id = socket.reopen().unwrap();
    (socket, port_id)
}

/// `NLMSG_NOOP` with `NLM_F_ACK`: the kernel answers with an `NLMSG_ERROR` of 36 bytes, which says 0.
fn request() -> Vec<u8> {
    let mut out = Vec::new();
    encode_message(&mut out, 1, 4, 1, |_out| ());
    out
}

/// Nothing is waited for any more.
fn hurry(socket: &NetlinkSocket) {
    set_socket_timeout(socket.fd().unwrap(), Timeout::Recv, Some(Duration::from_millis(1))).unwrap();
}

#[test]
fn receiving_does_not_wait_forever() {
    let (socket, _) = opened();
    assert_eq!(socket_timeout(socket.fd().unwrap(), Timeout::Recv), Ok(Some(RECEIVE_TIMEOUT)));
}

#[test]
fn a_socket_has_a_port_id_from_the_beginning_and_nothing_to_receive() {
    let (mut socket, port_id) = opened();
    assert_ne!(port_id, KERNEL.pid());
    hurry(&socket);
    assert_eq!(socket.receive(&mut [0; 64]), Err(Errno::AGAIN));
}

#[test]
fn nothing_goes_through_a_socket_that_was_not_opened() {
    let mut socket = NetlinkSocket::new(SOCK_DIAG, ());
    assert_eq!(socket.send(&request()), Err(Errno::NOTCONN));
    assert_eq!(socket.receive(&mut [0; 64]), Err(Errno::NOTCONN));
    assert_eq!(socket.interface_index("lo"), None);
}

#[test]
fn a_datagram_that_is_cut_off_tells_its_whole_length() {
    let (mut socket, _) = opened();
    socket.send(&request()).unwrap();
    assert_eq!(socket.receive(&mut [0; 8]), Ok(Datagram { bytes: 36, from_kernel: true }));
}

#[test]
fn reopening_leaves_a_pending_reply_behind() {
    let (mut socket, first_port_id) = opened();
    socket.send(&request()).unwrap();
    let second_port_id = socket.reopen().unwrap();
    assert_ne!(first_port_id, second_port_id);
    hurry(&socket);
    assert_eq!(socket.receive(&mut [0; 64]), Err(Errno::AGAIN));
}

#[test]
fn what_another_process_sends_is_not_from_the_kernel() {
    let ((mut socket, port_id), (forger, _)) = (opened(), opened());
    let forgery = request();
    match sendto(forger.fd().unwrap(), &forgery, SendFlags::empty(), &SocketAddrNetlink::new(port_id, 0)) {
        Ok(_) => {}
        Err(Errno::PERM) => {
            eprintln!("skipped: sending to a netlink socket needs CAP_NET_ADMIN");
            return;
        }
        Err(errno) => panic!("{errno}"),
    }
    assert_eq!(socket.receive(&mut [0; 64]), Ok(Datagram { bytes: forgery.len(), from_kernel: false }));
}
