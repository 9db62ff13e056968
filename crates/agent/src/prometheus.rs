//! The endpoint at which Prometheus scrapes what is also pushed (`prometheus.listen`).
//!
//! A scrape tells what the last cycle of each probe told: it causes no look, and the measuring thread knows nothing of it. Who
//! may connect is not known and not asked, so all that one may take is bounded: its connection serves one request, within a
//! time, and there are so many at once; where all places are taken, whoever comes has that of somebody who has had his time.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, ALLOW, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, HeaderName, HeaderValue,
    VARY,
};
use http::{Method, Request, Response, StatusCode};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::Mutex;
use tracing::{debug, error, info, warn};
use vms_core::Clock;
use vms_export::exposition::{Coding, Format};

use crate::clock::SystemClock;

mod authority;
mod room;
mod told;

use room::Room;
use told::Form;
pub(crate) use told::{Recorder, Shared};

/// How long the head of a request may take.
const HEAD: Duration = Duration::from_secs(2);

/// How long a connection may take in all: as long as Prometheus waits for a scrape, unless told otherwise.
const WHOLE: Duration = Duration::from_secs(10);

/// Bytes, and lines, that the head of a request may have.
const HEAD_BYTES: usize = 16 << 10;
const HEAD_LINES: usize = 64;

/// After a connection could not be accepted, as when no file descriptor is left: time for one to become free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const METRICS: &str = "/metrics";
const PLAIN: &str = "text/plain; charset=utf-8";

/// A socket that listens. It is made before the agent gives up the rights to make one.
#[derive(Debug)]
pub(crate) struct Listener(TcpListener);

impl Listener {
    /// Listens.
    ///
    /// # Errors
    /// When that address cannot be had: the message says what to do.
    pub(crate) fn bind(address: SocketAddr) -> anyhow::Result<Self> {
        let bound = TcpListener::bind(address).and_then(|socket| {
            socket.set_nonblocking(true)?;
            Ok(Self(socket))
        });
        bound.map_err(|error| {
            let advice = match error.kind() {
                io::ErrorKind::AddrInUse => {
                    "stop what listens there (`ss -ltnp` shows it), or choose another port"
                }
                io::ErrorKind::AddrNotAvailable => "choose an address of this host",
                io::ErrorKind::PermissionDenied => "choose a port above 1023",
                _ => "choose another address",
            };
            let told = format!("{address} cannot be listened on; {advice} in `prometheus.listen`");
            anyhow::Error::new(error).context(told)
        })
    }

    /// By which the kernel knows it.
    pub(crate) fn descriptor(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Begins to answer scrapes by what is told there. Has to be called within the runtime, on one of its threads.
pub(crate) fn start(listener: Listener, clock: SystemClock) -> Shared {
    let shared = Shared::default();
    let answers = serve(listener, shared.clone(), clock);
    tokio::spawn(async move {
        if let Err(error) = answers.await {
            error!("metrics cannot be scraped until the agent is started again: {error:#}");
        }
    });
    shared
}

/// Answers scrapes for as long as the agent runs.
///
/// # Errors
/// When the runtime does not take the socket.
async fn serve(listener: Listener, shared: Shared, clock: SystemClock) -> anyhow::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener.0).context("the endpoint of Prometheus")?;
    let address = listener.local_addr().context("the endpoint of Prometheus")?;
    tell_start(address);
    let is_local = address.ip().to_canonical().is_loopback();
    let scrapes = Arc::new(Scrapes { shared, clock, is_local, writing: Arc::default() });
    let room = Room::default();
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEAD).keep_alive(false);
    server.max_buf_size(HEAD_BYTES).max_headers(HEAD_LINES);
    let mut is_refused = false;
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                if !is_refused {
                    warn!("scrapes cannot be accepted at the moment: {error}; measuring goes on");
                }
                is_refused = true;
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        is_refused = false;
        let (place, notice) = room.enter(&clock).await;
        let scrapes = Arc::clone(&scrapes);
        let answer = service_fn(move |request| {
            place.ask(clock.monotonic());
            Arc::clone(&scrapes).answer(request)
        });
        let connection = server.serve_connection(TokioIo::new(stream), answer);
        tokio::spawn(async move {
            tokio::select! {
                ended = tokio::time::timeout(WHOLE, connection) => match ended {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => debug!("a scrape ended early: {error}"),
                    Err(_elapsed) => debug!("a scrape took longer than {WHOLE:?} and was ended"),
                },
                _gone = notice => debug!("a connection was ended, for others wait"),
            }
        });
        // What has just come may have its request with it: read that before the next one comes, and wants the place.
        tokio::task::yield_now().await;
    }
}

