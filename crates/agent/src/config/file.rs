//! The configuration file as a source of settings.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use figment::value::{Dict, Value};

use super::cnxwatch::{self, Imported};
use super::document::{self, Format};
use super::fault::{Fault, KeyPath, Place};
use super::layer::Layer;
use super::schema::Schema;
use super::tree::{NodeReader, Origins};
use crate::environment::Environment;

/// The key by which JSON files name their schema to editors: it is no setting.
const SCHEMA_KEY: &str = "$schema";

/// Reads a configuration file; `None`, and faults, when no settings can be made out in it.
pub(super) fn read_layer(
    path: &Path,
    environment: &Environment,
    schema: Schema<'_>,
    origins: &mut Origins,
    faults: &mut Vec<Fault>,
) -> Option<Layer> {
    let path: Arc<Path> = path.into();
    let place = |line| Place::File(path.clone(), line);
    let Some(format) = Format::of(&path) else {
        let fault = Fault::new(place(None), KeyPath::default(), "unknown file format");
        faults.push(fault.allowed(format!("a name that ends in {}", Format::EXTENSIONS)));
        return None;
    };
    let text = match read_text(&path) {
        Ok(text) => text,
        Err(error) => {
            let problem = format!("cannot be read: {error}");
            faults.push(Fault::new(place(None), KeyPath::default(), problem));
            return None;
        }
    };
    let (root, syntax_faults) = document::parse(&text, format);
    for fault in syntax_faults {
        faults.push(Fault::new(place(fault.line), fault.path, fault.problem));
    }
    let references = Some((environment, path.parent().unwrap_or(Path::new(""))));
    let place = |line| Place::File(path.clone(), Some(line));
    let root = NodeReader { place, schema, references, origins, faults }.value(root?, &KeyPath::default());
    make_layer(root, &path, origins, faults)
}

/// Reads a configuration file of `cnxwatch_exporter` as if it were what [`cnxwatch`] makes of it; `None`, and faults, when that is
/// not all of it.
pub(super) fn read_cnxwatch_layer(
    path: &Path,
    schema: Schema<'_>,
    origins: &mut Origins,
    faults: &mut Vec<Fault>,
) -> Option<Layer> {
    let yaml = match cnxwatch::import_file(path) {
        Ok(Imported { yaml, refused: None }) => yaml,
        Ok(Imported { refused: Some(errors), .. }) | Err(errors) => {
            faults.extend(errors.into_faults());
            return None;
        }
    };
    let (root, _it_is_our_own) = document::parse(&yaml, Format::Yaml);
    let path: Arc<Path> = path.into();
    // Lines are those of what was made of it.
    let place = |_line| Place::File(path.clone(), None);
    let reader = NodeReader { place, schema, references: None, origins: &mut *origins, faults: &mut *faults };
    let root = { reader }.value(root?, &KeyPath::default());
    make_layer(root, &path, origins, faults)
}

fn make_layer(
    root: Value,
    path: &Arc<Path>,
    origins: &mut Origins,
    faults: &mut Vec<Fault>,
) -> Option<Layer> {
    let mut settings = match root {
        Value::Dict(_, settings) => settings,
        Value::Empty(..) => Dict::new(),
        _ => {
            let place = Place::File(Arc::clone(path), None);
            faults.push(Fault::new(place, KeyPath::default(), "not a map of settings"));
            return None;
        }
    };
    settings.remove(SCHEMA_KEY);
    Some(Layer::new("file", settings, origins, faults))
}

/// No sensible configuration is larger; it bounds what a wrong path can cost.
const FILE_BYTES_LIMIT: u64 = 16 << 20;

pub(super) fn read_text(path: &Path) -> io::Result<String> {
    let invalid = |reason: &'static str| io::Error::new(io::ErrorKind::InvalidData, reason);
    // Opening a pipe would wait for a writer.
    if !path.metadata()?.is_file() {
        return Err(invalid("not a regular file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_BYTES_LIMIT + 1).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).is_ok_and(|count| count > FILE_BYTES_LIMIT) {
        return Err(invalid("larger than 16 MiB"));
    }
    String::from_utf8(bytes).map_err(|_not_unicode| invalid("not UTF-8"))
}
