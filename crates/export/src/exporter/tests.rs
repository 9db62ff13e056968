use std::future::Future;

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use prost::Message;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tonic::codec::CompressionEncoding;
use tonic::{Code, Status};

use super::*;
use crate::answer::{Any, ProtoDuration, RetryInfo, RpcStatus};
use crate::config::{Compression, Protocol, Secret, SpoolConfig, SpoolMode};
use crate::testing::grpc_collector::{self, GrpcCollector};
use crate::testing::http_collector::{HttpCollector, Reply};
use crate::testing::log::Log;
use crate::testing::{StoppedClock, config, count_points, encoder, request_of, some_points};

const LONG: Duration = Duration::from_secs(20);

fn start(config: &ExportConfig) -> ExporterHandle {
    Exporter::new(config, Arc::new(StoppedClock)).unwrap().start(&Handle::current())
}

/// A cycle that measured these points.
fn cycle(exporter: &ExporterHandle, points: &[DataPoint]) {
    exporter.begin_cycle();
    exporter.hand_over(&mut encoder(), points);
}

fn http(collector: &HttpCollector) -> ExportConfig {
    config(Protocol::HttpProtobuf, &collector.url())
}

fn grpc(collector: &GrpcCollector) -> ExportConfig {
    config(Protocol::Grpc, &collector.url())
}

fn dropped(stats: &Stats) -> Vec<(&str, u64)> {
    stats.dropped_points.iter().map(|(reason, points)| (reason.as_ref(), *points)).collect()
}

/// Waits for what another task is about to bring about.
async fn until(condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(LONG, wait).await.unwrap();
}

async fn ends_soon<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(LONG, work).await.unwrap()
}

