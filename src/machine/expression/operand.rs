//! What an operator of the plan works on: a scalar in hand, or a map or list that is only read where it must be.
//!
//! Comparing is CEL's own (its `equals` and its order), so that the plan and CEL cannot disagree about `1 == 1.0`.

use std::cmp::Ordering;
use std::fmt;

use cel::common::ast::LiteralValue;
use cel::common::types::{CelBool, CelDouble, CelDuration, CelInt, CelNull, CelString, CelUInt};
use cel::common::value::{CowVal, Val};
use serde::de::{DeserializeSeed, Deserializer, Visitor};

use super::json::{self, Kind};
use super::path::Place;
use super::{EvaluationError, general};
use crate::event::json::write_members;

/// A value in hand.
#[derive(Debug)]
pub(super) enum Operand<'e> {
    Null,
    Bool(CelBool),
    Int(CelInt),
    UInt(CelUInt),
    Double(CelDouble),
    Duration(CelDuration),
    Text(CelString<'e>),
    Literal(&'e LiteralValue),
    /// A map or a list that has not been read.
    Unread(Place<'e>),
    /// What CEL has computed.
    Computed(Box<dyn Val + 'e>),
}

static NULL: CelNull = CelNull;

impl<'e> Operand<'e> {
    /// What lies at a path.
    pub(super) fn at(place: Place<'e>) -> Result<Self, EvaluationError> {
        Ok(match place {
            Place::Json(raw) => match Kind::of(raw) {
                Kind::Object | Kind::Array => Self::Unread(place),
                Kind::Null => Self::Null,
                Kind::Bool => Self::Bool(CelBool::from(raw.starts_with('t'))),
                Kind::Text => Self::Text(json::read(raw, json::Name)?),
                Kind::Number => json::read(raw, Number)?,
            },
            Place::Text(text) => Self::Text(CelString::from(text)),
            Place::Int(int) => Self::Int(CelInt::from(int)),
            Place::Double(double) => Self::Double(CelDouble::from(double)),
            Place::Duration(duration) => Self::Duration(json::cel_duration(duration)),
            Place::Members(_) | Place::Headers(_) => Self::Unread(place),
        })
    }

    pub(super) fn bool(bool: bool) -> Self {
        Self::Bool(CelBool::from(bool))
    }

    /// It as a CEL value; `None` for a map or list that has not been read.
    fn val(&self) -> Option<CowVal<'_, 'e>> {
        Some(match self {
            Self::Null => CowVal::Borrowed(&NULL),
            Self::Bool(bool) => CowVal::Borrowed(bool),
            Self::Int(int) => CowVal::Borrowed(int),
            Self::UInt(uint) => CowVal::Borrowed(uint),
            Self::Double(double) => CowVal::Borrowed(double),
            Self::Duration(duration) => CowVal::Borrowed(duration),
            Self::Text(text) => CowVal::Borrowed(text),
            Self::Literal(literal) => literal.to_val(),
            Self::Computed(value) => CowVal::Borrowed(value.as_ref()),
            Self::Unread(_) => return None,
        })
    }

    fn is_container(&self) -> bool {
        match self {
            Self::Unread(_) => true,
            Self::Computed(value) => value.as_iterable().is_some(),
            Self::Null
            | Self::Bool(_)
            | Self::Int(_)
            | Self::UInt(_)
            | Self::Double(_)
            | Self::Duration(_)
            | Self::Text(_)
            | Self::Literal(_) => false,
        }
    }

    /// A map or list is read, anything else stays as it is.
    fn read(self) -> Result<Self, EvaluationError> {
        match self {
            Self::Unread(place) => Ok(Self::Computed(json::value(place)?)),
            other => Ok(other),
        }
    }

    /// CEL's name of its type.
    pub(super) fn type_name(&self) -> String {
        match (self, self.val()) {
            (Self::Unread(place), _) => place.type_name().to_owned(),
            (_, Some(value)) => value.get_type().name().to_owned(),
            (_, None) => "value".to_owned(),
        }
    }

    /// It as a `bool`, if it is one.
    pub(super) fn truth(&self) -> Option<bool> {
        self.val()?.downcast_ref::<CelBool>().map(|bool| *bool.inner())
    }

    /// `==`: never an error; values of different types differ, numbers are compared as numbers.
    pub(super) fn equals(self, other: Self) -> Result<bool, EvaluationError> {
        if self.is_container() != other.is_container() {
            return Ok(false);
        }
        let (left, right) = (self.read()?, other.read()?);
        Ok(match (left.val(), right.val()) {
            (Some(left), Some(right)) => left.equals(right.as_ref()),
            (_, _) => false,
        })
    }

    /// `<` and its kin.
    pub(super) fn compare(&self, operator: &str, other: &Self) -> Result<Ordering, EvaluationError> {
        let order = match (self.val(), other.val()) {
            (Some(left), Some(right)) => left.as_comparer().and_then(|left| left.compare(right.as_ref()).ok()),
            (_, _) => None,
        };
        order.ok_or_else(|| EvaluationError(format!("`{operator}` cannot compare {} with {}", self.type_name(), other.type_name())))
    }

    /// `+`: the sum of numbers of one type, texts or lists one behind the other.
    pub(super) fn add(self, other: Self) -> Result<Self, EvaluationError> {
        let (left, right) = (self.read()?, other.read()?);
        let sum = match (left.val(), right.val()) {
            (Some(a), Some(b)) => a.as_adder().map(|a| a.add(b.as_ref()).map(CowVal::into_owned)),
            (_, _) => None,
        };
        match sum {
            Some(Ok(sum)) => Ok(Self::Computed(sum)),
            Some(Err(error)) => Err(EvaluationError(general::describe(&error))),
            None => Err(EvaluationError(format!("`+` does not take {} and {}", left.type_name(), right.type_name()))),
        }
    }

    /// `size()`: characters of a string, bytes of bytes, elements of a list, keys of a map.
    pub(super) fn size(self) -> Result<Self, EvaluationError> {
        let none = |operand: &Self| EvaluationError(format!("a {} has no size()", operand.type_name()));
        let counted = match &self {
            Self::Unread(Place::Json(raw)) => json::size(raw)?,
            Self::Unread(Place::Members(members)) => members.len(),
            Self::Unread(place) => return Self::Computed(json::value(*place)?).size(),
            other => {
                let size = other.val().and_then(|value| value.as_sizer().map(cel::common::traits::Sizer::size));
                return size.map(Self::Int).ok_or_else(|| none(other));
            }
        };
        Ok(Self::Int(CelInt::from(i64::try_from(counted).unwrap_or(i64::MAX))))
    }

    /// Writes it as JSON.
    pub(super) fn write(&self, out: &mut Vec<u8>) -> Result<(), EvaluationError> {
        match (self, self.val()) {
            (_, Some(value)) => json::write(value.as_ref(), out),
            (Self::Unread(place), _) => write_place(*place, out),
            (_, None) => Ok(()),
        }
    }
}

/// Writes what lies at a path: JSON as it stands there.
pub(super) fn write_place(place: Place<'_>, out: &mut Vec<u8>) -> Result<(), EvaluationError> {
    match place {
        Place::Json(raw) => out.extend_from_slice(raw.as_bytes()),
        Place::Text(text) => json::write_text(text, out),
        Place::Members(members) => write_members(out, members),
        Place::Headers(_) | Place::Int(_) | Place::Double(_) | Place::Duration(_) => json::write(json::value(place)?.as_ref(), out)?,
    }
    Ok(())
}

/// Reads a JSON number.
struct Number;

impl<'e> DeserializeSeed<'e> for Number {
    type Value = Operand<'e>;

    fn deserialize<D: Deserializer<'e>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'e> Visitor<'e> for Number {
    type Value = Operand<'e>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number")
    }

    fn visit_i64<E>(self, int: i64) -> Result<Self::Value, E> {
        Ok(Operand::Int(CelInt::from(int)))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Self::Value, E> {
        Ok(i64::try_from(number).map_or_else(|_| Operand::UInt(CelUInt::from(number)), |int| Operand::Int(CelInt::from(int))))
    }

    fn visit_f64<E>(self, double: f64) -> Result<Self::Value, E> {
        Ok(Operand::Double(CelDouble::from(double)))
    }
}
