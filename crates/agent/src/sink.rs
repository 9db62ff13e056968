//! `vms-agent sink`: a small OTLP receiver for trying things out, that shows whatever arrives.
//!
//! It listens with gRPC and HTTP/protobuf. Requests go through a bounded queue to a thread of its own that writes
//! them: a stopped pager at the other end slows senders down, and still lets the sink end when it is told to.

mod grpc;
mod http;
mod json;
mod text;

use std::fmt;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::terminal::{Format, Tone};
use text::TextPrinter;

/// What `vms-agent sink` can be told.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct SinkArgs {
    /// Address for OTLP/gRPC; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:4317")]
    pub(crate) grpc: SocketAddr,
    /// Address for OTLP/HTTP; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:4318")]
    pub(crate) http: SocketAddr,
    /// Tables for people, or one line of OTLP/JSON a request
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
}

/// Bytes that one request may have, compressed or not: the default limit of the OpenTelemetry Collector's HTTP
/// receiver is 20 MiB.
const MAX_REQUEST_BYTES: usize = 20 << 20;

/// Requests that may wait to be written; more make their senders wait.
const QUEUE: usize = 16;

/// How long answers under way, and then output, may still take once the sink is told to end.
const GRACE: Duration = Duration::from_secs(1);

/// Receives until SIGINT or SIGTERM, or until nobody reads `out` any more.
///
/// Requests go to `out`. Where the sink listens and what it refused goes to `notices`, so that JSON stays alone.
///
/// # Errors
/// When an address cannot be listened on, or output fails otherwise than by being closed.
pub(crate) async fn run(
    args: SinkArgs,
    out: impl Write + Send + 'static,
    notices: impl Write + Send + 'static,
) -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT: cannot be handled")?;
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM: cannot be handled")?;
    let stop = async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    serve(args, out, notices, stop).await
}

/// Receives until `stop`.
async fn serve(
    args: SinkArgs,
    out: impl Write + Send + 'static,
    mut notices: impl Write + Send + 'static,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let grpc = bind(Protocol::Grpc, args.grpc).await?;
    let http = bind(Protocol::Http, args.http).await?;
    announce(&mut notices, grpc.local_addr()?, http.local_addr()?).context("where the sink listens")?;

    let (inbox, arrivals) = mpsc::channel(QUEUE);
    let mut printed = spawn_printer(args.format, arrivals, out, notices)?;
    let (stop_servers, stopping) = watch::channel(false);
    let mut servers = JoinSet::new();
    servers.spawn(grpc::serve(grpc, Inbox(inbox.clone()), told(stopping.clone())));
    servers.spawn(async {
        http::serve(http, Inbox(inbox), told(stopping)).await;
        Ok(())
    });

    let mut output = None;
    tokio::select! {
        () = stop => {}
        result = &mut printed => output = Some(result),
        Some(server) = servers.join_next() => server.context("a server")??,
    }
    stop_servers.send_replace(true);
    let finish = async { while servers.join_next().await.is_some() {} };
    if timeout(GRACE, finish).await.is_err() {
        // Whoever holds a connection open beyond that is cut off: the sink promises no delivery.
        servers.shutdown().await;
    }
    let output = match output {
        Some(result) => result,
        // A reader that has stopped reading keeps the printer for ever; it ends with the process.
        None => timeout(GRACE, printed).await.unwrap_or(Ok(Ok(()))),
    };
    match output.context("the thread that writes the output")? {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error).context("output"),
        _ => Ok(()),
    }
}

/// What arrived.
#[derive(Debug)]
enum Arrival {
    Metrics(ExportMetricsServiceRequest),
    Traces(ExportTraceServiceRequest),
    Logs(ExportLogsServiceRequest),
    /// A request that was turned away, and why.
    Refused(String),
}

/// The way to the printer.
#[derive(Debug, Clone)]
struct Inbox(mpsc::Sender<Arrival>);

/// The sink is ending, and takes nothing more.
#[derive(Debug)]
struct Ending;

impl Inbox {
    /// Hands a request over, and waits while too many others do.
    async fn put(&self, arrival: Arrival) -> Result<(), Ending> {
        self.0.send(arrival).await.map_err(|_returned| Ending)
    }
}

/// How requests travel.
#[derive(Debug, Clone, Copy)]
enum Protocol {
    Grpc,
    Http,
}

impl fmt::Display for Protocol {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Grpc => "OTLP/gRPC",
            Self::Http => "OTLP/HTTP",
        })
    }
}

async fn bind(protocol: Protocol, address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        let flag = match protocol {
            Protocol::Grpc => "--grpc",
            Protocol::Http => "--http",
        };
        let advice = match error.kind() {
            io::ErrorKind::AddrInUse => {
                format!("; stop the collector or sink that does, or choose another address with {flag}")
            }
            io::ErrorKind::AddrNotAvailable => format!("; choose an address of this host with {flag}"),
            io::ErrorKind::PermissionDenied => format!("; choose a port above 1023 with {flag}"),
            _ => String::new(),
        };
        anyhow::Error::new(error).context(format!("{address}: cannot listen for {protocol}{advice}"))
    })
}

/// Says where to send.
fn announce(notices: &mut impl Write, grpc: SocketAddr, http: SocketAddr) -> io::Result<()> {
    let style = Tone::Header.style();
    writeln!(notices, "{style}OTLP/gRPC{style:#}  http://{grpc}")?;
    writeln!(notices, "{style}OTLP/HTTP{style:#}  http://{http}/v1/{{metrics,traces,logs}}")?;
    for address in [grpc, http] {
        if !address.ip().is_loopback() {
            let style = Tone::Warn.style();
            writeln!(
                notices,
                "{style}{address} is not a loopback address: whoever reaches it can send here{style:#}"
            )?;
        }
    }
    notices.flush()
}

/// Completes when the sink is told to end.
async fn told(mut stopping: watch::Receiver<bool>) {
    // An error says that the sink itself is gone, which comes to the same.
    drop(stopping.wait_for(|stopping| *stopping).await);
}

/// Starts the thread that writes, and tells how that ended.
fn spawn_printer(
    format: Format,
    arrivals: mpsc::Receiver<Arrival>,
    out: impl Write + Send + 'static,
    notices: impl Write + Send + 'static,
) -> anyhow::Result<oneshot::Receiver<io::Result<()>>> {
    let (ended, printed) = oneshot::channel();
    std::thread::Builder::new()
        .name("sink-printer".to_owned())
        // Nobody asks any more once the sink has given up on its output.
        .spawn(move || drop(ended.send(print(format, arrivals, out, notices))))
        .context("the thread that writes the output cannot be started")?;
    Ok(printed)
}

/// Writes what arrives, each request in one piece, until no more can arrive or the output fails.
fn print(
    format: Format,
    mut arrivals: mpsc::Receiver<Arrival>,
    mut out: impl Write,
    mut notices: impl Write,
) -> io::Result<()> {
    let mut text = TextPrinter::new();
    while let Some(arrival) = arrivals.blocking_recv() {
        let shown = match (&arrival, format) {
            (Arrival::Refused(reason), _) => {
                writeln!(notices, "{}", Tone::Warn.paint(reason))?;
                notices.flush()?;
                continue;
            }
            (_, Format::Text) => text.describe(&arrival)?,
            (Arrival::Metrics(request), Format::Json) => json::encode(request)?,
            (Arrival::Traces(request), Format::Json) => json::encode(request)?,
            (Arrival::Logs(request), Format::Json) => json::encode(request)?,
        };
        out.write_all(&shown)?;
        out.flush()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
