//! Everything that the plan has no operator for, evaluated by CEL itself over the paths that it picks.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, LazyLock};

use cel::common::ast::{CallExpr, Expr, IdedExpr, LiteralValue};
use cel::common::types::CelBool;
use cel::common::value::Val;
use cel::{Context, Env, ExecutionError, Value};

use super::EvaluationError;
use super::json::{self, Kind};
use super::path::{PathId, Place, Places};

/// How deep loops may be nested.
pub(super) const MAX_LOOPS: usize = 2;

/// The most steps, roughly, that the loops of one evaluation take: what they run over times what each turn reads again. Their
/// work and their results grow with that product, and CEL cannot be interrupted. Two lists of 4 KiB of JSON are just within it.
pub(super) const MAX_STEPS: usize = 16 * 1024 * 1024;

/// The functions, macros and types that expressions know: CEL's own.
pub(super) static ENV: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib().with_optional_support(false)));

/// A part of an expression that CEL evaluates. Its paths are variables in it, named by [`variable`].
#[derive(Debug)]
pub(super) struct General {
    pub(super) expression: IdedExpr,
    /// Its paths, and in how many loops each is read.
    pub(super) paths: Vec<(PathId, usize)>,
    /// The paths of which it only asks whether they are there; its variables for these are named by [`presence`].
    pub(super) asked: Vec<PathId>,
}

/// The name that stands for a path: one that no source can spell.
pub(super) fn variable(path: PathId) -> String {
    format!("@{path}")
}

/// The name that stands for whether a path is there.
pub(super) fn presence(path: PathId) -> String {
    format!("@?{path}")
}

/// CEL's state in one evaluation: each path is read once, when a part that needs it is evaluated.
#[derive(Default)]
pub(super) struct Cel<'e>(RefCell<Option<Context<'e, 'e>>>);

impl<'e> Cel<'e> {
    pub(super) fn evaluate(&self, general: &'e General, places: &Places<'e>) -> Result<Box<dyn Val + 'e>, EvaluationError> {
        let mut context = self.0.borrow_mut();
        let context = context.get_or_insert_with(|| Context::with_env(Arc::clone(&ENV)));
        let mut steps = [0_usize; MAX_LOOPS + 1];
        for &(path, loops) in &general.paths {
            // A path that leads nowhere is no error yet: `||`, `? :` and their like may not ask for it.
            let Ok(place) = places.at(path) else { continue };
            steps[loops] += weight(place);
            let name = variable(path);
            if context.get_variable(&name).is_none() {
                context.add_variable_as_val(name, json::value(place)?);
            }
        }
        for &path in &general.asked {
            let Ok(there) = places.has(path) else { continue };
            context.add_variable_as_val(presence(path), Box::new(CelBool::from(there)));
        }
        let steps = steps.into_iter().fold(1_usize, |product, weight| product.saturating_mul(weight.max(1)));
        if steps > MAX_STEPS {
            return Err(EvaluationError(format!("the loops would take some {steps} steps over this event; at most {MAX_STEPS} are taken")));
        }
        // The interpreter is not ours: a panic in it must cost this event, not the lane it is in.
        let result =
            catch_unwind(AssertUnwindSafe(|| Value::resolve_val(&general.expression, context).map(cel::common::value::CowVal::into_owned)));
        match result {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(explain(&error, places)),
            Err(_) => Err(EvaluationError::new("the expression cannot be evaluated over these values")),
        }
    }
}

/// What reading a value once costs, in bytes of a container; a scalar is one step, a long text some.
fn weight(place: Place<'_>) -> usize {
    let text = |text: &str| 1 + text.len() / 64;
    match place {
        Place::Json(raw) => match Kind::of(raw) {
            Kind::Object | Kind::Array => raw.len(),
            Kind::Text | Kind::Number | Kind::Bool | Kind::Null => text(raw),
        },
        Place::Text(raw) => text(raw),
        Place::Members(members) => members.iter().map(|(name, data)| name.len() + data.len()).sum(),
        Place::Headers(headers) => headers.size(),
        Place::Int(_) | Place::Double(_) | Place::Duration(_) => 1,
    }
}

/// Why CEL has no result: a path that leads nowhere is an unknown variable to it.
fn explain(error: &ExecutionError, places: &Places<'_>) -> EvaluationError {
    let fault = match error {
        ExecutionError::UndeclaredReference(name) => match (name.strip_prefix("@?"), name.strip_prefix('@')) {
            (Some(asked), _) => asked.parse().ok().and_then(|path| places.has(path).err()),
            (None, Some(path)) => path.parse().ok().and_then(|path| places.at(path).err()),
            (None, None) => None,
        },
        _ => None,
    };
    fault.unwrap_or_else(|| EvaluationError(describe(error)))
}

/// CEL's error without the values that its own text shows.
pub(super) fn describe(error: &ExecutionError) -> String {
    match error {
        ExecutionError::UndeclaredReference(name) => format!("`{name}` is not known"),
        ExecutionError::NoSuchKey(key) => format!("no such key: `{}`", shortened(key)),
        ExecutionError::NoSuchOverload(overload) => overload.to_string(),
        ExecutionError::UnexpectedType { got, want } => format!("a {want} is expected, not a {got}"),
        ExecutionError::InvalidArgumentCount { expected, actual } => format!("{expected} arguments are expected, not {actual}"),
        ExecutionError::UnsupportedBinaryOperator(operator, left, right) => {
            format!("`{}` does not take {} and {}", sign(operator), left.type_of(), right.type_of())
        }
        ExecutionError::ValuesNotComparable(left, right) => format!("{} and {} cannot be compared", left.type_of(), right.type_of()),
        ExecutionError::UnsupportedIndex(index, container) => {
            format!("a {} cannot be indexed by a {}", container.type_of(), index.type_of())
        }
        ExecutionError::UnsupportedKeyType(key) => format!("a {} cannot be a map's key", key.type_of()),
        ExecutionError::FunctionError { function, .. } => format!("`{function}` does not take this value"),
        ExecutionError::DivisionByZero(_) => "division by zero".to_owned(),
        ExecutionError::RemainderByZero(_) => "remainder by zero".to_owned(),
        ExecutionError::Overflow(operator, ..) => format!("`{}` overflows", sign(operator)),
        ExecutionError::IndexOutOfBounds(_) => "index out of bounds".to_owned(),
        ExecutionError::DuplicateKey(_) => "a map has one key twice".to_owned(),
        _ => "the expression cannot be evaluated over these values".to_owned(),
    }
}

/// An operator as it is written.
fn sign(operator: &str) -> &str {
    match operator {
        "add" => "+",
        "sub" => "-",
        "mul" => "*",
        "div" => "/",
        "rem" => "%",
        other => other,
    }
}

/// The first 64 characters: a key may come from the event.
fn shortened(text: &str) -> &str {
    text.char_indices().nth(64).map_or(text, |(end, _)| &text[..end])
}

/// Whether CEL has a function of this name, called on its own or on a target.
pub(super) fn has_function(name: &str, on_target: bool) -> bool {
    // CEL does not list its functions, but it tells an unknown one from one that is called without its arguments.
    let target = on_target.then(|| Box::new(IdedExpr { id: 0, expr: Expr::Literal(LiteralValue::Null) }));
    let call = IdedExpr { id: 0, expr: Expr::Call(CallExpr { func_name: name.to_owned(), target, args: Vec::new() }) };
    let context = Context::with_env(Arc::clone(&ENV));
    !matches!(Value::resolve_val(&call, &context), Err(ExecutionError::UndeclaredReference(_)))
}
