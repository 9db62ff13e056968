//! How far a request to the collector came.

use std::error::Error;
use std::io;

use tonic::Code;

use super::facts::Refusal;

/// Where sending failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The host name has no address.
    NameResolution,
    /// Nobody listens there.
    Refused,
    /// No answer, or no way there.
    Unreachable,
    /// The two could not agree on TLS, or one distrusts the other's certificate.
    Tls,
    /// Somebody answers who does not speak the configured protocol.
    Protocol,
    /// A server, but no OTLP metrics at that path.
    NotFound,
    /// The collector wants to know who sends.
    Unauthenticated,
    /// Anything else.
    Other,
}

/// A request that the collector did not take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CollectorProblem {
    /// The collector's address, as configured.
    pub(crate) endpoint: String,
    /// Where sending failed.
    pub(crate) stage: Stage,
    /// What happened, with its causes.
    pub(crate) text: String,
}

impl CollectorProblem {
    /// Finds the stage in an error and its causes.
    pub(crate) fn new(endpoint: impl Into<String>, error: &(dyn Error + 'static)) -> Self {
        Self { endpoint: endpoint.into(), stage: match_stage(error), text: Refusal::new(error).text }
    }
}

/// The stage that the innermost telling cause speaks of.
fn match_stage(error: &(dyn Error + 'static)) -> Stage {
    let mut stage = Stage::Other;
    let mut cause = Some(error);
    while let Some(error) = cause {
        stage = match_cause(error).unwrap_or(stage);
        // An `io::Error` made from another error is that error, not its parent.
        cause = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    stage
}

fn match_cause(error: &(dyn Error + 'static)) -> Option<Stage> {
    if let Some(status) = error.downcast_ref::<tonic::Status>() {
        return match status.code() {
            Code::Unauthenticated | Code::PermissionDenied => Some(Stage::Unauthenticated),
            Code::Unimplemented => Some(Stage::NotFound),
            Code::DeadlineExceeded => Some(Stage::Unreachable),
            _ => match_text(status.message()),
        };
    }
    if error.is::<rustls::Error>() {
        return Some(Stage::Tls);
    }
    if error.is::<tokio::time::error::Elapsed>() {
        return Some(Stage::Unreachable);
    }
    if let Some(error) = error.downcast_ref::<io::Error>() {
        let stage = match error.kind() {
            io::ErrorKind::ConnectionRefused => Some(Stage::Refused),
            io::ErrorKind::TimedOut
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::NetworkDown => Some(Stage::Unreachable),
            _ => None,
        };
        return stage.or_else(|| match_text(&error.to_string()));
    }
    match_text(&error.to_string())
}

/// For causes whose types are private to hyper, h2 and the resolver.
fn match_text(text: &str) -> Option<Stage> {
    const SIGNS: [(&str, Stage); 12] = [
        ("failed to lookup address", Stage::NameResolution),
        ("dns error", Stage::NameResolution),
        ("invalid peer certificate", Stage::Tls),
        ("received corrupt message", Stage::Tls),
        ("received fatal alert", Stage::Tls),
        ("frame with invalid size", Stage::Protocol),
        ("invalid HTTP version", Stage::Protocol),
        ("http2 error", Stage::Protocol),
        ("timed out", Stage::Unreachable),
        ("Timeout expired", Stage::Unreachable),
        ("401", Stage::Unauthenticated),
        ("404", Stage::NotFound),
    ];
    SIGNS.iter().find(|(sign, _)| text.contains(sign)).map(|(_, stage)| *stage)
}