#[tokio::test]
async fn over_http_a_failure_that_may_pass_is_followed_by_the_same_request() {
    for fault in [
        Reply::status("429 Too Many Requests", "Retry-After: 0\r\n", b"slow down"),
        Reply::status("502 Bad Gateway", "", b""),
        Reply::status("503 Service Unavailable", "Retry-After: Sun, 06 Nov 1994 08:49:37 GMT\r\n", b""),
        Reply::status("504 Gateway Timeout", "", b""),
        Reply::Reset,
        Reply::Bytes(b"220 mail.example ESMTP\r\n".to_vec()),
        Reply::Bytes(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf".to_vec()),
    ] {
        let hangs_up_late = matches!(&fault, Reply::Bytes(bytes) if bytes.ends_with(b"half"));
        let collector = HttpCollector::start([fault.clone()]).await;
        let mut config = http(&collector);
        if hangs_up_late {
            config.timeout = Duration::from_millis(50);
        }
        let exporter = start(&config);
        cycle(&exporter, &some_points(3));
        assert_eq!(exporter.flush(LONG).await, 0, "{fault:?}");
        let stats = exporter.stats();
        assert_eq!((stats.sent_points, stats.retried_points, &stats.outage), (3, 3, &None), "{fault:?}");
        assert_eq!(dropped(&stats), [], "{fault:?}");
        let received = collector.received();
        assert_eq!(received.len(), 2, "{fault:?}");
        assert_eq!(received[0].body, request_of(3), "{fault:?}");
        assert_eq!(received[1].body, request_of(3), "{fault:?}");
    }
}

#[tokio::test]
async fn over_http_a_failure_that_will_not_pass_costs_the_request_and_no_other() {
    for (line, headers, reason) in [
        ("400 Bad Request", "", "400"),
        ("401 Unauthorized", "", "401"),
        ("403 Forbidden", "", "403"),
        ("404 Not Found", "", "404"),
        ("413 Content Too Large", "", "413"),
        ("500 Internal Server Error", "Retry-After: 1\r\n", "500"),
        ("302 Found", "Location: http://elsewhere.example/\r\n", "302"),
        ("307 Temporary Redirect", "Location: /v2\r\n", "307"),
    ] {
        let collector = HttpCollector::start([Reply::status(line, headers, b"no such tenant")]).await;
        let exporter = start(&http(&collector));
        cycle(&exporter, &some_points(3));
        cycle(&exporter, &some_points(4));
        assert_eq!(exporter.flush(LONG).await, 0, "{line}");
        let stats = exporter.stats();
        assert_eq!((stats.sent_points, stats.retried_points), (4, 0), "{line}");
        assert_eq!(dropped(&stats), [(reason, 3)], "{line}");
        assert!(stats.last_error.unwrap().contains("no such tenant"), "{line}");
        assert_eq!(collector.received().len(), 2, "{line}");
    }
}

#[tokio::test]
async fn a_collector_that_never_answers_is_left_after_the_timeout_and_tried_again() {
    let collector = HttpCollector::start([Reply::Hang, Reply::Hang]).await;
    let mut config = http(&collector);
    config.timeout = Duration::from_millis(50);
    let exporter = start(&config);
    cycle(&exporter, &some_points(2));
    assert_eq!(exporter.flush(LONG).await, 0);
    let stats = exporter.stats();
    assert_eq!((stats.sent_points, stats.retried_points), (2, 4));
    assert_eq!(collector.received().len(), 3);
}

#[tokio::test]
async fn a_partial_success_is_counted_told_once_and_never_sent_again() {
    let log = Log::collect();
    let collector = HttpCollector::start([
        Reply::partial(2, "points too old"),
        Reply::partial(1, "points too old"),
        Reply::partial(0, "deprecated name"),
        Reply::partial(0, "deprecated name"),
        Reply::partial(0, ""),
        Reply::partial(-7, ""),
        Reply::partial(99, "more than there were"),
    ])
    .await;
    let exporter = start(&http(&collector));
    for _ in 0..7 {
        cycle(&exporter, &some_points(5));
    }
    assert_eq!(exporter.flush(LONG).await, 0);
    let stats = exporter.stats();
    assert_eq!((stats.sent_points, stats.retried_points), (35 - 3 - 5, 0));
    assert_eq!(dropped(&stats), [("rejected", 8)]);
    assert_eq!(collector.received().len(), 7);
    assert_eq!(log.notices_with("points too old").len(), 1);
    assert_eq!(log.notices_with("deprecated name").len(), 1);
    assert_eq!(log.notices_with("").len(), 3);
}

#[tokio::test]
async fn a_success_whose_body_makes_no_sense_is_no_reason_to_send_again() {
    let log = Log::collect();
    let html = b"<html>It works!</html>";
    let huge = vec![b'x'; 3 << 20];
    let collector = HttpCollector::start([
        Reply::status("200 OK", "Content-Type: text/html\r\n", html),
        Reply::status("200 OK", "Content-Type: application/x-protobuf\r\n", &huge),
    ])
    .await;
    let exporter = start(&http(&collector));
    cycle(&exporter, &some_points(3));
    cycle(&exporter, &some_points(3));
    assert_eq!(exporter.flush(LONG).await, 0);
    assert_eq!((exporter.stats().sent_points, exporter.stats().retried_points), (6, 0));
    assert_eq!(collector.received().len(), 2);
    assert_eq!(log.notices_with("check that the endpoint is an OTLP receiver").len(), 2);
}

#[tokio::test]
async fn what_the_collector_asks_for_is_waited() {
    let busy = Reply::status("429 Too Many Requests", "Retry-After: 1\r\n", b"");
    let collector = HttpCollector::start([busy]).await;
    let exporter = start(&http(&collector));
    let began = Instant::now();
    cycle(&exporter, &some_points(1));
    until(|| exporter.stats().sent_points == 1).await;
    assert!(began.elapsed() >= Duration::from_secs(1));
}

#[tokio::test]
async fn a_flush_cuts_a_wait_short() {
    let collector =
        HttpCollector::start([Reply::status("503 Service Unavailable", "Retry-After: 600\r\n", b"")]).await;
    let exporter = start(&http(&collector));
    cycle(&exporter, &some_points(3));
    until(|| exporter.stats().outage.is_some()).await;
    assert_eq!(ends_soon(exporter.flush(Duration::from_mins(1))).await, 0);
    assert_eq!(exporter.stats().sent_points, 3);
}

#[tokio::test]
async fn a_flush_gives_up_when_the_next_attempt_would_come_too_late() {
    let silence = Reply::status("503 Service Unavailable", "Retry-After: 600\r\n", b"");
    let collector = HttpCollector::start([silence.clone(), silence]).await;
    let exporter = start(&http(&collector));
    cycle(&exporter, &some_points(3));
    cycle(&exporter, &some_points(4));
    until(|| exporter.stats().outage.is_some()).await;
    assert_eq!(ends_soon(exporter.flush(Duration::from_secs(500))).await, 7);
    assert_eq!(exporter.stats().waiting_points, 7);
}

#[tokio::test]
async fn a_flush_ends_at_its_deadline_whatever_the_collector_does() {
    let collector = HttpCollector::start([Reply::Hang]).await;
    let mut config = http(&collector);
    config.timeout = Duration::ZERO;
    let exporter = start(&config);
    cycle(&exporter, &some_points(3));
    assert_eq!(ends_soon(exporter.flush(Duration::from_millis(50))).await, 3);
}

#[tokio::test]
async fn an_outage_is_told_once_at_either_end_and_costs_the_oldest_points_only() {
    let log = Log::collect();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let mut config = config(Protocol::HttpProtobuf, &format!("http://{address}/v1/metrics"));
    config.queue_bytes = (1..=4).map(|points| request_of(points).len()).sum::<usize>() - 1;
    let exporter = start(&config);
    cycle(&exporter, &some_points(1));
    until(|| exporter.stats().retried_points > 2).await;
    for points in 2..=4 {
        cycle(&exporter, &some_points(points));
    }
    until(|| !exporter.stats().dropped_points.is_empty()).await;
    let outage = exporter.stats().outage.unwrap();
    assert_eq!(outage.since, StoppedClock.wall());
    assert_eq!(outage.failure.error_type, "connection_refused");

    let collector = HttpCollector::start_at(TcpListener::bind(address).await.unwrap(), []);
    assert_eq!(exporter.flush(LONG).await, 0);
    let stats = exporter.stats();
    assert_eq!((stats.sent_points, &stats.outage), (9, &None));
    assert_eq!(dropped(&stats), [("full", 1)]);
    let order: Vec<u64> = collector
        .received()
        .iter()
        .map(|request| count_points(&ExportMetricsServiceRequest::decode(request.body.clone()).unwrap()))
        .collect();
    assert_eq!(order, [2, 3, 4]);

    let begun = log.notices_with("connecting failed");
    assert_eq!(begun.len(), 1, "{begun:?}");
    for text in
        [&address.to_string(), "refused", "OTEL_EXPORTER_OTLP_ENDPOINT", "1 points wait, measuring goes on"]
    {
        assert!(begun[0].contains(text), "{text}: {begun:?}");
    }
    assert_eq!(log.notices_with("the queue is full").len(), 1);
    let ended = log.notices_with("takes data again");
    assert_eq!(ended.len(), 1);
    assert!(ended[0].contains("1 points were lost, 7 that waited"), "{ended:?}");
}

#[tokio::test]
async fn what_one_cycle_measured_is_sent_in_full_even_if_it_is_more_than_the_queue_may_hold() {
    let collector = HttpCollector::start([Reply::status("503 Service Unavailable", "", b"")]).await;
    let mut config = http(&collector);
    config.queue_bytes = 100;
    let exporter = start(&config);
    // On this runtime nothing can be sent before the whole cycle waits.
    cycle(&exporter, &some_points(50_000));
    assert!(exporter.stats().waiting_bytes > 1 << 20, "several requests: {:?}", exporter.stats());
    // A cycle in which nothing was due makes the last one no older: its request that fails at first is kept.
    cycle(&exporter, &[]);
    assert_eq!(exporter.flush(LONG).await, 0);
    let stats = exporter.stats();
    assert_eq!(stats.sent_points, 50_000);
    assert!(stats.retried_points > 0);
    assert_eq!(dropped(&stats), []);
    assert!(collector.received().len() > 2);
}

#[tokio::test]
async fn a_queue_holds_compressed_requests_and_so_many_more_of_them() {
    for compression in [Compression::Gzip, Compression::Zstd] {
        for protocol in [Protocol::Grpc, Protocol::HttpProtobuf] {
            let config = ExportConfig { compression, ..config(protocol, "http://127.0.0.1:9") };
            let exporter = start(&config);
            cycle(&exporter, &some_points(5_000));
            // Nothing is sent before this test waits for something.
            let waiting = exporter.stats().waiting_bytes;
            assert!(
                waiting > 0 && waiting < request_of(5_000).len() / 10,
                "{compression:?}: {waiting} bytes"
            );
        }
    }
}

#[tokio::test]
async fn over_http_headers_and_compressed_bodies_arrive() {
    for (compression, encoding) in
        [(Compression::None, None), (Compression::Gzip, Some("gzip")), (Compression::Zstd, Some("zstd"))]
    {
        let collector = HttpCollector::start([Reply::Reset]).await;
        let mut config = http(&collector);
        config.compression = compression;
        config.headers = vec![("Authorization".into(), Secret::new("Bearer hunter2"))];
        let exporter = start(&config);
        cycle(&exporter, &some_points(30));
        assert_eq!(exporter.flush(LONG).await, 0);
        let received = collector.received();
        assert_eq!(received.len(), 2);
        for request in &received {
            assert!(request.head.starts_with("POST /v1/metrics HTTP/1.1\r\n"));
            assert_eq!(request.header("content-type"), Some("application/x-protobuf"));
            assert_eq!(request.header("content-encoding"), encoding);
            assert_eq!(request.header("authorization"), Some("Bearer hunter2"));
            assert_eq!(request.header("user-agent"), Some(crate::USER_AGENT));
            let plain =
                crate::compress::decode_body(encoding.unwrap_or("identity"), &request.body, 1 << 20).unwrap();
            assert_eq!(plain, request_of(30));
        }
    }
}

#[tokio::test]
async fn no_secret_is_logged_even_when_all_is() {
    let log = Log::collect();
    let refusal = Reply::status("401 Unauthorized", "", b"bad token");
    let collector = HttpCollector::start([Reply::Reset, refusal]).await;
    let mut config = config(Protocol::HttpProtobuf, &format!("{}?api-key=hunter2", collector.url()));
    config.headers = vec![("authorization".into(), Secret::new("Bearer hunter2"))];
    let exporter = Exporter::new(&config, Arc::new(StoppedClock)).unwrap();
    assert!(!format!("{exporter:?}").contains("hunter2"));
    let exporter = exporter.start(&Handle::current());
    cycle(&exporter, &some_points(3));
    assert_eq!(exporter.flush(LONG).await, 0);
    assert_eq!(dropped(&exporter.stats()), [("401", 3)]);
    assert!(log.lines_with("DEBUG vms_export: request refused").len() == 1, "the details are not collected");
    assert_eq!(log.lines_with("hunter2"), [""; 0]);
}

#[tokio::test]
async fn sending_ends_with_the_last_handle() {
    let collector = HttpCollector::start([Reply::Hang]).await;
    let exporter = start(&http(&collector));
    let shared = Arc::downgrade(&exporter.shared);
    cycle(&exporter, &some_points(1));
    until(|| !collector.received().is_empty()).await;
    assert!(shared.upgrade().is_some());
    drop(exporter);
    until(|| shared.upgrade().is_none()).await;
}

fn with_retry_info(code: Code, delay: ProtoDuration) -> Status {
    let info = RetryInfo { retry_delay: Some(delay) }.encode_to_vec().into();
    let detail = Any { type_url: "type.googleapis.com/google.rpc.RetryInfo".into(), value: info };
    let details = RpcStatus { code: i32::from(code), message: String::new(), details: vec![detail] };
    Status::with_details(code, "try later", Bytes::from(details.encode_to_vec()))
}

#[tokio::test]
async fn over_grpc_each_status_is_retried_or_not_as_the_specification_says() {
    for number in 1..=16 {
        for retry_info in [false, true] {
            let code = Code::from_i32(number);
            let reply = if retry_info {
                with_retry_info(code, ProtoDuration { seconds: 0, nanos: 1_000_000 })
            } else {
                Status::new(code, "try later")
            };
            let may_pass = match code {
                Code::Cancelled
                | Code::DeadlineExceeded
                | Code::Aborted
                | Code::OutOfRange
                | Code::Unavailable
                | Code::DataLoss => true,
                Code::ResourceExhausted => retry_info,
                _ => false,
            };
            let collector = GrpcCollector::start([Err(reply)], None, None).await;
            let exporter = start(&grpc(&collector));
            cycle(&exporter, &some_points(3));
            cycle(&exporter, &some_points(4));
            assert_eq!(exporter.flush(LONG).await, 0, "{code:?}");
            let stats = exporter.stats();
            let counts: Vec<u64> =
                collector.received().iter().map(|(_, request)| count_points(request)).collect();
            if may_pass {
                assert_eq!(counts, [3, 3, 4], "{code:?}");
                assert_eq!((stats.sent_points, stats.retried_points), (7, 3), "{code:?}");
                assert_eq!(dropped(&stats), [], "{code:?}");
            } else {
                assert_eq!(counts, [3, 4], "{code:?}");
                assert_eq!((stats.sent_points, stats.retried_points), (4, 0), "{code:?}");
                assert_eq!(stats.dropped_points.values().sum::<u64>(), 3, "{code:?}");
            }
            assert!(stats.last_error.unwrap().contains("try later"), "{code:?}");
        }
    }
}

#[tokio::test]
async fn over_grpc_the_delay_of_a_retry_info_is_waited() {
    let status = with_retry_info(Code::Unavailable, ProtoDuration { seconds: 0, nanos: 300_000_000 });
    let collector = GrpcCollector::start([Err(status)], None, None).await;
    let exporter = start(&grpc(&collector));
    let began = Instant::now();
    cycle(&exporter, &some_points(1));
    until(|| exporter.stats().sent_points == 1).await;
    assert!(began.elapsed() >= Duration::from_millis(300));
}

#[tokio::test]
async fn over_grpc_a_partial_success_is_counted_and_never_sent_again() {
    let replies = [Ok(grpc_collector::partial(2, "points too old")), Ok(grpc_collector::partial(0, ""))];
    let collector = GrpcCollector::start(replies, None, None).await;
    let exporter = start(&grpc(&collector));
    cycle(&exporter, &some_points(5));
    cycle(&exporter, &some_points(5));
    assert_eq!(exporter.flush(LONG).await, 0);
    let stats = exporter.stats();
    assert_eq!((stats.sent_points, stats.retried_points), (8, 0));
    assert_eq!(dropped(&stats), [("rejected", 2)]);
    assert_eq!(collector.received().len(), 2);
}

#[tokio::test]
async fn over_grpc_requests_and_answers_travel_in_every_compression() {
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        for answer in [None, Some(CompressionEncoding::Gzip), Some(CompressionEncoding::Zstd)] {
            let collector =
                GrpcCollector::start([Ok(grpc_collector::partial(1, "one odd point"))], answer, None).await;
            let mut config = grpc(&collector);
            config.compression = compression;
            config.headers = vec![("Authorization".into(), Secret::new("Bearer hunter2"))];
            let exporter = start(&config);
            cycle(&exporter, &some_points(30));
            assert_eq!(exporter.flush(LONG).await, 0);
            let stats = exporter.stats();
            // The rejected point proves that the compressed answer was read.
            assert_eq!(stats.sent_points, 29, "{compression:?} {answer:?} {:?}", stats.last_error);
            assert_eq!(dropped(&stats), [("rejected", 1)]);
            let received = collector.received();
            let (metadata, request) = &received[0];
            assert_eq!(request, &ExportMetricsServiceRequest::decode(request_of(30)).unwrap());
            assert_eq!(metadata.get("authorization").unwrap(), "Bearer hunter2");
            assert_eq!(metadata.get("user-agent").unwrap(), crate::USER_AGENT);
        }
    }
}

