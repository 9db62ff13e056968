//! One HTTP client for both protocols: HTTP/2 for gRPC, HTTP/1.1 for HTTP/protobuf. Everything that comes back
//! is bounded in time and size; redirects are not followed.

use std::error::Error;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::rt::Executor;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioTimer;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::USER_AGENT;
use crate::config::{ExportConfig, Protocol};
use crate::connect::Connector;
use crate::error::ExportError;
use crate::failure::{Failure, Stage, chain, innermost};

/// The largest answer read. An OTLP answer is a number and a sentence; 1 MiB leaves room for long sentences.
pub const MAX_ANSWER_BYTES: usize = 1 << 20;

/// Sends requests over the connections that an [`ExportConfig`] describes: its TLS, its time limit.
///
/// The exporter's own requests go through it. The agent can send its traces and logs through another one: it
/// adds no header but the user agent, so that [`crate::configured_headers`] are for the caller to add. Polled
/// inside a tokio runtime only.
#[derive(Debug, Clone)]
pub struct HttpClient {
    connections: Arc<Mutex<Connections>>,
    connector: Connector,
    protocol: Protocol,
    limit: Duration,
}

/// All of an answer.
#[derive(Debug)]
pub struct Answer {
    /// The status of HTTP.
    pub status: StatusCode,
    /// What stands before the body.
    pub headers: HeaderMap,
    /// `None` when it is larger than [`MAX_ANSWER_BYTES`].
    pub body: Option<Bytes>,
    /// What stands after the body; empty when there is nothing.
    pub trailers: HeaderMap,
}

impl HttpClient {
    /// Reads the TLS material and makes a client; it connects when something is sent.
    ///
    /// # Errors
    /// When nothing can be sent to the endpoint, or the TLS material does not hold.
    pub fn new(config: &ExportConfig) -> Result<Self, ExportError> {
        let connector = Connector::read(config)?;
        let connections = Arc::new(Mutex::new(Connections::new(&connector, config.protocol, 0)));
        Ok(Self { connections, connector, protocol: config.protocol, limit: config.attempt_limit() })
    }

    /// Sends a request and reads the whole answer, within the configured time and 1 MiB.
    ///
    /// # Errors
    /// When no answer came, or too large a one. An answer with an error status is an answer.
    pub async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, Failure> {
        let answer = self.exchange(request).await?;
        let Some(body) = answer.body else {
            let message = format!("the answer is larger than {MAX_ANSWER_BYTES} bytes");
            return Err(Failure::exchange("answer_too_large", message, NO_COLLECTOR));
        };
        let mut response = Response::new(body);
        *response.status_mut() = answer.status;
        *response.headers_mut() = answer.headers;
        Ok(response)
    }

    /// The same, with trailers, and an oversized body told apart.
    pub(crate) async fn exchange(&self, request: Request<Bytes>) -> Result<Answer, Failure> {
        let mut request = request.map(Full::new);
        request.headers_mut().entry(header::USER_AGENT).or_insert(HeaderValue::from_static(USER_AGENT));
        let whole = async {
            let client = self.client().await;
            let response = client.request(request).await.map_err(|error| self.classify(&error))?;
            self.read_answer(response).await
        };
        timeout(self.limit, whole)
            .await
            .unwrap_or_else(|_elapsed| Err(Failure::timeout(Stage::Exchange, self.limit)))
    }

    /// Closes all connections at once: the next request makes a new one.
    ///
    /// After a timeout the connection may be dead without either end knowing, forgotten by a NAT or load
    /// balancer. HTTP/2 would go on using it until TCP gives up, a quarter of an hour later; and would wait as long to
    /// say goodbye to a peer that takes no more bytes.
    pub(crate) fn forget_connections(&self) {
        let mut connections = self.connections();
        *connections = Connections::new(&self.connector, self.protocol, connections.generation);
    }

    /// The client whose connections are made with the TLS material in force. Those made with what it replaced are closed
    /// when what is under way there is done.
    async fn client(&self) -> Client<Connector, Full<Bytes>> {
        let generation = match self.connector.material() {
            Some(material) => material.generation().await,
            None => 0,
        };
        let mut connections = self.connections();
        if connections.generation != generation {
            let next = Connections::new(&self.connector, self.protocol, generation);
            let former = std::mem::replace(&mut *connections, next);
            connections.former = Some(former.tasks);
        }
        connections.client.clone()
    }

