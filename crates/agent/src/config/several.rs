//! Settings that are one value or a list of values.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

/// At least one value, written alone or as a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "OneOrMore<T>", into = "Vec<T>", bound(serialize = "T: Serialize + Clone"))]
pub(super) struct Several<T>(pub(super) Vec<T>);

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore<T> {
    More(Vec<T>),
    One(T),
}

impl<T> From<OneOrMore<T>> for Several<T> {
    fn from(written: OneOrMore<T>) -> Self {
        match written {
            OneOrMore::More(list) => Self(list),
            OneOrMore::One(one) => Self(vec![one]),
        }
    }
}

impl<T> From<Several<T>> for Vec<T> {
    fn from(several: Several<T>) -> Self {
        several.0
    }
}

impl<T: JsonSchema> JsonSchema for Several<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("Several_{}", T::schema_name()).into()
    }

    /// What a value may be, with `array` among its types: the keywords of the one say nothing of the other.
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let item = T::json_schema(generator);
        let mut several = item.clone();
        let mut types = match several.remove("type") {
            Some(Json::Array(types)) => types,
            Some(one) => vec![one],
            None => Vec::new(),
        };
        types.push("array".into());
        several.insert("type".to_owned(), types.into());
        several.insert("items".to_owned(), item.into());
        several.insert("minItems".to_owned(), 1.into());
        several
    }
}
