//! CEL expressions over an event, the results of earlier stages, and the record's headers.
//!
//! An expression is compiled once, into a plan of its own: what only picks members out of JSON copies their bytes as they are
//! written, without building a tree; what computes is evaluated as CEL over the picked members alone. Both say the same.
//! Numbers that are only copied keep their spelling, however long; numbers that are computed with are `int` where they fit in
//! 64 bits with a sign, `uint` where they fit without, else `double`. An object that an expression writes keeps the order of its
//! keys; one that CEL computes is sorted by key. A loop over a map takes its
//! keys in no order, as CEL says.
//!
//! What is bounded: the source's length and depth, at compile time; the work, by the event's size, where each turn of a loop (`map`,
//! `filter`, `all`, `exists`) looks at its own element. Where it reads lists of the event again the work is a product: loops are
//! nested at most twice, and an evaluation that would take too many steps is refused before it begins. Errors name keys and
//! types, never the values of an event.
//!
//! The module leaves to others what a refused expression means: at start the config is wrong, over an event the stage fails.

mod compile;
mod document;
mod general;
mod json;
mod operand;
mod path;
mod plan;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::event::Headers;
pub use document::Document;
use plan::{Expression, Output, Plan};

/// The names a pipeline's expressions know, in the order of [`Scope`]'s roots.
const PIPELINE: &[&str] = &["event", "results", "headers"];

/// The longest source that is compiled, bytes.
pub const MAX_SOURCE_BYTES: usize = 64 * 1024;

/// An expression that says yes or no (`when`). Cloning shares the plan.
#[derive(Clone)]
pub struct Condition {
    source: Arc<str>,
    plan: Arc<Plan<Expression>>,
}

/// An expression that makes a JSON value (`body`, a cache's key). Cloning shares the plan.
#[derive(Clone)]
pub struct Template {
    source: Arc<str>,
    plan: Arc<Plan<Output>>,
}

/// What an expression is evaluated over.
#[derive(Debug)]
pub struct Scope<'a> {
    /// `event`: a JSON object.
    pub event: &'a Document<'a>,
    /// `results.<service>`: the data of the stages that ran, by service.
    pub results: &'a [(&'a str, Bytes)],
    /// `headers`: the record's headers, those that are UTF-8.
    pub headers: &'a Headers,
}

impl<'a> Scope<'a> {
    fn roots(&self) -> [Root<'a>; 3] {
        [Root::Document(self.event), Root::Members(self.results), Root::Headers(self.headers)]
    }
}

/// What one of an expression's variables stands for.
#[derive(Debug, Clone, Copy)]
pub enum Root<'a> {
    /// JSON text.
    Json(&'a [u8]),
    /// JSON text that several expressions read.
    Document(&'a Document<'a>),
    /// A map whose values are JSON texts.
    Members(&'a [(&'a str, Bytes)]),
    /// A map from a header's name to its last value, where that is UTF-8.
    Headers(&'a Headers),
    /// An `int`.
    Int(i64),
    /// A `string`.
    Text(&'a str),
    /// A `double`.
    Double(f64),
    /// A `duration`; one that is longer than CEL's longest, 292 years, is that.
    Duration(Duration),
}

/// An expression that cannot be compiled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {message}")]
pub struct CompileError {
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// What is wrong, and what was expected.
    pub message: String,
}

/// An expression that cannot be evaluated over this event. The text names keys and types, not values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct EvaluationError(pub String);

impl EvaluationError {
    fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl Condition {
    /// Compiles a pipeline's condition, over `event`, `results` and `headers`.
    ///
    /// # Errors
    /// The source is not CEL, too long or too deep, or names something unknown.
    pub fn compile(source: &str) -> Result<Self, CompileError> {
        Self::compile_over(source, PIPELINE)
    }

    /// Compiles a condition over variables of these names.
    ///
    /// # Errors
    /// As [`Condition::compile`].
    pub fn compile_over(source: &str, variables: &[&str]) -> Result<Self, CompileError> {
        Ok(Self { source: source.into(), plan: Arc::new(compile::condition(source, variables)?) })
    }

    /// What it says of every event, if that is written there: `true` or `false`.
    pub fn constant(&self) -> Option<bool> {
        self.plan.constant()
    }

    /// Whether its source names the variable of this name: what it does not read need not be made.
    pub fn reads(&self, variable: &str) -> bool {
        self.plan.paths.reads(variable)
    }

    /// Whether it holds.
    ///
    /// # Errors
    /// A member is missing, a value has a type that an operator does not take, or the result is no `bool`.
    pub fn holds(&self, scope: &Scope<'_>) -> Result<bool, EvaluationError> {
        self.holds_over(&scope.roots())
    }

    /// Whether it holds over variables, one for each name it was compiled with and in that order.
    ///
    /// # Errors
    /// As [`Condition::holds`]; a variable that is not given is missing.
    pub fn holds_over(&self, variables: &[Root<'_>]) -> Result<bool, EvaluationError> {
        self.plan.holds(variables)
    }

    /// The source it was compiled from.
    pub fn source(&self) -> &str {
        &self.source
    }
}

impl Template {
    /// Compiles a pipeline's template, over `event`, `results` and `headers`.
    ///
    /// # Errors
    /// The source is not CEL, too long or too deep, or names something unknown.
    pub fn compile(source: &str) -> Result<Self, CompileError> {
        Ok(Self { source: source.into(), plan: Arc::new(compile::template(source, PIPELINE)?) })
    }

    /// The JSON it makes.
    ///
    /// # Errors
    /// A member is missing, a value has a type that an operator does not take, or the result has no JSON (a type, NaN).
    pub fn render(&self, scope: &Scope<'_>) -> Result<Bytes, EvaluationError> {
        self.plan.render(&scope.roots())
    }

    /// The source it was compiled from.
    pub fn source(&self) -> &str {
        &self.source
    }
}

impl fmt::Debug for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Condition").field(&self.source).finish()
    }
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Template").field(&self.source).finish()
    }
}

#[cfg(test)]
mod tests;
