//! The layers merged: tables key by key, everything else replaced by the later layer; each value remembers the layer it came from.

use figment::Figment;
use figment::value::{Dict, Tag, Value};

use super::faults::Origin;
use super::layer::Layer;
use super::path::KeyPath;

/// Merged layers.
pub(super) struct Tree {
    figment: Figment,
    layers: Vec<Layer>,
    root: Dict,
}

/// A value as it was written.
#[derive(Debug, Clone)]
pub(super) struct Written<'v> {
    /// The value.
    pub(super) value: &'v Value,
    /// Where it was written.
    pub(super) origin: Origin,
    /// The number of its layer; a higher one wins over a lower.
    pub(super) layer: usize,
}

impl Tree {
    /// Merges layers, later over earlier.
    pub(super) fn merge(mut layers: Vec<Layer>) -> Self {
        let mut figment = Figment::new();
        for (number, layer) in layers.iter_mut().enumerate() {
            layer.number = number;
            figment = figment.merge(&*layer);
        }
        let root = figment.find_value("").ok().and_then(Value::into_dict).unwrap_or_default();
        Self { figment, layers, root }
    }

    /// What is at the top.
    pub(super) fn root(&self) -> &Dict {
        &self.root
    }

    /// A value of this tree with where it was written.
    pub(super) fn written<'v>(&self, path: &KeyPath, value: &'v Value) -> Written<'v> {
        let layer = self.layer_of(value.tag());
        Written { value, origin: self.origin(path, layer), layer }
    }

    /// The layer that a tag marks.
    fn layer_of(&self, tag: Tag) -> usize {
        match self.figment.get_metadata(tag).and_then(|metadata| metadata.source.as_ref()) {
            Some(figment::Source::Custom(number)) => number.parse().unwrap_or(0),
            Some(_) | None => 0,
        }
    }

    /// Where a layer's value at a path was written, or else the nearest table around it.
    fn origin(&self, path: &KeyPath, layer: usize) -> Origin {
        let Some(layer) = self.layers.get(layer) else { return Origin::Default };
        let mut here = Some(path.clone());
        while let Some(path) = here {
            if let Some(origin) = layer.places.get(&path) {
                return origin.clone();
            }
            here = path.parent();
        }
        Origin::Default
    }
}

impl Written<'_> {
    /// Its text, if it is a string.
    pub(super) fn text(&self) -> Option<&str> {
        self.value.as_str()
    }

    /// Its whole number.
    pub(super) fn integer(&self) -> Option<i128> {
        match self.value {
            Value::Num(_, number) => number.to_i128().or_else(|| number.to_u128().and_then(|number| i128::try_from(number).ok())),
            Value::String(_, text) if self.is_bare() => text.trim().parse().ok(),
            _ => None,
        }
    }

    /// Its number.
    pub(super) fn number(&self) -> Option<f64> {
        match self.value {
            Value::Num(_, number) =>
            {
                #[expect(clippy::cast_precision_loss, reason = "a number this large is out of every range anyway")]
                number.to_f64().or_else(|| self.integer().map(|integer| integer as f64))
            }
            Value::String(_, text) if self.is_bare() => text.trim().parse().ok(),
            _ => None,
        }
    }

    /// Its yes or no.
    pub(super) fn boolean(&self) -> Option<bool> {
        match self.value {
            Value::Bool(_, boolean) => Some(*boolean),
            Value::String(_, text) if self.is_bare() => text.trim().parse().ok(),
            _ => None,
        }
    }

    /// A scalar's text, whatever its type: librdkafka takes its properties as text, but people write `6000` and `true`.
    pub(super) fn scalar(&self) -> Option<String> {
        match self.value {
            Value::String(_, text) => Some(text.clone()),
            Value::Bool(_, boolean) => Some(boolean.to_string()),
            Value::Num(..) => self.integer().map(|n| n.to_string()).or_else(|| self.number().map(|n| n.to_string())),
            Value::Char(..) | Value::Empty(..) | Value::Dict(..) | Value::Array(..) => None,
        }
    }

    /// What it is, for people.
    pub(super) fn kind(&self) -> &'static str {
        match self.value {
            Value::String(..) | Value::Char(..) => "a string",
            Value::Bool(..) => "a boolean",
            Value::Num(..) if self.integer().is_some() => "an integer",
            Value::Num(..) => "a number",
            Value::Empty(..) => "nothing",
            Value::Dict(..) => "a table",
            Value::Array(..) => "an array",
        }
    }

    /// Whether its source writes numbers and booleans as bare text.
    fn is_bare(&self) -> bool {
        matches!(self.origin, Origin::Variable(_))
    }
}

/// A value as JSON.
pub(super) fn json(value: &Value) -> serde_json::Value {
    match value {
        Value::String(_, text) => text.as_str().into(),
        Value::Char(_, character) => character.to_string().into(),
        Value::Bool(_, boolean) => (*boolean).into(),
        Value::Num(_, number) => {
            let integer = number.to_i128().and_then(|integer| i64::try_from(integer).ok()).map(serde_json::Value::from);
            integer.unwrap_or_else(|| number.to_f64().into())
        }
        Value::Empty(..) => serde_json::Value::Null,
        Value::Dict(_, dict) => dict.iter().map(|(key, value)| (key.clone(), json(value))).collect::<serde_json::Map<_, _>>().into(),
        Value::Array(_, array) => array.iter().map(json).collect::<Vec<_>>().into(),
    }
}
