//! OTLP/HTTP with binary protobuf bodies (OpenTelemetry protocol, section "OTLP/HTTP").

use std::convert::Infallible;
use std::io::{self, Read};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, ALLOW, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::TcpListener;

use super::{Arrival, Inbox, MAX_REQUEST_BYTES};

/// The paths of the signals.
const PATHS: [&str; 3] = [METRICS, TRACES, LOGS];

const METRICS: &str = "/v1/metrics";
const TRACES: &str = "/v1/traces";
const LOGS: &str = "/v1/logs";

const PROTOBUF: &str = "application/x-protobuf";

/// For the head of a request, and for its body: whoever sends nothing holds no connection for ever.
const PATIENCE: Duration = Duration::from_secs(30);

/// After a connection could not be accepted, as when no file descriptor is left: time for one to become free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `stop`, and until the requests under way are answered.
pub(super) async fn serve(listener: TcpListener, inbox: Inbox, stop: impl Future<Output = ()>) {
    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http1().timer(TokioTimer::new()).header_read_timeout(PATIENCE);
    let connections = GracefulShutdown::new();
    tokio::pin!(stop);
    loop {
        let stream = tokio::select! {
            () = &mut stop => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
        };
        let inbox = inbox.clone();
        let answer = service_fn(move |request| answer(inbox.clone(), request));
        let connection = server.serve_connection(TokioIo::new(stream), answer).into_owned();
        let connection = connections.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(error, "a connection ended early");
            }
        });
    }
    connections.shutdown().await;
}

/// Why a request is turned away.
#[derive(Debug)]
struct Refusal {
    status: StatusCode,
    message: String,
    header: Option<(http::HeaderName, &'static str)>,
}

impl Refusal {
    fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), header: None }
    }
}

async fn answer(inbox: Inbox, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let line = format!("{} {}", request.method(), request.uri().path());
    let (status, body, header) = match receive(&inbox, request).await {
        // An empty message says that everything was accepted, for each of the three signals.
        Ok(()) => (StatusCode::OK, Bytes::new(), None),
        Err(Refusal { status, message, header }) => {
            // Lost only when the sink is ending.
            drop(inbox.put(Arrival::Refused(format!("refused {line}: {message} ({status})"))).await);
            (status, encode_status(&message), header)
        }
    };
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(PROTOBUF));
    if let Some((name, value)) = header {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    Ok(response)
}

async fn receive(inbox: &Inbox, request: Request<Incoming>) -> Result<(), Refusal> {
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    if !PATHS.contains(&path) {
        let message = format!("the path has to be one of {}", PATHS.join(", "));
        return Err(Refusal::new(StatusCode::NOT_FOUND, message));
    }
    if head.method != Method::POST {
        let refusal = Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "the method has to be POST");
        return Err(Refusal { header: Some((ALLOW, "POST")), ..refusal });
    }
    let content_type = head.headers.get(CONTENT_TYPE).map_or("", text);
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case(PROTOBUF) {
        let message = format!("the content type has to be {PROTOBUF}, not '{content_type}'");
        return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
    }
    let coding = Coding::parse(head.headers.get(CONTENT_ENCODING).map_or("", text))?;

    if body.size_hint().lower() > limit() {
        return Err(too_large());
    }
    let body = tokio::time::timeout(PATIENCE, Limited::new(body, MAX_REQUEST_BYTES).collect())
        .await
        .map_err(|_elapsed| Refusal::new(StatusCode::REQUEST_TIMEOUT, "the body did not arrive"))?
        .map_err(|error| match error.downcast_ref::<LengthLimitError>() {
            Some(_) => too_large(),
            None => Refusal::new(StatusCode::BAD_REQUEST, format!("the body broke off: {error}")),
        })?
        .to_bytes();
    let body = decode_body(coding, body)?;
    let undecodable =
        |error| Refusal::new(StatusCode::BAD_REQUEST, format!("the body is no request: {error}"));
    let arrival = match path {
        METRICS => Arrival::Metrics(prost::Message::decode(body).map_err(undecodable)?),
        TRACES => Arrival::Traces(prost::Message::decode(body).map_err(undecodable)?),
        _ => Arrival::Logs(prost::Message::decode(body).map_err(undecodable)?),
    };
    let ending = |_ending| Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "the sink is ending");
    inbox.put(arrival).await.map_err(ending)
}

/// The text of a header, as far as it is one.
fn text(value: &HeaderValue) -> &str {
    value.to_str().unwrap_or("no text")
}

/// How a body is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Coding {
    Identity,
    Gzip,
    Zstd,
}

impl Coding {
    fn parse(content_encoding: &str) -> Result<Self, Refusal> {
        match content_encoding.trim().to_ascii_lowercase().as_str() {
            "" | "identity" => Ok(Self::Identity),
            "gzip" | "x-gzip" => Ok(Self::Gzip),
            "zstd" => Ok(Self::Zstd),
            _ => Err(Refusal {
                status: StatusCode::UNSUPPORTED_MEDIA_TYPE,
                message: format!("the content encoding has to be gzip or zstd, not '{content_encoding}'"),
                // RFC 9110, section 12.5.3: tells which codings a resource would have taken.
                header: Some((ACCEPT_ENCODING, "gzip, zstd")),
            }),
        }
    }
}

/// Decompresses, up to what a request may have: a small body can hold a large one.
fn decode_body(coding: Coding, body: Bytes) -> Result<Bytes, Refusal> {
    let decoded = match coding {
        Coding::Identity => return Ok(body),
        Coding::Gzip => read_bounded(flate2::read::MultiGzDecoder::new(body.as_ref())),
        Coding::Zstd => zstd::Decoder::with_buffer(body.as_ref()).and_then(read_bounded),
    };
    match decoded {
        Ok(Some(decoded)) => Ok(decoded.into()),
        Ok(None) => Err(too_large()),
        Err(error) => {
            Err(Refusal::new(StatusCode::BAD_REQUEST, format!("the body cannot be decompressed: {error}")))
        }
    }
}

/// Everything, or `None` when that is more than a request may have.
fn read_bounded(reader: impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    reader.take(limit().saturating_add(1)).read_to_end(&mut bytes)?;
    Ok((bytes.len() <= MAX_REQUEST_BYTES).then_some(bytes))
}

fn limit() -> u64 {
    u64::try_from(MAX_REQUEST_BYTES).unwrap_or(u64::MAX)
}

fn too_large() -> Refusal {
    let message = format!("a request may have {MAX_REQUEST_BYTES} bytes");
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, message)
}

/// A `google.rpc.Status` with nothing but its field 2, the message: what OTLP/HTTP wants in the body of an error.
fn encode_status(message: &str) -> Bytes {
    const MESSAGE_FIELD: u32 = 2;
    let mut bytes = Vec::with_capacity(message.len() + 8);
    prost::encoding::string::encode(MESSAGE_FIELD, &message.to_owned(), &mut bytes);
    bytes.into()
}
