//! The config's JSON Schema (draft 2020-12), from the same description that reads it: for editors, and for those who generate config.

use serde_json::{Map, Value as Json, json};

use super::path::Step;
use super::reader::{Described, Form, Reader};
use super::sections;
use super::sources;
use super::tree::Tree;

/// The schema of a config file. Every key may be left out of a file, since another layer may set it; only the elements of arrays
/// of tables, which are replaced whole, have required keys.
pub fn schema() -> Json {
    let mut root = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Fusebox",
        "description": "Config of Fusebox. Durations are strings with a unit (\"250ms\", \"30s\", \"24h\"), sizes too (\"1MiB\").",
    });
    table(&mut root);
    for described in catalogue() {
        put(&mut root, &described);
    }
    root
}

/// Every key that can be set.
pub(super) fn catalogue() -> Vec<Described> {
    let tree = Tree::merge(sources::defaults().into_iter().collect());
    let reader = Reader::describing(&tree);
    reader.root(|root| sections::config(root, &mut Vec::new()));
    reader.finish().2
}

fn put(root: &mut Json, described: &Described) {
    let Some((last, steps)) = described.path.steps().split_last() else { return };
    let mut here = root;
    for step in steps {
        here = enter(here, step);
    }
    if let (Form::Key { required: true, .. }, Step::Key(name), Some(Step::AnyIndex)) = (&described.form, last, steps.last()) {
        let required = entry(here, "required");
        match required {
            Json::Array(names) => names.push(name.as_str().into()),
            other => *other = json!([name]),
        }
    }
    let here = enter(here, last);
    match &described.form {
        Form::Key { schema, default, .. } => {
            here.clone_from(schema);
            if let Some(default) = default {
                set(here, "default", default.clone());
            }
        }
        Form::Table => table(here),
        Form::Open => {
            set(here, "type", "object".into());
            // librdkafka's names have dots, which TOML reads as tables within tables.
            set(here, "additionalProperties", json!({ "type": ["string", "number", "boolean", "object"] }));
        }
    }
    set(here, "description", described.doc.into());
}

/// The schema of what is one step further in.
fn enter<'j>(schema: &'j mut Json, step: &Step) -> &'j mut Json {
    match step {
        Step::Key(name) => entry(entry(schema, "properties"), name),
        Step::AnyKey(_) => entry(schema, "additionalProperties"),
        Step::Index(_) | Step::AnyIndex => {
            set(schema, "type", "array".into());
            entry(schema, "items")
        }
    }
}

fn table(schema: &mut Json) {
    set(schema, "type", "object".into());
    set(schema, "additionalProperties", false.into());
    set(schema, "properties", json!({}));
}

fn set(schema: &mut Json, key: &str, value: Json) {
    *entry(schema, key) = value;
}

/// A key's place in a schema, which becomes an object if it is none (`additionalProperties: false` becomes that of the user's own names).
fn entry<'j>(schema: &'j mut Json, key: &str) -> &'j mut Json {
    if !schema.is_object() {
        *schema = Json::Object(Map::new());
    }
    &mut schema[key]
}
