//! Over real connections: what hyper makes of them is part of what is promised.

use std::collections::BTreeMap;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use vms_core::metric::{self, Attribute, AttributeSet, DataPoint, Value};
use vms_export::exposition::{Names, Target};

use super::*;

/// Bytes.
const MORE_THAN_SOCKETS_HOLD: usize = 32 << 20;

/// A running endpoint, with one point of the agent's own.
struct Endpoint {
    address: SocketAddr,
    recorder: Recorder,
}

fn reloads(outcome: &str, count: i64) -> DataPoint {
    DataPoint {
        metric: &metric::CONFIG_RELOADS,
        attributes: Arc::new(AttributeSet::new([Attribute::new("outcome", outcome)])),
        extra: None,
        time: std::time::SystemTime::UNIX_EPOCH,
        start: None,
        value: Value::Int(count),
    }
}

/// An answer, taken apart.
#[derive(Debug)]
struct Answer {
    status: String,
    headers: BTreeMap<String, String>,
    /// As it came.
    raw: Vec<u8>,
    /// As it is read.
    body: String,
}

impl Endpoint {
    fn start() -> Self {
        Self::listening(([127, 0, 0, 1], 0).into())
    }

    fn listening(address: SocketAddr) -> Self {
        let clock = SystemClock::start();
        let listener = Listener::bind(address).unwrap();
        let address = listener.0.local_addr().unwrap();
        let mut recorder = Recorder::new(start(listener, clock));
        recorder.set_target(Target::new([("service.name".to_owned(), "vms-agent".to_owned())]), Names::Own);
        recorder.set_probes(&[], Duration::from_secs(15));
        let mut endpoint = Self { address, recorder };
        endpoint.tell(vec![reloads("applied", 1)], clock.monotonic());
        endpoint
    }