fn tell_start(address: SocketAddr) {
    info!("metrics can be scraped at http://{address}{METRICS}");
    if !address.ip().to_canonical().is_loopback() {
        warn!(
            "{address} is no loopback address: whoever reaches it can read the metrics, for nobody is asked who he is"
        );
    }
}

/// What scrapes are answered from.
#[derive(Debug)]
struct Scrapes {
    shared: Shared,
    clock: SystemClock,
    /// The endpoint is on a loopback address.
    is_local: bool,
    /// One at a time writes; the others find what it has written.
    writing: Arc<Mutex<()>>,
}

impl Scrapes {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Pieces>, Infallible> {
        if self.is_local && !authority::is_local(request.uri(), request.headers()) {
            return Ok(plain(StatusCode::MISDIRECTED_REQUEST, authority::ADVICE));
        }
        let path = request.uri().path();
        if ![METRICS, "/"].contains(&path) {
            return Ok(plain(StatusCode::NOT_FOUND, "metrics are at /metrics\n"));
        }
        if ![Method::GET, Method::HEAD].contains(request.method()) {
            let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "the method has to be GET or HEAD\n");
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return Ok(response);
        }
        if path == "/" {
            return Ok(plain(StatusCode::OK, "vms-agent: metrics are at /metrics\n"));
        }
        let (format, coding) = (
            Format::negotiate(values(&request, &ACCEPT)),
            Coding::negotiate(values(&request, &ACCEPT_ENCODING)),
        );
        let written = self.write(Form { format, coding }).await;
        let mut response = Response::new(Pieces::from(written));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
        if let Some(coding) = coding.name() {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static(coding));
        }
        headers.insert(VARY, HeaderValue::from_static("accept, accept-encoding"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Ok(response)
    }

    async fn write(&self, form: Form) -> [Bytes; 2] {
        let (snapshot, now) = (self.shared.present(), self.clock.monotonic());
        let written = if let Some(written) = snapshot.written(form, now) {
            written
        } else {
            // Kept by the writing, which goes on when its client has gone.
            let alone = Arc::clone(&self.writing).lock_owned().await;
            // The latest, for it may have taken a while until here.
            let (snapshot, now) = (self.shared.present(), self.clock.monotonic());
            match snapshot.written(form, now) {
                Some(written) => written,
                // Not on the thread that sends and hears signals, either: there may be thousands of links.
                None => match tokio::task::spawn_blocking(move || {
                    let _kept_until_written = alone;
                    snapshot.write(form, now)
                })
                .await
                {
                    Ok(written) => written,
                    // Only while the agent ends.
                    Err(_ended) => return [Bytes::new(), Bytes::new()],
                },
            }
        };
        written.answer(self.clock.monotonic(), self.clock.wall())
    }
}

fn values<'a>(request: &'a Request<Incoming>, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    request.headers().get_all(name).into_iter().filter_map(|value| value.to_str().ok())
}

fn plain(status: StatusCode, text: &'static str) -> Response<Pieces> {
    let mut response = Response::new(Pieces::from([Bytes::from_static(text.as_bytes())]));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(PLAIN));
    response
}

/// A body of some pieces: what many scrapes have in common is not copied for each.
#[derive(Debug)]
struct Pieces(VecDeque<Bytes>);

impl<const COUNT: usize> From<[Bytes; COUNT]> for Pieces {
    fn from(pieces: [Bytes; COUNT]) -> Self {
        Self(pieces.into_iter().filter(|piece| !piece.is_empty()).collect())
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _context: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.get_mut().0.pop_front().map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        let bytes = self.0.iter().map(|piece| u64::try_from(piece.len()).unwrap_or(u64::MAX));
        SizeHint::with_exact(bytes.sum())
    }
}

#[cfg(test)]
mod tests;
