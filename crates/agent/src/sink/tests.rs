use std::io::Read as _;
use std::net::TcpStream;
use std::sync::mpsc as blocking;

use clap::Parser as _;
use flate2::write::GzEncoder;
use insta::assert_snapshot;
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_client::LogsServiceClient;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{
    Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message as _;
use tokio::task::JoinHandle;
use tonic::codec::CompressionEncoding;

use super::*;

/// Collects what is written and hands it on at each flush.
struct Pages {
    page: Vec<u8>,
    pages: mpsc::UnboundedSender<String>,
}

impl Pages {
    fn new() -> (Self, mpsc::UnboundedReceiver<String>) {
        let (pages, read) = mpsc::unbounded_channel();
        (Self { page: Vec::new(), pages }, read)
    }
}

impl Write for Pages {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.page.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        let plain = anstream::adapter::strip_bytes(&std::mem::take(&mut self.page)).into_vec();
        self.pages.send(String::from_utf8(plain).unwrap()).map_err(|_closed| io::ErrorKind::BrokenPipe.into())
    }
}

/// A sink on free ports.
struct Sink {
    grpc: SocketAddr,
    http: SocketAddr,
    announced: String,
    out: mpsc::UnboundedReceiver<String>,
    notices: mpsc::UnboundedReceiver<String>,
    stop: oneshot::Sender<()>,
    ended: JoinHandle<anyhow::Result<()>>,
}

fn args(format: Format) -> SinkArgs {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    SinkArgs { grpc: any, http: any, format }
}

impl Sink {
    async fn start(format: Format) -> Self {
        let (writer, out) = Pages::new();
        Self::start_with(args(format), writer, out).await
    }

    async fn start_with(
        args: SinkArgs,
        writer: impl Write + Send + 'static,
        out: mpsc::UnboundedReceiver<String>,
    ) -> Self {
        let (notices_writer, mut notices) = Pages::new();
        let (stop, stopped) = oneshot::channel();
        let ended = tokio::spawn(serve(args, writer, notices_writer, async {
            drop(stopped.await);
        }));
        let announced = notices.recv().await.unwrap();
        let address = |line: usize| -> SocketAddr {
            let url = announced.lines().nth(line).unwrap().split_once("http://").unwrap().1;
            url.split_once('/').map_or(url, |(authority, _)| authority).parse().unwrap()
        };
        Self { grpc: address(0), http: address(1), announced, out, notices, stop, ended }
    }

    async fn page(&mut self) -> String {
        self.out.recv().await.unwrap()
    }

    async fn end(self) -> anyhow::Result<()> {
        drop(self.stop);
        self.ended.await.unwrap()
    }

    async fn send(&self, request: RawRequest) -> RawResponse {
        let address = self.http;
        tokio::task::spawn_blocking(move || request.send(address)).await.unwrap()
    }
}

/// An HTTP request, written by hand.
struct RawRequest {
    method: &'static str,
    path: &'static str,
    headers: Vec<String>,
    body: Vec<u8>,
}

struct RawResponse {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl RawRequest {
    fn post(path: &'static str, body: Vec<u8>) -> Self {
        let headers = vec![
            "content-type: application/x-protobuf".to_owned(),
            format!("content-length: {}", body.len()),
        ];
        Self { method: "POST", path, headers, body }
    }

    fn header(mut self, line: &str) -> Self {
        let (name, _) = line.split_once(':').unwrap();
        self.headers.retain(|header| !header.starts_with(name));
        self.headers.push(line.to_owned());
        self
    }

    fn send(self, address: SocketAddr) -> RawResponse {
        let mut stream = TcpStream::connect(address).unwrap();
        let Self { method, path, headers, body } = self;
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: sink\r\nconnection: close\r\n{}\r\n\r\n",
            headers.join("\r\n")
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(&body).unwrap();
        let mut response = Vec::new();
        stream.read_to_end(&mut response).unwrap();
        let split = response.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
        let head = String::from_utf8(response[..split].to_vec()).unwrap().to_ascii_lowercase();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        RawResponse { status, head, body: response[split + 4..].to_vec() }
    }
}

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

fn attribute(key: &str, value: any_value::Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

fn text_attribute(key: &str, value: &str) -> KeyValue {
    attribute(key, any_value::Value::StringValue(value.to_owned()))
}

fn resource() -> Resource {
    Resource { attributes: vec![text_attribute("service.name", "vms-agent")], ..Resource::default() }
}

/// 2026-08-02T00:00:00.5Z
const TIME: u64 = 1_785_628_800_500_000_000;

fn metrics(up: i64, name: &str) -> ExportMetricsServiceRequest {
    let point = NumberDataPoint {
        attributes: vec![
            text_attribute("name", name),
            attribute("dest_port", any_value::Value::IntValue(4317)),
        ],
        time_unix_nano: TIME,
        value: Some(number_data_point::Value::AsInt(up)),
        ..NumberDataPoint::default()
    };
    let metric = Metric {
        name: "vms.connection_mon.up".to_owned(),
        unit: "1".to_owned(),
        data: Some(Data::Gauge(Gauge { data_points: vec![point] })),
        ..Metric::default()
    };
    ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics {
            resource: Some(resource()),
            scope_metrics: vec![ScopeMetrics { metrics: vec![metric], ..ScopeMetrics::default() }],
            ..ResourceMetrics::default()
        }],
    }
}

