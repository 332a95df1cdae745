//! Where config comes from: files, environment variables and flags, each read into a [`Layer`].

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use figment::value::{Dict, Value};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::faults::{Fault, Origin};
use super::layer::Layer;
use super::path::KeyPath;

/// The compiled-in defaults, which are the manual as well.
pub const DEFAULTS: &str = include_str!("../../config/default.toml");

/// What every variable of the config begins with.
const PREFIX: &str = "FUSEBOX_";

/// Everything a config is made of, besides the compiled-in defaults.
#[derive(Debug)]
pub struct Sources<E> {
    /// TOML files; later ones win.
    pub files: Vec<PathBuf>,
    /// The environment: names and values. Only `FUSEBOX_SECTION__KEY` is looked at.
    pub env: E,
    /// What flags set; they win over everything.
    pub overrides: Vec<Override>,
}

/// A key that a flag sets.
#[derive(Debug, Clone)]
pub struct Override {
    /// The key, with dots: `kafka.brokers`.
    pub key: String,
    /// The flag, as faults should name it: `--brokers`.
    pub flag: String,
    /// Its value.
    pub value: toml::Value,
}

/// The compiled-in defaults as a layer.
pub(super) fn defaults() -> Result<Layer, Fault> {
    text(DEFAULTS, &|_| Origin::Default).map_err(|error| error.fault("config/default.toml", DEFAULTS))
}

/// A file as a layer.
pub(super) fn file(path: &Path) -> Result<Layer, Fault> {
    let place = path.display().to_string();
    let source = std::fs::read(path).and_then(|bytes| String::from_utf8(bytes).map_err(|_| io::Error::other("it is not UTF-8")));
    let source = source.map_err(|error| Fault { place: Some(place.clone()), key: None, message: format!("cannot be read: {error}") })?;
    let lines = Lines::of(&source);
    text(&source, &|offset| Origin::File { path: path.to_owned(), line: lines.position(offset).0 })
        .map_err(|error| error.fault(&place, &source))
}

/// A text that is not TOML.
#[derive(Debug)]
pub(super) struct NotToml {
    offset: usize,
    message: String,
}

impl NotToml {
    fn fault(self, place: &str, source: &str) -> Fault {
        let (line, column) = Lines::of(source).position(self.offset);
        Fault { place: Some(format!("{place}:{line}:{column}")), key: None, message: format!("not TOML: {}", self.message) }
    }
}

/// A text as a layer.
pub(super) fn text(source: &str, origin: &dyn Fn(usize) -> Origin) -> Result<Layer, NotToml> {
    let table = DeTable::parse(source).map_err(|error| NotToml {
        offset: error.span().map_or(0, |span| span.start),
        message: error.message().lines().collect::<Vec<_>>().join(", "),
    })?;
    let mut layer = Layer::default();
    let root = Spanned::new(table.span(), DeValue::Table(table.into_inner()));
    if let Value::Dict(_, values) = layer.convert(&KeyPath::default(), &root, origin) {
        layer.values = values;
    }
    Ok(layer)
}

/// The environment as a layer. `services` are the names that earlier layers know: a variable's name has no capitals and dashes of its own.
pub(super) fn environment(env: impl Iterator<Item = (String, String)>, services: &BTreeSet<String>, faults: &mut Vec<Fault>) -> Layer {
    let mut layer = Layer::default();
    let mut variables: Vec<(String, String)> = env.filter(|(name, _)| is_config(name)).collect();
    variables.sort();
    for (name, text) in variables {
        let keys = keys_of(&name, services);
        set(&mut layer, keys, written(&text), Origin::Variable(name), faults);
    }
    layer
}

