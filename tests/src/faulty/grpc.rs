//! gRPC over bare HTTP/2 frames, to be able to stop anywhere.

use std::time::Duration;

use base64::Engine;
use bytes::Bytes;
use h2::server::{Connection, SendResponse};
use h2::{Reason, RecvStream};
use http::{HeaderMap, Request, Response};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::{Fault, Shared, is_retryable_status, success};

/// What a request wants done with its connection.
enum Order {
    GoAway,
    Reset,
}

/// Serves requests until the connection ends.
pub(super) async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    mut shared: Shared,
) -> Result<(), h2::Error> {
    let mut builder = h2::server::Builder::new();
    if shared.fault() == Fault::NoWindow {
        builder.initial_window_size(0);
    }
    let mut connection: Connection<S, Bytes> = builder.handshake(stream).await?;
    let (orders, mut ordered) = mpsc::unbounded_channel();
    let mut requests = JoinSet::new();
    loop {
        tokio::select! {
            request = connection.accept() => {
                let Some(request) = request else { return Ok(()) };
                let (request, respond) = request?;
                requests.spawn(answer(request, respond, shared.clone(), orders.clone()));
            }
            Some(order) = ordered.recv() => match order {
                Order::GoAway => connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM),
                Order::Reset => return Ok(()),
            },
            Some(_answered) = requests.join_next() => {}
            Ok(()) = shared.fault.changed() => {
                if shared.fault() == Fault::NoWindow {
                    connection.set_initial_window_size(0)?;
                }
            }
        }
    }
}

async fn answer(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    shared: Shared,
    orders: mpsc::UnboundedSender<Order>,
) -> Result<(), h2::Error> {
    let Some(message) = read_message(request).await? else { return Ok(()) };
    let fault = shared.arrived(&message);
    let order = |order| {
        let _the_connection_is_gone = orders.send(order);
    };
    match fault {
        // What came before the client knew that it may not send.
        Fault::NoWindow | Fault::HangBeforeHead => std::future::pending().await,
        Fault::GoAway => order(Order::GoAway),
        Fault::ResetStream => respond.send_reset(Reason::INTERNAL_ERROR),
        Fault::ResetBeforeHead => order(Order::Reset),
        Fault::Status(..) | Fault::RetryAtDate(..) | Fault::Code(..) => {
            if let Fault::Status(status, ..) | Fault::RetryAtDate(status, _) = fault
                && !is_retryable_status(status)
            {
                shared.refuse(&message);
            }
            if let Fault::Code(code, retry) = fault
                && !is_retryable(code, retry)
            {
                shared.refuse(&message);
            }
            respond.send_response(head(fault), true)?;
        }
        _ => return answer_with_body(&message, respond, shared, fault, order).await,
    }
    // A stream that is dropped is reset; only what is ordered is to happen.
    sleep(Duration::from_millis(50)).await;
    Ok(())
}

async fn answer_with_body(
    message: &[u8],
    mut respond: SendResponse<Bytes>,
    shared: Shared,
    fault: Fault,
    order: impl Fn(Order),
) -> Result<(), h2::Error> {
    let head = Response::builder().header("content-type", "application/grpc").body(()).expect("a response");
    if let Fault::Slow(wait) = fault {
        sleep(wait).await;
    }
    if fault == Fault::Endless {
        // Its status said success.
        shared.store(message);
    }
    let mut stream = respond.send_response(head, false)?;
    match fault {
        Fault::HangInBody | Fault::ResetInBody => {
            stream.send_data(Bytes::from_static(&[0, 0]), false)?;
        }
        Fault::HangBeforeTrailers | Fault::ResetBeforeTrailers => {
            stream.send_data(frame(&success(fault)), false)?;
        }
        Fault::Endless => loop {
            stream.reserve_capacity(4096);
            sleep(Duration::from_millis(1)).await;
            if stream.capacity() >= 4096 {
                stream.send_data(Bytes::from_static(&[7; 4096]), false)?;
            }
        },
        _ => {
            if let Fault::Partial(points) = fault {
                shared.refuse_points(points);
            }
            shared.store(message);
            stream.send_data(frame(&success(fault)), false)?;
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", "0".parse().expect("a header"));
            return stream.send_trailers(trailers);
        }
    }
    match fault {
        Fault::HangInBody | Fault::HangBeforeTrailers => std::future::pending().await,
        _ => {
            // The client is to see what was sent.
            sleep(Duration::from_millis(20)).await;
            order(Order::Reset);
            std::future::pending().await
        }
    }
}

/// The message of a call, decompressed; none when the client gave up.
async fn read_message(request: Request<RecvStream>) -> Result<Option<Vec<u8>>, h2::Error> {
    let zstd = request.headers().get("grpc-encoding").is_some_and(|encoding| encoding == "zstd");
    let mut body = request.into_body();
    let mut frame = Vec::new();
    while let Some(data) = body.data().await {
        let data = data?;
        frame.extend_from_slice(&data);
        body.flow_control().release_capacity(data.len())?;
    }
    let Some(message) = frame.get(5..) else { return Ok(None) };
    Ok(Some(if frame[0] == 1 && zstd {
        zstd::stream::decode_all(message).expect("what was compressed")
    } else {
        message.to_vec()
    }))
}

fn frame(message: &[u8]) -> Bytes {
    let length = u32::try_from(message.len()).expect("a short message");
    [&[0], length.to_be_bytes().as_slice(), message].concat().into()
}

/// An answer that is headers alone.
fn head(fault: Fault) -> Response<()> {
    let mut response = Response::builder();
    match fault {
        Fault::Status(status, location, retry_after) => {
            response = response.status(status).header("content-type", "text/plain");
            if let Some(location) = location {
                response = response.header("location", location);
            }
            if let Some(seconds) = retry_after {
                response = response.header("retry-after", seconds);
            }
        }
        Fault::RetryAtDate(status, _) => response = response.status(status),
        Fault::Code(code, retry) => {
            response = response.header("content-type", "application/grpc").header("grpc-status", code);
            response = response.header("grpc-message", "not%20like%20this");
            if let Some(milliseconds) = retry {
                response = response.header("grpc-status-details-bin", retry_info(code, milliseconds));
            }
        }
        _ => {}
    }
    response.body(()).expect("a response")
}

/// OTLP specification, "OTLP/gRPC Response", "Failures".
const fn is_retryable(code: u16, retry: Option<u64>) -> bool {
    matches!((code, retry), (1 | 4 | 10 | 11 | 14 | 15, _) | (8, Some(_)))
}

/// `google.rpc.Status` with a `RetryInfo`, as metadata.
fn retry_info(code: u16, milliseconds: u64) -> String {
    let delay = [number(1, milliseconds / 1000), number(2, milliseconds % 1000 * 1_000_000)].concat();
    let any = [field(1, b"type.googleapis.com/google.rpc.RetryInfo"), field(2, &field(1, &delay))].concat();
    let status = [number(1, u64::from(code)), field(3, &any)].concat();
    base64::prelude::BASE64_STANDARD_NO_PAD.encode(status)
}

/// A protobuf field of bytes.
fn field(tag: u8, bytes: &[u8]) -> Vec<u8> {
    let mut encoded = vec![tag << 3 | 2];
    prost::encoding::encode_varint(bytes.len().try_into().expect("a length"), &mut encoded);
    encoded.extend_from_slice(bytes);
    encoded
}

/// A protobuf field of a number.
fn number(tag: u8, number: u64) -> Vec<u8> {
    let mut encoded = vec![tag << 3];
    prost::encoding::encode_varint(number, &mut encoded);
    encoded
}
