//! The effective config as text: each value with where it was written, secrets left out.

use std::fmt::Write as _;

use serde_json::{Map, Value as Json, json};

use super::faults::Origin;
use super::path::{Step, spelled};
use super::reader::Setting;

/// How to show a config.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// As a file could say it, with the source of each value as a comment.
    Toml,
    /// As JSON: each value an object of `value` and `source`.
    Json,
}

/// Shows settings.
pub(super) fn show(settings: &[Setting], format: Format) -> String {
    let mut root = Vec::new();
    for setting in settings {
        put(&mut root, setting.path.steps(), setting);
    }
    match format {
        Format::Toml => {
            let mut text = String::new();
            write_table(&mut text, "", &root);
            text.trim_start().to_owned()
        }
        Format::Json => format!("{:#}\n", as_json(&Node::Table(root))),
    }
}

enum Node<'s> {
    Leaf(&'s Json, &'s Origin),
    Table(Table<'s>),
    List(Vec<Table<'s>>),
}

type Table<'s> = Vec<(&'s str, Node<'s>)>;

fn put<'s>(table: &mut Table<'s>, steps: &'s [Step], setting: &'s Setting) {
    let Some((Step::Key(key), rest)) = steps.split_first() else { return };
    let place = table.iter().position(|(name, _)| name == key).unwrap_or_else(|| {
        table.push((
            key,
            match rest {
                [] => Node::Leaf(&setting.value, &setting.origin),
                [Step::Index(_), ..] => Node::List(Vec::new()),
                _ => Node::Table(Vec::new()),
            },
        ));
        table.len() - 1
    });
    match (&mut table[place].1, rest) {
        (Node::Table(inner), _) => put(inner, rest, setting),
        (Node::List(elements), [Step::Index(index), rest @ ..]) => {
            elements.resize_with(elements.len().max(index + 1), Vec::new);
            put(&mut elements[*index], rest, setting);
        }
        (Node::List(_) | Node::Leaf(..), _) => {}
    }
}

fn write_table(text: &mut String, path: &str, table: &Table<'_>) {
    for (name, node) in table {
        if let Node::Leaf(value, origin) = node {
            _ = writeln!(text, "{} = {}  # {origin}", spelled(name), as_toml(value));
        }
    }
    for (name, node) in table {
        let path = if path.is_empty() { spelled(name) } else { format!("{path}.{}", spelled(name)) };
        match node {
            Node::Leaf(..) => {}
            Node::Table(inner) => {
                if inner.iter().any(|(_, node)| matches!(node, Node::Leaf(..))) {
                    _ = writeln!(text, "\n[{path}]");
                }
                write_table(text, &path, inner);
            }
            Node::List(elements) => {
                for element in elements {
                    _ = writeln!(text, "\n[[{path}]]");
                    write_table(text, &path, element);
                }
            }
        }
    }
}

/// A value on one line.
fn as_toml(value: &Json) -> String {
    match value {
        Json::String(text) if text.contains('\n') => toml_basic(text),
        Json::Object(object) if object.is_empty() => "{}".to_owned(),
        Json::Object(object) => {
            let pairs: Vec<String> = object.iter().map(|(key, value)| format!("{} = {}", spelled(key), as_toml(value))).collect();
            format!("{{ {} }}", pairs.join(", "))
        }
        Json::Array(array) => format!("[{}]", array.iter().map(as_toml).collect::<Vec<_>>().join(", ")),
        Json::String(text) => toml::Value::String(text.clone()).to_string(),
        Json::Null | Json::Bool(_) | Json::Number(_) => value.to_string(),
    }
}

/// A text of several lines as a string of one, so that the comment behind it stays on its line.
fn toml_basic(text: &str) -> String {
    // JSON's escapes are all TOML's too.
    Json::from(text).to_string()
}

fn as_json(node: &Node<'_>) -> Json {
    match node {
        Node::Leaf(value, origin) => json!({ "value": value, "source": origin.to_string() }),
        Node::Table(table) => object(table),
        Node::List(elements) => elements.iter().map(object).collect(),
    }
}

fn object(table: &Table<'_>) -> Json {
    table.iter().map(|(name, node)| ((*name).to_owned(), as_json(node))).collect::<Map<_, _>>().into()
}
