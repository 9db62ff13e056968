//! The agent's own logs and traces: text or JSON to stderr, and both over OTLP where configured.

use std::io::IsTerminal;
use std::str::FromStr;
use std::time::Duration;

use anyhow::Context as _;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_appender_tracing::layer::OpenTelemetryTracingBridge;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::logs::{BatchLogProcessor, SdkLoggerProvider};
use opentelemetry_sdk::trace::{BatchSpanProcessor, SdkTracerProvider};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::{FilterExt as _, filter_fn};
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::{EnvFilter, Registry, reload};
use vms_export::ExportConfig;

use crate::config::{Config, LogFormat};

use self::escape::EscapedFields;
use self::lines::{Lines, UntilWritten};
use self::outage::Reported;

pub(crate) use self::lines::{finish_lines, write_last_words};

mod escape;
mod lines;
mod otlp;
mod outage;

/// What is logged, as [`EnvFilter`] directives: `info`, or `info,vms_process=debug`.
///
/// A bare `debug` or `trace` is meant for the agent: the libraries that carry its requests stay at `info`
/// unless they are named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LogLevel(String);

/// Why a text is no log level.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LogLevelError {
    /// A word alone that is no level. [`EnvFilter`] would take it for a module's name and silence all others.
    #[error("`{item}` is not a level: off, error, warn, info, debug, trace, or MODULE=LEVEL{}", did_you_mean(.item))]
    NotALevel {
        /// The word.
        item: String,
    },
    /// `MODULE=LEVEL` with something wrong on either side.
    #[error("`{item}` is not MODULE=LEVEL with a level of off, error, warn, info, debug, trace")]
    Directive {
        /// The directive.
        item: String,
    },
    /// Nothing at all.
    #[error("an empty level: use `off` for no logs")]
    Empty,
}

impl FromStr for LogLevel {
    type Err = LogLevelError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut items = text.split(',').map(str::trim).filter(|item| !item.is_empty()).peekable();
        if items.peek().is_none() {
            return Err(LogLevelError::Empty);
        }
        for item in items {
            if item.contains(['=', '[']) {
                EnvFilter::try_new(item)
                    .map_err(|_syntax| LogLevelError::Directive { item: item.to_owned() })?;
            } else if LevelFilter::from_str(item).is_err() {
                return Err(LogLevelError::NotALevel { item: item.to_owned() });
            }
        }
        Ok(Self(text.to_owned()))
    }
}

impl LogLevel {
    /// The directives, the quieting of libraries first so that what is configured overrides it.
    fn filter(&self) -> anyhow::Result<EnvFilter> {
        let chatty = self.0.split(',').filter_map(|item| LevelFilter::from_str(item.trim()).ok()).max()
            > Some(LevelFilter::INFO);
        let mut directives = String::new();
        if chatty {
            for library in PIPELINE_LIBRARIES {
                directives.push_str(library);
                directives.push_str("=info,");
            }
        }
        directives.push_str(&self.0);
        EnvFilter::try_new(&directives).with_context(|| format!("log level `{}`", self.0))
    }
}

/// What the agent's own telemetry needs to know.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// What is logged, to stderr and over OTLP alike. Traces do not depend on it.
    pub(crate) level: LogLevel,
    /// How lines on stderr look.
    pub(crate) format: LogFormat,
    /// Whether text lines are colored.
    pub(crate) color: bool,
    /// Where spans go; nowhere by default.
    pub(crate) traces: Option<ExportConfig>,
    /// Where log records go beside stderr; nowhere by default.
    pub(crate) logs: Option<ExportConfig>,
    /// What is said about the agent with spans and log records: the resource of its metrics.
    pub(crate) resource: Resource,
}

impl Settings {
    /// What the configuration says, for an agent with that resource.
    ///
    /// # Errors
    /// When the level is none.
    pub(crate) fn new(config: &Config, resource: &[(String, String)]) -> anyhow::Result<Self> {
        let target = |wanted: bool| wanted.then(|| config.self_telemetry.export.clone());
        let attributes = resource.iter().map(|(key, value)| KeyValue::new(key.clone(), value.clone()));
        Ok(Self {
            level: config.log.level.parse().context("`log.level`")?,
            format: config.log.format,
            color: anstream::AutoStream::choice(&std::io::stderr()) != anstream::ColorChoice::Never,
            traces: target(config.self_telemetry.traces),
            logs: target(config.self_telemetry.logs),
            resource: Resource::builder_empty().with_attributes(attributes).build(),
        })
    }
}

