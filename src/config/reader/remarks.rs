//! What a section says of its keys when it knows more than their shapes do: what is at odds with what, and where that was written.

use figment::value::Value;

use super::Section;
use crate::config::faults::{Fault, Origin};
use crate::config::path::KeyPath;

impl Section<'_> {
    /// Notes that a key's value is at odds with something else.
    pub(in crate::config) fn fault(&self, name: &str, message: impl Into<String>) {
        if self.reader.partial {
            return;
        }
        let path = self.path.key(name);
        let file = self.path.key(&format!("{name}_file"));
        let written = [(path.clone(), name.to_owned()), (file, format!("{name}_file"))]
            .into_iter()
            .find_map(|(path, name)| self.table.get(&name).map(|value| self.reader.tree.written(&path, value)));
        self.push(written.map(|written| written.origin), &path, message.into());
    }

    /// Notes that keys are at odds with each other, at the one that the latest layer wrote: before it they were not.
    pub(in crate::config) fn at_odds(&self, names: &[&str], message: impl Into<String>) {
        let latest = names.iter().rev().max_by_key(|name| self.layer(name));
        if let Some(name) = latest {
            self.fault(name, message);
        }
    }

    /// Notes that this table itself is at fault.
    pub(in crate::config) fn fault_here(&self, message: String) {
        let origin = self.table.values().next().map(|value| self.reader.tree.written(&self.path, value).origin);
        self.push(origin, &self.path, message);
    }

    /// Notes that a value found before is at fault.
    pub(in crate::config) fn fault_at(&self, path: &KeyPath, origin: &Origin, message: String) {
        if !self.reader.partial {
            self.push(Some(origin.clone()), path, message);
        }
    }

    /// As [`Section::fault`], as the answer of what could not be read.
    pub(in crate::config) fn report<T>(&self, name: &str, message: impl Into<String>) -> Option<T> {
        self.fault(name, message);
        None
    }

    /// A word about a key that is not at fault.
    pub(in crate::config) fn remark(&self, name: &str, message: &str) -> Fault {
        let (path, origin) = self.locate(name);
        Fault { place: Some(origin.to_string()), key: Some(path.to_string()), message: message.to_owned() }
    }

    /// Where a key stands, for a fault that is found later.
    pub(in crate::config) fn locate(&self, name: &str) -> (KeyPath, Origin) {
        let path = self.path.key(name);
        let origin = self.table.get(name).map_or(Origin::Default, |value| self.reader.tree.written(&path, value).origin);
        (path, origin)
    }

    /// The layer that wrote a key; `None` if none did. A table's is the latest that wrote anything in it.
    pub(in crate::config) fn layer(&self, name: &str) -> Option<usize> {
        self.table.get(name).map(|value| self.latest(&self.path.key(name), value))
    }

    fn latest(&self, path: &KeyPath, value: &Value) -> usize {
        match value {
            Value::Dict(_, table) => table.iter().map(|(key, value)| self.latest(&path.key(key), value)).max().unwrap_or(0),
            _ => self.reader.tree.written(path, value).layer,
        }
    }
}