/// Passes connections on, until told to forget those that it has: then they go silent and are not closed, as
/// behind a NAT that lost its table.
struct Relay {
    address: std::net::SocketAddr,
    forget: Arc<Notify>,
    forgotten: Arc<Notify>,
}

impl Relay {
    async fn start(target: std::net::SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (forget, forgotten) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let told = (Arc::clone(&forget), Arc::clone(&forgotten));
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let (forget, forgotten) = told.clone();
                tokio::spawn(async move {
                    let mut server = tokio::net::TcpStream::connect(target).await.unwrap();
                    tokio::select! {
                        ended = tokio::io::copy_bidirectional(&mut client, &mut server) => drop(ended),
                        () = forget.notified() => {
                            forgotten.notify_one();
                            std::future::pending::<()>().await;
                        }
                    }
                });
            }
        });
        Self { address, forget, forgotten }
    }

    async fn forget(&self) {
        self.forget.notify_waiters();
        self.forgotten.notified().await;
    }
}

#[tokio::test]
async fn a_connection_that_died_in_silence_is_replaced_after_one_timeout() {
    let collector = GrpcCollector::start([], None, None).await;
    let relay = Relay::start(collector.address).await;
    let mut config = config(Protocol::Grpc, &format!("http://{}", relay.address));
    config.timeout = Duration::from_secs(1);
    let exporter = start(&config);
    cycle(&exporter, &some_points(1));
    assert_eq!(exporter.flush(LONG).await, 0);
    relay.forget().await;
    cycle(&exporter, &some_points(2));
    assert_eq!(exporter.flush(LONG).await, 0);
    let stats = exporter.stats();
    assert_eq!((stats.sent_points, stats.retried_points), (3, 2));
    assert_eq!(collector.received().len(), 2);
}

