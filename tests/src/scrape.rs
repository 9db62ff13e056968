//! Scraping an agent, as Prometheus does.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::deadline::PATIENCE;
use crate::namespace::Namespace;

/// Where agents of the tests are scraped.
pub const ENDPOINT: &str = "127.0.0.1:9293";

/// What asks for `OpenMetrics`.
pub const OPEN_METRICS: &str = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5";

/// An answer to a scrape.
#[derive(Debug, Clone)]
pub struct Scrape {
    /// Status and headers.
    pub head: String,
    /// The text.
    pub body: String,
}

/// A series: the name of the metric, or of a part of it, and labels.
pub type Series = (String, BTreeMap<String, String>);

impl Scrape {
    /// Scrapes the agent on a host. `accept` is what is asked for; nothing where it is empty.
    #[must_use]
    #[track_caller]
    pub fn of(host: &Namespace, accept: &str) -> Self {
        Self::try_of(host, accept).expect("the agent can be scraped")
    }

    /// The same, where it may not answer.
    ///
    /// # Errors
    /// Why there is no answer.
    pub fn try_of(host: &Namespace, accept: &str) -> std::io::Result<Self> {
        host.inside(|| Self::here(accept))
    }

    /// The same, by a thread that is on the host.
    ///
    /// # Errors
    /// Why there is no answer.
    pub fn here(accept: &str) -> std::io::Result<Self> {
        let accept = if accept.is_empty() { String::new() } else { format!("Accept: {accept}\r\n") };
        Self::with(&accept)
    }

    /// Scrapes the agent on a host, and has what it tells compressed.
    #[must_use]
    #[track_caller]
    pub fn compressed(host: &Namespace) -> Self {
        host.inside(|| Self::with("Accept-Encoding: gzip\r\n")).expect("the agent can be scraped")
    }

    fn with(headers: &str) -> std::io::Result<Self> {
        let mut stream = connect()?;
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: {ENDPOINT}\r\n{headers}\r\n")?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        let end = answer.windows(4).position(|end| end == b"\r\n\r\n").ok_or(ErrorKind::UnexpectedEof)?;
        let (head, body) = (String::from_utf8_lossy(&answer[..end]).into_owned(), &answer[end + 4..]);
        let mut text = String::new();
        if head.contains("content-encoding: gzip") {
            flate2::bufread::GzDecoder::new(body).read_to_string(&mut text)?;
        } else {
            text = String::from_utf8_lossy(body).into_owned();
        }
        Ok(Self { head, body: text })
    }

    /// Each sample, by its series; the value as it is written.
    #[must_use]
    #[track_caller]
    pub fn samples(&self) -> BTreeMap<Series, String> {
        let lines = self.body.lines().filter(|line| !line.starts_with('#'));
        let mut samples = BTreeMap::new();
        for line in lines {
            let (series, value) = parse_sample(line);
            let earlier = samples.insert(series, value);
            assert_eq!(earlier, None, "a series is told once: {line}");
        }
        samples
    }

    /// The value of the only sample of that name with these labels among others, where there is one.
    #[must_use]
    #[track_caller]
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let has = |series: &Series| {
            let is = |(key, value): &(&str, &str)| series.1.get(*key).is_some_and(|found| found == value);
            series.0 == name && labels.iter().all(is)
        };
        let samples = self.samples();
        let mut found = samples.iter().filter(|(series, _)| has(series));
        let value = found.next().map(|(_, value)| value.parse().expect("a number"));
        assert_eq!(found.next(), None, "one {name} {labels:?}");
        value
    }
}

/// A connection to the endpoint, by a thread that is on the host.
///
/// # Errors
/// When nobody listens there.
pub fn connect() -> std::io::Result<TcpStream> {
    let address: SocketAddr = ENDPOINT.parse().expect("an address");
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// `name{key="value",...} number`, of which the part in braces may be missing.
fn parse_sample(line: &str) -> (Series, String) {
    let end = line.find(['{', ' ']).unwrap_or_else(|| panic!("a sample: {line}"));
    let (name, mut rest) = line.split_at(end);
    let mut labels = BTreeMap::new();
    while let Some((key, text)) = rest.strip_prefix(['{', ',']).and_then(|rest| rest.split_once("=\"")) {
        let mut value = String::new();
        let mut characters = text.chars();
        loop {
            match characters.next().unwrap_or_else(|| panic!("an end of the value: {line}")) {
                '"' => break,
                '\\' => value.push(match characters.next() {
                    Some('n') => '\n',
                    Some(plain @ ('\\' | '"')) => plain,
                    other => panic!("no escape: {other:?} in {line}"),
                }),
                plain => value.push(plain),
            }
        }
        assert!(labels.insert(key.to_owned(), value).is_none(), "a label is told once: {line}");
        rest = characters.as_str();
    }
    let value = rest.strip_prefix('}').unwrap_or(rest).strip_prefix(' ');
    let value = value.unwrap_or_else(|| panic!("a sample: {line}"));
    assert!(value.parse::<f64>().is_ok(), "a number, and no time: {line}");
    ((name.to_owned(), labels), value.to_owned())
}
