//! Kinds of text that a setting may hold: how each is parsed, and what people are told is allowed.

use std::fmt;
use std::net::SocketAddr;
use std::ops::Deref;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tracing_subscriber::EnvFilter;
use vms_core::address::ServiceIp;
use vms_core::connection::TcpState;
use vms_core::name::{HostName, HostNameError};
use vms_core::process::NameGlob;
use vms_core::socket::{Network, NetworkError, PortRange, PortRangeError};

use super::duration::DurationText;
use super::percent::PercentText;
use super::suggest;

/// A kind of text. Its name is the `format` of the schema, by which the value is checked.
pub(super) trait TextFormat: FromStr<Err: fmt::Display> + fmt::Display {
    /// The `format` in the schema.
    const NAME: &'static str;
    /// What is allowed, for people.
    const ALLOWED: &'static str;
    /// What editors, which do not know the format, can check.
    const PATTERN: Option<&'static str> = None;
    /// Integers that are taken as well, without quotes: from the first to the last.
    const INTEGERS: Option<(u32, u32)> = None;
    /// Texts of which a wrong one may be a misspelling.
    const CANDIDATES: &'static [&'static str] = &[];
}

/// A setting of the kind `T`, written as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Text<T>(pub(super) T);

impl<T> Deref for Text<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: TextFormat> Serialize for Text<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de, T: TextFormat> Deserialize<'de> for Text<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = match T::INTEGERS {
            None => String::deserialize(deserializer)?,
            Some(_) => match TextOrInteger::deserialize(deserializer)? {
                TextOrInteger::Text(text) => text,
                TextOrInteger::Integer(integer) => integer.to_string(),
            },
        };
        text.parse().map(Self).map_err(serde::de::Error::custom)
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum TextOrInteger {
    Integer(i64),
    Text(String),
}

impl<T: TextFormat> JsonSchema for Text<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        T::NAME.into()
    }

    fn json_schema(_generator: &mut SchemaGenerator) -> Schema {
        let mut schema = json_schema!({ "type": "string", "format": T::NAME });
        if let Some(pattern) = T::PATTERN {
            schema.insert("pattern".to_owned(), pattern.into());
        }
        if let Some((first, last)) = T::INTEGERS {
            schema.insert("type".to_owned(), vec!["integer", "string"].into());
            schema.insert("minimum".to_owned(), first.into());
            schema.insert("maximum".to_owned(), last.into());
        }
        schema
    }
}

/// Parses a text as the named format and says what is wrong with it; formats of other origin check nothing.
pub(super) fn check(format: &str, text: &str) -> Result<(), String> {
    fn parse<T: TextFormat>(text: &str) -> Result<(), String> {
        text.parse::<T>().map(drop).map_err(|error| error.to_string())
    }
    match format {
        DurationText::NAME => parse::<DurationText>(text),
        PercentText::NAME => parse::<PercentText>(text),
        ServiceIp::NAME => parse::<ServiceIp>(text),
        NameGlob::NAME => parse::<NameGlob>(text),
        ExactPath::NAME => parse::<ExactPath>(text),
        LogFilter::NAME => parse::<LogFilter>(text),
        HeaderName::NAME => parse::<HeaderName>(text),
        HeaderValue::NAME => parse::<HeaderValue>(text),
        Address::NAME => parse::<Address>(text),
        Ports::NAME => parse::<Ports>(text),
        StateName::NAME => parse::<StateName>(text),
        ListenAddress::NAME => parse::<ListenAddress>(text),
        _ => Ok(()),
    }
}

/// What is allowed in a text of the named format.
pub(super) fn allowed(format: &str) -> Option<&'static str> {
    Some(match format {
        DurationText::NAME => DurationText::ALLOWED,
        PercentText::NAME => PercentText::ALLOWED,
        ServiceIp::NAME => ServiceIp::ALLOWED,
        NameGlob::NAME => NameGlob::ALLOWED,
        ExactPath::NAME => ExactPath::ALLOWED,
        LogFilter::NAME => LogFilter::ALLOWED,
        HeaderName::NAME => HeaderName::ALLOWED,
        HeaderValue::NAME => HeaderValue::ALLOWED,
        Address::NAME => Address::ALLOWED,
        Ports::NAME => Ports::ALLOWED,
        StateName::NAME => StateName::ALLOWED,
        ListenAddress::NAME => ListenAddress::ALLOWED,
        _ => return None,
    })
}

/// The texts of the named format of which a wrong one may be a misspelling.
pub(super) fn candidates(format: &str) -> &'static [&'static str] {
    if format == StateName::NAME { StateName::CANDIDATES } else { &[] }
}

