//! The agent's own variables, `VMS_*`, as a source of settings.
//!
//! `__` leads into a section or list, and within a name case and `_` do not count: `VMS_EXPORT__QUEUE_BYTES` and
//! `VMS_EXPORT__QUEUEBYTES` are `export.queueBytes`, `VMS_PROBES__0__NAME` is `probes[0].name`. A variable for a
//! section or list holds YAML (and so JSON); for a map also `name=value,name=value`. One that may be one value or a list holds
//! that value, or the list as YAML.

use std::collections::BTreeMap;

use figment::value::{Dict, Value};

use super::document::{self, Format};
use super::fault::{Fault, KeyPath, Place, Step};
use super::layer::{Layer, pairs_to_value, parse_pairs};
use super::schema::{Kind, Schema};
use super::suggest;
use super::tree::{self, NodeReader, Origin, Origins};
use crate::environment::Environment;

const PREFIX: &str = "VMS_";

/// Names the configuration file: no setting.
pub(super) const CONFIG_VARIABLE: &str = "VMS_CONFIG";

/// What the variables set.
pub(super) fn layer(
    environment: &Environment,
    schema: Schema<'_>,
    origins: &mut Origins,
    faults: &mut Vec<Fault>,
) -> Layer {
    // Sorted by path, so that a section comes before what is set in it, and items in their order.
    let mut variables: BTreeMap<KeyPath, (&str, &str)> = BTreeMap::new();
    for (name, text) in environment.iter() {
        if !name.starts_with(PREFIX) || name == CONFIG_VARIABLE || is_service_link(name, environment) {
            continue;
        }
        let place = || Place::Variable(name.into());
        match resolve(name, schema) {
            None => {
                let meant = suggest_name(name, schema);
                let allowed = meant
                    .is_none()
                    .then_some("VMS_CONFIG, or VMS_ and a setting's path with __ between its keys");
                let mut fault = Fault::new(place(), KeyPath::default(), "no such variable").meant(meant);
                fault.allowed = allowed.map(str::to_owned);
                faults.push(fault);
            }
            Some(path) => {
                if let Some((earlier, _)) = variables.get(&path) {
                    faults.push(Fault::new(place(), path, format!("set by {earlier} as well")));
                } else {
                    variables.insert(path, (name, text));
                }
            }
        }
    }
    let mut root = Value::from(Dict::new());
    for (path, (name, text)) in variables {
        let value = read_value(name, text, &path, schema, origins, faults);
        let place = Place::Variable(name.into());
        let tag = origins.tag(Origin::of(place.clone()));
        if let Err(problem) = tree::insert(&mut root, &path.0, tag, value) {
            faults.push(Fault::new(place, path, problem));
        }
    }
    let settings = root.into_dict().unwrap_or_default();
    Layer::new("VMS_* variables", settings, origins, faults)
}

/// Whether Kubernetes made the variable for a Service in the pod's namespace whose name begins with `vms`. For a
/// Service `vms-agent` there are `VMS_AGENT_SERVICE_HOST`, `VMS_AGENT_SERVICE_PORT`, `VMS_AGENT_SERVICE_PORT_<NAME>`,
/// `VMS_AGENT_PORT` and `VMS_AGENT_PORT_<NUMBER>_TCP` with `_PROTO`, `_PORT` and `_ADDR`: where the first two are
/// set, the names that begin with `VMS_AGENT_SERVICE_` and `VMS_AGENT_PORT` are no settings.
fn is_service_link(name: &str, environment: &Environment) -> bool {
    let is_service = |service: &str| {
        environment.get(&format!("{service}_SERVICE_HOST")).is_some()
            && environment.get(&format!("{service}_SERVICE_PORT")).is_some()
    };
    ["_SERVICE_HOST", "_SERVICE_PORT", "_PORT"]
        .iter()
        .flat_map(|mark| name.match_indices(mark))
        .any(|(end, _)| !name.contains("__") && name.get(..end).is_some_and(is_service))
}

/// The setting that a variable names.
pub(super) fn resolve(name: &str, schema: Schema<'_>) -> Option<KeyPath> {
    let mut path = KeyPath::default();
    let mut schema = schema;
    for segment in name.strip_prefix(PREFIX)?.split("__") {
        let step = match schema.kind() {
            Kind::Section => Step::Key(keys(schema).find(|key| is_same_name(key, segment))?.into()),
            Kind::List | Kind::Several => Step::Index(segment.parse().ok()?),
            // The keys of maps hold dots and dashes, which names of variables cannot.
            Kind::Map | Kind::Text | Kind::TextOrInteger | Kind::Integer | Kind::Boolean => return None,
        };
        schema = schema.step(&step)?;
        path = path.step(step);
    }
    Some(path)
}

