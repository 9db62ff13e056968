//! The check of the merged settings against the schema: every fault is found, and defaults are filled in.

use figment::value::{Dict, Value};

use super::duration::DurationText;
use super::fault::{FAULTS_LIMIT, Fault, KeyPath, Place};
use super::schema::{Kind, Schema};
use super::tree::{self, Origins};
use super::{suggest, text};

/// Checks a tree of settings and fills in the defaults.
pub(super) fn verify(root: &mut Value, schema: Schema<'_>, origins: &Origins) -> Vec<Fault> {
    let mut verifier = Verifier { root: schema, origins, faults: Vec::new() };
    verifier.value(root, schema, &KeyPath::default(), false);
    verifier.faults
}

struct Verifier<'a> {
    root: Schema<'a>,
    origins: &'a Origins,
    faults: Vec<Fault>,
}

impl<'a> Verifier<'a> {
    fn value(&mut self, value: &mut Value, schema: Schema<'a>, path: &KeyPath, secret: bool) {
        if self.origins.of(value).unusable || self.faults.len() >= FAULTS_LIMIT {
            return;
        }
        let secret = secret || schema.is_secret();
        match (schema.kind(), value) {
            (Kind::Section, Value::Dict(tag, entries)) => {
                let place = self.origins.of_tag(*tag).place.clone();
                self.section(entries, schema, path, secret, &place);
            }
            (Kind::Map, Value::Dict(_, entries)) => {
                for (key, value) in entries {
                    let path = path.key(key);
                    if let Some(names) = schema.names() {
                        self.map_key(key, names, value, &path);
                    }
                    if let Some(values) = schema.values() {
                        self.value(value, values, &path, secret);
                    }
                }
            }
            (Kind::List | Kind::Several, value @ Value::Array(..)) => {
                self.list(value, schema, path, secret);
            }
            (Kind::Text | Kind::TextOrInteger, value @ Value::String(..)) => {
                self.text(value, schema, path, secret);
            }
            (Kind::Several, value @ Value::String(..)) if schema.takes_text() => {
                self.text(value, schema, path, secret);
            }
            (Kind::Integer | Kind::TextOrInteger, value @ Value::Num(..)) => {
                self.integer(value, schema, path, secret);
            }
            (Kind::Several, value @ Value::Num(..)) if schema.takes_integers() => {
                self.integer(value, schema, path, secret);
            }
            (Kind::Boolean, Value::Bool(..)) => {}
            (_, value) => self.wrong_type(value, schema, path, secret),
        }
    }

    fn section(
        &mut self,
        entries: &mut Dict,
        schema: Schema<'a>,
        path: &KeyPath,
        secret: bool,
        place: &Place,
    ) {
        let variants = schema.variants();
        let is_tagged = !variants.is_empty();
        let schema = match is_tagged.then(|| self.variant(entries, schema, path, place)) {
            None => schema,
            Some(Some(variant)) => variant,
            Some(None) => return,
        };
        for (key, value) in entries.iter() {
            if schema.property(key).is_none() && self.faults.len() < FAULTS_LIMIT {
                self.unknown_key(key, value, schema, &variants, path);
            }
        }
        for name in schema.required().filter(|name| *name != "type") {
            if !entries.contains_key(name) {
                self.faults.push(missing(name, schema, path, place.clone()));
            }
        }
        for (name, schema) in schema.properties().filter(|(name, _)| !(is_tagged && *name == "type")) {
            if let Some(value) = entries.get_mut(name) {
                self.value(value, schema, &path.key(name), secret);
            } else if let Some(default) = schema.default().and_then(|default| Value::serialize(default).ok())
            {
                entries.insert(name.to_owned(), default);
            } else if schema.kind() == Kind::Section && schema.required().next().is_none() {
                let mut section = Dict::new();
                self.section(&mut section, schema, &path.key(name), secret, &Place::Default);
                entries.insert(name.to_owned(), Value::from(section));
            }
        }
    }

