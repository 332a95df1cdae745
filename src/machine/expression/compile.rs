//! From source to plan.
//!
//! CEL parses; the tree is then walked once: names are checked, what the plan has an operator for becomes one, and the rest
//! is kept as CEL with its paths replaced by variables.

use cel::common::ast::{CallExpr, EntryExpr, Expr, IdedExpr, LiteralValue, MapExpr, SourceInfo, operators};

use super::general::ENV;
use super::json;
use super::path::{PathId, Paths, Segment};
use super::plan::{Comparison, Expression, Members, Output, Plan};
use super::{CompileError, MAX_SOURCE_BYTES};

mod depth;
mod rewrite;

/// Enough for [`depth::MAX_DEPTH`], at 130 kB each in an unoptimised build; only what is used is ever given to the process.
const PARSER_STACK_BYTES: usize = 64 * 1024 * 1024;

/// Compiles a condition over variables of these names.
pub(super) fn condition(source: &str, variables: &[&str]) -> Result<Plan<Expression>, CompileError> {
    compile(source, variables, true, |compiler, expr| compiler.expression(expr))
}

/// Compiles a template over variables of these names.
pub(super) fn template(source: &str, variables: &[&str]) -> Result<Plan<Output>, CompileError> {
    compile(source, variables, true, |compiler, expr| compiler.output(expr))
}

/// Compiles a template that is evaluated by CEL alone: what the plan must agree with.
#[cfg(test)]
pub(super) fn template_in_cel(source: &str, variables: &[&str]) -> Result<Plan<Output>, CompileError> {
    compile(source, variables, false, |compiler, expr| compiler.output(expr))
}

fn compile<T: Send>(
    source: &str,
    variables: &[&str],
    planned: bool,
    walk: fn(&mut Compiler<'_>, &IdedExpr) -> Result<T, CompileError>,
) -> Result<Plan<T>, CompileError> {
    let at_start = |message: String| CompileError { line: 1, column: 1, message };
    if source.trim().is_empty() {
        return Err(at_start("the expression is empty".to_owned()));
    }
    if source.len() > MAX_SOURCE_BYTES {
        return Err(at_start(format!("the expression has {} bytes; at most {MAX_SOURCE_BYTES} are compiled", source.len())));
    }
    if let Some(offset) = depth::too_deep(source) {
        let (line, column) = position(source, offset);
        let message = format!("the expression is nested or chained more than {} deep here", depth::MAX_DEPTH);
        return Err(CompileError { line, column, message });
    }
    // The parser recurses through some dozen frames for each bracket, more than a worker's stack has room for, and it is not
    // ours: on a thread of its own neither its depth nor a panic in it is more than a fault of the source.
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("expression".to_owned()).stack_size(PARSER_STACK_BYTES);
        let parsed = thread.spawn_scoped(scope, || parse(source, variables, planned, walk)).map(std::thread::ScopedJoinHandle::join);
        match parsed {
            Ok(Ok(plan)) => plan,
            Ok(Err(_)) => Err(at_start("the parser cannot read the expression".to_owned())),
            Err(error) => Err(at_start(format!("no thread to parse on: {error}"))),
        }
    })
}

fn parse<T>(
    source: &str,
    variables: &[&str],
    planned: bool,
    walk: fn(&mut Compiler<'_>, &IdedExpr) -> Result<T, CompileError>,
) -> Result<Plan<T>, CompileError> {
    let program = ENV.compile(source).map_err(|errors| syntax(&errors))?;
    let mut compiler = Compiler { source, info: program.source_info(), paths: Paths::new(variables), planned };
    let root = walk(&mut compiler, program.expression())?;
    Ok(Plan { paths: compiler.paths, root })
}

fn syntax(errors: &cel::ParseErrors) -> CompileError {
    let Some(first) = errors.errors.first() else {
        return CompileError { line: 1, column: 1, message: "it is not CEL".to_owned() };
    };
    let from_one = |at: isize| usize::try_from(at).unwrap_or(0).max(1);
    // The parser's own bound on brackets arrives as the debug text of an error in an error.
    let message = if first.msg.contains("OtherError(") { "the brackets are nested too deep here".to_owned() } else { first.msg.clone() };
    CompileError { line: from_one(first.pos.0), column: from_one(first.pos.1), message }
}

/// Line and column, from 1 and in characters, of the byte at this offset.
fn position(source: &str, offset: usize) -> (usize, usize) {
    let before = source.char_indices().take_while(|(at, _)| *at < offset).map(|(_, c)| c);
    before.fold((1, 1), |(line, column), c| if c == '\n' { (line + 1, 1) } else { (line, column + 1) })
}

struct Compiler<'s> {
    source: &'s str,
    info: &'s SourceInfo,
    paths: Paths,
    /// Whether the plan's operators are used at all.
    planned: bool,
}