    fn tell(&mut self, mut points: Vec<DataPoint>, now: Duration) {
        self.recorder.begin_cycle(&[], now);
        self.recorder.take(&mut points);
        self.recorder.end_cycle();
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    async fn ask(&self, request: &str) -> Answer {
        let mut stream = self.connect().await;
        // It may be refused before it is whole.
        drop(stream.write_all(request.as_bytes()).await);
        let mut answer = Vec::new();
        timeout(2 * WHOLE, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
        let end = answer.windows(4).position(|end| end == b"\r\n\r\n").unwrap();
        let (head, raw) = (std::str::from_utf8(&answer[..end]).unwrap(), answer[end + 4..].to_vec());
        let (status, headers) = head.split_once("\r\n").unwrap();
        let header = |line: &str| {
            let (name, value) = line.split_once(": ").unwrap();
            (name.to_ascii_lowercase(), value.to_owned())
        };
        let headers: BTreeMap<String, String> = headers.split("\r\n").map(header).collect();
        let mut body = String::new();
        if headers.contains_key("content-encoding") && !raw.is_empty() {
            let mut decoder = flate2::bufread::GzDecoder::new(raw.as_slice());
            io::Read::read_to_string(&mut decoder, &mut body).unwrap();
            assert_eq!(decoder.into_inner(), b"", "it is one member");
        } else {
            body = String::from_utf8(raw.clone()).unwrap();
        }
        Answer { status: status.split(' ').nth(1).unwrap().to_owned(), headers, raw, body }
    }

    async fn get(&self, path: &str, headers: &str) -> Answer {
        self.ask(&format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n")).await
    }
}

#[tokio::test]
async fn a_scrape_is_answered_in_the_format_that_it_asks_for() {
    let endpoint = Endpoint::start();
    let text = endpoint.get("/metrics", "").await;
    assert_eq!((text.status.as_str(), &*text.headers["connection"]), ("200", "close"));
    assert_eq!(text.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    assert_eq!(text.headers["content-length"], text.body.len().to_string());
    for line in [
        "target_info{service_name=\"vms-agent\"} 1",
        "# TYPE vms_agent_config_reloads_total counter",
        "vms_agent_config_reloads_total{outcome=\"applied\"} 1",
        "# TYPE vms_agent_scrape_data_age_seconds gauge",
    ] {
        assert!(text.body.lines().any(|told| told == line), "{line}: {}", text.body);
    }
    assert!(!text.body.contains("# EOF"), "{}", text.body);

    let open = endpoint.get("/metrics?x", "accept: application/openmetrics-text;version=1.0.0\r\n").await;
    assert_eq!(open.headers["content-type"], "application/openmetrics-text; version=1.0.0; charset=utf-8");
    assert!(open.body.contains("# TYPE vms_agent_config_reloads counter\n"), "{}", open.body);
    assert!(open.body.ends_with("\n# EOF\n"), "{}", open.body);
    assert_eq!(open.body.matches("# EOF").count(), 1);
}

#[tokio::test]
async fn a_scrape_is_compressed_where_it_asks_for_that() {
    let mut endpoint = Endpoint::start();
    endpoint.tell((0..1000).map(|number| reloads(&number.to_string(), number)).collect(), Duration::ZERO);
    let without_age = |body: &str| -> Vec<String> {
        let lines = body.lines().filter(|line| !line.starts_with("vms_agent_scrape_data_age"));
        lines.map(str::to_owned).collect()
    };
    for accept in ["", "accept: application/openmetrics-text;version=1.0.0\r\n"] {
        let plain = endpoint.get("/metrics", accept).await;
        assert_eq!(plain.headers.get("content-encoding"), None);
        let gzip = endpoint.get("/metrics", &format!("{accept}accept-encoding: gzip\r\n")).await;
        assert_eq!(gzip.headers["content-encoding"], "gzip");
        assert_eq!(gzip.headers["content-length"], gzip.raw.len().to_string());
        assert_eq!(gzip.headers["content-type"], plain.headers["content-type"]);
        assert_eq!(without_age(&gzip.body), without_age(&plain.body));
        assert!(gzip.raw.len() < plain.raw.len() / 4, "{} of {}", gzip.raw.len(), plain.raw.len());
        for answer in [plain, gzip] {
            assert_eq!(answer.headers["vary"], "accept, accept-encoding");
        }
    }
    let head = "HEAD /metrics HTTP/1.1\r\nhost: localhost\r\naccept-encoding: gzip\r\n\r\n";
    let head = endpoint.ask(head).await;
    assert_eq!((&*head.headers["content-encoding"], head.raw.len()), ("gzip", 0));
    // What is said to people is not.
    let root = endpoint.get("/", "accept-encoding: gzip\r\n").await;
    assert_eq!(root.headers.get("content-encoding"), None);
}

#[tokio::test]
async fn a_scrape_finds_what_the_last_cycle_told() {
    let mut endpoint = Endpoint::start();
    for count in [2, 3] {
        endpoint.tell(vec![reloads("applied", count)], Duration::ZERO);
        let answer = endpoint.get("/metrics", "").await;
        let sample = format!("vms_agent_config_reloads_total{{outcome=\"applied\"}} {count}\n");
        assert!(answer.body.contains(&sample), "{}", answer.body);
    }
}

#[tokio::test]
async fn nothing_but_reading_two_paths_is_answered() {
    let endpoint = Endpoint::start();
    let root = endpoint.get("/", "").await;
    assert_eq!((root.status.as_str(), root.body.lines().count()), ("200", 1));
    for path in ["/metrics", "/"] {
        let whole = endpoint.get(path, "").await;
        let head = endpoint.ask(&format!("HEAD {path} HTTP/1.1\r\nhost: localhost\r\n\r\n")).await;
        assert_eq!((head.status.as_str(), head.body.as_str()), ("200", ""), "{path}");
        assert_eq!(head.headers["content-type"], whole.headers["content-type"]);
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "ANY"] {
            let refused = endpoint.ask(&format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\n\r\n")).await;
            assert_eq!((refused.status.as_str(), &*refused.headers["allow"]), ("405", "GET, HEAD"));
        }
    }
    for path in ["/metrics/", "/metric", "/..", "//metrics"] {
        assert_eq!(endpoint.get(path, "").await.status, "404", "{path}");
    }
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused_and_one_of_usual_size_is_not() {
    let endpoint = Endpoint::start();
    let of = |bytes: usize| format!("x-large: {}\r\n", "x".repeat(bytes));
    assert_eq!(endpoint.get("/metrics", &of(8 << 10)).await.status, "200");
    assert_eq!(endpoint.get("/metrics", &of(HEAD_BYTES)).await.status, "431");
    assert_eq!(endpoint.get("/metrics", &"x-one: of many\r\n".repeat(HEAD_LINES)).await.status, "431");
}

#[tokio::test]
async fn who_says_nothing_or_not_enough_keeps_nobody_out() {
    const SILENT: usize = 100;
    let endpoint = Endpoint::start();
    let mut silent = Vec::new();
    for number in 0..SILENT {
        let mut stream = endpoint.connect().await;
        if number % 2 == 0 {
            stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: ").await.unwrap();
        }
        silent.push(stream);
    }
    let began = Instant::now();
    assert_eq!(endpoint.get("/metrics", "").await.status, "200");
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    // And each of them was let go of.
    for mut stream in silent {
        let ended = timeout(3 * HEAD, stream.read_to_end(&mut Vec::new())).await;
        assert!(ended.is_ok(), "the connection is closed");
    }
}

#[tokio::test]
async fn who_comes_all_the_time_and_says_nothing_keeps_nobody_out() {
    let endpoint = Endpoint::start();
    let address = endpoint.address;
    let flood = tokio::spawn(async move {
        let mut silent = std::collections::VecDeque::new();
        loop {
            silent.push_back(TcpStream::connect(address).await.unwrap());
            if silent.len() > 2 * room::PLACES {
                silent.pop_front();
            }
        }
    });
    for _ in 0..20 {
        let began = Instant::now();
        assert_eq!(endpoint.get("/metrics", "").await.status, "200");
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    }
    flood.abort();
}

#[tokio::test]
async fn who_asks_and_does_not_read_keeps_nobody_out() {
    let mut endpoint = Endpoint::start();
    let outcome = "x".repeat(1 << 10);
    endpoint.tell(vec![reloads(&outcome, 1); MORE_THAN_SOCKETS_HOLD >> 10], Duration::ZERO);
    let mut idle = Vec::new();
    for _ in 0..2 * room::PLACES {
        let mut stream = endpoint.connect().await;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
        idle.push(stream);
    }
    // Two turns, and what it takes to write the text once.
    let began = Instant::now();
    assert_eq!(endpoint.get("/", "").await.status, "200");
    assert!(began.elapsed() < WHOLE / 2, "{:?}", began.elapsed());
    assert!(endpoint.get("/metrics", "").await.body.len() > MORE_THAN_SOCKETS_HOLD, "who reads has it all");
}

#[tokio::test]
async fn on_a_loopback_address_another_name_than_localhost_is_told_what_to_do() {
    let endpoint = Endpoint::start();
    for path in ["/metrics", "/", "/elsewhere"] {
        for request in [
            format!("GET {path} HTTP/1.1\r\nhost: page.example:9293\r\n\r\n"),
            format!("GET http://page.example{path} HTTP/1.1\r\nhost: localhost\r\n\r\n"),
        ] {
            let refused = endpoint.ask(&request).await;
            assert_eq!(refused.status, "421", "{request}");
            assert!(refused.body.contains("as 127.0.0.1, [::1] or localhost"), "{}", refused.body);
        }
    }
    for host in ["host: 127.0.0.1:9293\r\n", "host: localhost\r\n", ""] {
        assert_eq!(
            endpoint.ask(&format!("GET /metrics HTTP/1.1\r\n{host}\r\n")).await.status,
            "200",
            "{host}"
        );
    }
    assert_eq!(endpoint.ask("GET /metrics HTTP/1.0\r\n\r\n").await.status, "200");
}

#[tokio::test]
async fn on_every_address_every_name_is_answered() {
    let endpoint = Endpoint::listening(([0, 0, 0, 0], 0).into());
    assert_eq!(endpoint.ask("GET /metrics HTTP/1.1\r\nhost: this-host:9293\r\n\r\n").await.status, "200");
}

#[tokio::test]
async fn who_sends_a_byte_at_a_time_has_no_longer_than_any_other() {
    let endpoint = Endpoint::start();
    let mut stream = endpoint.connect().await;
    let began = Instant::now();
    let drip = async {
        stream.write_all(b"GET /metrics HTTP/1.1\r\n").await?;
        loop {
            stream.write_all(b"x: y\r\n").await?;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let refused: io::Result<()> = timeout(WHOLE, drip).await.unwrap();
    assert!(refused.is_err() && began.elapsed() < 2 * HEAD, "{:?}", began.elapsed());
}

#[tokio::test]
async fn who_does_not_read_what_he_asked_for_is_let_go_of() {
    let mut endpoint = Endpoint::start();
    let outcome = "x".repeat(1 << 10);
    endpoint.tell(vec![reloads(&outcome, 1); MORE_THAN_SOCKETS_HOLD >> 10], Duration::ZERO);
    let mut stream = endpoint.connect().await;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    stream.readable().await.unwrap();
    tokio::time::sleep(WHOLE).await;
    let mut answer = Vec::new();
    drop(timeout(HEAD, stream.read_to_end(&mut answer)).await.unwrap());
    assert!((1..MORE_THAN_SOCKETS_HOLD).contains(&answer.len()), "{} bytes", answer.len());
    assert!(
        endpoint.get("/metrics", "").await.body.len() > MORE_THAN_SOCKETS_HOLD,
        "and who reads has it all"
    );
}

#[test]
fn an_address_that_is_in_use_is_told_with_what_to_do() {
    let first = Listener::bind(([127, 0, 0, 1], 0).into()).unwrap();
    let address = first.0.local_addr().unwrap();
    let error = format!("{:#}", Listener::bind(address).unwrap_err());
    for told in [&address.to_string(), "prometheus.listen", "stop what listens there", "in use"] {
        assert!(error.contains(told), "{error}");
    }
    let error = format!("{:#}", Listener::bind(([203, 0, 113, 1], 9293).into()).unwrap_err());
    assert!(error.contains("choose an address of this host"), "{error}");
}
