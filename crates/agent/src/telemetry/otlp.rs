//! The exporters of the agent's own spans and log records, over the connections that `vms-export` makes.
//!
//! The exporters of `opentelemetry-otlp` know no certificates and read headers from the environment by themselves;
//! so they are given channels and clients that are configured already.

use std::fmt;

use anyhow::Context as _;
use async_trait::async_trait;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderValue};
use http::uri::PathAndQuery;
use http::{HeaderMap, Uri};
use opentelemetry_http::{Bytes, HttpError, Request, Response};
use opentelemetry_otlp::{
    LogExporter, SpanExporter, WithExportConfig as _, WithHttpConfig as _, WithTonicConfig as _,
};
use tonic::metadata::MetadataMap;
use vms_export::config::{Compression, Protocol};
use vms_export::{ExportConfig, HttpClient, configured_headers, encode_body, grpc};

/// Makes the exporter of one signal: the two builders have no trait in common.
macro_rules! exporter {
    ($exporter:ident, $target:expr, $path:literal) => {{
        let target: &ExportConfig = $target;
        let headers = configured_headers(target)?;
        match target.protocol {
            Protocol::Grpc => {
                let builder = $exporter::builder()
                    .with_tonic()
                    .with_channel(grpc::channel(target)?)
                    .with_interceptor(replace_metadata(headers))
                    .with_timeout(target.timeout);
                match grpc_compression(target.compression) {
                    Some(compression) => builder.with_compression(compression).build(),
                    None => builder.build(),
                }
            }
            Protocol::HttpProtobuf => $exporter::builder()
                .with_http()
                .with_http_client(Client::new(target, headers)?)
                .with_protocol(opentelemetry_otlp::Protocol::HttpBinary)
                .with_endpoint(url(&target.endpoint, $path)?.to_string())
                .with_timeout(target.timeout)
                .build(),
        }
        .with_context(|| format!("the exporter for {}", vms_export::shown_endpoint(&target.endpoint)))
    }};
}

/// Prepares the sending of spans. Has to be called inside a tokio runtime; connects with the first batch.
///
/// # Errors
/// When the target is unusable: its endpoint, a header, a certificate file.
pub(super) fn span_exporter(target: &ExportConfig) -> anyhow::Result<SpanExporter> {
    exporter!(SpanExporter, target, "/v1/traces")
}

/// Prepares the sending of log records, as [`span_exporter`] does for spans.
///
/// # Errors
/// When the target is unusable: its endpoint, a header, a certificate file.
pub(super) fn log_exporter(target: &ExportConfig) -> anyhow::Result<LogExporter> {
    exporter!(LogExporter, target, "/v1/logs")
}

/// Posts requests on the runtime that made it, from whatever thread: the SDK has threads of its own.
struct Client {
    http: HttpClient,
    runtime: tokio::runtime::Handle,
    headers: HeaderMap,
    compression: Compression,
}

impl Client {
    fn new(target: &ExportConfig, headers: HeaderMap) -> anyhow::Result<Self> {
        Ok(Self {
            http: HttpClient::new(target)?,
            runtime: tokio::runtime::Handle::try_current().context("called outside of a tokio runtime")?,
            headers,
            compression: target.compression,
        })
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Client").field("compression", &self.compression).finish_non_exhaustive()
    }
}

#[async_trait]
impl opentelemetry_http::HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (mut parts, body) = request.into_parts();
        // The exporter adds headers from the environment by itself; here only configured ones are sent.
        let exporters = std::mem::replace(&mut parts.headers, self.headers.clone());
        if let Some(value) = exporters.get(CONTENT_TYPE) {
            parts.headers.insert(CONTENT_TYPE, value.clone());
        }
        let encoding = match self.compression {
            Compression::None => None,
            Compression::Gzip => Some("gzip"),
            Compression::Zstd => Some("zstd"),
        };
        let body = match encoding {
            None => body,
            Some(encoding) => {
                parts.headers.insert(CONTENT_ENCODING, HeaderValue::from_static(encoding));
                encode_body(self.compression, &body, Vec::new())?.into()
            }
        };
        let http = self.http.clone();
        let exchange = async move { http.send(Request::from_parts(parts, body)).await };
        Ok(self.runtime.spawn(exchange).await??)
    }
}

/// The URL of a signal over OTLP/HTTP, below the base that all signals share.
fn url(base: &Uri, path: &str) -> anyhow::Result<Uri> {
    let mut parts = base.clone().into_parts();
    let whole = format!("{}{path}", base.path().trim_end_matches('/'));
    parts.path_and_query = Some(PathAndQuery::try_from(whole).context("the endpoint's path")?);
    Uri::from_parts(parts).context("the endpoint")
}

/// The exporter adds headers from the environment by itself, also those that the configuration overrode.
fn replace_metadata(
    headers: HeaderMap,
) -> impl FnMut(tonic::Request<()>) -> Result<tonic::Request<()>, tonic::Status> + Clone + Send + Sync {
    let metadata = MetadataMap::from_headers(headers);
    move |mut request| {
        *request.metadata_mut() = metadata.clone();
        Ok(request)
    }
}

fn grpc_compression(compression: Compression) -> Option<opentelemetry_otlp::Compression> {
    match compression {
        Compression::None => None,
        Compression::Gzip => Some(opentelemetry_otlp::Compression::Gzip),
        Compression::Zstd => Some(opentelemetry_otlp::Compression::Zstd),
    }
}
