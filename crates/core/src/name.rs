//! Host names, and what they mean at present.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use crate::socket::Families;

/// The most octets that a name has, without the dot at its end (RFC 1035, section 2.3.4).
const NAME_LIMIT: usize = 253;

/// And each of its labels.
const LABEL_LIMIT: usize = 63;

/// The name of a host (RFC 1123, section 2.1), in lower case. One that ends with a dot is absolute, others may be looked
/// for in the domains of a search list first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostName(Arc<str>);

/// Why a text is no host name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HostNameError {
    /// More than 253 characters, or none.
    #[error("a host name has up to {NAME_LIMIT} characters")]
    Length,
    /// A part between dots that is empty or too long, has other characters, or a hyphen at its end.
    #[error(
        "between its dots a host name has 1 to {LABEL_LIMIT} letters, digits, hyphens and underscores, and no hyphen first or last"
    )]
    Label,
    /// What comes last is a number, as in an address (RFC 3696, section 2).
    #[error("the last part of a host name is no number")]
    Number,
}

impl HostName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for HostName {
    type Err = HostNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let name = text.strip_suffix('.').unwrap_or(text);
        if name.is_empty() || name.len() > NAME_LIMIT {
            return Err(HostNameError::Length);
        }
        // Underscores are no part of host names, and are found in them all the same.
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        let is_label = |label: &str| {
            (1..=LABEL_LIMIT).contains(&label.len())
                && label.bytes().all(is_allowed)
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        if !name.split('.').all(is_label) {
            return Err(HostNameError::Label);
        }
        let is_number =
            name.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
        if is_number { Err(HostNameError::Number) } else { Ok(Self(text.to_ascii_lowercase().into())) }
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(&self.0)
    }
}

/// Of which host addresses are wanted, and of which versions of IP.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NameQuery {
    /// Its name.
    pub name: HostName,
    /// The versions.
    pub families: Families,
}

/// What is known of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolution {
    /// It has these addresses.
    Known(Resolved),
    /// What it means is not known, and why. That is no statement that it has no address.
    Unknown(Arc<str>),
}

/// The addresses of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The name.
    pub name: HostName,
    /// All of its addresses, sorted: at least one.
    pub addresses: Arc<[IpAddr]>,
    /// Since when that is known.
    pub age: Duration,
    /// Why it could not be found out anew when it should have been: it may have others by now.
    pub overdue: Option<Arc<str>>,
}
