//! Whether the collector can be reached, step by step, for a person who wants to know why not.

use std::net::SocketAddr;

use crate::answer::{Accepted, Outcome};
use crate::compress::Compressor;
use crate::config::ExportConfig;
use crate::endpoint::shown;
use crate::error::ExportError;
use crate::failure::Failure;
use crate::mapping;
use crate::transport::{Body, Transport};

/// A collector that answered as one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reachability {
    /// What the endpoint's name resolved to.
    pub addresses: Vec<SocketAddr>,
    /// The address that answered.
    pub peer: SocketAddr,
    /// The version of TLS, where the endpoint wants TLS.
    pub tls: Option<String>,
    /// What the collector remarked although it accepted.
    pub remark: Option<String>,
}

/// Sends a request without any data, and tells how far it came.
///
/// # Errors
/// What of the configuration cannot work; else [`ExportError::Unreachable`], whose [`Failure`] names the step:
/// name resolution, connecting, TLS handshake, or the exchange itself.
pub async fn probe_collector(config: &ExportConfig) -> Result<Reachability, ExportError> {
    let mut transport = Transport::read(config)?;
    let unreachable = |source| ExportError::Unreachable { endpoint: shown(&config.endpoint), source };
    let route = transport.connector().route();
    let addresses = route.resolve().await.map_err(unreachable)?;
    let tcp = route.connect(addresses.clone()).await.map_err(unreachable)?;
    let peer = tcp.peer_addr().map_err(|error| unreachable(Failure::connect(None, &error)))?;
    let tls = route.secure(tcp).await.map_err(unreachable)?.tls_version();
    let mut compressor = Compressor::new(transport.form().compression());
    let empty = Body::encode(&mut compressor, &mapping::encode_without_points()).map_err(unreachable)?;
    match transport.attempt(&empty).await {
        Outcome::Accepted(Accepted { oddity: None, message, .. }) => {
            let remark = Some(message).filter(|message| !message.is_empty());
            Ok(Reachability { addresses, peer, tls, remark })
        }
        Outcome::Accepted(Accepted { oddity: Some(failure), .. })
        | Outcome::Refused(failure)
        | Outcome::Retry { failure, .. } => Err(unreachable(failure)),
    }
}

#[cfg(test)]
mod tests;
