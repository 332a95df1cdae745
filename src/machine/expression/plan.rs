//! The plan of an expression, and its evaluation.
//!
//! Its operators are those that decide what is copied; each says what CEL's says, errors included: `&&` and `||` take an error on
//! their left back when their right side decides, `? :` evaluates one branch only.

use std::cmp::Ordering;

use bytes::Bytes;
use cel::common::ast::LiteralValue;

use super::general::{Cel, General};
use super::operand::{Operand, write_place};
use super::path::{PathId, Paths, Places};
use super::{EvaluationError, Root};

/// A compiled expression.
pub(super) struct Plan<T> {
    pub(super) paths: Paths,
    pub(super) root: T,
}

/// What is written as JSON.
#[derive(Debug)]
pub(super) enum Output {
    /// The same for every event.
    Constant(Box<[u8]>),
    Object(Members),
    Array(Vec<Output>),
    Conditional(Box<(Expression, Output, Output)>),
    Value(Expression),
}

/// Members in the order of the source; each name is JSON with the colon behind it.
pub(super) type Members = Vec<(Box<[u8]>, Output)>;

/// What is computed.
#[derive(Debug)]
pub(super) enum Expression {
    Literal(LiteralValue),
    Path(PathId),
    Has(PathId),
    Size(Box<Expression>),
    /// `string()`: of a string it is that string; all else is left to CEL.
    Text(Box<(Expression, General)>),
    Not(Box<Expression>),
    And(Box<[Expression; 2]>),
    Or(Box<[Expression; 2]>),
    Equal(Box<[Expression; 2]>),
    NotEqual(Box<[Expression; 2]>),
    Compare(Comparison, Box<[Expression; 2]>),
    Add(Box<[Expression; 2]>),
    Conditional(Box<[Expression; 3]>),
    /// Everything else.
    General(General),
}

/// An order that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
}

impl Comparison {
    fn as_str(self) -> &'static str {
        match self {
            Self::Less => "<",
            Self::LessEqual => "<=",
            Self::Greater => ">",
            Self::GreaterEqual => ">=",
        }
    }

    fn allows(self, order: Ordering) -> bool {
        match self {
            Self::Less => order.is_lt(),
            Self::LessEqual => order.is_le(),
            Self::Greater => order.is_gt(),
            Self::GreaterEqual => order.is_ge(),
        }
    }
}

impl Plan<Expression> {
    /// The condition itself, if it is one word.
    pub(super) fn constant(&self) -> Option<bool> {
        match &self.root {
            Expression::Literal(LiteralValue::Boolean(bool)) => Some(*bool.inner()),
            _ => None,
        }
    }

