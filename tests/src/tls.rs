//! Certificates, and a gate that speaks TLS to the agent and plain text to a collector behind it.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::authority::{Authority, Issued, Valid};
use crate::collector::Protocol;
use crate::namespace::Namespace;
use crate::scene::Scene;
use crate::served::Served;

/// An authority, and certificates that it signed: one for `localhost`, one for a client.
pub struct Certificates {
    authority: Authority,
    server: Issued,
    /// The authority's certificate, as a PEM file.
    pub authority_file: PathBuf,
    /// The client's certificate, as a PEM file.
    pub client_certificate_file: PathBuf,
    /// The client's key, as a PEM file.
    pub client_key_file: PathBuf,
}

/// A running gate; closed when dropped.
pub struct Gate {
    refused: Arc<AtomicU32>,
    clients: Arc<Mutex<Vec<bool>>>,
    _served: Served,
}

/// Where a gate listens.
const PORT: u16 = 4443;

impl Certificates {
    /// Makes them, and writes what the agent needs into the scene's directory.
    #[must_use]
    #[track_caller]
    pub fn new(scene: &Scene) -> Self {
        Self::named(scene, "")
    }

    /// Several in one scene, told apart by their files' names.
    #[must_use]
    #[track_caller]
    pub fn named(scene: &Scene, name: &str) -> Self {
        let authority = Authority::new();
        let [server, client] = [Valid::Long; 2].map(|valid| authority.issue(valid));
        Self {
            authority_file: scene.write(&format!("{name}ca.pem"), &authority.pem()),
            client_certificate_file: scene.write(&format!("{name}client.pem"), &client.certificate_pem()),
            client_key_file: scene.write(&format!("{name}client.key"), &client.key_pem()),
            authority,
            server,
        }
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Certificates").finish_non_exhaustive()
    }
}

impl Gate {
    /// Starts in front of the collector of that protocol on the same host. A `mutual` gate lets in only who shows
    /// a certificate of the authority.
    #[must_use]
    #[track_caller]
    pub fn start(host: &Namespace, protocol: Protocol, certificates: &Certificates, mutual: bool) -> Self {
        let acceptor =
            TlsAcceptor::from(certificates.authority.server(protocol, &certificates.server, mutual));
        let refused = Arc::new(AtomicU32::new(0));
        let clients = Arc::new(Mutex::new(Vec::new()));
        let (counter, list) = (Arc::clone(&refused), Arc::clone(&clients));
        let served = Served::start(host, async move || {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
            let listener = TcpListener::bind(address).await.expect("the port is free");
            tokio::spawn(async move {
                loop {
                    let (stream, _) = listener.accept().await.expect("the gate accepts");
                    let (counter, list) = (Arc::clone(&counter), Arc::clone(&list));
                    tokio::spawn(pass(acceptor.clone(), stream, protocol, counter, list));
                }
            });
        });
        Self { refused, clients, _served: served }
    }

    /// The value of `OTEL_EXPORTER_OTLP_ENDPOINT`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("https://localhost:{PORT}")
    }

    /// How many handshakes failed.
    #[must_use]
    pub fn refused(&self) -> u32 {
        self.refused.load(Ordering::SeqCst)
    }

    /// For each connection that was let in, whether the client showed a certificate.
    #[must_use]
    pub fn clients(&self) -> Vec<bool> {
        self.clients.lock().expect("no handler panics").clone()
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Gate").field("refused", &self.refused()).finish_non_exhaustive()
    }
}

async fn pass(
    acceptor: TlsAcceptor,
    stream: TcpStream,
    protocol: Protocol,
    refused: Arc<AtomicU32>,
    clients: Arc<Mutex<Vec<bool>>>,
) {
    let Ok(mut outside) = acceptor.accept(stream).await else {
        refused.fetch_add(1, Ordering::SeqCst);
        return;
    };
    let showed = outside.get_ref().1.peer_certificates().is_some();
    clients.lock().expect("no handler panics").push(showed);
    if let Ok(mut inside) = TcpStream::connect(protocol.address()).await {
        let _cut_by_either = tokio::io::copy_bidirectional(&mut outside, &mut inside).await;
    }
}
