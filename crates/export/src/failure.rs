//! Why one attempt to deliver a request failed, told so that an operator knows what to do.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio_rustls::rustls::{self, CertificateError};

use crate::tls::{Material, RENEW, shown_time};

/// How far an attempt came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// The host name is being resolved.
    Resolve,
    /// TCP connects.
    Connect,
    /// TLS is negotiated.
    Tls,
    /// The request was sent, or is being sent; the answer is awaited or was read.
    Exchange,
}

impl fmt::Display for Stage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Resolve => "name resolution",
            Self::Connect => "connecting",
            Self::Tls => "TLS handshake",
            Self::Exchange => "exchange",
        })
    }
}

/// One failed attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// How far the attempt came.
    pub stage: Stage,
    /// What it is counted as: the `error.type` attribute of OpenTelemetry's conventions, of low cardinality.
    pub error_type: Cow<'static, str>,
    /// What happened, in the collector's words where it had any.
    pub message: String,
    /// What to do.
    pub advice: &'static str,
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl Error for Failure {}

const START_OR_POINT: &str = "start the collector or correct export.endpoint (OTEL_EXPORTER_OTLP_ENDPOINT)";

impl Failure {
    pub(crate) fn resolve(host: &str, error: &io::Error) -> Self {
        Self {
            stage: Stage::Resolve,
            error_type: "name_resolution".into(),
            message: format!("{host}: {}", innermost(error)),
            advice: "correct the host in export.endpoint (OTEL_EXPORTER_OTLP_ENDPOINT) or the resolver's configuration",
        }
    }

    pub(crate) fn connect(address: Option<SocketAddr>, error: &io::Error) -> Self {
        let kind = match error.kind() {
            io::ErrorKind::ConnectionRefused => "connection_refused",
            io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable => "unreachable",
            _ => "connection",
        };
        let text = innermost(error);
        let message = address.map_or_else(|| text.clone(), |address| format!("{address}: {text}"));
        Self { stage: Stage::Connect, error_type: kind.into(), message, advice: START_OR_POINT }
    }

    pub(crate) fn tls(message: String) -> Self {
        Self {
            stage: Stage::Tls,
            error_type: "tls".into(),
            message,
            advice: "check the CA, the certificates of both sides (dates, names, whether one is missing), and that the endpoint speaks TLS",
        }
    }

    /// A handshake that failed, with the dates where they are why.
    pub(crate) fn handshake(error: &io::Error, material: &Material) -> Self {
        let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
        let (error_type, message, advice) = match cause {
            Some(rustls::Error::InvalidCertificate(CertificateError::ExpiredContext {
                not_after, ..
            })) => (
                "certificate_expired",
                format!("the collector's certificate expired on {}", shown_time(not_after.as_secs())),
                "renew the collector's certificate, or correct this host's clock",
            ),
            Some(rustls::Error::InvalidCertificate(CertificateError::NotValidYetContext {
                not_before,
                ..
            })) => (
                "certificate_not_valid_yet",
                format!(
                    "the collector's certificate is not valid before {}",
                    shown_time(not_before.as_secs())
                ),
                "correct this host's clock, or the collector's certificate",
            ),
            Some(rustls::Error::AlertReceived(_)) => return Self::alert(innermost(error), material),
            _ => return Self::tls(innermost(error)),
        };
        Self { stage: Stage::Tls, error_type: error_type.into(), message, advice }
    }

    /// The collector broke TLS off. What it thinks of the client's certificate it says by a word at the most.
    pub(crate) fn alert(text: String, material: &Material) -> Self {
        match material.client_certificate() {
            None => Self::tls(text),
            Some((false, state)) => Self::tls(format!("{text} ({state})")),
            Some((true, state)) => Self {
                stage: Stage::Tls,
                error_type: "client_certificate_expired".into(),
                message: format!("{text}: {state}"),
                advice: RENEW,
            },
        }
    }

    pub(crate) fn timeout(stage: Stage, limit: Duration) -> Self {
        Self {
            stage,
            error_type: "timeout".into(),
            message: format!("no end of {stage} within {limit:?}"),
            advice: match stage {
                Stage::Exchange => {
                    "check the collector's load, or raise export.timeout (OTEL_EXPORTER_OTLP_TIMEOUT)"
                }
                Stage::Resolve => "check the resolver's configuration, and that its servers answer",
                Stage::Connect | Stage::Tls => {
                    "check the address, routes and firewalls between here and the collector"
                }
            },
        }
    }

    pub(crate) fn exchange(
        error_type: impl Into<Cow<'static, str>>,
        message: String,
        advice: &'static str,
    ) -> Self {
        Self { stage: Stage::Exchange, error_type: error_type.into(), message, advice }
    }
}

/// The last cause in the chain: the one that says what happened rather than what was attempted. The peer may have worded
/// it: HTTP/2 says goodbye with a text, and certificates hold names.
pub(crate) fn innermost(error: &(dyn Error + 'static)) -> String {
    chain(error).last().map(|cause| foreign_text(&cause.to_string())).unwrap_or_default()
}

/// The error, its source, the source's source, and so on.
pub(crate) fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error: &&'a (dyn Error + 'static)| (*error).source())
}

/// Foreign text, fit for one line of a log: no control characters, not long.
pub(crate) fn foreign_text(text: &str) -> String {
    const MAX_CHARS: usize = 300;
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    let text = text.trim();
    let mut short: String = text.chars().take(MAX_CHARS).map(clean).collect();
    if text.chars().nth(MAX_CHARS).is_some() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests;
