//! What a key's value looks like: how it is read, and how the schema says so. The ones that more than one section needs.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use serde_json::{Value as Json, json};

use super::faults::{listed, nearest};
use super::tree::{Written, json as json_of};
use crate::event::Topic;

/// What a value looks like.
pub(super) trait Shape {
    /// What it is read into.
    type Value;
    /// What should stand there, for people: `a whole number`.
    fn expected(&self) -> String;
    /// Its JSON Schema.
    fn schema(&self) -> Json;
    /// Reads it.
    fn read(&self, written: &Written<'_>) -> Result<Self::Value, Problem>;
}

/// Why a value cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Problem {
    /// It is of another type.
    Type,
    /// What is wrong with it.
    Value(String),
}

/// A problem with the value itself.
pub(super) fn wrong<T>(message: impl Into<String>) -> Result<T, Problem> {
    Err(Problem::Value(message.into()))
}

/// Text that is not empty.
pub(super) struct Text;

impl Shape for Text {
    type Value = String;
    fn expected(&self) -> String {
        "a string".to_owned()
    }
    fn schema(&self) -> Json {
        json!({ "type": "string", "minLength": 1 })
    }
    fn read(&self, written: &Written<'_>) -> Result<String, Problem> {
        match written.text().ok_or(Problem::Type)? {
            "" => wrong("is empty"),
            text => Ok(text.to_owned()),
        }
    }
}

/// A text, or a number or boolean taken as its text.
pub(super) struct Scalar;

impl Shape for Scalar {
    type Value = String;
    fn expected(&self) -> String {
        "a string, a number or a boolean".to_owned()
    }
    fn schema(&self) -> Json {
        json!({ "type": ["string", "number", "boolean"] })
    }
    fn read(&self, written: &Written<'_>) -> Result<String, Problem> {
        written.scalar().ok_or(Problem::Type)
    }
}

/// Yes or no.
pub(super) struct Flag;

impl Shape for Flag {
    type Value = bool;
    fn expected(&self) -> String {
        "`true` or `false`".to_owned()
    }
    fn schema(&self) -> Json {
        json!({ "type": "boolean" })
    }
    fn read(&self, written: &Written<'_>) -> Result<bool, Problem> {
        written.boolean().ok_or(Problem::Type)
    }
}

/// A whole number in a range.
pub(super) struct Whole<N>(pub(super) RangeInclusive<N>);

impl<N: Copy + TryFrom<i128> + Into<i128>> Shape for Whole<N> {
    type Value = N;
    fn expected(&self) -> String {
        "a whole number".to_owned()
    }
    fn schema(&self) -> Json {
        let bound = |n: N| i64::try_from(n.into()).unwrap_or(i64::MAX);
        json!({ "type": "integer", "minimum": bound(*self.0.start()), "maximum": bound(*self.0.end()) })
    }
    fn read(&self, written: &Written<'_>) -> Result<N, Problem> {
        let number = written.integer().ok_or(Problem::Type)?;
        let (low, high): (i128, i128) = ((*self.0.start()).into(), (*self.0.end()).into());
        match N::try_from(number) {
            Ok(read) if (low..=high).contains(&number) => Ok(read),
            _ => wrong(format!("{number} is out of range: {low} to {high}")),
        }
    }
}

/// A number in a range.
pub(super) struct Number(pub(super) RangeInclusive<f64>);

impl Shape for Number {
    type Value = f64;
    fn expected(&self) -> String {
        "a number".to_owned()
    }
    fn schema(&self) -> Json {
        json!({ "type": "number", "minimum": self.0.start(), "maximum": self.0.end() })
    }
    fn read(&self, written: &Written<'_>) -> Result<f64, Problem> {
        let number = written.number().ok_or(Problem::Type)?;
        if self.0.contains(&number) {
            Ok(number)
        } else {
            wrong(format!("{number} is out of range: {} to {}", self.0.start(), self.0.end()))
        }
    }
}

/// A length of time in a range, as text with a unit: `"250ms"`, `"1h 30m"`.
pub(super) struct Time(RangeInclusive<Duration>);

impl Time {
    /// Between two bounds, both allowed.
    pub(super) const fn between(shortest: Duration, longest: Duration) -> Self {
        Self(shortest..=longest)
    }
}

impl Shape for Time {
    type Value = Duration;
    fn expected(&self) -> String {
        "a duration with its unit, such as \"30s\"".to_owned()
    }
    fn schema(&self) -> Json {
        let (low, high) = (humantime::format_duration(*self.0.start()), humantime::format_duration(*self.0.end()));
        json!({
            "type": "string",
            "pattern": r"^\s*([0-9]+(\.[0-9]+)?\s*[a-zµ]+\s*)+$",
            "$comment": format!("a duration, {low} to {high}"),
        })
    }
    fn read(&self, written: &Written<'_>) -> Result<Duration, Problem> {
        let text = written.text().ok_or(Problem::Type)?;
        let Ok(time) = humantime::parse_duration(text) else {
            return wrong(format!("{text:?} is no duration; write a number and its unit (ms, s, m, h, d): \"250ms\", \"30s\", \"24h\""));
        };
        if self.0.contains(&time) {
            return Ok(time);
        }
        let (low, high) = (humantime::format_duration(*self.0.start()), humantime::format_duration(*self.0.end()));
        wrong(format!("{text:?} is out of range: {low} to {high}"))
    }
}

/// A number of bytes in a range, as text with a unit or as a plain number.
pub(super) struct Size(pub(super) RangeInclusive<u64>);