fn is_same_name(key: &str, segment: &str) -> bool {
    let is_word = segment.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    is_word && suggest::normalize(key) == suggest::normalize(segment)
}

/// The keys of a section, of every kind of it where it is a tagged one.
fn keys(schema: Schema<'_>) -> impl Iterator<Item = &str> {
    let of_variants = schema.variants().into_iter().flat_map(|(_, variant)| variant.properties());
    schema.properties().chain(of_variants).map(|(key, _)| key)
}

fn read_value(
    name: &str,
    text: &str,
    path: &KeyPath,
    schema: Schema<'_>,
    origins: &mut Origins,
    faults: &mut Vec<Fault>,
) -> Value {
    let place = Place::Variable(name.into());
    let setting = schema.at(path);
    let kind = setting.map_or(Kind::Text, Schema::kind);
    match kind {
        Kind::Text | Kind::TextOrInteger | Kind::Integer | Kind::Boolean => {
            return tree::coerce(text.to_owned(), setting, origins.tag(Origin::of(place)));
        }
        Kind::Several if !is_list(text) => {
            return tree::coerce(text.to_owned(), setting, origins.tag(Origin::of(place)));
        }
        Kind::Map if is_pairs(text) => match parse_pairs(text) {
            Ok(pairs) => return pairs_to_value(pairs, origins.tag(Origin::of(place))),
            Err(problem) => {
                let fault = Fault::new(place.clone(), path.clone(), problem);
                faults.push(fault.allowed("name=value,name=value, or a map in YAML or JSON"));
            }
        },
        Kind::Section | Kind::Map | Kind::List | Kind::Several => {
            let (root, syntax_faults) = document::parse(text, Format::Yaml);
            for fault in syntax_faults {
                let line = fault.line.map(|line| format!(" on line {line}")).unwrap_or_default();
                let steps = path.0.iter().cloned().chain(fault.path.0).collect();
                faults.push(Fault::new(place.clone(), KeyPath(steps), format!("{}{line}", fault.problem)));
            }
            if let Some(root) = root {
                let place = |_line| place.clone();
                return NodeReader { place, schema, references: None, origins, faults }.value(root, path);
            }
        }
    }
    Value::String(origins.tag(Origin::of(place).unusable()), String::new())
}

/// Whether a map is written as `name=value`, rather than as YAML.
fn is_pairs(text: &str) -> bool {
    !text.trim_start().starts_with('{')
        && text.find('=').is_some_and(|equals| text.find(':').is_none_or(|colon| equals < colon))
}

/// Whether a list is written, rather than one value: `::1` and `::` are no YAML to rely on.
fn is_list(text: &str) -> bool {
    let text = text.trim_start();
    text.starts_with('[') || text.starts_with("- ")
}

/// The variable that was probably meant.
fn suggest_name(name: &str, schema: Schema<'_>) -> Option<String> {
    // Items have the number that the name gives: it is not what is wrong.
    let index = name.split('_').find(|part| part.parse::<usize>().is_ok()).unwrap_or("0");
    let mut names = vec![CONFIG_VARIABLE.to_owned()];
    collect_names(PREFIX, schema, index, &mut names);
    suggest::nearest(name, names.iter().map(String::as_str)).map(str::to_owned)
}

fn collect_names(prefix: &str, schema: Schema<'_>, index: &str, names: &mut Vec<String>) {
    let sections = std::iter::once(schema).chain(schema.variants().into_iter().map(|(_, variant)| variant));
    for (key, schema) in sections.flat_map(Schema::properties) {
        let mut name = prefix.to_owned();
        for c in key.chars() {
            if c.is_ascii_uppercase() {
                name.push('_');
            }
            name.push(c.to_ascii_uppercase());
        }
        collect_names(&format!("{name}__"), schema, index, names);
        if let Some(items) = schema.items() {
            collect_names(&format!("{name}__{index}__"), items, index, names);
        }
        names.push(name);
    }
}

/// Every variable, for the first item of each list.
#[cfg(test)]
pub(super) fn names(schema: Schema<'_>) -> Vec<String> {
    let mut names = Vec::new();
    collect_names(PREFIX, schema, "0", &mut names);
    names
}
