//! `[telemetry]`: the log, and the record of calls.

use serde_json::{Value as Json, json};
use tracing_subscriber::EnvFilter;

use crate::config::checked::{LogFormat, Telemetry};
use crate::config::faults::nearest;
use crate::config::reader::Section;
use crate::config::shape::{AppendedFile, Problem, Shape, Word, wrong};
use crate::config::tree::Written;

/// What `[telemetry]` holds.
pub(super) fn read(section: &Section<'_>) -> Option<Telemetry> {
    let log = section.required("log", Filter, "What is logged: a level, or `target=level`, comma-separated.");
    let format = section.required(
        "format",
        Word(&[("text", LogFormat::Text), ("json", LogFormat::Json)]),
        "How lines look: for people or for machines.",
    );
    let record_calls = section.optional(
        "record_calls",
        AppendedFile,
        "A file that a line is appended to for each call of a service: when it began, how long it took, and what the breaker heard of it.",
    );
    Some(Telemetry { log: log?, format: format?, record_calls: record_calls? })
}

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// A filter in `tracing`'s syntax.
struct Filter;

impl Shape for Filter {
    type Value = String;
    fn expected(&self) -> String {
        "a level, or targets with levels, such as \"info,rdkafka=warn\"".to_owned()
    }
    fn schema(&self) -> Json {
        json!({ "type": "string", "minLength": 1 })
    }
    fn read(&self, written: &Written<'_>) -> Result<String, Problem> {
        let text = written.text().ok_or(Problem::Type)?;
        if text.trim().is_empty() {
            return wrong("is empty; \"off\" logs nothing");
        }
        for directive in text.split(',').map(str::trim) {
            // `tracing` takes any bare word for a target and logs all of it: a mistyped level would turn the log upside down.
            let bare = !directive.is_empty() && directive.bytes().all(|byte| byte.is_ascii_alphanumeric());
            if bare && !LEVELS.iter().any(|level| directive.eq_ignore_ascii_case(level)) {
                let meant = nearest(&directive.to_lowercase(), LEVELS).map_or(String::new(), |level| format!(" did you mean {level:?}?"));
                return wrong(format!("{directive:?} is no level;{meant} A target needs one: \"{directive}=debug\""));
            }
        }
        match EnvFilter::builder().parse(text) {
            Ok(_) => Ok(text.to_owned()),
            Err(error) => wrong(format!("{text:?} is no log filter: {error}")),
        }
    }
}
