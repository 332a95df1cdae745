//! `failure` and `ignore` of `[services.NAME.breaker]`: what a reply says of its service. `done_if`, `reject_if` and `retry_if` of
//! `[services.NAME]`: what becomes of its call.

use serde_json::{Value as Json, json};

use super::pipeline::Expression;
use crate::config::reader::Section;
use crate::config::shape::{Problem, Shape};
use crate::config::tree::Written;
use crate::machine::expression::Condition;
use crate::machine::verdict::{Rules, compile};

/// What a `breaker` table says of the service; the rest is as in `of_calls`.
pub(super) fn read(section: &Section<'_>, of_calls: Option<Rules>) -> Option<Rules> {
    let failure = section.optional(
        "failure",
        OverReply,
        "A reply of which this is true is a failure of the service, any other is none. Unless given: by the class of the status.",
    );
    let ignore =
        section.optional("ignore", OverReply, "A reply of which this is true says nothing of the service; asked before `failure`.");
    Some(Rules { ignore: ignore?, failure: failure?, ..of_calls? })
}

/// What a service's table says of calls.
pub(super) fn of_calls(section: &Section<'_>) -> Option<Rules> {
    let done_if = section.optional("done_if", OverReply, "A reply of which this is true ends its call well, whatever its status.");
    let reject_if = section.optional(
        "reject_if",
        OverReply,
        "A reply of which this is true refuses its call for good: it is tried no more. Asked after `done_if`.",
    );
    let retry_if = section.optional(
        "retry_if",
        OverReply,
        "After a reply of which this is true the call may be tried again, or parked. Asked after `reject_if`.",
    );
    Some(Rules { done_if: done_if?, reject_if: reject_if?, retry_if: retry_if?, ..Rules::default() })
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