    /// Which kind of a tagged section it is. Where that cannot be told, but one was nearly named or has more of the keys
    /// than any other, it is taken for that, so that the other faults are found as well.
    fn variant(
        &mut self,
        entries: &Dict,
        schema: Schema<'a>,
        path: &KeyPath,
        place: &Place,
    ) -> Option<Schema<'a>> {
        let variants = schema.variants();
        let named = entries.get("type");
        let exact = named.and_then(Value::as_str);
        if let Some((_, variant)) = variants.iter().find(|(name, _)| Some(*name) == exact) {
            return Some(*variant);
        }
        let known = || variants.iter().map(|(name, _)| *name);
        let near = exact.and_then(|given| suggest::nearest(given, known()));
        let allowed = known().collect::<Vec<_>>().join(", ");
        let fault = match named {
            None => Fault::new(place.clone(), path.clone(), "`type` is missing"),
            Some(value) => {
                let origin = self.origins.of(value);
                Fault::new(origin.place.clone(), path.key("type"), "not a known type")
                    .value(tree::show(value, origin.secret))
            }
        };
        self.faults.push(fault.allowed(allowed).meant(near));
        match near {
            Some(near) => variants.iter().find(|(name, _)| *name == near).map(|(_, variant)| *variant),
            None => likeliest(entries, &variants),
        }
    }

    fn unknown_key(
        &mut self,
        key: &str,
        value: &Value,
        schema: Schema<'a>,
        variants: &[(&str, Schema<'a>)],
        path: &KeyPath,
    ) {
        let owners: Vec<(&str, Schema<'a>)> = variants
            .iter()
            .filter_map(|(name, variant)| {
                let (_, property) = variant.properties().find(|(name, _)| *name == key)?;
                Some((*name, property))
            })
            .collect();
        let siblings = schema.properties().map(|(name, _)| name);
        let meant = match owners.first() {
            // A right word in the wrong place is no misspelling of another.
            Some((_, property)) => same_format(*property, schema).map(str::to_owned),
            None => suggest::nearest(key, siblings)
                .map(str::to_owned)
                .or_else(|| find_elsewhere(key, self.root, &KeyPath::default())),
        };
        let place = self.origins.of(value).place.clone();
        let elsewhere: Vec<String> = owners.iter().map(|(name, _)| format!("`{name}`")).collect();
        let problem = match elsewhere.as_slice() {
            [] => "no such key".to_owned(),
            types => format!("no key of this type, but of {}", types.join(" and ")),
        };
        let mut fault = Fault::new(place, path.key(key), problem);
        if meant.is_none() {
            let keys: Vec<_> = schema.properties().map(|(name, _)| name).collect();
            fault = fault.allowed(keys.join(", "));
        }
        self.faults.push(fault.meant(meant));
    }

    fn map_key(&mut self, key: &str, names: Schema<'a>, value: &Value, path: &KeyPath) {
        let problem = match names.format().map(|format| (text::check(format, key), text::allowed(format))) {
            Some((Err(problem), allowed)) => Some((problem, allowed)),
            _ if key.is_empty() && names.limit("minLength").is_some() => {
                Some(("an empty name".to_owned(), None))
            }
            _ => None,
        };
        if let Some((problem, allowed)) = problem
            && self.faults.len() < FAULTS_LIMIT
        {
            let mut fault = Fault::new(self.origins.of(value).place.clone(), path.clone(), problem);
            fault.allowed = allowed.map(str::to_owned);
            self.faults.push(fault);
        }
    }

    fn list(&mut self, list: &mut Value, schema: Schema<'a>, path: &KeyPath, secret: bool) {
        let place = self.origins.of(list).place.clone();
        let Value::Array(_, items) = list else { return };
        if items.is_empty() && schema.limit("minItems").is_some() {
            self.faults.push(Fault::new(place, path.clone(), "the list is empty").allowed(schema.allowed()));
        }
        if let Some(schema) = schema.items() {
            for (index, item) in items.iter_mut().enumerate() {
                self.value(item, schema, &path.index(index), secret);
            }
        }
    }

    fn text(&mut self, value: &Value, schema: Schema<'a>, path: &KeyPath, secret: bool) {
        let Some(text) = value.as_str() else { return };
        let choices = schema.choices();
        if !choices.is_empty() {
            if !choices.contains(&text) {
                let near = suggest::nearest(text, choices);
                self.fault(value, schema, path, secret, "not one of the choices", near);
            }
            return;
        }
        let length = text.chars().count();
        let too = |limit: Option<i128>| limit.and_then(|limit| usize::try_from(limit).ok());
        if too(schema.limit("minLength")).is_some_and(|minimum| length < minimum) {
            self.fault(value, schema, path, secret, "empty", None);
        } else if too(schema.limit("maxLength")).is_some_and(|maximum| length > maximum) {
            self.fault(value, schema, path, secret, "too long", None);
        } else if let Some(format) = schema.format() {
            if let Err(problem) = text::check(format, text) {
                // What is wrong with a secret could tell of it.
                let hidden = secret || self.origins.of(value).secret;
                let problem = if hidden { "not allowed" } else { &problem };
                let near = text::candidates(format).iter().copied();
                let near = if hidden { None } else { suggest::nearest(text, near) };
                self.fault(value, schema, path, secret, problem, near);
            } else if let Ok(duration) = text.parse::<DurationText>() {
                let limit = |keyword| schema.text_limit(keyword).and_then(|limit| limit.parse().ok());
                if limit("x-minimum").is_some_and(|minimum: DurationText| duration < minimum) {
                    self.fault(value, schema, path, secret, "too short", None);
                } else if limit("x-maximum").is_some_and(|maximum: DurationText| duration > maximum) {
                    self.fault(value, schema, path, secret, "too long", None);
                }
            }
        }
    }

    fn integer(&mut self, value: &Value, schema: Schema<'a>, path: &KeyPath, secret: bool) {
        match tree::integer(value) {
            None => self.fault(value, schema, path, secret, "not an integer", None),
            Some(integer) if schema.limit("minimum").is_some_and(|minimum| integer < minimum) => {
                self.fault(value, schema, path, secret, "too small", None);
            }
            Some(integer) if schema.limit("maximum").is_some_and(|maximum| integer > maximum) => {
                self.fault(value, schema, path, secret, "too large", None);
            }
            Some(_) => {}
        }
    }

    fn wrong_type(&mut self, value: &Value, schema: Schema<'a>, path: &KeyPath, secret: bool) {
        let is_duration = schema.text_limit("x-minimum").is_some();
        let problem = match (schema.kind(), value) {
            (Kind::Text, Value::Num(..)) if is_duration => "a number without a unit".to_owned(),
            (Kind::Text, _) if !schema.choices().is_empty() => "not one of the choices".to_owned(),
            (Kind::Text | Kind::Several, Value::Num(..) | Value::Bool(..)) => {
                "not a text: put it in quotes".to_owned()
            }
            (Kind::Integer, Value::String(_, text)) if text.trim().parse::<i128>().is_ok() => {
                "a text: remove the quotes".to_owned()
            }
            (kind, _) => format!("not {}", kind.describe()),
        };
        self.fault(value, schema, path, secret, &problem, None);
    }

    fn fault(
        &mut self,
        value: &Value,
        schema: Schema<'a>,
        path: &KeyPath,
        secret: bool,
        problem: &str,
        meant: Option<&str>,
    ) {
        let origin = self.origins.of(value);
        let fault = Fault::new(origin.place.clone(), path.clone(), problem)
            .value(tree::show(value, secret || origin.secret))
            .allowed(schema.allowed())
            .meant(meant);
        self.faults.push(fault);
    }
}

/// The one key of a section that holds the same kind of text.
fn same_format<'a>(property: Schema<'_>, section: Schema<'a>) -> Option<&'a str> {
    let format = property.format()?;
    let mut same = section.properties().filter(|(_, own)| own.format() == Some(format));
    let (name, _) = same.next()?;
    same.next().is_none().then_some(name)
}

/// The kind of section that has more of the keys than any other: the only one, where there is one.
fn likeliest<'a>(entries: &Dict, variants: &[(&str, Schema<'a>)]) -> Option<Schema<'a>> {
    let known =
        |schema: Schema<'a>| schema.properties().filter(|(name, _)| entries.contains_key(*name)).count();
    let most = variants.iter().map(|(_, variant)| known(*variant)).max()?;
    let mut with_most = variants.iter().filter(|(_, variant)| known(*variant) == most);
    let (_, first) = with_most.next()?;
    with_most.next().is_none().then_some(*first)
}

fn missing(name: &str, schema: Schema<'_>, path: &KeyPath, place: Place) -> Fault {
    let allowed = schema.property(name).map(Schema::allowed).unwrap_or_default();
    if path.0.is_empty() {
        // The root is in no place of its own: each source may have given a part of it.
        let fault = Fault::new(Place::Default, KeyPath::from(name), "missing");
        let file = super::DEFAULT_FILE;
        return fault
            .allowed(format!("{allowed}, in a file (--config, VMS_CONFIG or {file}) or in VMS_PROBES"));
    }
    Fault::new(place, path.clone(), format!("`{name}` is missing")).allowed(allowed)
}

/// Where else in the schema a key of that name stands.
fn find_elsewhere(key: &str, schema: Schema<'_>, path: &KeyPath) -> Option<String> {
    schema.properties().find_map(|(name, schema)| {
        let path = path.key(name);
        if suggest::normalize(name) == suggest::normalize(key) {
            return Some(path.to_string());
        }
        find_elsewhere(key, schema, &path)
    })
}
