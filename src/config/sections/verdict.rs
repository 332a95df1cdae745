//! `failure` and `ignore` of `[services.NAME.breaker]`: what a reply says of its service.

use serde_json::{Value as Json, json};

use super::pipeline::Expression;
use crate::config::reader::Section;
use crate::config::shape::{Problem, Shape};
use crate::config::tree::Written;
use crate::machine::expression::Condition;
use crate::machine::verdict::{Rules, compile};

/// What a `breaker` table says of verdicts.
pub(super) fn read(section: &Section<'_>) -> Option<Rules> {
    let failure = section.optional(
        "failure",
        OverReply,
        "A reply of which this is true is a failure of the service, any other is none. Unless given: by the class of the status.",
    );
    let ignore =
        section.optional("ignore", OverReply, "A reply of which this is true says nothing of the service; asked before `failure`.");
    Some(Rules { ignore: ignore?, failure: failure? })
}

/// An expression over a reply.
struct OverReply;

impl Shape for OverReply {
    type Value = Condition;
    fn expected(&self) -> String {
        Expression(compile).expected()
    }
    fn schema(&self) -> Json {
        json!({ "type": "string", "$comment": "CEL over `status`, `outcome`, `headers`, `body` and `duration`" })
    }
    fn read(&self, written: &Written<'_>) -> Result<Condition, Problem> {
        Expression(compile).read(written)
    }
}