impl TextFormat for DurationText {
    const NAME: &'static str = "vms-duration";
    const ALLOWED: &'static str = "a duration in h, m, s and ms, such as 15s, 1m30s or 500ms";
    const PATTERN: Option<&'static str> = Some(DurationText::PATTERN);
}

impl TextFormat for PercentText {
    const NAME: &'static str = "vms-percent";
    const ALLOWED: &'static str = "a percentage from 0% to 100%, such as 0.5%";
    const PATTERN: Option<&'static str> = Some(PercentText::PATTERN);
}

impl TextFormat for ServiceIp {
    const NAME: &'static str = "vms-ip";
    const ALLOWED: &'static str = "an IPv4 or IPv6 address, such as 10.0.0.1, 2001:db8::1 or fe80::1%eth0";
}

impl TextFormat for NameGlob {
    const NAME: &'static str = "vms-glob";
    const ALLOWED: &'static str =
        "a pattern for a whole process name with *, ?, [...] and {a,b}, such as java or nginx*";
}

/// An absolute path, spelled the one way in which the kernel spells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ExactPath(pub(super) PathBuf);

/// Why a path could never be one that the kernel tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum ExactPathError {
    #[error("not an absolute path")]
    Relative,
    #[error("the kernel tells paths without `.`, `..`, double slashes or a slash at the end")]
    NotExact,
    #[error("a path holds no NUL")]
    Nul,
}

impl TextFormat for ExactPath {
    const NAME: &'static str = "vms-absolute-path";
    const ALLOWED: &'static str = "an absolute path without `.` and `..`, such as /usr/bin/java";
    const PATTERN: Option<&'static str> = Some("^/");
}

impl FromStr for ExactPath {
    type Err = ExactPathError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let path = Path::new(text);
        if !path.is_absolute() {
            return Err(ExactPathError::Relative);
        }
        if text.contains('\0') {
            return Err(ExactPathError::Nul);
        }
        // `components` drops `.`, double slashes and the last slash; what it leaves out would never match.
        let exact: PathBuf = path.components().collect();
        if exact.as_os_str() != path.as_os_str() || path.components().any(|part| part == Component::ParentDir)
        {
            return Err(ExactPathError::NotExact);
        }
        Ok(Self(exact))
    }
}

impl fmt::Display for ExactPath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.display().fmt(formatter)
    }
}

/// Which log records are written: a level, or `tracing` filter directives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LogFilter(pub(super) String);

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

impl TextFormat for LogFilter {
    const NAME: &'static str = "vms-log-filter";
    const ALLOWED: &'static str =
        "off, error, warn, info, debug or trace; also for single modules, such as info,vms_export=debug";
}

impl FromStr for LogFilter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // EnvFilter cuts its text between any two bytes, and panics within a character.
        if !text.is_ascii() {
            return Err("holds a character that is not ASCII".to_owned());
        }
        // What is wanted of a field is a regular expression to EnvFilter, and some of those take it minutes to compile.
        if text.contains(['{', '}']) {
            return Err("fields of spans cannot be chosen".to_owned());
        }
        // EnvFilter takes a bare word that is no level for a module to be logged at every level: a misspelt
        // level would silently log nothing of what was meant.
        for word in text.split(',') {
            let level = word.rsplit('=').next().unwrap_or(word).trim();
            if !LEVELS.iter().any(|known| known.eq_ignore_ascii_case(level)) {
                let hint = suggest::nearest(level, LEVELS)
                    .map(|near| format!(", did you mean `{near}`?"))
                    .unwrap_or_default();
                return Err(format!("`{}` is not a level{hint}", level.escape_debug()));
            }
        }
        EnvFilter::try_new(text).map_err(|error| error.to_string())?;
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for LogFilter {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// The name of a header, in lower case: HTTP/2 knows no other (RFC 9113, section 8.2), and gRPC no other either.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct HeaderName(pub(super) String);

impl TextFormat for HeaderName {
    const NAME: &'static str = "vms-header-name";
    const ALLOWED: &'static str = "the name of a header of your own, such as authorization or x-tenant";
}

impl FromStr for HeaderName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // The exporter's word: what passes here is not refused there, where no source is known any more.
        vms_export::parse_header_name(text).map(|name| Self(name.as_str().to_owned()))
    }
}

impl fmt::Display for HeaderName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// The value of a header: visible ASCII, spaces and tabs; gRPC metadata takes nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HeaderValue(pub(super) String);

impl TextFormat for HeaderValue {
    const NAME: &'static str = "vms-header-value";
    const ALLOWED: &'static str = "visible ASCII and spaces";
}