fn traces() -> ExportTraceServiceRequest {
    let span = Span {
        trace_id: vec![0xab; 16],
        span_id: vec![0xcd; 8],
        name: "cycle".to_owned(),
        start_time_unix_nano: TIME,
        end_time_unix_nano: TIME + 1_250_000,
        attributes: vec![attribute("probes", any_value::Value::IntValue(2))],
        ..Span::default()
    };
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(resource()),
            scope_spans: vec![ScopeSpans { spans: vec![span], ..ScopeSpans::default() }],
            ..ResourceSpans::default()
        }],
    }
}

fn logs() -> ExportLogsServiceRequest {
    let record = LogRecord {
        time_unix_nano: TIME,
        severity_number: 9,
        severity_text: "INFO".to_owned(),
        body: Some(AnyValue { value: Some(any_value::Value::StringValue("link is up".to_owned())) }),
        attributes: vec![text_attribute("name", "quickstart")],
        ..LogRecord::default()
    };
    ExportLogsServiceRequest {
        resource_logs: vec![ResourceLogs {
            resource: Some(resource()),
            scope_logs: vec![ScopeLogs { log_records: vec![record], ..ScopeLogs::default() }],
            ..ResourceLogs::default()
        }],
    }
}

#[tokio::test]
async fn grpc_shows_a_link_going_down_with_every_compression() {
    let mut sink = Sink::start(Format::Text).await;
    let endpoint = format!("http://{}", sink.grpc);
    let mut text = String::new();
    for (compression, up) in
        [(None, 1), (Some(CompressionEncoding::Gzip), 0), (Some(CompressionEncoding::Zstd), 1)]
    {
        let mut client = MetricsServiceClient::connect(endpoint.clone()).await.unwrap();
        if let Some(compression) = compression {
            client = client.send_compressed(compression);
        }
        client.export(metrics(up, "quickstart")).await.unwrap();
        text.push_str(&sink.page().await);
    }
    assert_snapshot!(text, @"
    resource  service.name=vms-agent
    date  2026-08-02
    TIME (UTC)    METRIC                 VALUE  UNIT  ATTRIBUTES
    00:00:00.500  vms.connection_mon.up      1        name=quickstart dest_port=4317

    00:00:00.500  vms.connection_mon.up      0        name=quickstart dest_port=4317

    00:00:00.500  vms.connection_mon.up      1        name=quickstart dest_port=4317
    ");
    sink.end().await.unwrap();
}

#[tokio::test]
async fn grpc_takes_traces_and_logs_too() {
    let mut sink = Sink::start(Format::Text).await;
    let endpoint = format!("http://{}", sink.grpc);
    TraceServiceClient::connect(endpoint.clone()).await.unwrap().export(traces()).await.unwrap();
    let mut text = sink.page().await;
    LogsServiceClient::connect(endpoint).await.unwrap().export(logs()).await.unwrap();
    text.push_str(&sink.page().await);
    assert_snapshot!(text, @"
    resource  service.name=vms-agent
    date  2026-08-02
    START (UTC)   SPAN   DURATION  STATUS  ATTRIBUTES
    00:00:00.500  cycle    1.25ms          probes=2

    TIME (UTC)    SEVERITY  LOG RECORD
    00:00:00.500  INFO      link is up  name=quickstart
    ");
    sink.end().await.unwrap();
}

#[tokio::test]
async fn http_takes_every_signal_with_every_compression_and_json_gives_it_back_whole() {
    let mut sink = Sink::start(Format::Json).await;
    let signals = [
        (
            "/v1/metrics",
            metrics(1, "quickstart").encode_to_vec(),
            serde_json::to_value(metrics(1, "quickstart")),
        ),
        ("/v1/traces", traces().encode_to_vec(), serde_json::to_value(traces())),
        ("/v1/logs", logs().encode_to_vec(), serde_json::to_value(logs())),
    ];
    for (path, body, json) in signals {
        let json = json.unwrap();
        let zstd = zstd::encode_all(body.as_slice(), 0).unwrap();
        for request in [
            RawRequest::post(path, body.clone()),
            RawRequest::post(path, gzip(&body)).header("content-encoding: gzip"),
            RawRequest::post(path, zstd).header("content-encoding: zstd"),
            RawRequest::post(path, body).header("content-type: Application/X-Protobuf; charset=x"),
        ] {
            let response = sink.send(request).await;
            assert_eq!((response.status, response.body.as_slice()), (200, [].as_slice()), "{path}");
            assert!(response.head.contains("content-type: application/x-protobuf"));
            let page = sink.page().await;
            assert_eq!(page.matches('\n').count(), 1);
            assert_eq!(serde_json::from_str::<serde_json::Value>(&page).unwrap(), json);
        }
    }
    sink.end().await.unwrap();
}

#[tokio::test]
async fn http_refuses_what_it_cannot_take_and_says_why_to_both_sides() {
    let mut sink = Sink::start(Format::Json).await;
    let body = metrics(1, "x").encode_to_vec();
    let post = |path| RawRequest::post(path, body.clone());
    let bomb = vec![0; MAX_REQUEST_BYTES + 1];
    let cases = [
        (post("/v1/profiles"), 404),
        (post("/"), 404),
        (
            RawRequest { method: "GET", body: Vec::new(), ..post("/v1/metrics") }.header("content-length: 0"),
            405,
        ),
        (post("/v1/metrics").header("content-type: application/json"), 415),
        (post("/v1/metrics").header("content-type:"), 415),
        (post("/v1/metrics").header("content-encoding: br"), 415),
        (RawRequest::post("/v1/metrics", b"not protobuf".to_vec()), 400),
        (post("/v1/metrics").header("content-encoding: gzip"), 400),
        (post("/v1/metrics").header("content-encoding: zstd"), 400),
        (RawRequest::post("/v1/metrics", gzip(&bomb)).header("content-encoding: gzip"), 413),
        (
            RawRequest::post("/v1/metrics", zstd::encode_all(bomb.as_slice(), 0).unwrap())
                .header("content-encoding: zstd"),
            413,
        ),
        (
            RawRequest::post("/v1/metrics", Vec::new())
                .header(&format!("content-length: {}", MAX_REQUEST_BYTES + 1)),
            413,
        ),
    ];
    for (request, status) in cases {
        let line = format!("refused {} {}: ", request.method, request.path);
        let response = sink.send(request).await;
        assert_eq!(response.status, status, "{line}");
        let notice = sink.notices.recv().await.unwrap();
        let reason = notice.strip_prefix(&line).unwrap().split(" (").next().unwrap();
        // google.rpc.Status: the message is field 2, a string.
        assert_eq!(response.body[0], 0x12);
        assert!(String::from_utf8_lossy(&response.body).contains(reason));
        assert_eq!(response.head.contains("allow: post"), status == 405);
    }
    assert!(sink.out.try_recv().is_err());
    sink.end().await.unwrap();
}

#[tokio::test]
async fn grpc_refuses_what_grows_beyond_the_limit_when_decompressed() {
    let sink = Sink::start(Format::Json).await;
    for compression in [CompressionEncoding::Gzip, CompressionEncoding::Zstd] {
        let client = MetricsServiceClient::connect(format!("http://{}", sink.grpc)).await.unwrap();
        let bomb = metrics(1, &"x".repeat(MAX_REQUEST_BYTES + 1));
        let status = client.send_compressed(compression).export(bomb).await.unwrap_err();
        assert!(status.message().contains("size limit"), "{status}");
    }
    sink.end().await.unwrap();
}

#[tokio::test]
async fn an_address_in_use_is_named_with_what_to_do() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    for (args, protocol, flag) in [
        (SinkArgs { grpc: address, ..args(Format::Text) }, "OTLP/gRPC", "--grpc"),
        (SinkArgs { http: address, ..args(Format::Text) }, "OTLP/HTTP", "--http"),
    ] {
        let error = serve(args, io::sink(), io::sink(), std::future::pending()).await.unwrap_err();
        let text = format!("{error:#}").replace(&address.to_string(), "ADDRESS");
        let expected = format!(
            "ADDRESS: cannot listen for {protocol}; stop the collector or sink that does, \
             or choose another address with {flag}: Address already in use (os error 98)"
        );
        assert_eq!(text, expected);
    }
}

#[tokio::test]
async fn addresses_that_others_reach_are_warned_of() {
    let (writer, out) = Pages::new();
    let everywhere = SinkArgs { http: SocketAddr::from(([0, 0, 0, 0], 0)), ..args(Format::Text) };
    let sink = Sink::start_with(everywhere, writer, out).await;
    let warning = format!("{} is not a loopback address: whoever reaches it can send here", sink.http);
    assert_eq!(sink.announced.lines().nth(2), Some(warning.as_str()));
    assert_eq!(sink.announced.lines().count(), 3);
    sink.end().await.unwrap();
}

#[tokio::test]
async fn a_hostile_name_is_escaped_in_both_formats() {
    let hostile = "evil\u{1b}[2J\u{9b}2J\u{202e}\nname";
    for format in [Format::Text, Format::Json] {
        let mut sink = Sink::start(format).await;
        let mut client = MetricsServiceClient::connect(format!("http://{}", sink.grpc)).await.unwrap();
        client.export(metrics(1, hostile)).await.unwrap();
        let page = sink.page().await;
        assert!(!page.contains(['\u{1b}', '\u{9b}', '\u{202e}']), "{page}");
        match format {
            Format::Text => assert!(page.contains(r#"name="evil\u{1b}[2J\u{9b}2J\u{202e}\nname""#), "{page}"),
            Format::Json => assert!(page.contains(r#""evil\u001b[2J\u009b2J\u202e\nname""#), "{page}"),
        }
        sink.end().await.unwrap();
    }
}

#[tokio::test]
async fn a_reader_that_goes_away_ends_it_without_an_error() {
    let mut sink = Sink::start(Format::Json).await;
    sink.out.close();
    let response = sink.send(RawRequest::post("/v1/logs", logs().encode_to_vec())).await;
    assert_eq!(response.status, 200);
    sink.ended.await.unwrap().unwrap();
}

#[tokio::test]
async fn output_that_fails_otherwise_is_an_error() {
    struct Full;
    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let sink = Sink::start_with(args(Format::Json), Full, Pages::new().1).await;
    sink.send(RawRequest::post("/v1/logs", logs().encode_to_vec())).await;
    let error = sink.ended.await.unwrap().unwrap_err();
    assert_eq!(format!("{error:#}"), "output: no storage space");
}

#[tokio::test]
async fn it_ends_although_a_connection_stays_open_and_nobody_reads() {
    /// A reader that has stopped: the write returns only when the test drops its end.
    struct Stuck(blocking::SyncSender<()>, blocking::Receiver<()>);
    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(()).unwrap();
            self.1.recv().map_or(Ok(bytes.len()), |()| Ok(bytes.len()))
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let (began, writing) = blocking::sync_channel(1);
    let (unblock, blocked) = blocking::sync_channel(0);
    let sink = Sink::start_with(args(Format::Json), Stuck(began, blocked), Pages::new().1).await;
    let mut half_sent = TcpStream::connect(sink.http).unwrap();
    half_sent.write_all(b"POST /v1/metrics HTTP/1.1\r\nhost: sink\r\n").unwrap();
    let mut client = MetricsServiceClient::connect(format!("http://{}", sink.grpc)).await.unwrap();
    client.export(metrics(1, "x")).await.unwrap();
    tokio::task::spawn_blocking(move || writing.recv().unwrap()).await.unwrap();

    timeout(GRACE * 5, sink.end()).await.unwrap().unwrap();
    drop((unblock, half_sent, client));
}

#[test]
fn it_listens_on_loopback_with_the_standard_ports_unless_told() {
    #[derive(clap::Parser)]
    struct Command {
        #[command(flatten)]
        sink: SinkArgs,
    }
    let SinkArgs { grpc, http, format } = Command::parse_from(["sink"]).sink;
    assert_eq!(
        (grpc.to_string(), http.to_string()),
        ("127.0.0.1:4317".to_owned(), "127.0.0.1:4318".to_owned())
    );
    assert_eq!(format, Format::Text);
    let told = Command::parse_from(["sink", "--grpc", "[::1]:0", "--format", "json"]).sink;
    assert_eq!((told.grpc.to_string(), told.format), ("[::1]:0".to_owned(), Format::Json));
}
