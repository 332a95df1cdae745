//! Log lines for machines: one JSON object a line.
//!
//! ```json
//! {"timestamp":"2026-11-03T21:04:05.678901Z","level":"WARN","target":"fusebox","instance":"a1","message":"…","service":"rag"}
//! ```
//!
//! A line's fields lie beside the fixed ones. A field of the same name as a fixed one (a library's `target`) gets `field_` in front
//! of it, because two members of one name are read differently by every reader.

use std::error::Error;
use std::fmt;

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::registry::LookupSpan;

const FIXED: [&str; 4] = ["timestamp", "level", "target", "instance"];

/// Writes events as JSON lines.
pub(super) struct JsonLines {
    instance: String,
}

impl JsonLines {
    /// Lines of this instance.
    pub(super) fn new(instance: &str) -> Self {
        Self { instance: instance.to_owned() }
    }
}

impl<S, N> FormatEvent<S, N> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut timestamp = String::with_capacity(32);
        SystemTime.format_time(&mut Writer::new(&mut timestamp))?;
        let meta = event.metadata();
        let mut line = Line(Map::new());
        for (name, value) in FIXED.into_iter().zip([timestamp.as_str(), meta.level().as_str(), meta.target(), &self.instance]) {
            line.0.insert(name.to_owned(), value.into());
        }
        // Reserved here, so that it comes before the fields wherever the event has it.
        line.0.insert("message".to_owned(), "".into());
        event.record(&mut line);
        writeln!(writer, "{}", Value::Object(line.0))
    }
}

struct Line(Map<String, Value>);

impl Line {
    fn put(&mut self, field: &Field, value: Value) {
        let name = field.name();
        let name = name.strip_prefix("r#").unwrap_or(name);
        let name = if FIXED.contains(&name) { format!("field_{name}") } else { name.to_owned() };
        self.0.insert(name, value);
    }
}

impl Visit for Line {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.put(field, value.to_string().into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}").into());
    }
}