#[tokio::test]
async fn a_server_of_the_other_protocol_is_told_apart() {
    let http_collector = HttpCollector::start([Reply::Reset; 0]).await;
    let exporter = start(&config(Protocol::Grpc, http_collector.url().trim_end_matches("/v1/metrics")));
    cycle(&exporter, &some_points(1));
    until(|| exporter.stats().outage.is_some()).await;
    let outage = exporter.stats().outage.unwrap();
    assert!(outage.failure.advice.contains("speaks gRPC"), "{outage:?}");

    let grpc_collector = GrpcCollector::start([], None, None).await;
    let exporter = start(&config(Protocol::HttpProtobuf, &format!("{}/v1/metrics", grpc_collector.url())));
    cycle(&exporter, &some_points(1));
    until(|| exporter.stats().outage.is_some()).await;
    let outage = exporter.stats().outage.unwrap();
    assert!(outage.failure.advice.contains("speaks HTTP/1.1"), "{outage:?}");
}

fn with_spool(directory: &std::path::Path) -> ExportConfig {
    let mut config = config(Protocol::Grpc, "http://127.0.0.1:1");
    config.spool = Some(SpoolConfig {
        mode: SpoolMode::Always,
        directory: directory.to_owned(),
        max_bytes: 1 << 30,
        max_age: Duration::from_hours(24),
        replay_pause: Duration::from_millis(1),
    });
    config
}

