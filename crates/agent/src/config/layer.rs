//! One source of settings, as figment merges it with the others.

use figment::value::{Dict, Empty, Map, Value};
use figment::{Error, Metadata, Profile, Provider};

use super::document::KEY_BYTES_LIMIT;
use super::fault::{Fault, KeyPath};
use super::schema::Schema;
use super::tree::{self, Origins};

/// The settings of one source. A value of nothing takes away what earlier sources set.
#[derive(Debug, Default)]
pub(super) struct Layer {
    name: &'static str,
    settings: Dict,
}

impl Layer {
    /// Makes a source's settings ready to be merged: texts that are no file's get the type that the schema asks
    /// for, and what goes with what it sets is settled.
    pub(super) fn new(
        name: &'static str,
        mut settings: Dict,
        origins: &Origins,
        faults: &mut Vec<Fault>,
    ) -> Self {
        if let Some(Value::Dict(_, export)) = settings.get_mut("export") {
            // An earlier source's URL for metrics must not win over the collector that a later one names.
            if let Some(tag) = export.get("endpoint").map(Value::tag) {
                export.entry("metricsEndpoint".to_owned()).or_insert(Value::Empty(tag, Empty::None));
            }
            if let Some(Value::Dict(_, headers)) = export.get_mut("headers") {
                *headers = lowercase(std::mem::take(headers), origins, faults);
            }
        }
        Self { name, settings }
    }
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.name)
    }

    fn data(&self) -> Result<Map<Profile, Dict>, Error> {
        Ok(Map::from([(Profile::Default, self.settings.clone())]))
    }
}

/// Header names are the same in upper and lower case, and so must be to merging.
fn lowercase(headers: Dict, origins: &Origins, faults: &mut Vec<Fault>) -> Dict {
    let mut lowercased = Dict::new();
    for (name, value) in headers {
        let path = KeyPath::from("export.headers").key(&name);
        let place = origins.of(&value).place.clone();
        if lowercased.insert(name.to_ascii_lowercase(), value).is_some() {
            faults.push(Fault::new(
                place,
                path,
                "given twice: upper and lower case are the same in header names",
            ));
        }
    }
    lowercased
}

/// Reads a variable's text as `name=value,name=value` with percent-encoding, the form of W3C Baggage
/// (<https://www.w3.org/TR/baggage/>, section 3.2) without its properties, as OpenTelemetry's variables have it.
///
/// # Errors
/// What is wrong, without the values: they may be secrets.
pub(super) fn parse_pairs(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut pairs = Vec::new();
    for (index, entry) in text.split(',').enumerate() {
        if entry.trim().is_empty() {
            continue;
        }
        let nth = index + 1;
        let Some((name, value)) = entry.split_once('=') else {
            return Err(format!("entry {nth} has no `=`"));
        };
        let decode = |part: &str| {
            percent_decode(part.trim()).ok_or_else(|| format!("entry {nth} has a broken %-escape"))
        };
        let (name, value) = (decode(name)?, decode(value)?);
        if name.is_empty() {
            return Err(format!("entry {nth} has no name before the `=`"));
        }
        if name.len() > KEY_BYTES_LIMIT {
            return Err(format!("entry {nth} has a name of more than {KEY_BYTES_LIMIT} bytes"));
        }
        pairs.push((name, value));
    }
    Ok(pairs)
}

/// Percent-decoding (RFC 3986, section 2.1); `None` for an escape that is none, or bytes that are no UTF-8.
fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
            let code = digit(rest.next())? * 16 + digit(rest.next())?;
            bytes.push(u8::try_from(code).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

/// A dict of the pairs, each with the tag. The last of a repeated name counts.
pub(super) fn pairs_to_value(pairs: Vec<(String, String)>, tag: figment::value::Tag) -> Value {
    let value = |(name, value)| (name, Value::String(tag, value));
    Value::Dict(tag, pairs.into_iter().map(value).collect())
}

/// Flags of the command line, each of which sets one setting.
#[derive(Debug, Clone, Default)]
pub(crate) struct Overrides(Vec<(KeyPath, &'static str, String)>);

impl Overrides {
    /// Adds what a flag says: the setting's path, such as `log.level`; the flag, such as `--log-level`; its text.
    #[must_use]
    pub(crate) fn with(mut self, path: &str, flag: &'static str, text: impl Into<String>) -> Self {
        self.0.push((path.into(), flag, text.into()));
        self
    }

    pub(super) fn layer(&self, schema: Schema<'_>, origins: &mut Origins, faults: &mut Vec<Fault>) -> Layer {
        let mut settings = Value::from(Dict::new());
        for (path, flag, text) in &self.0 {
            let place = super::fault::Place::Flag((*flag).into());
            let tag = origins.tag(tree::Origin::of(place.clone()));
            let value = tree::coerce(text.clone(), schema.at(path), tag);
            if let Err(problem) = tree::insert(&mut settings, &path.0, tag, value) {
                faults.push(Fault::new(place, path.clone(), problem));
            }
        }
        Layer::new("command line", settings.into_dict().unwrap_or_default(), origins, faults)
    }
}

#[cfg(test)]
mod tests;