type BoxLayer = Box<dyn Layer<Registry> + Send + Sync>;
type FilterHandle = reload::Handle<EnvFilter, Registry>;

/// The running telemetry: keep it to change the level, and to flush at the end.
#[derive(Debug)]
pub(crate) struct Telemetry {
    filters: Vec<FilterHandle>,
    /// Absent where a test reads the lines.
    lines: Option<UntilWritten>,
    traces: Option<SdkTracerProvider>,
    logs: Option<SdkLoggerProvider>,
}

/// Libraries that carry requests. What they and [`PIPELINE_MODULES`] log never travels over OTLP: sending it
/// would cause more of it.
const PIPELINE_LIBRARIES: &[&str] = &[
    "h2",
    "hyper",
    "hyper_rustls",
    "hyper_util",
    "opentelemetry",
    "opentelemetry-otlp",
    "opentelemetry_http",
    "opentelemetry_otlp",
    "opentelemetry_sdk",
    "rustls",
    "tokio_rustls",
    "tonic",
    "tower",
];

/// The agent's own parts of the way out.
const PIPELINE_MODULES: &[&str] = &["vms_export", "vms_agent::telemetry"];

/// Installs the telemetry for the whole process.
///
/// Needs to be called inside a tokio runtime, which carries what goes over OTLP.
///
/// # Errors
/// When the level or an OTLP target is unusable (an endpoint, a header, an unreadable certificate), or when
/// called twice. That the collector is away is no error: it is logged when sending fails, once an outage.
pub(crate) fn init(settings: &Settings) -> anyhow::Result<Telemetry> {
    let as_text = match settings.format {
        LogFormat::Auto => std::io::stderr().is_terminal(),
        LogFormat::Text => true,
        LogFormat::Json => false,
    };
    let lines = Lines::to_stderr().context("no thread can be started to write the log")?;
    let way = lines.clone();
    let (subscriber, mut telemetry) = build(settings, as_text, BoxMakeWriter::new(move || way.clone()))?;
    telemetry.lines = Some(UntilWritten(lines));
    tracing::subscriber::set_global_default(subscriber).context("logging is set up already")?;
    Ok(telemetry)
}

impl Telemetry {
    /// Changes what is logged from now on.
    ///
    /// # Errors
    /// When these are no directives; the old level stays in force.
    pub(crate) fn set_level(&self, level: &str) -> anyhow::Result<()> {
        let level: LogLevel = level.parse()?;
        for handle in &self.filters {
            handle.reload(level.filter()?).context("the log level cannot be changed any more")?;
        }
        Ok(())
    }

    /// Tells of lines that were lost on the way to stderr, if some were.
    pub(crate) fn tell_lost_lines(&self) {
        if let Some(lines) = &self.lines {
            lines.0.tell_lost();
        }
    }

    /// Sends what is still waiting, for no longer than `limit`, and stops. What is logged later reaches
    /// stderr only. A collector that hangs costs the limit, and then whatever it had not taken.
    pub(crate) async fn shutdown(self, limit: Duration) {
        // The SDK's shutdown blocks, and what it waits for may need this very thread: so it gets its own.
        // Not one of the runtime's, because a runtime waits for those when it is dropped.
        let traces = self.traces.map(|provider| {
            on_own_thread("flush-traces", move || provider.shutdown_with_timeout(limit).is_ok())
        });
        let logs = self.logs.map(|provider| {
            on_own_thread("flush-logs", move || provider.shutdown_with_timeout(limit).is_ok())
        });
        let all_sent = async {
            let mut complete = Vec::new();
            for (signal, done) in [("traces", traces), ("logs", logs)] {
                if let Some(done) = done {
                    complete.push((signal, done.await.unwrap_or(false)));
                }
            }
            complete
        };
        match tokio::time::timeout(limit, all_sent).await {
            Ok(complete) => {
                for (signal, _) in complete.iter().filter(|(_, flushed)| !flushed) {
                    tracing::warn!(signal, "the last of the agent's own telemetry could not be sent");
                }
            }
            Err(_elapsed) => {
                tracing::warn!(?limit, "the last of the agent's own telemetry could not be sent in time");
            }
        }
    }
}