#[tokio::test]
async fn a_spool_that_cannot_be_used_at_the_start_is_used_once_it_can_be() {
    let log = Log::collect();
    let directory = tempfile::tempdir().unwrap();
    let spool = directory.path().join("spool");
    std::fs::write(&spool, "in the way").unwrap();
    let exporter = start(&with_spool(&spool));
    cycle(&exporter, &some_points(3));
    assert_eq!(exporter.stats().spool, None);
    std::fs::remove_file(&spool).unwrap();
    until(|| exporter.stats().spool.is_some_and(|spool| spool.points == 3)).await;
    assert_eq!(log.notices_with("cannot be used").len(), 1);
}

#[tokio::test]
async fn a_spool_that_was_left_and_comes_back_while_its_keeper_still_has_it_is_no_other_agent_s() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let exporter = start(&with_spool(first.path()));
    // The disk hangs, and with it the keeper that holds the lock.
    let held = {
        exporter.reconfigure(exporter.prepare(&with_spool(second.path())).unwrap());
        until(|| exporter.stats().spool.is_some()).await;
        loop {
            if let Ok(store) = crate::spool::store::Store::open(first.path()) {
                break store;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let back = exporter.prepare(&with_spool(first.path())).unwrap();
    exporter.reconfigure(back);
    cycle(&exporter, &some_points(3));
    assert_eq!(exporter.stats().spool, None, "the memory serves");
    drop(held);
    until(|| exporter.stats().spool.is_some_and(|spool| spool.points == 3)).await;
}

#[tokio::test]
async fn a_spool_that_is_in_use_at_the_start_is_another_agent_s_whatever_number_that_has() {
    let directory = tempfile::tempdir().unwrap();
    // In containers every agent is process 1.
    let _held = crate::spool::store::Store::open(directory.path()).unwrap();
    let refused = Exporter::new(&with_spool(directory.path()), Arc::new(StoppedClock)).unwrap_err();
    assert!(matches!(refused, ExportError::SpoolInUse { .. }), "{refused}");
}

#[tokio::test]
async fn what_was_delivered_before_the_end_is_not_on_the_disk_after_it() {
    let collector = GrpcCollector::start([], None, None).await;
    for _ in 0..10 {
        let directory = tempfile::tempdir().unwrap();
        let exporter = start(&ExportConfig { spool: with_spool(directory.path()).spool, ..grpc(&collector) });
        until(|| exporter.stats().spool.is_some()).await;
        cycle(&exporter, &some_points(3));
        assert_eq!(exporter.flush(LONG).await, 0);
        let names = std::fs::read_dir(directory.path()).unwrap().map(|item| item.unwrap().file_name());
        let records = names.filter(|name| name.to_string_lossy().contains(".otlp"));
        assert_eq!(records.collect::<Vec<_>>(), [""; 0], "it would be sent again");
    }
}

#[tokio::test]
async fn a_stop_leaves_the_spool_to_a_collector_that_takes_it() {
    let directory = tempfile::tempdir().unwrap();
    let former = start(&with_spool(directory.path()));
    for points in 1..=9 {
        cycle(&former, &some_points(points));
    }
    until(|| former.stats().spool.is_some_and(|spool| spool.requests == 9)).await;
    drop(former);
    let refusal = Reply::status("401 Unauthorized", "", b"");
    let collector = HttpCollector::start(vec![refusal; 50]).await;
    let config = ExportConfig { spool: with_spool(directory.path()).spool, ..http(&collector) };
    // The former one's keeper may not have left the directory yet.
    let exporter = loop {
        if let Ok(exporter) = Exporter::new(&config, Arc::new(StoppedClock)) {
            break exporter.start(&Handle::current());
        }
    };
    until(|| exporter.stats().spool.is_some_and(|spool| spool.requests >= 8)).await;
    cycle(&exporter, &some_points(10));
    until(|| !dropped(&exporter.stats()).is_empty()).await;
    assert_eq!(ends_soon(exporter.flush(Duration::from_mins(1))).await, 0);
    assert!(exporter.stats().spool.unwrap().requests >= 8, "{:?}", exporter.stats());
}
