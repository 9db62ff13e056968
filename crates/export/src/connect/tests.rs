use tokio::net::TcpListener;

use super::*;
use crate::testing::config;

async fn nobodys_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn an_address_that_refuses_does_not_keep_the_next_from_being_reached() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let good = listener.local_addr().unwrap();
    let stream = connect_any(vec![nobodys_address().await, good]).await.unwrap();
    assert_eq!(stream.peer_addr().unwrap(), good);
}

#[tokio::test]
async fn when_no_address_answers_one_of_them_is_told() {
    let address = nobodys_address().await;
    let failure = connect_any(vec![address]).await.unwrap_err();
    assert_eq!((failure.stage, failure.error_type.as_ref()), (Stage::Connect, "connection_refused"));
    assert!(failure.message.starts_with(&address.to_string()), "{failure}");
    assert_eq!(connect_any(Vec::new()).await.unwrap_err().stage, Stage::Connect);
}

#[tokio::test]
async fn a_name_without_an_address_is_told_as_such() {
    let config = config(Protocol::Grpc, "http://no-such-host.invalid:4317");
    let connector = Connector::read(&config).unwrap();
    let failure = connector.open().await.unwrap_err();
    assert_eq!(failure.stage, Stage::Resolve);
    assert!(failure.message.starts_with("no-such-host.invalid: "), "{failure}");
}

#[tokio::test]
async fn a_peer_that_is_silent_in_the_handshake_is_left_in_time() {
    let authority = crate::testing::certificates::Authority::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config = config(Protocol::Grpc, &format!("https://{}", listener.local_addr().unwrap()));
    config.tls.ca = Some(authority.ca_file());
    config.timeout = Duration::from_millis(100);
    let failure = Connector::read(&config).unwrap().open().await.unwrap_err();
    assert_eq!((failure.stage, failure.error_type.as_ref()), (Stage::Tls, "timeout"));
}