    /// Whether the condition holds.
    pub(super) fn holds(&self, roots: &[Root<'_>]) -> Result<bool, EvaluationError> {
        Evaluation::new(&self.paths, roots).truth(&self.root)
    }
}

impl Plan<Output> {
    /// The JSON that the template makes.
    pub(super) fn render(&self, roots: &[Root<'_>]) -> Result<Bytes, EvaluationError> {
        // Most templates copy the event or a part of it: room for its whole spares growing step by step.
        let event = match roots.first() {
            Some(Root::Json(bytes)) => bytes.len(),
            Some(Root::Document(document)) => document.text().map_or(0, str::len),
            Some(Root::Members(_) | Root::Headers(_) | Root::Text(_) | Root::Int(_) | Root::Double(_) | Root::Duration(_)) | None => 0,
        };
        let mut out = Vec::with_capacity(event + 256);
        Evaluation::new(&self.paths, roots).write(&self.root, &mut out)?;
        Ok(out.into())
    }
}

/// One evaluation: what has been found of the event so far.
struct Evaluation<'e> {
    places: Places<'e>,
    cel: Cel<'e>,
}

impl<'e> Evaluation<'e> {
    fn new(paths: &'e Paths, roots: &'e [Root<'e>]) -> Self {
        Self { places: Places::new(paths, roots), cel: Cel::default() }
    }

    fn write(&self, output: &'e Output, out: &mut Vec<u8>) -> Result<(), EvaluationError> {
        match output {
            Output::Constant(json) => out.extend_from_slice(json),
            Output::Object(members) => {
                out.push(b'{');
                for (index, (name, value)) in members.iter().enumerate() {
                    if index > 0 {
                        out.push(b',');
                    }
                    out.extend_from_slice(name);
                    self.write(value, out)?;
                }
                out.push(b'}');
            }
            Output::Array(elements) => {
                out.push(b'[');
                for (index, element) in elements.iter().enumerate() {
                    if index > 0 {
                        out.push(b',');
                    }
                    self.write(element, out)?;
                }
                out.push(b']');
            }
            Output::Conditional(parts) => {
                let (condition, then, otherwise) = parts.as_ref();
                self.write(if self.truth(condition)? { then } else { otherwise }, out)?;
            }
            Output::Value(Expression::Path(path)) => write_place(self.places.at(*path)?, out)?,
            Output::Value(expression) => self.value(expression)?.write(out)?,
        }
        Ok(())
    }

    fn value(&self, expression: &'e Expression) -> Result<Operand<'e>, EvaluationError> {
        Ok(match expression {
            Expression::Literal(literal) => Operand::Literal(literal),
            Expression::Path(path) => Operand::at(self.places.at(*path)?)?,
            Expression::Has(path) => Operand::bool(self.places.has(*path)?),
            Expression::Size(of) => self.value(of)?.size()?,
            Expression::Text(of) => match self.value(&of.0) {
                Ok(text @ Operand::Text(_)) => text,
                Ok(_) | Err(_) => Operand::Computed(self.cel.evaluate(&of.1, &self.places)?),
            },
            Expression::Not(of) => Operand::bool(!self.truth(of)?),
            Expression::And(sides) => Operand::bool(self.decide(sides, "&&", false)?),
            Expression::Or(sides) => Operand::bool(self.decide(sides, "||", true)?),
            Expression::Equal(sides) => Operand::bool(self.value(&sides[0])?.equals(self.value(&sides[1])?)?),
            Expression::NotEqual(sides) => Operand::bool(!self.value(&sides[0])?.equals(self.value(&sides[1])?)?),
            Expression::Compare(comparison, sides) => {
                let (left, right) = (self.value(&sides[0])?, self.value(&sides[1])?);
                Operand::bool(comparison.allows(left.compare(comparison.as_str(), &right)?))
            }
            Expression::Add(sides) => self.value(&sides[0])?.add(self.value(&sides[1])?)?,
            Expression::Conditional(parts) => self.value(if self.truth(&parts[0])? { &parts[1] } else { &parts[2] })?,
            Expression::General(general) => Operand::Computed(self.cel.evaluate(general, &self.places)?),
        })
    }

    fn truth(&self, expression: &'e Expression) -> Result<bool, EvaluationError> {
        let value = self.value(expression)?;
        value.truth().ok_or_else(|| EvaluationError(format!("a bool is expected, not a {}", value.type_name())))
    }

    /// `&&` and `||`: `deciding` is the value that decides alone, whatever is wrong with the other side.
    fn decide(&self, sides: &'e [Expression; 2], operator: &str, deciding: bool) -> Result<bool, EvaluationError> {
        let left = self.truth(&sides[0]);
        if left == Ok(deciding) {
            return Ok(deciding);
        }
        let right = self.value(&sides[1])?;
        match (left, right.truth()) {
            (Ok(_), Some(right)) => Ok(right),
            (Err(_), Some(right)) if right == deciding => Ok(deciding),
            (Err(error), _) => Err(error),
            (Ok(_), None) => Err(EvaluationError(format!("`{operator}` takes a bool, not a {}", right.type_name()))),
        }
    }
}
