//! One description of the keys, read three ways: into checked values, into the list of what is set and where, and into the schema.
//!
//! A section asks its [`Section`] for each key by name, shape and doc. The reader notes what was asked for, collects
//! every fault instead of stopping at the first, and at the section's end knows each key that nobody asked for: it is unknown.
//! What a section gets back is `None` where a fault was noted; so a section asks for everything first and assembles at its end.

mod keys;
mod remarks;
mod secrets;
mod tables;

use std::cell::RefCell;
use std::collections::BTreeSet;

use figment::value::Dict;
use serde_json::Value as Json;

use super::faults::{Fault, Origin, listed, nearest};
use super::path::KeyPath;
use super::schema::catalogue;
use super::tree::Tree;

pub(in crate::config) use secrets::Shown;

static EMPTY: Dict = Dict::new();

/// Reads a tree, or describes what could stand in it.
pub(in crate::config) struct Reader<'t> {
    tree: &'t Tree,
    describing: bool,
    partial: bool,
    faults: RefCell<Vec<Fault>>,
    settings: RefCell<Vec<Setting>>,
    described: RefCell<Vec<Described>>,
}

/// A key that is set, by somebody or by default.
#[derive(Debug, Clone)]
pub(in crate::config) struct Setting {
    pub(in crate::config) path: KeyPath,
    /// Without secrets.
    pub(in crate::config) value: Json,
    pub(in crate::config) origin: Origin,
}

/// What may stand at a path.
#[derive(Debug, Clone)]
pub(in crate::config) struct Described {
    pub(in crate::config) path: KeyPath,
    pub(in crate::config) doc: &'static str,
    pub(in crate::config) form: Form,
}

/// How something may stand there.
#[derive(Debug, Clone)]
pub(in crate::config) enum Form {
    /// A value.
    Key { schema: Json, default: Option<Json>, required: bool },
    /// A table with known keys.
    Table,
    /// A table of the user's own names, each with a value that may be a file's (`name_file`).
    Open,
}

impl<'t> Reader<'t> {
    /// Reads what is set.
    pub(in crate::config) fn new(tree: &'t Tree) -> Self {
        let (faults, settings, described) = (RefCell::default(), RefCell::default(), RefCell::default());
        Self { tree, describing: false, partial: false, faults, settings, described }
    }

    /// Reads what is set where a source is missing: only what is wrong in itself is found, since what seems to be absent, or at odds
    /// with another key, may be put right by that source.
    pub(in crate::config) fn partial(tree: &'t Tree) -> Self {
        Self { partial: true, ..Self::new(tree) }
    }

    /// Describes what can be set; of what the user names, one example is visited.
    pub(in crate::config) fn describing(tree: &'t Tree) -> Self {
        Self { describing: true, ..Self::new(tree) }
    }

    /// The top of the tree, handed to `read`.
    pub(in crate::config) fn root<T>(&self, read: impl FnOnce(&Section<'_>) -> Option<T>) -> Option<T> {
        let root = Section { reader: self, path: KeyPath::default(), table: self.tree.root(), asked: RefCell::default() };
        root.read_by(read)
    }

    /// What was found wrong, what is set, and what was described.
    pub(in crate::config) fn finish(self) -> (Vec<Fault>, Vec<Setting>, Vec<Described>) {
        (self.faults.into_inner(), self.settings.into_inner(), self.described.into_inner())
    }
}

/// One table under reading.
pub(in crate::config) struct Section<'r> {
    reader: &'r Reader<'r>,
    path: KeyPath,
    table: &'r Dict,
    asked: RefCell<BTreeSet<String>>,
}

impl<'r> Section<'r> {
    fn read_by<T>(self, read: impl FnOnce(&Section<'_>) -> Option<T>) -> Option<T> {
        let value = read(&self);
        self.finish();
        value
    }

    /// Notes every key that nobody asked for.
    fn finish(&self) {
        if self.reader.describing {
            return;
        }
        let asked = self.asked.borrow();
        for (key, value) in self.table.iter().filter(|(key, _)| !asked.contains(*key)) {
            let path = self.path.key(key);
            let origin = self.reader.tree.written(&path, value).origin;
            self.push(Some(origin), &path, format!("there is no such key; {}", hint(&path, key, &asked)));
        }
    }

    fn note(&self, path: KeyPath, doc: &'static str, form: Form) {
        if self.reader.describing {
            self.reader.described.borrow_mut().push(Described { path, doc, form });
        }
    }

    fn set(&self, path: KeyPath, value: Json, origin: Origin) {
        self.reader.settings.borrow_mut().push(Setting { path, value, origin });
    }

    fn push(&self, origin: Option<Origin>, path: &KeyPath, message: String) {
        self.reader.faults.borrow_mut().push(Fault {
            place: origin.map(|origin| origin.to_string()),
            key: Some(path.to_string()),
            message,
        });
    }
}

/// What an unknown key may have meant: a known one beside it, or one of its name elsewhere, the nearer the better.
fn hint(path: &KeyPath, key: &str, known: &BTreeSet<String>) -> String {
    if let Some(near) = nearest(key, known.iter().map(String::as_str)) {
        return format!("did you mean `{near}`?");
    }
    let elsewhere = catalogue().into_iter().filter(|described| described.path.last_key() == Some(key));
    match elsewhere.map(|described| described.path.as_seen_from(path)).min_by_key(|(shared, _)| std::cmp::Reverse(*shared)) {
        Some((_, meant)) => format!("did you mean `{meant}`?"),
        None => format!("known here: {}", listed(known.iter().map(String::as_str))),
    }
}
