//! A collector over gRPC, made of tonic's server and OpenTelemetry's service definition, that does as it is told.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsPartialSuccess, ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use tokio::net::TcpListener;
use tonic::codec::CompressionEncoding;
use tonic::metadata::MetadataMap;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Server, ServerTlsConfig};
use tonic::{Request, Response, Status};

/// What a call is answered with.
pub(crate) type Reply = Result<ExportMetricsServiceResponse, Status>;

pub(crate) fn partial(rejected: i64, message: &str) -> ExportMetricsServiceResponse {
    let partial =
        ExportMetricsPartialSuccess { rejected_data_points: rejected, error_message: message.to_owned() };
    ExportMetricsServiceResponse { partial_success: Some(partial) }
}

/// A listening collector; it ends with the runtime.
pub(crate) struct GrpcCollector {
    pub(crate) address: SocketAddr,
    service: Service,
}

#[derive(Clone, Default)]
struct Service {
    replies: Arc<Mutex<VecDeque<Reply>>>,
    received: Arc<Mutex<Vec<(MetadataMap, ExportMetricsServiceRequest)>>>,
}

#[tonic::async_trait]
impl MetricsService for Service {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        let (metadata, _extensions, message) = request.into_parts();
        self.received.lock().unwrap().push((metadata, message));
        // As the OpenTelemetry Collector answers: a partial success that rejects nothing and says nothing.
        let reply = self.replies.lock().unwrap().pop_front();
        reply.unwrap_or_else(|| Ok(partial(0, ""))).map(Response::new)
    }
}

impl GrpcCollector {
    /// Answers the first calls as the script says, and all others with success. It compresses its answers when
    /// told how, and takes every compression.
    pub(crate) async fn start(
        script: impl IntoIterator<Item = Reply>,
        compression: Option<CompressionEncoding>,
        tls: Option<ServerTlsConfig>,
    ) -> Self {
        let service = Service::default();
        service.replies.lock().unwrap().extend(script);
        let mut serving = MetricsServiceServer::new(service.clone())
            .accept_compressed(CompressionEncoding::Gzip)
            .accept_compressed(CompressionEncoding::Zstd);
        if let Some(encoding) = compression {
            serving = serving.send_compressed(encoding);
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut server = Server::builder();
        if let Some(tls) = tls {
            server = server.tls_config(tls).unwrap();
        }
        tokio::spawn(server.add_service(serving).serve_with_incoming(TcpIncoming::from(listener)));
        Self { address, service }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn received(&self) -> Vec<(MetadataMap, ExportMetricsServiceRequest)> {
        self.service.received.lock().unwrap().clone()
    }
}
