//! What a collector's answer means for the request: taken, to be sent again, or never to be taken.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceResponse;
use prost::Message;

use crate::client::NO_COLLECTOR;
use crate::failure::{Failure, foreign_text};

/// The end of one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The collector has the request, all of it or all but the rejected points. Never sent again.
    Accepted(Accepted),
    /// May succeed later, as the OTLP specification says; not before `asked`, if the collector asked.
    Retry {
        /// What went wrong this time.
        failure: Failure,
        /// When the collector wants to be tried again.
        asked: Option<Asked>,
    },
    /// Will never succeed: the request is lost.
    Refused(Failure),
}

/// What an accepting answer says besides.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Accepted {
    /// Points that the collector did not take.
    pub rejected: u64,
    /// Why, or a warning when none was rejected; empty when there is nothing to say.
    pub message: String,
    /// Set when the status says success and the body is no OTLP answer.
    pub oddity: Option<Failure>,
}

/// When the collector asked to be tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// After this time.
    After(Duration),
    /// At this time of day.
    At(SystemTime),
}

impl Asked {
    /// The time to wait, whatever it is: the sender bounds it.
    #[must_use]
    pub fn wait(self, now: SystemTime) -> Duration {
        match self {
            Self::After(wait) => wait,
            Self::At(time) => time.duration_since(now).unwrap_or_default(),
        }
    }
}

/// Reads the body of an answer whose status says success.
///
/// A body that makes no sense is no reason to send again: the status was clear, and the data would be doubled.
pub(crate) fn decode_accepted(body: Option<&Bytes>) -> Accepted {
    let Some(body) = body else {
        return odd("the answer says success and is too large for one");
    };
    let Ok(answer) = ExportMetricsServiceResponse::decode(body.as_ref()) else {
        return odd("the answer says success and holds no OTLP message");
    };
    let partial = answer.partial_success.unwrap_or_default();
    Accepted {
        // The field is signed; below zero it says nothing.
        rejected: u64::try_from(partial.rejected_data_points).unwrap_or(0),
        message: foreign_text(&partial.error_message),
        oddity: None,
    }
}

pub(crate) fn odd(message: &str) -> Accepted {
    let oddity = Failure::exchange("odd_answer", message.to_owned(), NO_COLLECTOR);
    Accepted { oddity: Some(oddity), ..Accepted::default() }
}

/// `google.rpc.Status` (`google/rpc/status.proto`): the body of an OTLP/HTTP error and of `grpc-status-details-bin`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct RpcStatus {
    #[prost(int32, tag = "1")]
    pub(crate) code: i32,
    #[prost(string, tag = "2")]
    pub(crate) message: String,
    #[prost(message, repeated, tag = "3")]
    pub(crate) details: Vec<Any>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Any {
    #[prost(string, tag = "1")]
    pub(crate) type_url: String,
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) value: Bytes,
}

/// `google.rpc.RetryInfo` (`google/rpc/error_details.proto`).
#[derive(Clone, PartialEq, Message)]
pub(crate) struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    pub(crate) retry_delay: Option<ProtoDuration>,
}

/// `google.protobuf.Duration`.
#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct ProtoDuration {
    #[prost(int64, tag = "1")]
    pub(crate) seconds: i64,
    #[prost(int32, tag = "2")]
    pub(crate) nanos: i32,
}

impl RpcStatus {
    /// The delay of the first `RetryInfo`. Its mere presence says that the request may be sent again.
    pub(crate) fn retry_delay(&self) -> Option<Duration> {
        let detail = self.details.iter().find(|any| any.type_url.ends_with("/google.rpc.RetryInfo"))?;
        let delay = RetryInfo::decode(detail.value.as_ref()).ok()?.retry_delay.unwrap_or_default();
        let seconds = u64::try_from(delay.seconds).unwrap_or(0);
        let nanos = u32::try_from(delay.nanos).unwrap_or(0).min(999_999_999);
        Some(Duration::new(seconds, nanos))
    }
}

#[cfg(test)]
mod tests;
