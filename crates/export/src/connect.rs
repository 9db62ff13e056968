//! The way to the collector, step by step: name, TCP, TLS. Each step fails under its own name.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::config::{ExportConfig, Protocol};
use crate::endpoint::{check_endpoint, host_and_port, is_secure};
use crate::error::ExportError;
use crate::failure::{Failure, Stage};
use crate::solo::Solo;
use crate::tls::Material;

/// How long one address may keep the next from being tried (RFC 8305, section 5).
const NEXT_ADDRESS_AFTER: Duration = Duration::from_millis(250);

/// Makes connections to a collector, with TLS or without as the configured endpoint says.
#[derive(Debug, Clone)]
pub(crate) struct Connector {
    host: String,
    port: u16,
    tls: Option<Material>,
    limit: Duration,
    lookup: Solo<Result<Vec<SocketAddr>, Failure>>,
}

impl Connector {
    /// Checks the endpoint, and reads the TLS material if it is an `https` one.
    ///
    /// # Errors
    /// When nothing can be sent to the endpoint, or the TLS material does not hold.
    pub(crate) fn read(config: &ExportConfig) -> Result<Self, ExportError> {
        check_endpoint(config)?;
        let alpn: &[u8] = match config.protocol {
            Protocol::Grpc => b"h2",
            Protocol::HttpProtobuf => b"http/1.1",
        };
        let secure = is_secure(&config.endpoint);
        let tls = if secure { Some(Material::read(&config.tls, alpn)?) } else { None };
        let (host, port) = host_and_port(&config.endpoint);
        // A connection made in the last tenth of an attempt's time would leave none for an answer.
        let limit = config.attempt_limit() / 10 * 9;
        Ok(Self { host: host.to_owned(), port, tls, limit, lookup: Solo::default() })
    }

    /// The TLS material, where the endpoint wants TLS.
    pub(crate) fn material(&self) -> Option<&Material> {
        self.tls.as_ref()
    }

    /// All steps, within nine tenths of an attempt's time.
    pub(crate) async fn open(self) -> Result<Stream, Failure> {
        let route = self.route();
        let addresses = route.resolve().await?;
        let tcp = route.connect(addresses).await?;
        route.secure(tcp).await
    }

    /// The steps one by one, all before one deadline.
    pub(crate) fn route(&self) -> Route<'_> {
        Route { deadline: Instant::now() + self.limit, connector: self }
    }
}

/// The steps to the endpoint.
pub(crate) struct Route<'a> {
    connector: &'a Connector,
    deadline: Instant,
}

impl Route<'_> {
    /// The addresses of the endpoint's host, asked anew each time: they may have changed.
    pub(crate) async fn resolve(&self) -> Result<Vec<SocketAddr>, Failure> {
        let Connector { host, port, lookup, .. } = self.connector;
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, *port)]);
        }
        let target = (host.clone(), *port);
        let answer = lookup.run("resolver", move || look_up(&target.0, target.1));
        let answer = self.bounded(Stage::Resolve, answer).await?;
        answer.map_err(|error| Failure::resolve(host, &error))?
    }

    /// A TCP connection to whichever address answers first.
    pub(crate) async fn connect(&self, addresses: Vec<SocketAddr>) -> Result<TcpStream, Failure> {
        let stream = self.bounded(Stage::Connect, connect_any(addresses)).await??;
        stream.set_nodelay(true).map_err(|error| Failure::connect(None, &error))?;
        Ok(stream)
    }

    /// TLS over the connection, where the endpoint wants it.
    pub(crate) async fn secure(&self, tcp: TcpStream) -> Result<Stream, Failure> {
        let Some(material) = &self.connector.tls else {
            return Ok(Stream::Plain(tcp));
        };
        let host = &self.connector.host;
        let name =
            ServerName::try_from(host.clone()).map_err(|error| Failure::tls(format!("{host}: {error}")))?;
        let handshake = async {
            let config = material.for_new_connection().await;
            TlsConnector::from(config).connect(name, tcp).await
        };
        let secured = self.bounded(Stage::Tls, handshake).await?;
        let stream = secured.map_err(|error| Failure::handshake(&error, material))?;
        Ok(Stream::Tls(Box::new(stream)))
    }

    async fn bounded<T>(&self, stage: Stage, step: impl Future<Output = T>) -> Result<T, Failure> {
        let bounded = timeout_at(self.deadline, step).await;
        bounded.map_err(|_elapsed| Failure::timeout(stage, self.connector.limit))
    }
}

/// Asks the system's resolver, which may not answer for as long as its own configuration allows.
fn look_up(host: &str, port: u16) -> Result<Vec<SocketAddr>, Failure> {
    let found = (host, port).to_socket_addrs().map_err(|error| Failure::resolve(host, &error))?;
    let addresses: Vec<SocketAddr> = found.collect();
    if addresses.is_empty() {
        let error = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        return Err(Failure::resolve(host, &error));
    }
    Ok(addresses)
}

/// Starts with the first address and adds the next after a failure or a quarter of a second: a host whose IPv6
/// leads nowhere is reached over IPv4 all the same.
async fn connect_any(addresses: Vec<SocketAddr>) -> Result<TcpStream, Failure> {
    let mut waiting = addresses.into_iter();
    let mut attempts = JoinSet::new();
    let mut failure = Failure::connect(None, &io::Error::from(io::ErrorKind::AddrNotAvailable));
    loop {
        match waiting.next() {
            Some(address) => {
                attempts.spawn(async move {
                    let connected = TcpStream::connect(address).await;
                    connected.map_err(|error| Failure::connect(Some(address), &error))
                });
            }
            None if attempts.is_empty() => return Err(failure),
            None => {}
        }
        tokio::select! {
            Some(ended) = attempts.join_next() => match ended {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => failure = error,
                Err(aborted) => failure = Failure::connect(None, &io::Error::other(aborted)),
            },
            () = sleep(NEXT_ADDRESS_AFTER), if waiting.len() > 0 => {}
        }
    }
}

/// A connection to a collector.
#[derive(Debug)]
pub(crate) enum Stream {
    /// Bare TCP.
    Plain(TcpStream),
    /// TLS over TCP.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// The negotiated version of TLS, if there is TLS.
    pub(crate) fn tls_version(&self) -> Option<String> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(stream) => stream.get_ref().1.protocol_version().map(|version| format!("{version:?}")),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

/// The form in which hyper and tonic take a connector.
impl tower_service::Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = Failure;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Failure>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _endpoint: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move { connector.open().await.map(TokioIo::new) })
    }
}

#[cfg(test)]
mod tests;
