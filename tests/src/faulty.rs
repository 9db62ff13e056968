//! A collector that fails as it is told: in each phase of a connection, by silence, by a reset, by nonsense or by what
//! it answers. What it acknowledged it has stored; nothing else counts as arrived.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsPartialSuccess, ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use prost::Message;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

use crate::collector::Protocol;
use crate::deadline::now;
use crate::namespace::{self, Namespace};
use crate::otlp::Point;

mod grpc;
mod http;
mod stored;

pub(crate) use stored::flat;
pub use stored::{Arrival, Stored};

/// What the collector does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing: it takes and acknowledges.
    Nothing,
    /// It is not there: connections are refused.
    Down,
    /// It accepts connections and neither reads nor says anything; with TLS, it is silent in the handshake.
    Mute,
    /// It resets connections as soon as they are there.
    ResetAtOnce,
    /// It says what no protocol knows, before TLS where there is TLS.
    Garbage,
    /// HTTP/2: it reads, and never says its settings.
    NoSettings,
    /// HTTP/2: it lets nobody send a body.
    NoWindow,
    /// HTTP/2: it says goodbye to each connection when a request comes, and takes none of it.
    GoAway,
    /// HTTP/2: it resets each stream.
    ResetStream,
    /// It takes the request, and then nothing comes.
    HangBeforeHead,
    /// It begins its answer, and then nothing comes.
    HangInBody,
    /// It answers all but the end: the trailers, or the last chunk.
    HangBeforeTrailers,
    /// It takes the request and resets the connection.
    ResetBeforeHead,
    /// It begins its answer and resets the connection.
    ResetInBody,
    /// It answers all but the end and resets the connection.
    ResetBeforeTrailers,
    /// It says success and answers without end. The request counts as stored.
    Endless,
    /// It says success, and its answer holds no OTLP message. The request counts as stored.
    GarbageBody,
    /// It takes so long for each request.
    Slow(Duration),
    /// It answers with an HTTP status; with `Location`, or with `Retry-After` in seconds, where given.
    Status(u16, Option<&'static str>, Option<u32>),
    /// It answers with an HTTP status and a `Retry-After` of so many seconds, as a date.
    RetryAtDate(u16, u32),
    /// It answers with a gRPC code; with `RetryInfo` of so many milliseconds where given.
    Code(u16, Option<u64>),
    /// It takes all but so many points.
    Partial(i64),
}

impl Fault {
    /// Whether it is one of connections rather than of requests.
    const fn is_of_connections(self) -> bool {
        matches!(self, Self::Down | Self::Mute | Self::ResetAtOnce | Self::Garbage | Self::NoSettings)
    }
}

/// A running collector; ended when dropped.
pub struct Faulty {
    state: Arc<Mutex<State>>,
    fault: watch::Sender<Fault>,
    tls: watch::Sender<Option<Arc<ServerConfig>>>,
    running: Option<(watch::Sender<()>, JoinHandle<()>)>,
}

/// What became of a request that came in whole and was answered for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It was acknowledged.
    Stored,
    /// It is not to be sent again.
    Refused,
}

/// What is done with such requests.
type Store = Box<dyn FnMut(Fate, ExportMetricsServiceRequest) + Send>;

/// Requests that are answered in a way of their own.
type Exception = (Box<dyn Fn(&[Point]) -> bool + Send>, Fault);

struct State {
    store: Store,
    exception: Option<Exception>,
    connections: u64,
    /// When requests came in whole, since the last fault began.
    arrivals: Vec<Instant>,
    refused_points: u64,
    client_certificates: Vec<Option<Vec<u8>>>,
}

/// What a connection needs.
#[derive(Clone)]
struct Shared {
    state: Arc<Mutex<State>>,
    fault: watch::Receiver<Fault>,
}

impl Faulty {
    /// Starts on a host. Requests that are answered for good are handed to `store`.
    #[must_use]
    #[track_caller]
    pub fn start(
        host: &Namespace,
        protocol: Protocol,
        address: SocketAddr,
        store: impl FnMut(Fate, ExportMetricsServiceRequest) + Send + 'static,
    ) -> Self {
        Self::start_with_tls(host, protocol, address, None, store)
    }

    /// The same behind TLS.
    #[must_use]
    #[track_caller]
    pub fn start_with_tls(
        host: &Namespace,
        protocol: Protocol,
        address: SocketAddr,
        tls: Option<Arc<ServerConfig>>,
        store: impl FnMut(Fate, ExportMetricsServiceRequest) + Send + 'static,
    ) -> Self {
        let state = Arc::new(Mutex::new(State {
            store: Box::new(store),
            exception: None,
            connections: 0,
            arrivals: Vec::new(),
            refused_points: 0,
            client_certificates: Vec::new(),
        }));
        let (fault, faults) = watch::channel(Fault::Nothing);
        let (tls, certificates) = watch::channel(tls);
        let (stop, mut stopped) = watch::channel(());
        let entrance = host.entrance();
        let shared = Shared { state: Arc::clone(&state), fault: faults };
        let (ready, is_ready) = std::sync::mpsc::channel();
        let thread = thread::spawn(move || {
            namespace::enter(&entrance);
            let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                tokio::select! {
                    () = listen(address, protocol, shared, certificates, ready) => {}
                    _told_or_dropped = stopped.changed() => {}
                }
            });
            runtime.shutdown_background();
        });
        is_ready.recv().expect("the collector starts");
        Self { state, fault, tls, running: Some((stop, thread)) }
    }

    /// Fails like that from now on.
    pub fn set(&self, fault: Fault) {
        self.state().arrivals.clear();
        self.fault.send_replace(fault);
    }

    /// Answers requests whose points fit like that, whatever becomes of the others.
    pub fn set_for(&self, fits: impl Fn(&[Point]) -> bool + Send + 'static, fault: Fault) {
        self.state().exception = Some((Box::new(fits), fault));
    }

    /// Shows another certificate from the next connection on.
    pub fn set_tls(&self, config: Arc<ServerConfig>) {
        self.tls.send_replace(Some(config));
    }

    /// Connections so far.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.state().connections
    }

    /// When requests came in whole, since the present fault began.
    #[must_use]
    pub fn arrivals(&self) -> Vec<Instant> {
        self.state().arrivals.clone()
    }

    /// Points that it refused for good so far, one by one or with their request.
    #[must_use]
    pub fn refused_points(&self) -> u64 {
        self.state().refused_points
    }

    /// For each connection over TLS, the client's certificate.
    #[must_use]
    pub fn client_certificates(&self) -> Vec<Option<Vec<u8>>> {
        self.state().client_certificates.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no handler panics")
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.running.take() {
            drop(stop);
            let _panic_was_shown = thread.join();
        }
    }
}

