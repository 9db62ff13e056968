//! OpenTelemetry's standard variables as a source of settings.
//!
//! <https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/> and
//! <https://opentelemetry.io/docs/specs/otel/protocol/exporter/>. Variables that the agent has no use for are not
//! looked at: they may be meant for other programs.

use figment::value::{Dict, Value};

use super::fault::{Fault, KeyPath, Place};
use super::layer::{Layer, pairs_to_value, parse_pairs};
use super::schema::Schema;
use super::tree::{self, Origin, Origins};
use crate::environment::Environment;

/// How the text of a variable becomes a setting.
#[derive(Debug, Clone, Copy)]
enum Reading {
    /// As it is.
    Text,
    /// A number of milliseconds, for a setting that is a duration.
    Milliseconds,
    /// `true` in any case; anything else means false, as the specification asks.
    Boolean,
    /// `name=value,name=value`.
    Pairs,
    /// `otlp` switches on, `none` off.
    OtlpOrNone,
}

/// The variables of the OTLP exporter, each of which has a form for metrics alone that goes before it.
const EXPORTER: [(&str, &str, Reading); 8] = [
    ("PROTOCOL", "export.protocol", Reading::Text),
    ("HEADERS", "export.headers", Reading::Pairs),
    ("TIMEOUT", "export.timeout", Reading::Milliseconds),
    ("COMPRESSION", "export.compression", Reading::Text),
    ("INSECURE", "export.insecure", Reading::Boolean),
    ("CERTIFICATE", "export.tls.caFile", Reading::Text),
    ("CLIENT_CERTIFICATE", "export.tls.clientCertificateFile", Reading::Text),
    ("CLIENT_KEY", "export.tls.clientKeyFile", Reading::Text),
];

/// The others. The two endpoints are settings of their own, as they differ in meaning.
const OTHERS: [(&str, &str, Reading); 8] = [
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "export.endpoint", Reading::Text),
    ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "export.metricsEndpoint", Reading::Text),
    ("OTEL_SERVICE_NAME", "resource.serviceName", Reading::Text),
    ("OTEL_RESOURCE_ATTRIBUTES", "resource.attributes", Reading::Pairs),
    ("OTEL_METRIC_EXPORT_INTERVAL", "interval", Reading::Milliseconds),
    ("OTEL_METRICS_EXPORTER", "export.exporter", Reading::Text),
    ("OTEL_TRACES_EXPORTER", "selfTelemetry.traces", Reading::OtlpOrNone),
    ("OTEL_LOGS_EXPORTER", "selfTelemetry.logs", Reading::OtlpOrNone),
];

/// What the variables set.
pub(super) fn layer(
    environment: &Environment,
    schema: Schema<'_>,
    origins: &mut Origins,
    faults: &mut Vec<Fault>,
    warnings: &mut Vec<String>,
) -> Layer {
    let mut source = Source { settings: Value::from(Dict::new()), schema, origins, faults, warnings };
    for (suffix, path, reading) in EXPORTER {
        let names = [format!("OTEL_EXPORTER_OTLP_METRICS_{suffix}"), format!("OTEL_EXPORTER_OTLP_{suffix}")];
        if let Some((name, text)) = names.iter().find_map(|name| Some((name, environment.get(name)?))) {
            source.set(name, text, path, reading);
        }
    }
    for (name, path, reading) in OTHERS {
        if let Some(text) = environment.get(name) {
            source.set(name, text, path, reading);
        }
    }
    if let Some(text) = environment.get("OTEL_SDK_DISABLED") {
        source.disable("OTEL_SDK_DISABLED", text);
    }
    let settings = source.settings.into_dict().unwrap_or_default();
    Layer::new("OTEL_* variables", settings, origins, faults)
}

struct Source<'a> {
    settings: Value,
    schema: Schema<'a>,
    origins: &'a mut Origins,
    faults: &'a mut Vec<Fault>,
    warnings: &'a mut Vec<String>,
}

impl Source<'_> {
    fn set(&mut self, name: &str, text: &str, path: &str, reading: Reading) {
        let path = KeyPath::from(path);
        let origin = Origin::of(Place::Variable(name.into()));
        let read = match reading {
            Reading::Text => Ok(self.text(origin.clone(), text.trim().to_owned())),
            Reading::Milliseconds => match text.trim().parse::<u64>() {
                Ok(milliseconds) => Ok(self.text(origin.clone(), format!("{milliseconds}ms"))),
                Err(_not_a_number) => {
                    Err(("not a number of milliseconds".to_owned(), "an integer such as 10000"))
                }
            },
            Reading::Boolean => {
                let boolean = self.boolean(name, text);
                Ok(Value::Bool(self.origins.tag(origin.clone()), boolean))
            }
            Reading::Pairs => match parse_pairs(text) {
                Ok(pairs) => Ok(pairs_to_value(pairs, self.origins.tag(origin.clone()))),
                Err(problem) => Err((problem, "name=value,name=value with , and = in them as %2C and %3D")),
            },
            Reading::OtlpOrNone => match text.trim() {
                "otlp" => Ok(Value::Bool(self.origins.tag(origin.clone()), true)),
                "none" => Ok(Value::Bool(self.origins.tag(origin.clone()), false)),
                other => {
                    // The variable may be set for a whole fleet, and the agent's own traces are a minor matter.
                    let other = super::fault::quote(other);
                    self.warnings.push(format!("{name}: {other} is not supported here, and has no effect"));
                    return;
                }
            },
        };
        let value = read.unwrap_or_else(|(problem, allowed)| {
            let secret = self.schema.at(&path).is_some_and(Schema::is_secret);
            let shown = tree::show(&Value::from(text), secret);
            let fault = Fault::new(origin.place.clone(), path.clone(), problem).value(shown).allowed(allowed);
            self.faults.push(fault);
            Value::String(self.origins.tag(origin.unusable()), String::new())
        });
        self.insert(name, &path, value);
    }

    /// Nothing is exported, whatever the other variables say.
    fn disable(&mut self, name: &str, text: &str) {
        if self.boolean(name, text) {
            let tag = self.origins.tag(Origin::of(Place::Variable(name.into())));
            self.insert(name, &"export.exporter".into(), Value::String(tag, "none".to_owned()));
            for own in ["selfTelemetry.traces", "selfTelemetry.logs"] {
                self.insert(name, &own.into(), Value::Bool(tag, false));
            }
        }
    }

    fn insert(&mut self, name: &str, path: &KeyPath, value: Value) {
        let place = Place::Variable(name.into());
        let tag = self.origins.tag(Origin::of(place.clone()));
        if let Err(problem) = tree::insert(&mut self.settings, &path.0, tag, value) {
            self.faults.push(Fault::new(place, path.clone(), problem));
        }
    }

    fn boolean(&mut self, name: &str, text: &str) -> bool {
        let word = text.trim();
        if !word.eq_ignore_ascii_case("true") && !word.eq_ignore_ascii_case("false") {
            let word = super::fault::quote(word);
            self.warnings.push(format!("{name}: {word} is neither true nor false, and counts as false"));
        }
        word.eq_ignore_ascii_case("true")
    }

    fn text(&mut self, origin: Origin, text: String) -> Value {
        Value::String(self.origins.tag(origin), text)
    }
}