    fn connections(&self) -> MutexGuard<'_, Connections> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn connector(&self) -> &Connector {
        &self.connector
    }

    async fn read_answer(&self, response: Response<hyper::body::Incoming>) -> Result<Answer, Failure> {
        let (head, body) = response.into_parts();
        let answer = |body, trailers| Answer { status: head.status, headers: head.headers, body, trailers };
        match Limited::new(body, MAX_ANSWER_BYTES).collect().await {
            Ok(collected) => {
                let trailers = collected.trailers().cloned().unwrap_or_default();
                Ok(answer(Some(collected.to_bytes()), trailers))
            }
            Err(error) if error.is::<LengthLimitError>() => Ok(answer(None, HeaderMap::new())),
            Err(error) => Err(self.classify(error.as_ref())),
        }
    }

    /// What a failure of hyper's is at bottom.
    fn classify(&self, error: &(dyn Error + 'static)) -> Failure {
        if let Some(failure) = chain(error).find_map(|cause| cause.downcast_ref::<Failure>()) {
            return failure.clone();
        }
        let text = innermost(error);
        // With TLS 1.3 a server refuses the client's certificate after the handshake. Of that h2 keeps the text
        // (rustls::Error::AlertReceived) and loses the type.
        if text.contains("received fatal alert") {
            return match self.connector.material() {
                Some(material) => Failure::alert(text, material),
                None => Failure::tls(text),
            };
        }
        if chain(error).any(<dyn Error>::is::<io::Error>) {
            return Failure::exchange("connection", text, BROKEN_OFF);
        }
        if !self.is_foreign(error) {
            return Failure::exchange("connection", text, BROKEN_OFF);
        }
        // Told apart: a connection that breaks and an endpoint that is another's call for different things.
        let advice = match self.protocol {
            Protocol::Grpc => {
                "check that the endpoint speaks gRPC: 4317 is the usual port, 4318 that of http/protobuf"
            }
            Protocol::HttpProtobuf => {
                "check that the endpoint speaks HTTP/1.1: 4318 is the usual port, 4317 that of grpc"
            }
        };
        Failure::exchange("protocol", text, advice)
    }

    /// Whether what came back is not of the protocol. An HTTP/2 peer that resets a stream or says goodbye speaks it.
    fn is_foreign(&self, error: &(dyn Error + 'static)) -> bool {
        let by_peer = chain(error).find_map(|cause| cause.downcast_ref::<h2::Error>());
        if by_peer.is_some_and(h2::Error::is_remote) {
            return false;
        }
        let hyper_error = chain(error).find_map(|cause| cause.downcast_ref::<hyper::Error>());
        hyper_error.is_some_and(|error| {
            let unreadable = error.is_parse() || error.is_parse_too_large();
            unreadable || (self.protocol == Protocol::Grpc && !error.is_canceled())
        })
    }
}

const BROKEN_OFF: &str = "see the collector's log, and that of any proxy between";
pub(crate) const NO_COLLECTOR: &str = "check that the endpoint is an OTLP receiver";

/// Connections made with the same TLS material.
#[derive(Debug)]
struct Connections {
    client: Client<Connector, Full<Bytes>>,
    tasks: Tasks,
    generation: u64,
    /// Those made with the material before, which end by themselves; kept to be ended where they do not.
    former: Option<Tasks>,
}

impl Connections {
    fn new(connector: &Connector, protocol: Protocol, generation: u64) -> Self {
        let tasks = Tasks::default();
        let client = Client::builder(Spawner(Arc::downgrade(&tasks.0)))
            .pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            .http2_only(protocol == Protocol::Grpc)
            .build(connector.clone());
        Self { client, tasks, generation, former: None }
    }
}

/// The tasks that drive connections. Dropped, it ends them, whatever their peers do: the sockets are closed.
#[derive(Default)]
struct Tasks(Arc<Mutex<JoinSet<()>>>);

impl fmt::Debug for Tasks {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Tasks").finish_non_exhaustive()
    }
}

/// Starts tasks for hyper.
#[derive(Clone)]
struct Spawner(Weak<Mutex<JoinSet<()>>>);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Spawner {
    fn execute(&self, task: F) {
        let Some(tasks) = self.0.upgrade() else { return };
        let mut tasks = tasks.lock().unwrap_or_else(PoisonError::into_inner);
        // What has ended is forgotten.
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }
}

#[cfg(test)]
mod tests;
