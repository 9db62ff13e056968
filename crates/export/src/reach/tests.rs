use bytes::Bytes;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_client::LogsServiceClient;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
use prost::Message;
use tokio::net::TcpListener;
use tonic::transport::{Certificate, Identity, ServerTlsConfig};

use super::*;
use crate::config::{Protocol, TlsFiles};
use crate::failure::Stage;
use crate::testing::certificates::Authority;
use crate::testing::grpc_collector::GrpcCollector;
use crate::testing::http_collector::{HttpCollector, Reply};
use crate::testing::{config, count_points};

async fn failure(config: &ExportConfig) -> Failure {
    match probe_collector(config).await {
        Err(ExportError::Unreachable { source, .. }) => source,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_collector_that_answers_is_reachable_over_either_protocol() {
    let http = HttpCollector::start([Reply::partial(0, "be gentle")]).await;
    let reached = probe_collector(&config(Protocol::HttpProtobuf, &http.url())).await.unwrap();
    assert_eq!(reached.remark.as_deref(), Some("be gentle"));
    assert_eq!((reached.addresses.as_slice(), reached.tls), ([reached.peer].as_slice(), None));
    let sent = ExportMetricsServiceRequest::decode(http.received()[0].body.clone()).unwrap();
    assert_eq!(count_points(&sent), 0);

    let grpc = GrpcCollector::start([], None, None).await;
    let reached = probe_collector(&config(Protocol::Grpc, &grpc.url())).await.unwrap();
    assert_eq!(reached.peer, grpc.address);
    assert_eq!(count_points(&grpc.received()[0].1), 0);
}

#[tokio::test]
async fn the_step_that_fails_is_named() {
    let nowhere = config(Protocol::HttpProtobuf, "http://no-such-host.invalid:4318/v1/metrics");
    assert_eq!(failure(&nowhere).await.stage, Stage::Resolve);

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    assert_eq!(failure(&config(Protocol::Grpc, &format!("http://{address}"))).await.stage, Stage::Connect);

    let page = HttpCollector::start([Reply::status("200 OK", "", b"<html>")]).await;
    let odd = failure(&config(Protocol::HttpProtobuf, &page.url())).await;
    assert_eq!((odd.stage, odd.error_type.as_ref()), (Stage::Exchange, "odd_answer"));

    let locked = HttpCollector::start([Reply::status("401 Unauthorized", "", b"")]).await;
    assert_eq!(failure(&config(Protocol::HttpProtobuf, &locked.url())).await.error_type, "401");
}

struct Setup {
    authority: Authority,
    collector: GrpcCollector,
}

/// A collector with a certificate for `localhost`, that wants one of its clients too if `mutual`.
async fn over_tls(mutual: bool) -> Setup {
    let authority = Authority::new();
    let server = authority.issue("localhost");
    let identity = Identity::from_pem(server.certificate_pem, server.key_pem);
    let mut tls = ServerTlsConfig::new().identity(identity);
    if mutual {
        tls = tls.client_ca_root(Certificate::from_pem(&authority.ca_pem));
    }
    Setup { collector: GrpcCollector::start([], None, Some(tls)).await, authority }
}

impl Setup {
    fn config(&self, host: &str) -> ExportConfig {
        let port = self.collector.address.port();
        let mut config = config(Protocol::Grpc, &format!("https://{host}:{port}"));
        config.tls.ca = Some(self.authority.ca_file());
        config
    }

    fn mutual(&self) -> ExportConfig {
        let client = self.authority.issue("agent.example");
        let mut config = self.config("localhost");
        config.tls = TlsFiles {
            client_certificate: Some(self.authority.write("client.pem", &client.certificate_pem)),
            client_key: Some(self.authority.write("client.key", &client.key_pem)),
            ..config.tls
        };
        config
    }
}

#[tokio::test]
async fn tls_is_trusted_by_the_configured_authority_alone() {
    let setup = over_tls(false).await;
    let reached = probe_collector(&setup.config("localhost")).await.unwrap();
    assert_eq!(reached.tls.as_deref(), Some("TLSv1_3"));

    let mut stranger = setup.config("localhost");
    let other = Authority::new();
    stranger.tls.ca = Some(other.ca_file());
    let refused = failure(&stranger).await;
    assert_eq!(refused.stage, Stage::Tls);
    assert!(refused.message.contains("UnknownIssuer"), "{refused}");

    let misnamed = failure(&setup.config("127.0.0.1")).await;
    assert_eq!(misnamed.stage, Stage::Tls);
    assert!(misnamed.message.contains("not valid for name"), "{misnamed}");
    assert_eq!(setup.collector.received().len(), 1);
}

#[tokio::test]
async fn a_collector_that_wants_a_client_certificate_gets_it_or_refuses() {
    let setup = over_tls(true).await;
    probe_collector(&setup.mutual()).await.unwrap();
    let refused = failure(&setup.config("localhost")).await;
    assert!(refused.message.contains("CertificateRequired"), "{refused}");
    assert_eq!((refused.stage, refused.error_type.as_ref()), (Stage::Tls, "tls"));
    assert_eq!(setup.collector.received().len(), 1);
}

#[tokio::test]
async fn tls_where_none_is_spoken_is_told_as_such() {
    let plain = GrpcCollector::start([], None, None).await;
    let authority = Authority::new();
    let mut config = config(Protocol::Grpc, &plain.url().replace("http:", "https:"));
    config.tls.ca = Some(authority.ca_file());
    assert_eq!(failure(&config).await.stage, Stage::Tls);
}

#[tokio::test]
async fn other_signals_travel_over_the_same_kind_of_channel() {
    let setup = over_tls(true).await;
    let channel = crate::grpc::channel(&setup.mutual()).unwrap();
    MetricsServiceClient::new(channel.clone()).export(ExportMetricsServiceRequest::default()).await.unwrap();
    let (metadata, _) = setup.collector.received().remove(0);
    assert!(metadata.get("user-agent").unwrap().to_str().unwrap().starts_with(crate::USER_AGENT));
    let no_logs = LogsServiceClient::new(channel).export(ExportLogsServiceRequest::default()).await;
    assert_eq!(no_logs.unwrap_err().code(), tonic::Code::Unimplemented);
}

#[tokio::test]
async fn the_http_client_sends_what_it_is_given() {
    let collector = HttpCollector::start([Reply::status("418 I'm a teapot", "", b"short and stout")]).await;
    let client = crate::HttpClient::new(&config(Protocol::HttpProtobuf, &collector.url())).unwrap();
    let request =
        http::Request::post(collector.url()).header("x", "y").body(Bytes::from_static(b"log")).unwrap();
    let response = client.send(request).await.unwrap();
    assert_eq!((response.status().as_u16(), response.body().as_ref()), (418, b"short and stout".as_slice()));
    let received = &collector.received()[0];
    assert_eq!((received.body.as_ref(), received.header("x")), (b"log".as_slice(), Some("y")));
}
