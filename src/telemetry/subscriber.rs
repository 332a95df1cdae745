//! Sets the log up for the whole process: which lines ([`filter`]), how they look, and that nobody waits for them ([`super::pipe`]).
//!
//! Lines go to stderr, so that what a command answers on stdout can be piped on. Colour is for terminals, unless `NO_COLOR` is set.

use std::io::{self, IsTerminal};
use std::time::Duration;

use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{EnvFilter, Layer, Registry};

use super::json::JsonLines;
use super::pipe::{DroppedLines, Flusher, Pipe};
use crate::config::{LogFormat, Telemetry};

/// Kafka's client tells at `info` of every connection that it closes because it is idle. Its own lines come under the first name,
/// its binding's under the second.
const QUIET: [&str; 2] = ["librdkafka=warn", "rdkafka=warn"];

/// The log of this process. Dropped at the end of `main`, it writes what is still to be written.
#[derive(Debug)]
#[must_use = "dropped at once, it ends the log before its first line"]
pub struct Log {
    dropped: DroppedLines,
    _flusher: Flusher,
}

impl Log {
    /// The count of lines that nobody could take, for [`super::metrics::Metrics::new`].
    pub fn dropped(&self) -> DroppedLines {
        self.dropped.clone()
    }
}

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// The filter cannot be read.
    #[error("telemetry.log: {0}")]
    Filter(#[from] BadFilter),
    /// The thread that writes cannot be started.
    #[error("the log's thread cannot be started: {0}")]
    Thread(#[from] io::Error),
    /// It was set up before, by this function or another.
    #[error("the log is set up already")]
    Twice(#[from] tracing::subscriber::SetGlobalDefaultError),
}

/// Why a filter cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum BadFilter {
    /// Nothing at all. It would be read as errors only.
    #[error("it is empty: write off, error, warn, info, debug or trace")]
    Empty,
    /// A single word that is no level. It would be read as a target to be traced, and silence all else.
    #[error("`{0}` is no level: write off, error, warn, info, debug or trace, or `{0}=debug` if it is a target")]
    NoLevel(String),
    /// Not the syntax.
    #[error("{0}; write a level, or `target=level`, separated by commas")]
    Syntax(#[from] ParseError),
}

/// Sets the log and the panic hook up for the whole process. `instance` is on every JSON line.
///
/// # Errors
/// See [`InitError`]; nothing is set up then.
pub fn init(settings: &Telemetry, instance: &str) -> Result<Log, InitError> {
    start(&settings.log, settings.format, instance)
}

fn start(wanted: &str, format: LogFormat, instance: &str) -> Result<Log, InitError> {
    let filter = filter(wanted)?;
    let (pipe, flusher) = Pipe::start("log", Duration::ZERO, io::stderr())?;
    let dropped = pipe.dropped();
    let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    tracing::subscriber::set_global_default(subscriber(filter, format, instance, colour, pipe))?;
    super::panics::install();
    Ok(Log { dropped, _flusher: flusher })
}

/// Reads a filter in `tracing`'s syntax; Kafka's client is kept to warnings unless the filter names it.
///
/// # Errors
/// See [`BadFilter`].
pub fn filter(text: &str) -> Result<EnvFilter, BadFilter> {
    let directives: Vec<&str> = text.split(',').map(str::trim).filter(|directive| !directive.is_empty()).collect();
    if directives.is_empty() {
        return Err(BadFilter::Empty);
    }
    let mut general = LevelFilter::OFF;
    for directive in directives.iter().filter(|directive| directive.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '-')) {
        general = directive.parse().map_err(|_| BadFilter::NoLevel((*directive).to_owned()))?;
    }
    let named = |quiet: &str| directives.iter().any(|directive| target(directive) == target(quiet));
    let mut all = directives.clone();
    // Behind a filter that is quieter than warnings, this would make it louder.
    if general >= LevelFilter::WARN {
        all.extend(QUIET.into_iter().filter(|quiet| !named(quiet)));
    }
    Ok(EnvFilter::builder().parse(all.join(","))?)
}

/// The target that a directive is about.
fn target(directive: &str) -> &str {
    directive.split(['=', '[', ':']).next().unwrap_or(directive)
}

/// The lines of `filter`, written to `writer`; `instance` is on the JSON ones.
pub(super) fn subscriber<W>(
    filter: EnvFilter,
    format: LogFormat,
    instance: &str,
    colour: bool,
    writer: W,
) -> impl Subscriber + Send + Sync + use<W>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    // An internal error would be reported with eprintln!, which panics when stderr is gone.
    let lines = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(colour).log_internal_errors(false);
    let lines: Box<dyn Layer<Registry> + Send + Sync> = match format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.event_format(JsonLines::new(instance)).boxed(),
    };
    tracing_subscriber::registry().with(lines).with(filter)
}

#[cfg(test)]
mod tests;