impl Compiler<'_> {
    fn error(&self, at: &IdedExpr, message: String) -> CompileError {
        let offset = self.info.offset_for(at.id).map_or(0, |(start, _)| start as usize);
        let (line, column) = position(self.source, offset);
        CompileError { line, column, message }
    }

    /// What is written.
    fn output(&mut self, expr: &IdedExpr) -> Result<Output, CompileError> {
        if !self.planned {
            return Ok(Output::Value(self.general(expr)?));
        }
        match &expr.expr {
            Expr::Literal(LiteralValue::Bytes(_)) => {}
            Expr::Literal(literal) => {
                let mut text = Vec::new();
                let written = json::write(literal.to_val().as_ref(), &mut text);
                return written.map(|()| Output::Constant(text.into())).map_err(|error| self.error(expr, error.0));
            }
            Expr::List(list) => {
                let elements = list.elements.iter().map(|element| self.output(element));
                return elements.collect::<Result<_, _>>().map(Output::Array);
            }
            Expr::Map(map) => {
                if let Some(members) = self.members(map)? {
                    return Ok(Output::Object(members));
                }
            }
            Expr::Call(call) => {
                if let Some([condition, then, otherwise]) = operands(call, operators::CONDITIONAL) {
                    let condition = self.expression(condition)?;
                    return Ok(Output::Conditional(Box::new((condition, self.output(then)?, self.output(otherwise)?))));
                }
            }
            Expr::Comprehension(_) | Expr::Ident(_) | Expr::Select(_) | Expr::Struct(_) | Expr::Unspecified => {}
        }
        self.expression(expr).map(Output::Value)
    }

    /// A map's members, if each key is a string that is written there.
    fn members(&mut self, map: &MapExpr) -> Result<Option<Members>, CompileError> {
        let mut members: Members = Vec::with_capacity(map.entries.len());
        for entry in &map.entries {
            let EntryExpr::MapEntry(entry) = &entry.expr else { return Ok(None) };
            let Expr::Literal(LiteralValue::String(key)) = &entry.key.expr else { return Ok(None) };
            let mut name = Vec::new();
            json::write_text(key.inner(), &mut name);
            name.push(b':');
            if members.iter().any(|(there, _)| **there == *name) {
                return Err(self.error(&entry.key, format!("the key `{}` stands twice in one map", key.inner())));
            }
            members.push((name.into(), self.output(&entry.value)?));
        }
        Ok(Some(members))
    }

    /// What is computed.
    fn expression(&mut self, expr: &IdedExpr) -> Result<Expression, CompileError> {
        if !self.planned {
            return self.general(expr);
        }
        if let Some(path) = self.path(expr, &[]) {
            return Ok(Expression::Path(path));
        }
        if let Some(path) = self.presence(expr, &[]) {
            return Ok(Expression::Has(path));
        }
        match &expr.expr {
            Expr::Literal(literal) => return Ok(Expression::Literal(literal.clone())),
            Expr::Call(call) if call.func_name == "string" && call.target.is_none() && call.args.len() == 1 => {
                let of = self.expression(&call.args[0])?;
                return Ok(Expression::Text(Box::new((of, rewrite::rewrite(self, expr)?))));
            }
            Expr::Call(call) => {
                if let Some(expression) = self.call(call)? {
                    return Ok(expression);
                }
            }
            Expr::Comprehension(_)
            | Expr::Ident(_)
            | Expr::List(_)
            | Expr::Map(_)
            | Expr::Select(_)
            | Expr::Struct(_)
            | Expr::Unspecified => {}
        }
        self.general(expr)
    }

    /// A call, if the plan has its operator.
    fn call(&mut self, call: &CallExpr) -> Result<Option<Expression>, CompileError> {
        if call.func_name == "size" {
            let of = match (&call.target, call.args.as_slice()) {
                (None, [of]) => of,
                (Some(of), []) => of.as_ref(),
                (_, _) => return Ok(None),
            };
            return Ok(Some(Expression::Size(Box::new(self.expression(of)?))));
        }
        if let Some([condition, then, otherwise]) = operands(call, operators::CONDITIONAL) {
            let parts = [self.expression(condition)?, self.expression(then)?, self.expression(otherwise)?];
            return Ok(Some(Expression::Conditional(Box::new(parts))));
        }
        if let Some([of]) = operands(call, operators::LOGICAL_NOT) {
            return Ok(Some(Expression::Not(Box::new(self.expression(of)?))));
        }
        let binary: fn(Box<[Expression; 2]>) -> Expression = match call.func_name.as_str() {
            operators::LOGICAL_AND => Expression::And,
            operators::LOGICAL_OR => Expression::Or,
            operators::EQUALS => Expression::Equal,
            operators::NOT_EQUALS => Expression::NotEqual,
            operators::ADD => Expression::Add,
            operators::LESS => |sides| Expression::Compare(Comparison::Less, sides),
            operators::LESS_EQUALS => |sides| Expression::Compare(Comparison::LessEqual, sides),
            operators::GREATER => |sides| Expression::Compare(Comparison::Greater, sides),
            operators::GREATER_EQUALS => |sides| Expression::Compare(Comparison::GreaterEqual, sides),
            _ => return Ok(None),
        };
        let Some([left, right]) = operands(call, &call.func_name) else { return Ok(None) };
        Ok(Some(binary(Box::new([self.expression(left)?, self.expression(right)?]))))
    }

    /// The expression as a path, if it is one: a variable and steps that are written there. A name in `bound` is a loop's own.
    fn path(&mut self, expr: &IdedExpr, bound: &[&str]) -> Option<PathId> {
        match &expr.expr {
            Expr::Ident(name) => match name.strip_prefix('.') {
                Some(absolute) => self.paths.root(absolute),
                None if bound.contains(&name.as_str()) => None,
                None => self.paths.root(name),
            },
            Expr::Select(select) if !select.test && self.planned => {
                let parent = self.path(&select.operand, bound)?;
                Some(self.paths.child(parent, Segment::Key(select.field.as_str().into())))
            }
            Expr::Call(call) if self.planned => {
                let [of, index] = operands(call, operators::INDEX)?;
                let segment = match &index.expr {
                    Expr::Literal(LiteralValue::String(key)) => Segment::Key(key.inner().into()),
                    Expr::Literal(LiteralValue::Int(index)) => Segment::Index(*index.inner()),
                    _ => return None,
                };
                let parent = self.path(of, bound)?;
                Some(self.paths.child(parent, segment))
            }
            _ => None,
        }
    }

    /// The path of which the expression asks whether it is there, if that is all it does: `has(event.label)`.
    fn presence(&mut self, expr: &IdedExpr, bound: &[&str]) -> Option<PathId> {
        match &expr.expr {
            Expr::Select(select) if select.test && self.planned => {
                let parent = self.path(&select.operand, bound)?;
                Some(self.paths.child(parent, Segment::Key(select.field.as_str().into())))
            }
            _ => None,
        }
    }

    /// Leaves the expression to CEL.
    fn general(&mut self, expr: &IdedExpr) -> Result<Expression, CompileError> {
        rewrite::rewrite(self, expr).map(Expression::General)
    }
}

/// The operands of an operator's call, if it is that operator's and has as many.
fn operands<'a, const N: usize>(call: &'a CallExpr, operator: &str) -> Option<&'a [IdedExpr; N]> {
    if call.func_name == operator && call.target.is_none() { call.args.as_slice().try_into().ok() } else { None }
}
