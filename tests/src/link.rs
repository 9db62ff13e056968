//! A connection between two programs, and the configuration of a probe that watches it.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::namespace::Namespace;
use crate::peer::{Listener, Peer, Program, Stream};

/// A server and a client that is connected to it.
#[derive(Debug)]
pub struct Link {
    /// The program at the destination end.
    pub server: Peer,
    /// The program at the source end.
    pub client: Peer,
    /// Where the server listens: what a probe calls the destination service.
    pub listener: Listener,
    /// The connection's socket on the server.
    pub server_end: Stream,
    /// The connection's socket on the client.
    pub client_end: Stream,
}

impl Link {
    /// Starts a server and a client and connects them, over IPv4.
    #[must_use]
    #[track_caller]
    pub fn new(client: (&Program, &Namespace), server: (&Program, &Namespace)) -> Self {
        let address = if client.1.name() == server.1.name() {
            SocketAddr::from(([127, 0, 0, 1], 0))
        } else {
            SocketAddr::new(server.1.ipv4(), 0)
        };
        Self::over(client.0.start(client.1), server.0.start(server.1), address, |listening| listening)
    }

    /// Connects programs that run: the server listens at one address, the client uses what `dial` makes of it.
    #[must_use]
    #[track_caller]
    pub fn over(
        mut client: Peer,
        mut server: Peer,
        listen: SocketAddr,
        dial: impl Fn(SocketAddr) -> SocketAddr,
    ) -> Self {
        let listener = server.listen(listen);
        let client_end = client.connect(dial(listener.address));
        let server_end = server.accept(listener);
        Self { server, client, listener, server_end, client_end }
    }

    /// The destination service.
    #[must_use]
    pub fn service(&self) -> SocketAddr {
        self.client_end.remote
    }

    /// Connects once more, and keeps the new connection as well.
    #[track_caller]
    pub fn connect_again(&mut self) -> (Stream, Stream) {
        let client_end = self.client.connect(self.client_end.remote);
        (client_end, self.server.accept(self.listener))
    }

    /// Closes the connection at both ends.
    #[track_caller]
    pub fn close(&mut self) {
        self.client.close(self.client_end);
        self.server.close(self.server_end);
    }

    /// Connects anew after a [`close`](Self::close).
    #[track_caller]
    pub fn reconnect(&mut self) {
        (self.client_end, self.server_end) = self.connect_again();
    }
}

/// How often the agents of the tests look.
pub const INTERVAL: &str = "200ms";

/// The configuration of one probe.
#[must_use]
pub fn probe(name: &str, process_name: &str, service: SocketAddr) -> Value {
    json!({
        "type": "connection_mon",
        "name": name,
        "processName": process_name,
        "destServiceIp": service.ip().to_string(),
        "destServicePort": service.port(),
    })
}

/// The configuration of one probe, with more keys or other values.
#[must_use]
#[track_caller]
pub fn probe_with(name: &str, process_name: &str, service: SocketAddr, more: &Value) -> Value {
    let mut probe = probe(name, process_name, service);
    let keys = probe.as_object_mut().expect("a probe is an object");
    keys.extend(more.as_object().expect("keys and values").clone());
    probe
}

/// The configuration of an agent with these probes. It walks in each cycle, so that a link that comes up is found in the
/// next, however dear a walk is on the machine; tests about the budget set `VMS_CPU_BUDGET`, which goes before.
#[must_use]
pub fn config(probes: &[Value]) -> Value {
    json!({ "interval": INTERVAL, "cpuBudget": "100%", "probes": probes })
}
