//! A receiver that answers as it is told, and keeps the headers: what well-behaved collectors cannot show.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::fmt;
use std::sync::{Arc, Mutex};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsPartialSuccess, ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use prost::Message;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::codec::CompressionEncoding;

use crate::collector::Protocol;
use crate::namespace::Namespace;
use crate::otlp::{Point, Points, flatten};
use crate::served::Served;

/// How to answer one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Success.
    Accept,
    /// Success, but for so many points.
    Reject(i64),
    /// A failure that passes: UNAVAILABLE, or 503.
    Unavailable,
    /// A failure that stays: `INVALID_ARGUMENT`, or 400.
    Invalid,
}

/// A running receiver; ended when dropped.
pub struct Responder {
    state: Arc<Mutex<State>>,
    _served: Served,
}

#[derive(Default)]
struct State {
    answers: VecDeque<Answer>,
    requests: Vec<Received>,
}

/// A request and how it was answered.
#[derive(Debug, Clone)]
pub struct Received {
    /// The answer.
    pub answer: Answer,
    /// The headers, in lower case; of gRPC the metadata.
    pub headers: BTreeMap<String, String>,
    /// The path of an HTTP request.
    pub path: Option<String>,
    points: Vec<Point>,
}

impl Responder {
    /// Starts on the loopback of a host. When all answers are given, it accepts.
    #[must_use]
    #[track_caller]
    pub fn start(host: &Namespace, protocol: Protocol, answers: &[Answer]) -> Self {
        let state =
            Arc::new(Mutex::new(State { answers: answers.iter().copied().collect(), ..State::default() }));
        let shared = Arc::clone(&state);
        let served = Served::start(host, async move || {
            let listener = TcpListener::bind(protocol.address()).await.expect("the port is free");
            match protocol {
                Protocol::Grpc => tokio::spawn(serve_grpc(listener, shared)),
                Protocol::Http => tokio::spawn(serve_http(listener, shared)),
            };
        });
        Self { state, _served: served }
    }

    /// Every request so far.
    #[must_use]
    pub fn requests(&self) -> Vec<Received> {
        self.state.lock().expect("no handler panics").requests.clone()
    }

    /// Answers the next requests like that.
    pub fn answer(&self, answers: &[Answer]) {
        self.state.lock().expect("no handler panics").answers.extend(answers);
    }
}

impl Points for Responder {
    /// The points of the requests that were accepted.
    fn points(&self) -> Vec<Point> {
        let accepted = |request: &Received| matches!(request.answer, Answer::Accept | Answer::Reject(_));
        self.requests().into_iter().filter(accepted).flat_map(|request| request.points).collect()
    }
}

impl Received {
    /// The points that it carried.
    #[must_use]
    pub fn points(&self) -> &[Point] {
        &self.points
    }
}

impl fmt::Debug for Responder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Responder").finish_non_exhaustive()
    }
}

fn receive(
    state: &Mutex<State>,
    headers: BTreeMap<String, String>,
    path: Option<String>,
    request: &ExportMetricsServiceRequest,
) -> Answer {
    let mut points = Vec::new();
    for resource_metrics in &request.resource_metrics {
        let resource =
            resource_metrics.resource.as_ref().map_or(&[][..], |resource| resource.attributes.as_slice());
        for metric in resource_metrics.scope_metrics.iter().flat_map(|scope| &scope.metrics) {
            flatten(resource, metric, &mut points);
        }
    }
    let mut state = state.lock().expect("no handler panics");
    let answer = state.answers.pop_front().unwrap_or(Answer::Accept);
    state.requests.push(Received { answer, headers, path, points });
    answer
}

fn response(answer: Answer) -> ExportMetricsServiceResponse {
    let partial_success = match answer {
        Answer::Reject(rejected_data_points) => {
            Some(ExportMetricsPartialSuccess { rejected_data_points, error_message: "too many".to_owned() })
        }
        Answer::Accept | Answer::Unavailable | Answer::Invalid => None,
    };
    ExportMetricsServiceResponse { partial_success }
}

struct Grpc(Arc<Mutex<State>>);

#[tonic::async_trait]
impl MetricsService for Grpc {
    async fn export(
        &self,
        request: tonic::Request<ExportMetricsServiceRequest>,
    ) -> Result<tonic::Response<ExportMetricsServiceResponse>, tonic::Status> {
        let headers = request
            .metadata()
            .clone()
            .into_headers()
            .iter()
            .map(|(key, value)| (key.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
            .collect();
        match receive(&self.0, headers, None, request.get_ref()) {
            Answer::Unavailable => Err(tonic::Status::unavailable("come back")),
            Answer::Invalid => Err(tonic::Status::invalid_argument("not like this")),
            answer => Ok(tonic::Response::new(response(answer))),
        }
    }
}

async fn serve_grpc(listener: TcpListener, state: Arc<Mutex<State>>) {
    tonic::transport::Server::builder()
        .add_service(
            MetricsServiceServer::new(Grpc(state))
                .accept_compressed(CompressionEncoding::Gzip)
                .accept_compressed(CompressionEncoding::Zstd),
        )
        .serve_with_incoming(TcpListenerStream::new(listener))
        .await
        .expect("the receiver serves");
}

async fn serve_http(listener: TcpListener, state: Arc<Mutex<State>>) {
    loop {
        let (stream, _) = listener.accept().await.expect("the receiver accepts");
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            let service = service_fn(|request| answer_http(request, Arc::clone(&state)));
            let connection = hyper::server::conn::http1::Builder::new();
            let _cut_by_the_client = connection.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer_http(
    request: hyper::Request<Incoming>,
    state: Arc<Mutex<State>>,
) -> Result<hyper::Response<Full<Bytes>>, Infallible> {
    let headers: BTreeMap<String, String> = request
        .headers()
        .iter()
        .map(|(key, value)| (key.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
        .collect();
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await.expect("a whole body").to_bytes();
    // What is compressed is not looked into: the real collectors do that.
    let compressed = headers.contains_key("content-encoding");
    let message = if compressed {
        ExportMetricsServiceRequest::default()
    } else {
        ExportMetricsServiceRequest::decode(body).expect("a protobuf body")
    };
    let answer = receive(&state, headers, Some(path), &message);
    let (status, body) = match answer {
        Answer::Unavailable => (503, Bytes::new()),
        Answer::Invalid => (400, Bytes::new()),
        Answer::Accept | Answer::Reject(_) => (200, response(answer).encode_to_vec().into()),
    };
    let response = hyper::Response::builder().status(status).header("content-type", "application/x-protobuf");
    Ok(response.body(Full::new(body)).expect("a valid response"))
}
