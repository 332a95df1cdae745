//! What is left to CEL: a copy of the tree in which every path is a variable and every other name has been checked.

use cel::common::ast::{
    CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedEntryExpr, IdedExpr, ListExpr, MapEntryExpr, MapExpr, SelectExpr,
};

use super::super::CompileError;
use super::super::general::{ENV, General, MAX_LOOPS, has_function, presence, variable};
use super::super::path::PathId;
use super::Compiler;

/// How deep a tree CEL is given. Its interpreter takes up to 45 kB of stack for each level (in an unoptimised build), and the
/// worker that evaluates has 2 MiB.
const MAX_DEPTH: usize = 32;

/// Makes the part of an expression that CEL evaluates.
pub(super) fn rewrite(compiler: &mut Compiler<'_>, expr: &IdedExpr) -> Result<General, CompileError> {
    let mut rewrite = Rewrite { compiler, bound: Vec::new(), paths: Vec::new(), asked: Vec::new(), loops: 0, depth: 0 };
    let expression = rewrite.any(expr)?;
    let (mut paths, mut asked) = (rewrite.paths, rewrite.asked);
    paths.sort_unstable();
    paths.dedup();
    asked.sort_unstable();
    asked.dedup();
    Ok(General { expression, paths, asked })
}

struct Rewrite<'c, 's, 'x> {
    compiler: &'c mut Compiler<'s>,
    /// The names that the loops around bind.
    bound: Vec<&'x str>,
    paths: Vec<(PathId, usize)>,
    asked: Vec<PathId>,
    /// How many loops are around.
    loops: usize,
    depth: usize,
}

impl<'x> Rewrite<'_, '_, 'x> {
    fn any(&mut self, expr: &'x IdedExpr) -> Result<IdedExpr, CompileError> {
        if let Some(path) = self.compiler.path(expr, &self.bound) {
            self.paths.push((path, self.loops));
            return Ok(IdedExpr { id: expr.id, expr: Expr::Ident(variable(path)) });
        }
        if let Some(path) = self.compiler.presence(expr, &self.bound) {
            self.asked.push(path);
            return Ok(IdedExpr { id: expr.id, expr: Expr::Ident(presence(path)) });
        }
        if self.depth == MAX_DEPTH {
            let text = format!("what CEL computes here is nested or chained more than {MAX_DEPTH} deep");
            return Err(self.compiler.error(expr, text));
        }
        self.depth += 1;
        let rewritten = match &expr.expr {
            Expr::Literal(literal) => Expr::Literal(literal.clone()),
            Expr::Ident(name) => self.name(expr, name)?,
            Expr::Select(select) if is_type(expr) => Expr::Select(select.clone()),
            Expr::Select(select) => {
                Expr::Select(SelectExpr { operand: Box::new(self.any(&select.operand)?), field: select.field.clone(), test: select.test })
            }
            Expr::Call(call) => self.call(expr, call)?,
            Expr::List(list) => {
                let elements = self.all(&list.elements)?;
                Expr::List(ListExpr { elements, optional_indices: list.optional_indices.clone() })
            }
            Expr::Map(map) => self.map(map)?,
            Expr::Comprehension(comprehension) => self.comprehension(expr, comprehension)?,
            Expr::Struct(message) => {
                let text = format!("`{}` is a message; a map is written {{\"key\": value}}", message.type_name);
                return Err(self.compiler.error(expr, text));
            }
            Expr::Unspecified => return Err(self.compiler.error(expr, "this is not CEL".to_owned())),
        };
        self.depth -= 1;
        Ok(IdedExpr { id: expr.id, expr: rewritten })
    }

    fn all(&mut self, expressions: &'x [IdedExpr]) -> Result<Vec<IdedExpr>, CompileError> {
        expressions.iter().map(|expr| self.any(expr)).collect()
    }

    /// A name that is no variable: a loop's, a type's, or unknown. Those with an `@` are CEL's own.
    fn name(&self, expr: &IdedExpr, name: &str) -> Result<Expr, CompileError> {
        if self.bound.contains(&name) || name.starts_with('@') || is_type(expr) {
            return Ok(Expr::Ident(name.to_owned()));
        }
        let known = self.compiler.paths.roots().map(|root| format!("`{root}`")).collect::<Vec<_>>().join(", ");
        Err(self.compiler.error(expr, format!("`{name}` is not known; the variables here are {known}")))
    }

    fn call(&mut self, expr: &IdedExpr, call: &'x CallExpr) -> Result<Expr, CompileError> {
        let is_operator = !call.func_name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            || call.func_name.starts_with('_') && call.func_name.ends_with('_');
        let target = call.target.as_deref().map(|target| self.any(target)).transpose()?.map(Box::new);
        if !is_operator && !has_function(&call.func_name, target.is_some()) {
            return Err(self.compiler.error(expr, format!("there is no function `{}`", call.func_name)));
        }
        Ok(Expr::Call(CallExpr { func_name: call.func_name.clone(), target, args: self.all(&call.args)? }))
    }

    fn map(&mut self, map: &'x MapExpr) -> Result<Expr, CompileError> {
        let mut entries = Vec::with_capacity(map.entries.len());
        for entry in &map.entries {
            let rewritten = match &entry.expr {
                EntryExpr::MapEntry(member) => EntryExpr::MapEntry(MapEntryExpr {
                    key: self.any(&member.key)?,
                    value: self.any(&member.value)?,
                    optional: member.optional,
                }),
                EntryExpr::StructField(field) => return Err(self.compiler.error(&field.value, "this is no map's member".to_owned())),
            };
            entries.push(IdedEntryExpr { id: entry.id, expr: rewritten });
        }
        Ok(Expr::Map(MapExpr { entries }))
    }

    /// A loop. What it runs over is outside of it, the rest knows its names.
    fn comprehension(&mut self, expr: &IdedExpr, looped: &'x ComprehensionExpr) -> Result<Expr, CompileError> {
        if self.loops == MAX_LOOPS {
            return Err(self.compiler.error(expr, format!("loops are nested more than {MAX_LOOPS} deep")));
        }
        let iter_range = self.any(&looped.iter_range)?;
        let accu_init = self.any(&looped.accu_init)?;
        let outer = self.bound.len();
        self.bound.extend([looped.iter_var.as_str(), looped.accu_var.as_str()]);
        self.bound.extend(looped.iter_var2.as_deref());
        self.loops += 1;
        let loop_cond = self.any(&looped.loop_cond)?;
        let loop_step = self.any(&looped.loop_step)?;
        let result = self.any(&looped.result)?;
        self.loops -= 1;
        self.bound.truncate(outer);
        Ok(Expr::Comprehension(Box::new(ComprehensionExpr {
            iter_range,
            iter_var: looped.iter_var.clone(),
            iter_var2: looped.iter_var2.clone(),
            accu_var: looped.accu_var.clone(),
            accu_init,
            loop_cond,
            loop_step,
            result,
        })))
    }
}

/// Whether it names one of CEL's types (`int`, `google.protobuf.Duration`).
fn is_type(expr: &IdedExpr) -> bool {
    fn spell(expr: &IdedExpr) -> Option<String> {
        match &expr.expr {
            Expr::Ident(name) => Some(name.clone()),
            Expr::Select(select) if !select.test => spell(&select.operand).map(|name| format!("{name}.{}", select.field)),
            _ => None,
        }
    }
    spell(expr).is_some_and(|name| ENV.types().find_type(&name).is_some())
}
