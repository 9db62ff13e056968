//! One attempt to deliver one request, over whichever protocol is configured.

use std::fmt;

use bytes::Bytes;
use http::{HeaderMap, Uri};

use crate::answer::Outcome;
use crate::client::HttpClient;
use crate::compress::Compressor;
use crate::config::{Compression, ExportConfig, Protocol};
use crate::connect::Connector;
use crate::endpoint::shown;
use crate::error::ExportError;
use crate::failure::Failure;
use crate::headers::configured_headers;
use crate::{grpc, http as otlp_http};

/// What requests look like on the wire.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WireForm {
    protocol: Protocol,
    compression: Compression,
}

impl WireForm {
    pub(crate) fn of(config: &ExportConfig) -> Self {
        Self { protocol: config.protocol, compression: config.compression }
    }

    /// What [`Self::encode`] compresses with.
    pub(crate) const fn compressor(self) -> Compressor {
        Compressor::new(self.compression)
    }

    /// A request's bytes as they go on the wire, the same for each attempt. The compressor is one of this form's.
    ///
    /// # Errors
    /// When the compressor refuses.
    pub(crate) fn encode(self, compressor: &mut Compressor, request: &[u8]) -> Result<Bytes, Failure> {
        let encoded = match self.protocol {
            Protocol::Grpc => grpc::encode_frame(compressor, request),
            Protocol::HttpProtobuf => compressor.encode(request, Vec::new()).map(Bytes::from),
        };
        encoded.map_err(|error| {
            Failure::exchange("compression", error.to_string(), "set the compression to none")
        })
    }
}

/// The way to one collector.
pub(crate) struct Transport {
    client: HttpClient,
    form: WireForm,
    uri: Uri,
    headers: HeaderMap,
}

impl Transport {
    /// Checks the configuration and reads the TLS material. Nothing is connected yet.
    ///
    /// # Errors
    /// When the configuration cannot work, whatever the network does.
    pub(crate) fn read(config: &ExportConfig) -> Result<Self, ExportError> {
        let uri = match config.protocol {
            Protocol::Grpc => grpc::call_uri(&config.endpoint),
            Protocol::HttpProtobuf => config.endpoint.clone(),
        };
        Ok(Self {
            client: HttpClient::new(config)?,
            form: WireForm::of(config),
            uri,
            headers: configured_headers(config)?,
        })
    }

    /// Sends what [`WireForm::encode`] made, and tells what came of it within the configured time.
    pub(crate) async fn attempt(&mut self, body: Bytes) -> Outcome {
        let WireForm { protocol, compression } = self.form;
        let request = match protocol {
            Protocol::Grpc => grpc::encode_request(&self.uri, &self.headers, compression, body),
            Protocol::HttpProtobuf => otlp_http::encode_request(&self.uri, &self.headers, compression, body),
        };
        match self.client.exchange(request).await {
            Ok(answer) => match protocol {
                Protocol::Grpc => grpc::decode_answer(&answer),
                Protocol::HttpProtobuf => otlp_http::decode_answer(&answer),
            },
            Err(failure) => {
                self.client.forget_connections();
                Outcome::Retry { failure, asked: None }
            }
        }
    }

    /// What makes its connections.
    pub(crate) fn connector(&self) -> &Connector {
        self.client.connector()
    }
}

/// Without the URI's query and the headers, where secrets are.
impl fmt::Debug for Transport {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Transport").field("uri", &shown(&self.uri)).finish_non_exhaustive()
    }
}
