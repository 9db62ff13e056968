//! The JSON Schema as the loader reads it: which keys there are, and what each may hold.

use serde_json::{Map, Value as Json};

use super::fault::{KeyPath, Step};
use super::text;

/// A part of the schema.
#[derive(Debug, Clone, Copy)]
pub(super) struct Schema<'a>(&'a Map<String, Json>);

/// What a setting may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Keys that the schema names.
    Section,
    /// Keys of the user's choice.
    Map,
    List,
    /// One value, or a list of such values.
    Several,
    Text,
    /// An integer, or a text that is not one alone: a port, or a range of ports.
    TextOrInteger,
    Integer,
    Boolean,
}

impl Kind {
    /// For people.
    pub(super) const fn describe(self) -> &'static str {
        match self {
            Self::Section => "a section of keys",
            Self::Map => "a map of texts",
            Self::List => "a list",
            Self::Several => "one value or a list of values",
            Self::Text => "a text",
            Self::TextOrInteger => "a text or an integer",
            Self::Integer => "an integer",
            Self::Boolean => "true or false",
        }
    }
}

impl<'a> Schema<'a> {
    /// The schema of the whole.
    pub(super) fn root(keywords: &'a Map<String, Json>) -> Self {
        Self(keywords)
    }

    /// What an optional setting may be when it is set; `None` only for what is no schema.
    fn new(schema: &'a Json) -> Option<Self> {
        let keywords = schema.as_object()?;
        match keywords.get("anyOf").and_then(Json::as_array) {
            Some(choices) => choices.iter().filter_map(Self::new).find(|choice| !choice.has_type("null")),
            None => Some(Self(keywords)),
        }
    }

    fn has_type(self, name: &str) -> bool {
        match self.0.get("type") {
            Some(Json::String(only)) => only == name,
            Some(Json::Array(names)) => names.iter().any(|one| one == name),
            _ => false,
        }
    }

    /// What the setting may hold.
    pub(super) fn kind(self) -> Kind {
        if self.0.contains_key("properties") || !self.variants().is_empty() {
            Kind::Section
        } else if self.has_type("object") {
            Kind::Map
        } else if self.has_type("array") {
            if self.takes_text() || self.takes_integers() { Kind::Several } else { Kind::List }
        } else if self.takes_integers() {
            if self.takes_text() { Kind::TextOrInteger } else { Kind::Integer }
        } else if self.has_type("boolean") {
            Kind::Boolean
        } else {
            Kind::Text
        }
    }

    /// Whether it may be a text, whatever else it may be.
    pub(super) fn takes_text(self) -> bool {
        self.has_type("string")
    }

    /// Whether it may be an integer, whatever else it may be.
    pub(super) fn takes_integers(self) -> bool {
        self.has_type("integer")
    }

    /// The kinds of section that a tagged section may be: each has its own constant as `type`.
    pub(super) fn variants(self) -> Vec<(&'a str, Self)> {
        let variant = |schema| {
            let schema = Self::new(schema)?;
            Some((schema.property("type")?.0.get("const")?.as_str()?, schema))
        };
        self.list("oneOf").iter().filter_map(variant).collect()
    }