/// Puts the layers together. Each has its own filter: a log level must not take spans away.
fn build(
    settings: &Settings,
    as_text: bool,
    writer: BoxMakeWriter,
) -> anyhow::Result<(impl tracing::Subscriber + Send + Sync + use<>, Telemetry)> {
    let mut telemetry = Telemetry { filters: Vec::new(), lines: None, traces: None, logs: None };
    let mut layers: Vec<BoxLayer> = Vec::new();

    let (filter, handle) = reload::Layer::new(settings.level.filter()?);
    telemetry.filters.push(handle);
    // Spans are for traces: on a line they would only be in the way.
    let filter = filter.and(filter_fn(|metadata: &tracing::Metadata<'_>| metadata.is_event()));
    // A closed stderr must not end the agent: the layer's own complaint would be printed there, and panic.
    let lines = tracing_subscriber::fmt::layer().with_writer(writer).log_internal_errors(false);
    layers.push(if as_text {
        lines.with_ansi(settings.color).compact().fmt_fields(EscapedFields).with_filter(filter).boxed()
    } else {
        lines.with_ansi(false).json().flatten_event(true).with_span_list(false).with_filter(filter).boxed()
    });

    if let Some(target) = &settings.traces {
        let exporter = otlp::span_exporter(target).context("traces over OTLP")?;
        let provider = SdkTracerProvider::builder()
            .with_resource(settings.resource.clone())
            .with_span_processor(BatchSpanProcessor::builder(Reported::new("traces", exporter)).build())
            .build();
        let scope =
            InstrumentationScope::builder("vms-agent").with_version(env!("CARGO_PKG_VERSION")).build();
        let layer = tracing_opentelemetry::layer()
            .with_tracer(provider.tracer_with_scope(scope))
            .with_threads(false)
            .with_filter(filter_fn(|metadata| {
                *metadata.level() <= tracing::Level::INFO && !is_pipeline(metadata.target())
            }));
        layers.push(layer.boxed());
        telemetry.traces = Some(provider);
    }

    if let Some(target) = &settings.logs {
        let exporter = otlp::log_exporter(target).context("logs over OTLP")?;
        let provider = SdkLoggerProvider::builder()
            .with_resource(settings.resource.clone())
            .with_log_processor(BatchLogProcessor::builder(Reported::new("logs", exporter)).build())
            .build();
        let (filter, handle) = reload::Layer::new(settings.level.filter()?);
        telemetry.filters.push(handle);
        let layer = OpenTelemetryTracingBridge::new(&provider)
            .with_filter(filter.and(filter_fn(|metadata| !is_pipeline(metadata.target()))));
        layers.push(layer.boxed());
        telemetry.logs = Some(provider);
    }

    Ok((tracing_subscriber::registry().with(layers), telemetry))
}

/// Whether an event comes from what sends events.
fn is_pipeline(target: &str) -> bool {
    PIPELINE_LIBRARIES.iter().chain(PIPELINE_MODULES).any(|module| {
        target.strip_prefix(module).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    })
}

/// The answer of a function that blocks; none when its thread could not be started.
fn on_own_thread(
    name: &str,
    function: impl FnOnce() -> bool + Send + 'static,
) -> tokio::sync::oneshot::Receiver<bool> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let started = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        // Nobody listens any more once the limit has passed.
        sender.send(function()).ok();
    });
    // Not joined: it may outlast the limit. A thread that did not start has dropped the sender.
    drop(started);
    receiver
}

fn did_you_mean(item: &str) -> String {
    let item = item.to_ascii_lowercase();
    ["off", "error", "warn", "info", "debug", "trace"]
        .into_iter()
        .find(|level| strsim::damerau_levenshtein(level, &item) <= 2 || item.starts_with(level))
        .map(|level| format!("; did you mean `{level}`?"))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests;
