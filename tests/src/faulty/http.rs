//! HTTP/1.1 by hand, to be able to stop anywhere.

use std::io;
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::sleep;

use super::{Fault, Shared, is_retryable_status, success};

const CHUNKED: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ntransfer-encoding: chunked\r\n\r\n";

/// Serves requests until the connection ends.
pub(super) async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    shared: Shared,
) -> io::Result<()> {
    loop {
        let Some(request) = read_request(&mut stream).await? else { return Ok(()) };
        let fault = shared.arrived(&request);
        match fault {
            Fault::HangBeforeHead => std::future::pending().await,
            Fault::ResetBeforeHead => return Ok(()),
            Fault::HangInBody | Fault::ResetInBody => {
                // Half a chunk.
                stream.write_all(format!("{CHUNKED}8\r\n....").as_bytes()).await?;
                end(&mut stream, fault == Fault::HangInBody).await?;
                return Ok(());
            }
            Fault::HangBeforeTrailers | Fault::ResetBeforeTrailers => {
                stream.write_all(CHUNKED.as_bytes()).await?;
                end(&mut stream, fault == Fault::HangBeforeTrailers).await?;
                return Ok(());
            }
            Fault::Endless => {
                // Its status said success.
                shared.store(&request);
                stream.write_all(CHUNKED.as_bytes()).await?;
                let chunk = format!("1000\r\n{}\r\n", "x".repeat(0x1000));
                loop {
                    stream.write_all(chunk.as_bytes()).await?;
                    sleep(Duration::from_millis(1)).await;
                }
            }
            Fault::Status(status, location, retry_after) => {
                if !is_retryable_status(status) {
                    shared.refuse(&request);
                }
                let location = location.map_or_else(String::new, |place| format!("location: {place}\r\n"));
                let after = retry_after.map_or_else(String::new, |wait| format!("retry-after: {wait}\r\n"));
                stream.write_all(&answer(status, &format!("{location}{after}"), b"")).await?;
            }
            Fault::RetryAtDate(status, seconds) => {
                // Dates are whole seconds: at least that much is asked for.
                let at = wall_clock() + Duration::from_secs(u64::from(seconds) + 1);
                let header = format!("retry-after: {}\r\n", httpdate::fmt_http_date(at));
                stream.write_all(&answer(status, &header, b"")).await?;
            }
            _ => {
                if let Fault::Slow(wait) = fault {
                    sleep(wait).await;
                }
                if let Fault::Partial(points) = fault {
                    shared.refuse_points(points);
                }
                shared.store(&request);
                stream.write_all(&answer(200, "", &success(fault))).await?;
            }
        }
        stream.flush().await?;
    }
}

async fn end<S: AsyncWrite + Unpin>(stream: &mut S, hang: bool) -> io::Result<()> {
    stream.flush().await?;
    if hang {
        std::future::pending::<()>().await;
    }
    // The client is to see what was sent.
    sleep(Duration::from_millis(20)).await;
    Ok(())
}

fn answer(status: u16, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 {status} Told\r\ncontent-type: application/x-protobuf\r\n{headers}content-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// The body of the next request, decompressed; none when the client closed the connection.
async fn read_request<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Option<Vec<u8>>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte).await? == 0 {
            return Ok(None);
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).to_lowercase();
    let header = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let length = header("content-length:").and_then(|length| length.parse().ok()).expect("a length");
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok(Some(if header("content-encoding:") == Some("zstd") {
        zstd::stream::decode_all(body.as_slice()).expect("what was compressed")
    } else {
        body
    }))
}

#[expect(clippy::disallowed_methods, reason = "a date is asked for")]
fn wall_clock() -> SystemTime {
    SystemTime::now()
}