impl fmt::Debug for Faulty {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Faulty").field("fault", &*self.fault.borrow()).finish_non_exhaustive()
    }
}

impl Shared {
    fn fault(&self) -> Fault {
        *self.fault.borrow()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no handler panics")
    }

    /// A request is there in whole: what to do with it.
    fn arrived(&self, request: &[u8]) -> Fault {
        let mut state = self.state();
        state.arrivals.push(now());
        let exception = state.exception.as_ref().filter(|(fits, _)| fits(&flat(&decode(request))));
        exception.map_or_else(|| self.fault(), |(_, fault)| *fault)
    }

    fn store(&self, request: &[u8]) {
        let request = decode(request);
        (self.state().store)(Fate::Stored, request);
    }

    fn refuse(&self, request: &[u8]) {
        let request = decode(request);
        let mut state = self.state();
        state.refused_points += count_points(&request);
        (state.store)(Fate::Refused, request);
    }

    fn refuse_points(&self, points: i64) {
        self.state().refused_points += u64::try_from(points).expect("points to refuse");
    }
}

fn decode(request: &[u8]) -> ExportMetricsServiceRequest {
    ExportMetricsServiceRequest::decode(request).expect("an OTLP request")
}

fn count_points(request: &ExportMetricsServiceRequest) -> u64 {
    flat(request).len().try_into().expect("a count")
}

/// Listens while it is not down. When a fault of connections begins, those that there are end.
async fn listen(
    address: SocketAddr,
    protocol: Protocol,
    shared: Shared,
    tls: watch::Receiver<Option<Arc<ServerConfig>>>,
    ready: std::sync::mpsc::Sender<()>,
) {
    let mut faults = shared.fault.clone();
    let mut ready = Some(ready);
    loop {
        let mut connections = JoinSet::new();
        let fault = *faults.borrow_and_update();
        if fault == Fault::Down {
            if faults.changed().await.is_err() {
                return;
            }
            continue;
        }
        let listener = TcpListener::bind(address).await.expect("the port is free");
        if let Some(ready) = ready.take() {
            ready.send(()).expect("the test waits");
        }
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    let Ok((stream, _)) = accepted else { continue };
                    shared.state().connections += 1;
                    let acceptor = tls.borrow().clone().map(TlsAcceptor::from);
                    connections.spawn(receive(stream, acceptor, protocol, shared.clone()));
                }
                Some(_ended) = connections.join_next() => {}
                changed = faults.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let fault = *faults.borrow_and_update();
                    if fault.is_of_connections() {
                        connections.abort_all();
                    }
                    if fault == Fault::Down {
                        break;
                    }
                }
            }
        }
    }
}

async fn receive(stream: TcpStream, acceptor: Option<TlsAcceptor>, protocol: Protocol, shared: Shared) {
    // However a connection ends, it ends with a reset.
    rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).expect("a socket");
    let Some(acceptor) = acceptor else { return serve(stream, protocol, shared).await };
    if shared.fault().is_of_connections() {
        return misbehave(stream, shared.fault()).await;
    }
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let certificate = certificate.map(|certificate| certificate.to_vec());
    shared.state().client_certificates.push(certificate);
    serve(stream, protocol, shared).await;
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(stream: S, protocol: Protocol, shared: Shared) {
    if shared.fault().is_of_connections() {
        return misbehave(stream, shared.fault()).await;
    }
    // What ends a connection is no concern of the collector's.
    match protocol {
        Protocol::Grpc => drop(grpc::serve(stream, shared).await),
        Protocol::Http => drop(http::serve(stream, shared).await),
    }
}

async fn misbehave<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, fault: Fault) {
    match fault {
        Fault::ResetAtOnce => {}
        Fault::Garbage => {
            let noise: Vec<u8> = (0x80..=0xff_u8).rev().cycle().take(4096).collect();
            let _closed = stream.write_all(&noise).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Fault::NoSettings => {
            let mut buffer = [0; 4096];
            while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
        }
        // It does not even see that the other end closes.
        _ => std::future::pending().await,
    }
}

/// The message of an answer that says success.
fn success(fault: Fault) -> Vec<u8> {
    let partial_success = match fault {
        Fault::Partial(rejected_data_points) => {
            Some(ExportMetricsPartialSuccess { rejected_data_points, error_message: "too many".to_owned() })
        }
        _ => None,
    };
    match fault {
        Fault::GarbageBody => b"\xff\xfe no message of OTLP".to_vec(),
        _ => ExportMetricsServiceResponse { partial_success }.encode_to_vec(),
    }
}

/// Whether the status of an answer says that the request may be sent again.
const fn is_retryable_status(status: u16) -> bool {
    matches!(status, 429 | 502 | 503 | 504)
}
