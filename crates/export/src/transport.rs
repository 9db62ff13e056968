//! One attempt to deliver one request, over whichever protocol is configured.

use std::{fmt, io};

use bytes::Bytes;
use http::{HeaderMap, Uri};

use crate::answer::Outcome;
use crate::client::HttpClient;
use crate::compress::{Compressor, decode_body, encoding_name};
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

    /// How bodies are compressed.
    pub(crate) const fn compression(self) -> Compression {
        self.compression
    }
}

/// A request as it goes on the wire, over either protocol, the same for each attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Body {
    /// The prefix of a gRPC message, and the message behind it, which is all of an HTTP body.
    frame: Bytes,
    compression: Compression,
}

impl Body {
    /// Compresses a request.
    ///
    /// # Errors
    /// When the compressor refuses.
    pub(crate) fn encode(compressor: &mut Compressor, request: &[u8]) -> Result<Self, Failure> {
        let frame = grpc::encode_frame(compressor, request).map_err(|error| {
            Failure::exchange("compression", error.to_string(), "set the compression to none")
        })?;
        Ok(Self { frame, compression: compressor.compression() })
    }

    /// A request that is compressed already.
    ///
    /// # Errors
    /// When it is too long for a message.
    pub(crate) fn compressed(compression: Compression, message: &[u8]) -> io::Result<Self> {
        Ok(Self { frame: grpc::frame(compression, message)?, compression })
    }

    /// The request in another compression.
    ///
    /// # Errors
    /// When it cannot be decompressed, or its size in plain exceeds what a request can have.
    pub(crate) fn transcode(&self, compressor: &mut Compressor) -> io::Result<Self> {
        let encoding = encoding_name(self.compression).unwrap_or("identity");
        let plain = decode_body(encoding, &self.message(), MAX_PLAIN_BYTES)?;
        let frame = grpc::encode_frame(compressor, &plain)?;
        Ok(Self { frame, compression: compressor.compression() })
    }

    /// The request without a prefix.
    pub(crate) fn message(&self) -> Bytes {
        self.frame.slice(grpc::PREFIX.min(self.frame.len())..)
    }

    /// How the request is compressed.
    pub(crate) const fn compression(&self) -> Compression {
        self.compression
    }

    /// The bytes of the request, as they travel and wait.
    pub(crate) fn len(&self) -> usize {
        self.frame.len().saturating_sub(grpc::PREFIX)
    }
}

/// No request is larger before compression, unless one point alone is: a bound for what a file of the spool unpacks to.
const MAX_PLAIN_BYTES: usize = 8 << 20;

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

    /// Sends a request, and tells what came of it within the configured time.
    pub(crate) async fn attempt(&mut self, body: &Body) -> Outcome {
        let WireForm { protocol, .. } = self.form;
        let compression = body.compression;
        let request = match protocol {
            Protocol::Grpc => grpc::encode_request(&self.uri, &self.headers, compression, body.frame.clone()),
            Protocol::HttpProtobuf => {
                otlp_http::encode_request(&self.uri, &self.headers, compression, body.message())
            }
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

    /// What requests look like on the wire.
    pub(crate) fn form(&self) -> WireForm {
        self.form
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
