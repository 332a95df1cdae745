//! Asking for secrets: values that may stand in a file of their own, and that no output shows.

use figment::value::Value;
use serde_json::Value as Json;

use super::Section;
use crate::config::shape::{Problem, Shape, Text};
use crate::config::tree::Written;

/// How a secret is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::config) enum Shown {
    /// As it is: it is none.
    Plain,
    /// Not at all.
    Hidden,
    /// As a URL without its credentials.
    Url,
}

impl Section<'_> {
    /// A key that may be left out and whose value may stand in a file instead, which `<name>_file` names. Of the two the later layer's wins.
    pub(in crate::config) fn secret<S: Shape>(&self, name: &str, shape: S, shown: Shown, doc: &'static str) -> Option<Option<S::Value>> {
        self.describe(name, doc, &shape, None, false);
        self.describe(&format!("{name}_file"), "A file that holds the value of the key without `_file`.", &Text, None, false);
        self.find_secret(name, &shape, shown)
    }

    /// As [`Section::secret`], but it must be set.
    pub(in crate::config) fn required_secret<S: Shape>(&self, name: &str, shape: S, shown: Shown, doc: &'static str) -> Option<S::Value> {
        let expected = shape.expected();
        match self.secret(name, shape, shown, doc)? {
            Some(value) => Some(value),
            None => self.missing(name, &expected),
        }
    }

    /// One value of an [open](Section::open) table.
    pub(in crate::config) fn entry<S: Shape>(&self, name: &str, shape: S, shown: Shown) -> Option<S::Value> {
        match self.find_secret(name, &shape, shown)? {
            Some(value) => Some(value),
            None => self.report(name, "is empty; leave it out instead"),
        }
    }

    pub(super) fn find_secret<S: Shape>(&self, name: &str, shape: &S, shown: Shown) -> Option<Option<S::Value>> {
        let file_name = format!("{name}_file");
        let plain = self.find(name).filter(|written| written.text() != Some(""));
        let file = self.find(&file_name).filter(|written| written.text() != Some(""));
        let (plain, file) = match (plain, file) {
            (Some(plain), Some(file)) if plain.layer == file.layer => {
                return self.report(&file_name, format!("is given besides `{name}`; keep one of the two"));
            }
            (Some(plain), Some(file)) if plain.layer > file.layer => (Some(plain), None),
            (Some(_), Some(file)) => (None, Some(file)),
            one => one,
        };
        match (plain, file) {
            (Some(plain), _) => self.parse(name, &plain, shape, shown).map(Some),
            (None, Some(file)) => self.parse_file(&file_name, &file, shape).map(Some),
            (None, None) => Some(None),
        }
    }

    pub(super) fn parse_file<S: Shape>(&self, file_name: &str, file: &Written<'_>, shape: &S) -> Option<S::Value> {
        let path = self.parse(file_name, file, &Text, Shown::Plain)?;
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) => return self.report(file_name, format!("{path} cannot be read: {error}")),
        };
        let text = text.strip_suffix('\n').map_or(text.as_str(), |text| text.strip_suffix('\r').unwrap_or(text));
        if text.is_empty() {
            return self.report(file_name, format!("{path} is empty"));
        }
        let value = Value::from(text);
        let written = Written { value: &value, origin: file.origin.clone(), layer: file.layer };
        match shape.read(&written) {
            Ok(value) => Some(value),
            Err(Problem::Type) => self.report(file_name, format!("{path} should hold {}", shape.expected())),
            Err(Problem::Value(message)) => self.report(file_name, format!("what {path} holds is wrong: {message}")),
        }
    }
}

impl Shown {
    /// What is shown of a value.
    pub(super) fn of(self, value: Json) -> Json {
        match (self, &value) {
            (Self::Plain, _) => value,
            (Self::Url, Json::String(url)) => without_credentials(url).into(),
            (Self::Hidden | Self::Url, _) => "(secret)".into(),
        }
    }
}

/// A URL with neither user, password nor query. A password may hold an unescaped `@` or `/`, so all before the last `@` goes.
fn without_credentials(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return "(secret)".to_owned() };
    let (user, host) = rest.rsplit_once('@').map_or(("", rest), |(_, host)| ("(secret)@", host));
    format!("{scheme}://{user}{}", host.split('?').next().unwrap_or_default())
}