    /// The texts that are allowed, where it is a choice.
    pub(super) fn choices(self) -> Vec<&'a str> {
        let constant = |schema: &'a Json| schema.get("const")?.as_str();
        let mut choices: Vec<&str> = self.list("oneOf").iter().filter_map(constant).collect();
        choices.extend(self.list("enum").iter().filter_map(Json::as_str));
        choices.extend(self.0.get("const").and_then(Json::as_str));
        choices
    }

    /// The keys of a section.
    pub(super) fn properties(self) -> impl Iterator<Item = (&'a str, Self)> {
        let properties = self.0.get("properties").and_then(Json::as_object);
        let property = |(name, schema): (&'a String, _)| Some((name.as_str(), Self::new(schema)?));
        properties.into_iter().flatten().filter_map(property)
    }

    /// A key of a section; of any kind of it, where it is a tagged one.
    pub(super) fn property(self, name: &str) -> Option<Self> {
        let own = self.0.get("properties").and_then(|properties| Self::new(properties.get(name)?));
        own.or_else(|| self.variants().into_iter().find_map(|(_, variant)| variant.property(name)))
    }

    /// The keys that a section has to have, in the order of their declaration.
    pub(super) fn required(self) -> impl Iterator<Item = &'a str> {
        self.list("required").iter().filter_map(Json::as_str)
    }

    /// What the values of a map may be.
    pub(super) fn values(self) -> Option<Self> {
        Self::new(self.0.get("additionalProperties")?)
    }

    /// What the keys of a map may be.
    pub(super) fn names(self) -> Option<Self> {
        Self::new(self.0.get("propertyNames")?)
    }

    /// What the items of a list may be.
    pub(super) fn items(self) -> Option<Self> {
        Self::new(self.0.get("items")?)
    }

    /// What the part of it that a step leads to may be.
    pub(super) fn step(self, step: &Step) -> Option<Self> {
        match (step, self.kind()) {
            (Step::Key(key), Kind::Section) => self.property(key),
            (Step::Key(_), Kind::Map) => self.values(),
            (Step::Index(_), Kind::List | Kind::Several) => self.items(),
            _ => None,
        }
    }

    /// What the setting at that path may be.
    pub(super) fn at(self, path: &KeyPath) -> Option<Self> {
        path.0.iter().try_fold(self, Self::step)
    }

    /// Whether no output may show the value.
    pub(super) fn is_secret(self) -> bool {
        self.0.get("writeOnly") == Some(&Json::Bool(true))
    }

    /// What holds where nothing is configured.
    pub(super) fn default(self) -> Option<&'a Json> {
        self.0.get("default")
    }

    /// The kind of text.
    pub(super) fn format(self) -> Option<&'a str> {
        self.0.get("format").and_then(Json::as_str)
    }

    /// A limit that is a number.
    pub(super) fn limit(self, keyword: &str) -> Option<i128> {
        let limit = self.0.get(keyword)?;
        limit.as_i64().map(i128::from).or_else(|| limit.as_u64().map(i128::from))
    }

    /// A limit that is a text.
    pub(super) fn text_limit(self, keyword: &str) -> Option<&'a str> {
        self.0.get(keyword).and_then(Json::as_str)
    }

    /// What is allowed, for people.
    pub(super) fn allowed(self) -> String {
        let choices = self.choices();
        if !choices.is_empty() {
            return choices.join(", ");
        }
        let limits = |minimum: Option<String>, maximum: Option<String>| match (minimum, maximum) {
            (Some(minimum), Some(maximum)) => format!(" from {minimum} to {maximum}"),
            (Some(minimum), None) => format!(" of at least {minimum}"),
            (None, Some(maximum)) => format!(" of at most {maximum}"),
            (None, None) => String::new(),
        };
        let number = |keyword| self.limit(keyword).map(|limit| limit.to_string());
        let text_limit = |keyword| self.text_limit(keyword).map(str::to_owned);
        match (self.kind(), self.format().and_then(text::allowed)) {
            (Kind::Several, _) => {
                let one = self.items().map(Self::allowed).unwrap_or_default();
                format!("{one}, or a list of these")
            }
            (Kind::Text | Kind::TextOrInteger, Some(allowed)) => {
                match (text_limit("x-minimum"), text_limit("x-maximum")) {
                    (None, None) => allowed.to_owned(),
                    (minimum, maximum) => format!("{allowed},{}", limits(minimum, maximum)),
                }
            }
            (Kind::Text, None) => match number("maxLength") {
                Some(maximum) => format!("a text of 1 to {maximum} characters"),
                None if self.limit("minLength").is_some() => "a text that is not empty".to_owned(),
                None => Kind::Text.describe().to_owned(),
            },
            (Kind::Section, _) => {
                let of_variant = self.variants().into_iter().next().map(|(_, variant)| variant);
                let section = of_variant.unwrap_or(self);
                let mut keys: Vec<&str> = section.required().collect();
                if keys.is_empty() {
                    keys = section.properties().map(|(key, _)| key).collect();
                    keys.sort_unstable();
                }
                format!("keys such as {}", keys.join(", "))
            }
            (Kind::List, _) if self.limit("minItems").is_some() => "a list of at least one item".to_owned(),
            (Kind::Integer, _) => format!("an integer{}", limits(number("minimum"), number("maximum"))),
            (kind, _) => kind.describe().to_owned(),
        }
    }

    fn list(self, keyword: &str) -> &'a [Json] {
        self.0.get(keyword).and_then(Json::as_array).map_or(&[], Vec::as_slice)
    }
}