impl FromStr for HeaderValue {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.bytes().all(|byte| byte == b'\t' || byte == b' ' || byte.is_ascii_graphic()) {
            Ok(Self(text.to_owned()))
        } else {
            Err("holds a character that no header may hold")
        }
    }
}

impl fmt::Display for HeaderValue {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// An address and port of this host to listen at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ListenAddress(pub(super) SocketAddr);

/// Why nobody can listen at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum ListenAddressError {
    #[error("not an IP address with a port")]
    Malformed,
    #[error("port 0 would be another one at each start")]
    AnyPort,
}

impl TextFormat for ListenAddress {
    const NAME: &'static str = "vms-listen-address";
    const ALLOWED: &'static str = "an IP address and a port, such as 127.0.0.1:9293 or [::1]:9293";
}

impl FromStr for ListenAddress {
    type Err = ListenAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let address: SocketAddr =
            text.parse().map_err(|_unspecific: std::net::AddrParseError| ListenAddressError::Malformed)?;
        if address.port() == 0 { Err(ListenAddressError::AnyPort) } else { Ok(Self(address)) }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// What an end of a socket may have for an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Address {
    /// One, or those that share its first bits.
    Range(Network),
    /// Those of a host.
    Host(HostName),
}

/// Why a text is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum AddressError {
    #[error("interfaces are not told apart here: leave out what follows the %")]
    Zone,
    #[error("any address counts where none is given: leave it out")]
    Any,
    #[error("a text with commas is no list: write [one, other]")]
    Commas,
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error(transparent)]
    Host(#[from] HostNameError),
}

impl TextFormat for Address {
    const NAME: &'static str = "vms-address";
    const ALLOWED: &'static str = "an IPv4 or IPv6 address, a range of them, or a host name, such as 10.0.0.1, 2001:db8::/32 or db.example.com";
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = match text.parse() {
            Ok(network) => return Ok(Self::Range(network)),
            Err(error) => error,
        };
        let address = text.split_once('%').map(|(address, _)| address);
        let is_of_name = |c: char| c.is_ascii_alphanumeric() || ['.', '-', '_'].contains(&c);
        let is_name = text.chars().all(is_of_name) && text.contains(|c: char| c.is_ascii_alphabetic());
        match error {
            NetworkError::NotAnAddress if text == "*" => Err(AddressError::Any),
            NetworkError::NotAnAddress if text.contains(',') => Err(AddressError::Commas),
            NetworkError::NotAnAddress
                if address.is_some_and(|address| address.parse::<Network>().is_ok()) =>
            {
                Err(AddressError::Zone)
            }
            NetworkError::NotAnAddress if is_name => Ok(Self::Host(text.parse()?)),
            error => Err(AddressError::Network(error)),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Range(network) => network.fmt(formatter),
            Self::Host(name) => name.fmt(formatter),
        }
    }
}

/// A port, or those from one to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ports(pub(super) PortRange);

/// Why a text is no range of ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum PortsError {
    #[error("a text with commas is no list: write [80, 443]")]
    Commas,
    #[error(transparent)]
    Range(#[from] PortRangeError),
}

impl TextFormat for Ports {
    const NAME: &'static str = "vms-ports";
    const ALLOWED: &'static str = "a port from 1 to 65535 or a range such as 8000-8999";
    const INTEGERS: Option<(u32, u32)> = Some((1, 65_535));
}

impl FromStr for Ports {
    type Err = PortsError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.contains(',') { Err(PortsError::Commas) } else { Ok(Self(text.trim().parse()?)) }
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// The state of a socket, by any of its names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StateName(pub(super) TcpState);

impl TextFormat for StateName {
    const NAME: &'static str = "vms-socket-state";
    const ALLOWED: &'static str = "a state of TCP such as ESTABLISHED, LISTEN, SYN-SENT, TIME-WAIT or CLOSE-WAIT; of UDP established or unconnected";
    const CANDIDATES: &'static [&'static str] = &[
        "established",
        "syn-sent",
        "syn-received",
        "syn-recv",
        "fin-wait-1",
        "fin-wait-2",
        "time-wait",
        "closed",
        "close-wait",
        "last-ack",
        "listen",
        "closing",
        "bound-inactive",
        "unconnected",
    ];
}

impl FromStr for StateName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match TcpState::from_name(text) {
            // The kernel tells of request sockets by this state alone (`inet_req_diag_fill`, net/ipv4/inet_diag.c).
            Some(TcpState::NewSynReceived) => Ok(Self(TcpState::SynReceived)),
            Some(state) => Ok(Self(state)),
            None => Err("not a state of a socket"),
        }
    }
}

impl fmt::Display for StateName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.0.as_str())
    }
}
