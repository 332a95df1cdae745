//! One layer of config, whatever it came from: values, and where each was written.
//!
//! Two kinds of table are made ready for merging here, so that every layer writes them alike:
//! - `kafka.properties`: librdkafka's names have dots, which TOML reads as nested tables unless quoted. Nested ones are
//!   joined, so that `sasl.password = …` and `"sasl.password" = …` are one key.
//! - a fallback's body is one value, not a table of settings: put into an array of one, it is replaced whole as arrays are,
//!   and what an earlier layer's body held does not show through.

use std::collections::BTreeMap;

use figment::value::{Dict, Map, Num, Tag, Value};
use figment::{Metadata, Profile, Provider};
use toml::Spanned;
use toml::de::DeValue;

use super::faults::Origin;
use super::path::{KeyPath, Step};

/// A layer.
#[derive(Debug, Clone, Default)]
pub(super) struct Layer {
    /// What it sets.
    pub(super) values: Dict,
    /// Where: of each value at least its nearest ancestor is here; what is not is a default.
    pub(super) places: BTreeMap<KeyPath, Origin>,
    /// Its number among the layers, from 0; a later one wins.
    pub(super) number: usize,
}

/// A value that cannot be put where a plain value stands already.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Contradiction {
    /// The plain value's key.
    pub(super) plain: KeyPath,
}

impl Layer {
    /// Takes over a TOML value that stands at `path`, noting for everything in it where it was written.
    pub(super) fn convert(&mut self, path: &KeyPath, value: &Spanned<DeValue<'_>>, origin: &dyn Fn(usize) -> Origin) -> Value {
        self.places.entry(path.clone()).or_insert_with(|| origin(value.span().start));
        let converted = match value.get_ref() {
            DeValue::String(text) => Value::from(text.as_ref()),
            DeValue::Integer(integer) => integer_value(integer.as_str(), integer.radix()),
            DeValue::Float(float) => Value::from(float.as_str().parse().unwrap_or(f64::NAN)),
            DeValue::Boolean(boolean) => Value::from(*boolean),
            DeValue::Datetime(datetime) => Value::from(datetime.to_string()),
            DeValue::Array(array) => Value::Array(
                Tag::Default,
                array.iter().enumerate().map(|(index, value)| self.convert(&path.then(Step::Index(index)), value, origin)).collect(),
            ),
            DeValue::Table(table) if is_properties(path) => {
                let mut joined = Dict::new();
                self.join(path, "", table, origin, &mut joined);
                Value::from(joined)
            }
            DeValue::Table(table) => Value::from(
                table
                    .iter()
                    .map(|(key, value)| {
                        let path = path.key(key.get_ref());
                        self.places.insert(path.clone(), origin(key.span().start));
                        (key.get_ref().to_string(), self.convert(&path, value, origin))
                    })
                    .collect::<Dict>(),
            ),
        };
        if is_whole(path) { Value::Array(Tag::Default, vec![converted]) } else { converted }
    }

    /// Puts a value at a path, making the tables on the way.
    pub(super) fn insert(&mut self, keys: &[String], value: Value) -> Result<(), Contradiction> {
        let Some((last, tables)) = keys.split_last() else { return Ok(()) };
        let mut here = &mut self.values;
        let mut path = KeyPath::default();
        for key in tables {
            path = path.key(key);
            let next = here.entry(key.clone()).or_insert_with(|| Value::from(Dict::new()));
            let Value::Dict(_, table) = next else { return Err(Contradiction { plain: path }) };
            here = table;
        }
        here.insert(last.clone(), value);
        Ok(())
    }

    fn join(&mut self, path: &KeyPath, prefix: &str, table: &toml::de::DeTable<'_>, origin: &dyn Fn(usize) -> Origin, joined: &mut Dict) {
        for (key, value) in table {
            let name = format!("{prefix}{}", key.get_ref());
            if let DeValue::Table(inner) = value.get_ref() {
                self.join(path, &format!("{name}."), inner, origin, joined);
            } else {
                let path = path.key(&name);
                self.places.insert(path.clone(), origin(key.span().start));
                let value = self.convert(&path, value, origin);
                joined.insert(name, value);
            }
        }
    }
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::from("layer", figment::Source::Custom(self.number.to_string()))
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Profile::Default.collect(self.values.clone()))
    }
}

/// Whether a path is that of librdkafka's properties.
pub(super) fn is_properties(path: &KeyPath) -> bool {
    path.is(&["kafka", "properties"])
}

/// Whether a path's table is one value.
fn is_whole(path: &KeyPath) -> bool {
    path.is(&["services", "*", "fallback", "body"]) || path.is(&["services", "*", "fallback", "default"])
}

/// An integer; one that no 128 bits hold is no number that any key takes.
fn integer_value(digits: &str, radix: u32) -> Value {
    match i128::from_str_radix(digits, radix) {
        Ok(integer) => i64::try_from(integer).map_or_else(|_| Value::Num(Tag::Default, Num::I128(integer)), Value::from),
        Err(_) => Value::from(f64::INFINITY),
    }
}
