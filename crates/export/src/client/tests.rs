use std::time::Duration;

use http::Method;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::testing::config;

fn request(uri: &http::Uri, bytes: usize) -> Request<Bytes> {
    let mut request = Request::new(vec![7; bytes].into());
    *request.method_mut() = Method::POST;
    *request.uri_mut() = uri.clone();
    request
}

/// A peer that takes a connection and a few bytes, and neither reads on nor answers.
async fn stuck() -> (http::Uri, tokio::task::JoinHandle<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
    let peer = tokio::spawn(async move { listener.accept().await.unwrap().0 });
    (uri, peer)
}

#[tokio::test]
async fn connections_that_are_forgotten_are_closed_although_the_peer_takes_no_more_bytes() {
    for protocol in [Protocol::Grpc, Protocol::HttpProtobuf] {
        let (uri, peer) = stuck().await;
        let mut config = config(protocol, &uri.to_string());
        config.timeout = Duration::from_millis(300);
        let client = HttpClient::new(&config).unwrap();
        // More than the buffers of both sockets hold.
        let failure = client.send(request(&uri, 16 << 20)).await.unwrap_err();
        assert_eq!(failure.error_type, "timeout", "{failure}");
        let tasks = {
            let connections = client.connections();
            Arc::downgrade(&connections.tasks.0)
        };
        client.forget_connections();
        assert!(tasks.upgrade().is_none(), "{protocol:?}: nothing drives them any more");
        // All that was sent can be read, and then there is the end, while the client goes on.
        let mut peer = peer.await.unwrap();
        let mut sent = Vec::new();
        let end = timeout(Duration::from_secs(5), peer.read_to_end(&mut sent)).await;
        assert!(end.is_ok(), "{protocol:?}: the connection is still open");
    }
}

#[tokio::test]
async fn tasks_that_ended_are_not_kept() {
    let tasks = Tasks::default();
    let spawner = Spawner(Arc::downgrade(&tasks.0));
    for _ in 0..100 {
        spawner.execute(async {});
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
    }
    assert!(tasks.0.lock().unwrap().len() < 3);
}
