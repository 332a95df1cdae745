//! Asking for a key that is one value.

use figment::value::Value;
use serde_json::Value as Json;

use super::secrets::Shown;
use super::{Form, Section};
use crate::config::faults::Origin;
use crate::config::shape::{Problem, Shape, whole};
use crate::config::tree::{Written, json};

impl<'r> Section<'r> {
    /// A key that must be set: by the user, or by `config/default.toml`.
    pub(in crate::config) fn required<S: Shape>(&self, name: &str, shape: S, doc: &'static str) -> Option<S::Value> {
        self.describe(name, doc, &shape, None, true);
        match self.find(name) {
            Some(written) => self.parse(name, &written, &shape, Shown::Plain),
            None => self.missing(name, &shape.expected()),
        }
    }

    /// A key with a default of its own.
    pub(in crate::config) fn or<S: Shape>(&self, name: &str, default: impl Into<Value>, shape: S, doc: &'static str) -> Option<S::Value> {
        let default = default.into();
        self.describe(name, doc, &shape, Some(json(&default)), false);
        let written = self.find(name).unwrap_or(Written { value: &default, origin: Origin::Default, layer: 0 });
        self.parse(name, &written, &shape, Shown::Plain)
    }

    /// A key that may be left out; an empty string takes away what an earlier layer set.
    pub(in crate::config) fn optional<S: Shape>(&self, name: &str, shape: S, doc: &'static str) -> Option<Option<S::Value>> {
        self.describe(name, doc, &shape, None, false);
        match self.find(name) {
            Some(written) if written.text() != Some("") => self.parse(name, &written, &shape, Shown::Plain).map(Some),
            Some(_) | None => Some(None),
        }
    }

    /// Lets a key be known without reading it.
    pub(in crate::config) fn skip(&self, name: &str) {
        self.asked.borrow_mut().insert(name.to_owned());
    }

    /// Whether keys are described, not read: everything is to be asked for, whatever else is set.
    pub(in crate::config) fn is_describing(&self) -> bool {
        self.reader.describing
    }

    pub(super) fn find(&self, name: &str) -> Option<Written<'r>> {
        self.asked.borrow_mut().insert(name.to_owned());
        self.table.get(name).map(|value| self.reader.tree.written(&self.path.key(name), value))
    }

    pub(super) fn parse<S: Shape>(&self, name: &str, written: &Written<'_>, shape: &S, shown: Shown) -> Option<S::Value> {
        let path = self.path.key(name);
        match shape.read(written) {
            Ok(value) => {
                self.set(path, shown.of(whole(json(written.value))), written.origin.clone());
                return Some(value);
            }
            Err(Problem::Type) => {
                self.push(Some(written.origin.clone()), &path, format!("should be {}, and is {}", shape.expected(), written.kind()));
            }
            Err(Problem::Value(message)) => self.push(Some(written.origin.clone()), &path, message),
        }
        None
    }

    pub(super) fn missing<T>(&self, name: &str, expected: &str) -> Option<T> {
        if self.reader.partial {
            return None;
        }
        let beside = self.table.iter().map(|(key, value)| self.reader.tree.written(&self.path.key(key), value).origin);
        let place = beside.into_iter().find(|origin| *origin != Origin::Default);
        self.push(place, &self.path.key(name), format!("is missing: it must be {expected}"));
        None
    }

    pub(super) fn describe<S: Shape>(&self, name: &str, doc: &'static str, shape: &S, default: Option<Json>, required: bool) {
        if self.reader.describing {
            let default = default.or_else(|| self.table.get(name).map(|value| whole(json(value))));
            self.note(self.path.key(name), doc, Form::Key { schema: shape.schema(), default, required });
        }
    }
}
