//! Certificates, and a gate that speaks TLS to the agent and plain text to a collector behind it.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

use crate::collector::Protocol;
use crate::namespace::{self, Namespace};
use crate::scene::Scene;

/// An authority, and certificates that it signed: one for `localhost`, one for a client.
pub struct Certificates {
    authority: rcgen::Certificate,
    server: (rcgen::Certificate, KeyPair),
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
    running: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
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
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("no names to be wrong");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "the tests' authority");
        let authority = params.self_signed(&key).expect("a certificate");
        let issuer = Issuer::new(params, key);
        let signed = |names: &[&str], usage| {
            let key = KeyPair::generate().expect("a key");
            let names = names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
            let mut params = CertificateParams::new(names).expect("valid names");
            params.extended_key_usages = vec![usage];
            let certificate = params.signed_by(&key, &issuer).expect("a certificate");
            (certificate, key)
        };
        let server = signed(&["localhost", "127.0.0.1"], ExtendedKeyUsagePurpose::ServerAuth);
        let client = signed(&["agent"], ExtendedKeyUsagePurpose::ClientAuth);
        Self {
            authority_file: scene.write(&format!("{name}ca.pem"), &authority.pem()),
            client_certificate_file: scene.write(&format!("{name}client.pem"), &client.0.pem()),
            client_key_file: scene.write(&format!("{name}client.key"), &client.1.serialize_pem()),
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
        let acceptor = TlsAcceptor::from(Arc::new(server_config(protocol, certificates, mutual)));
        let entrance = host.entrance();
        let refused = Arc::new(AtomicU32::new(0));
        let clients = Arc::new(Mutex::new(Vec::new()));
        let (counter, list) = (Arc::clone(&refused), Arc::clone(&clients));
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let thread = thread::spawn(move || {
            namespace::enter(&entrance);
            let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let address = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
                let listener = TcpListener::bind(address).await.expect("the port is free");
                ready.send(()).expect("the test waits");
                let serve = async {
                    loop {
                        let (stream, _) = listener.accept().await.expect("the gate accepts");
                        tokio::spawn(pass(
                            acceptor.clone(),
                            stream,
                            protocol,
                            Arc::clone(&counter),
                            Arc::clone(&list),
                        ));
                    }
                };
                tokio::select! {
                    () = serve => {}
                    _told_or_dropped = stopped => {}
                }
            });
            runtime.shutdown_background();
        });
        is_ready.recv().expect("the gate starts");
        Self { refused, clients, running: Some((stop, thread)) }
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

impl Drop for Gate {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.running.take() {
            drop(stop);
            let _panic_was_shown = thread.join();
        }
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

fn server_config(protocol: Protocol, certificates: &Certificates, mutual: bool) -> ServerConfig {
    let provider = Arc::new(ring::default_provider());
    let versions = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("ring has the default versions");
    let verified = if mutual {
        let mut roots = RootCertStore::empty();
        roots.add(certificates.authority.der().clone()).expect("a valid certificate");
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        versions.with_client_cert_verifier(verifier.build().expect("one root"))
    } else {
        versions.with_no_client_auth()
    };
    let (certificate, key) = &certificates.server;
    let chain: Vec<CertificateDer<'static>> = vec![certificate.der().clone()];
    let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a valid key");
    let mut config = verified.with_single_cert(chain, key).expect("the key is the certificate's");
    config.alpn_protocols = match protocol {
        Protocol::Grpc => vec![b"h2".to_vec()],
        Protocol::Http => vec![b"http/1.1".to_vec()],
    };
    config
}
