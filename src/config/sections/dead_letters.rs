//! `[dead_letters]`: in whose words they are written, how often they are redriven, and how many at once are too many.

use serde_json::{Value as Json, json};

use crate::config::checked::{DeadLetters, Processing};
use crate::config::faults::nearest;
use crate::config::reader::Section;
use crate::config::shape::{Problem, Shape, Whole, wrong};
use crate::config::tree::{Written, json as json_of};
use crate::event::foreign::Style;

/// What `[dead_letters]` holds.
pub(super) fn read(section: &Section<'_>, processing: Option<&Processing>) -> Option<DeadLetters> {
    let max_redrives = section.required(
        "max_redrives",
        Whole(0..=1_000_u32),
        "How often an event or a call may be redriven; its letter stays then. 0: none is ever redriven.",
    );
    let styles = section.required(
        "header_style",
        Styles,
        "In whose words a dead letter says what went wrong: one style, or a list. Fusebox's own headers are always there.",
    );
    let brake =
        section.section("brake", "When a partition whose records turn bad is stopped.", |section| super::brake::read(section, processing));
    Some(DeadLetters { max_redrives: max_redrives?, styles: styles?, brake: brake? })
}

/// Styles by name; our own needs no mention.
const STYLES: [(&str, Option<Style>); 3] = [("fusebox", None), ("connect", Some(Style::Connect)), ("spring", Some(Style::Spring))];

/// One style, or a list of them.
struct Styles;

impl Shape for Styles {
    type Value = Vec<Style>;
    fn expected(&self) -> String {
        "\"fusebox\", \"connect\", \"spring\", or a list of them".to_owned()
    }
    fn schema(&self) -> Json {
        let words = json!({ "enum": STYLES.map(|(word, _)| word) });
        json!({ "anyOf": [words, { "type": "array", "items": words }] })
    }
    fn read(&self, written: &Written<'_>) -> Result<Vec<Style>, Problem> {
        let words = match json_of(written.value) {
            Json::String(word) => vec![word],
            Json::Array(words) => {
                words.into_iter().map(|word| word.as_str().map(str::to_owned).ok_or(Problem::Type)).collect::<Result<_, _>>()?
            }
            _ => return Err(Problem::Type),
        };
        let mut styles = Vec::new();
        for word in words {
            let Some((_, style)) = STYLES.iter().find(|(known, _)| *known == word) else {
                let meant = nearest(&word, STYLES.map(|(word, _)| word)).map_or(String::new(), |near| format!("; did you mean {near:?}?"));
                return wrong(format!("there is no {word:?}{meant} Known: fusebox, connect, spring"));
            };
            styles.extend(style.filter(|style| !styles.contains(style)));
        }
        Ok(styles)
    }
}