impl Shape for Size {
    type Value = usize;
    fn expected(&self) -> String {
        "a size such as \"1MiB\", or a number of bytes".to_owned()
    }
    fn schema(&self) -> Json {
        json!({
            "type": ["string", "integer"],
            "minimum": self.0.start(),
            "maximum": self.0.end(),
            "pattern": r"^[0-9]+(\.[0-9]+)?\s*([KkMmGgTtPpEe]?[Ii]?[Bb]?)$",
            "$comment": format!("a size, {} to {}", ByteSize(*self.0.start()), ByteSize(*self.0.end())),
        })
    }
    fn read(&self, written: &Written<'_>) -> Result<usize, Problem> {
        let bytes = match (written.integer(), written.text()) {
            (Some(bytes), _) => u64::try_from(bytes).ok(),
            (None, Some(text)) => match text.trim().parse::<ByteSize>() {
                Ok(size) => Some(size.0),
                Err(_) => return wrong(format!("{text:?} is no size; write a number of bytes, or one with a unit: \"64KiB\", \"1MiB\"")),
            },
            (None, None) => return Err(Problem::Type),
        };
        match bytes.filter(|bytes| self.0.contains(bytes)).and_then(|bytes| usize::try_from(bytes).ok()) {
            Some(bytes) => Ok(bytes),
            None => {
                wrong(format!("{} is out of range: {} to {}", json_of(written.value), ByteSize(*self.0.start()), ByteSize(*self.0.end())))
            }
        }
    }
}

/// One of a few words, each standing for a value.
pub(super) struct Word<T: 'static>(pub(super) &'static [(&'static str, T)]);

impl<T: Clone> Shape for Word<T> {
    type Value = T;
    fn expected(&self) -> String {
        format!("one of {}", listed(self.0.iter().map(|(word, _)| *word)))
    }
    fn schema(&self) -> Json {
        json!({ "enum": self.0.iter().map(|(word, _)| *word).collect::<Vec<_>>() })
    }
    fn read(&self, written: &Written<'_>) -> Result<T, Problem> {
        let text = written.text().ok_or(Problem::Type)?;
        if let Some((_, value)) = self.0.iter().find(|(word, _)| *word == text) {
            return Ok(value.clone());
        }
        let known = listed(self.0.iter().map(|(word, _)| *word));
        match nearest(text, self.0.iter().map(|(word, _)| *word)) {
            Some(near) if self.0.len() > 1 => wrong(format!("there is no {text:?}; did you mean {near:?}? Known: {known}")),
            Some(_) | None => wrong(format!("there is no {text:?}; known: {known}")),
        }
    }
}

/// A topic's name.
pub(super) struct TopicName;

impl Shape for TopicName {
    type Value = Topic;
    fn expected(&self) -> String {
        "a topic's name".to_owned()
    }
    fn schema(&self) -> Json {
        json!({ "type": "string", "pattern": "^[A-Za-z0-9._-]{1,249}$" })
    }
    fn read(&self, written: &Written<'_>) -> Result<Topic, Problem> {
        let name = written.text().ok_or(Problem::Type)?;
        let legal = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        if legal && (1..=249).contains(&name.len()) && name != "." && name != ".." {
            Ok(Topic::from(name))
        } else {
            wrong(format!("{name:?} is no name that Kafka takes: 1 to 249 of letters, digits, `.`, `_` and `-`"))
        }
    }
}

/// A file that can be read, by its path; a relative one starts at the working directory.
pub(super) struct ReadableFile;

impl Shape for ReadableFile {
    type Value = PathBuf;
    fn expected(&self) -> String {
        "a file's path".to_owned()
    }
    fn schema(&self) -> Json {
        json!({ "type": "string", "minLength": 1 })
    }
    fn read(&self, written: &Written<'_>) -> Result<PathBuf, Problem> {
        let path = PathBuf::from(written.text().ok_or(Problem::Type)?);
        match std::fs::File::open(&path).and_then(|file| file.metadata()) {
            Ok(metadata) if metadata.is_dir() => wrong(format!("{} is a directory, not a file", path.display())),
            Ok(_) => Ok(path),
            Err(error) => wrong(format!("{} cannot be read: {error}", path.display())),
        }
    }
}

/// A file to append to, by its path; a relative one starts at the working directory. It need not exist, and is not created here: a config
/// is read where nothing is run.
pub(super) struct AppendedFile;

impl Shape for AppendedFile {
    type Value = PathBuf;
    fn expected(&self) -> String {
        "a file's path".to_owned()
    }
    fn schema(&self) -> Json {
        json!({ "type": "string", "minLength": 1 })
    }
    fn read(&self, written: &Written<'_>) -> Result<PathBuf, Problem> {
        let path = PathBuf::from(written.text().ok_or(Problem::Type)?);
        match std::fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() => wrong(format!("{} is a directory, not a file", path.display())),
            Ok(_) | Err(_) => Ok(path),
        }
    }
}

/// A table that is handed on as it is.
pub(super) struct Object;

impl Shape for Object {
    type Value = serde_json::Map<String, Json>;
    fn expected(&self) -> String {
        "a table".to_owned()
    }
    fn schema(&self) -> Json {
        json!({ "type": "object" })
    }
    fn read(&self, written: &Written<'_>) -> Result<Self::Value, Problem> {
        match whole(json_of(written.value)) {
            Json::Object(object) => Ok(object),
            _ => Err(Problem::Type),
        }
    }
}

/// Takes a table out of the array of one that a layer put it into, so that it was replaced whole.
pub(super) fn whole(value: Json) -> Json {
    match value {
        Json::Array(mut array) if array.len() == 1 => array.remove(0),
        other => other,
    }
}