/// Flags as a layer.
pub(super) fn overrides(overrides: Vec<Override>, faults: &mut Vec<Fault>) -> Layer {
    let mut layer = Layer::default();
    for Override { key, flag, value } in overrides {
        let mut keys: Vec<String> = key.split('.').map(ToOwned::to_owned).collect();
        if keys.len() > 3 && keys.starts_with(&["kafka".to_owned(), "properties".to_owned()]) {
            keys = vec![keys[0].clone(), keys[1].clone(), keys[2..].join(".")];
        }
        set(&mut layer, keys, value.to_string(), Origin::Flag(flag), faults);
    }
    layer
}

/// Puts a value, written as TOML writes values, at its key.
fn set(layer: &mut Layer, keys: Vec<String>, text: String, origin: Origin, faults: &mut Vec<Fault>) {
    let path = KeyPath::from(keys.clone());
    let mut fault = |message| {
        faults.push(Fault { place: Some(origin.to_string()), key: Some(path.to_string()), message });
    };
    if keys.iter().any(String::is_empty) {
        return fault("names no key: a part of it is empty".to_owned());
    }
    let Ok(parsed) = DeValue::parse(&text) else {
        return fault("is no value that TOML could write".to_owned());
    };
    let value = layer.convert(&path, &parsed, &|_| origin.clone());
    if let Err(contradiction) = layer.insert(&keys, value) {
        fault(format!("cannot be set: `{}` is set to a plain value as well", contradiction.plain));
    }
}

/// Whether a variable is one of the config's. `FUSEBOX_TOKEN`, and what Kubernetes sets for a service of our name (`FUSEBOX_PORT_…`), are not.
fn is_config(name: &str) -> bool {
    name.strip_prefix(PREFIX).is_some_and(|rest| rest.contains("__"))
}

/// A variable's value as TOML: arrays, inline tables and quoted strings as they are, everything else as a string. Numbers and
/// booleans are read from their text by the keys that want them, so that a password of digits stays a password.
fn written(text: &str) -> String {
    let is_toml = text.trim_start().starts_with(['[', '{', '"', '\'']) && DeValue::parse(text).is_ok();
    if is_toml { text.to_owned() } else { toml::Value::String(text.to_owned()).to_string() }
}

/// The key that a variable's name stands for.
fn keys_of(name: &str, services: &BTreeSet<String>) -> Vec<String> {
    let name = name.strip_prefix(PREFIX).unwrap_or(name).to_ascii_lowercase();
    let mut keys: Vec<String> = name.split("__").map(ToOwned::to_owned).collect();
    match keys.as_mut_slice() {
        [section, properties, name] if section == "kafka" && properties == "properties" => respell(name, "."),
        [section, service, rest @ ..] if section == "services" => {
            if let Some(known) = services.iter().find(|known| known.to_ascii_lowercase().replace('-', "_") == *service) {
                service.clone_from(known);
            }
            if let [headers, name] = rest
                && headers == "headers"
            {
                respell(name, "-");
            }
        }
        _ => {}
    }
    keys
}

/// Gives a name back the characters that a variable's name cannot have; `_file` at its end stays what it is.
fn respell(name: &mut String, separator: &str) {
    *name = match name.strip_suffix("_file") {
        Some(stem) => format!("{}_file", stem.replace('_', separator)),
        None => name.replace('_', separator),
    };
}

/// The services that a layer names.
pub(super) fn services(values: &Dict) -> impl Iterator<Item = String> + '_ {
    values.get("services").and_then(Value::as_dict).into_iter().flat_map(|services| services.keys().cloned())
}

/// A text's lines, to tell a position in it from an offset.
struct Lines<'s> {
    source: &'s str,
    starts: Vec<usize>,
}

impl<'s> Lines<'s> {
    fn of(source: &'s str) -> Self {
        let starts = std::iter::once(0).chain(source.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { source, starts }
    }

    /// Line and column of a byte, both from 1; the column counts characters.
    fn position(&self, offset: usize) -> (usize, usize) {
        let line = self.starts.partition_point(|start| *start <= offset).max(1);
        let start = self.starts[line - 1];
        let column = self.source.get(start..offset).map_or(1, |before| before.chars().count() + 1);
        (line, column)
    }
}
