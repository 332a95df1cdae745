//! Asking for tables: with known keys, with the user's own names, and in arrays.

use std::cell::RefCell;
use std::collections::BTreeSet;

use figment::value::Value;
use serde_json::Value as Json;

use super::{EMPTY, Form, Section};
use crate::config::faults::Origin;
use crate::config::path::{KeyPath, Step};
use crate::config::tree::Written;

impl<'r> Section<'r> {
    /// A table with keys of its own.
    pub(in crate::config) fn section<T>(&self, name: &str, doc: &'static str, read: impl FnOnce(&Section<'_>) -> Option<T>) -> Option<T> {
        self.note(self.path.key(name), doc, Form::Table);
        let path = self.path.key(name);
        self.table_of(&path, self.find(name)).and_then(|section| section.read_by(read))
    }

    /// A table of tables, by names that the user chooses; what could not be read is `None`.
    pub(in crate::config) fn each<T>(
        &self,
        name: &str,
        what: &'static str,
        doc: &'static str,
        mut read: impl FnMut(&str, &Section<'_>) -> Option<T>,
    ) -> Option<Vec<(String, Option<T>)>> {
        let path = self.path.key(name);
        self.note(path.clone(), doc, Form::Table);
        if self.reader.describing {
            let path = path.then(Step::AnyKey(what));
            self.note(path.clone(), doc, Form::Table);
            let example = Section { reader: self.reader, path, table: &EMPTY, asked: RefCell::default() };
            example.read_by(|section| read(what, section));
            return None;
        }
        let tables = self.table_of(&path, self.find(name))?;
        let read_one = |(key, value): (&String, &'r Value)| {
            let path = path.key(key);
            let written = self.reader.tree.written(&path, value);
            let section = self.table_of(&path, Some(written));
            (key.clone(), section.and_then(|section| section.read_by(|section| read(key, section))))
        };
        Some(tables.table.iter().map(read_one).collect())
    }

    /// An array of tables; what could not be read is `None`.
    pub(in crate::config) fn list<T>(
        &self,
        name: &str,
        doc: &'static str,
        mut read: impl FnMut(usize, &Section<'_>) -> Option<T>,
    ) -> Option<Vec<Option<T>>> {
        let path = self.path.key(name);
        if self.reader.describing {
            let path = path.then(Step::AnyIndex);
            self.note(path.clone(), doc, Form::Table);
            Section { reader: self.reader, path, table: &EMPTY, asked: RefCell::default() }.read_by(|section| read(0, section));
            return None;
        }
        let Some(written) = self.find(name) else { return Some(Vec::new()) };
        let Value::Array(_, elements) = written.value else {
            return self.report(name, format!("should be an array of tables, and is {}", written.kind()));
        };
        if elements.is_empty() {
            self.set(path.clone(), Json::Array(Vec::new()), written.origin);
        }
        let read_one = |(index, value): (usize, &'r Value)| {
            let path = path.then(Step::Index(index));
            let written = self.reader.tree.written(&path, value);
            self.table_of(&path, Some(written)).and_then(|section| section.read_by(|section| read(index, section)))
        };
        Some(elements.iter().enumerate().map(read_one).collect())
    }

    /// A table of values under names that the user chooses, each of which may stand in a file (`<name>_file`).
    pub(in crate::config) fn open<T>(
        &self,
        name: &str,
        doc: &'static str,
        mut read: impl FnMut(&str, &Section<'_>) -> Option<T>,
    ) -> Option<Vec<T>> {
        let path = self.path.key(name);
        self.note(path.clone(), doc, Form::Open);
        let section = self.table_of(&path, self.find(name))?;
        let names: BTreeSet<&str> = section.table.keys().map(|key| key.strip_suffix("_file").unwrap_or(key)).collect();
        if names.is_empty() {
            self.set(path, Json::Object(serde_json::Map::new()), Origin::Default);
        }
        let read: Vec<Option<T>> = names.into_iter().map(|name| read(name, &section)).collect();
        section.finish();
        read.into_iter().collect()
    }

    /// Looks into a table once more, without asking for its keys; `None` if there is none.
    pub(in crate::config) fn within<T>(&self, name: &str, look: impl FnOnce(&Section<'_>) -> T) -> Option<T> {
        let table = self.table.get(name)?.as_dict()?;
        Some(look(&Section { reader: self.reader, path: self.path.key(name), table, asked: RefCell::default() }))
    }

    pub(super) fn table_of(&self, path: &KeyPath, written: Option<Written<'r>>) -> Option<Section<'r>> {
        let table = match written {
            None => &EMPTY,
            Some(Written { value: Value::Dict(_, table), .. }) => table,
            Some(other) => {
                self.push(Some(other.origin.clone()), path, format!("should be a table, and is {}", other.kind()));
                return None;
            }
        };
        Some(Section { reader: self.reader, path: path.clone(), table, asked: RefCell::default() })
    }
}
