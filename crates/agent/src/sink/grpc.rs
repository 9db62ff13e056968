//! OTLP/gRPC.

use anyhow::Context as _;
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_server::{LogsService, LogsServiceServer};
use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsServiceRequest, ExportLogsServiceResponse};
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use tokio::net::TcpListener;
use tonic::codec::CompressionEncoding;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, async_trait};

use super::{Arrival, Ending, Inbox, MAX_REQUEST_BYTES};

/// Serves until `stop`.
///
/// # Errors
/// When the server breaks down.
pub(super) async fn serve(
    listener: TcpListener,
    inbox: Inbox,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    macro_rules! limited {
        ($server:ident) => {
            $server::new(inbox.clone())
                .accept_compressed(CompressionEncoding::Gzip)
                .accept_compressed(CompressionEncoding::Zstd)
                .max_decoding_message_size(MAX_REQUEST_BYTES)
        };
    }
    Server::builder()
        .add_service(limited!(MetricsServiceServer))
        .add_service(limited!(TraceServiceServer))
        .add_service(limited!(LogsServiceServer))
        .serve_with_incoming_shutdown(TcpIncoming::from(listener), stop)
        .await
        .context("the gRPC server broke down")
}

impl From<Ending> for Status {
    fn from(Ending: Ending) -> Self {
        Self::unavailable("the sink is ending")
    }
}

#[async_trait]
impl MetricsService for Inbox {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        self.put(Arrival::Metrics(request.into_inner())).await?;
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

#[async_trait]
impl TraceService for Inbox {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.put(Arrival::Traces(request.into_inner())).await?;
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[async_trait]
impl LogsService for Inbox {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        self.put(Arrival::Logs(request.into_inner())).await?;
        Ok(Response::new(ExportLogsServiceResponse::default()))
    }
}
