//! `[[pipeline]]`: the stages in order.

use serde_json::{Value as Json, json};

use crate::config::checked::{Service, Stage};
use crate::config::faults::{Fault, Origin, listed, nearest};
use crate::config::reader::Section;
use crate::config::shape::{Problem, Shape, Text, wrong};
use crate::config::tree::Written;
use crate::machine::expression::{CompileError, Condition, Template};

/// What `[[pipeline]]` holds; `services` are those that are configured, readable or not.
pub(super) fn read(root: &Section<'_>, services: Option<&[(String, Option<Service>)]>, warnings: &mut Vec<Fault>) -> Option<Vec<Stage>> {
    let services = services.unwrap_or_default();
    let mut used: Vec<Option<usize>> = Vec::new();
    let stages = root.list("pipeline", "A stage: one call of a service. The array is replaced whole by a later layer.", |_, section| {
        let name = section.required("service", Text, "The service it calls, by name.");
        let when = section.optional("when", Expression(Condition::compile), "Run only if this expression is true.");
        let body = section.optional(
            "body",
            Expression(Template::compile),
            "The request: an expression that gives JSON. Unless given: the event and the results so far.",
        );
        let service = name.and_then(|name| find(&name, services, &used, section));
        used.push(service);
        Some(Stage { service: service?, when: when?, body: body? })
    });
    let stages = stages?;
    if stages.is_empty() {
        return root.report("pipeline", "has no stage; give it at least one `[[pipeline]]` with a `service`");
    }
    let idle = services.iter().enumerate().filter(|(index, _)| !used.contains(&Some(*index)));
    root.within("services", |section| {
        let written = idle.filter(|(_, (name, _))| section.locate(name).1 != Origin::Default);
        warnings.extend(written.map(|(_, (name, _))| section.remark(name, "no stage of the pipeline calls this service")));
    });
    stages.into_iter().collect()
}

/// The service of a name, unless an earlier stage calls it: results and outcomes are told apart by service.
fn find(name: &str, services: &[(String, Option<Service>)], used: &[Option<usize>], section: &Section<'_>) -> Option<usize> {
    let known = || services.iter().map(|(name, _)| name.as_str());
    match known().position(|known| known == name) {
        Some(index) => match used.iter().position(|used| *used == Some(index)) {
            Some(stage) => section.report(
                "service",
                format!("{name:?} is called by pipeline[{stage}] already; an event's results are told apart by service"),
            ),
            None => Some(index),
        },
        None => match nearest(name, known()) {
            Some(near) => section.report("service", format!("there is no service {name:?}; did you mean {near:?}?")),
            None => section.report("service", format!("there is no service {name:?}; configured: {}", listed(known()))),
        },
    }
}

/// An expression, by what compiles it.
pub(super) struct Expression<T>(pub(super) fn(&str) -> Result<T, CompileError>);

impl<T> Shape for Expression<T> {
    type Value = T;
    fn expected(&self) -> String {
        "a CEL expression".to_owned()
    }
    fn schema(&self) -> Json {
        json!({ "type": "string", "$comment": "CEL over `event`, `results.<service>` and `headers`" })
    }
    fn read(&self, written: &Written<'_>) -> Result<T, Problem> {
        self.0(written.text().ok_or(Problem::Type)?).or_else(|error| wrong(format!("does not compile: {error}")))
    }
}
