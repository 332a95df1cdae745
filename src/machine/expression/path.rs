//! Paths: the members that an expression picks, found in raw JSON without building a tree.
//!
//! Every path of an expression is a node of one tree, so that however many members of an object are wanted, the object is
//! read once; and only when the first of them is. Of a name that stands twice in an object the last value counts, as in
//! every JSON parser that builds a map.

use std::cell::Cell;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::json::Kind;
use super::{Document, EvaluationError, Root};
use crate::event::Headers;
use crate::event::known::Lies;

/// A path's number among its expression's paths; the variables come first.
pub(super) type PathId = usize;

/// One step: into a map or into a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Segment {
    /// `.name` or `["name"]`.
    Key(Box<str>),
    /// `[0]`.
    Index(i64),
}

#[derive(Debug)]
struct Node {
    parent: Option<(PathId, Segment)>,
    children: Vec<PathId>,
    /// As a person writes it, for errors.
    text: String,
}

/// The paths of one expression.
#[derive(Debug)]
pub(super) struct Paths {
    nodes: Vec<Node>,
    roots: usize,
    /// Of each variable, whether the expression names it.
    named: Vec<bool>,
}

impl Paths {
    pub(super) fn new(variables: &[&str]) -> Self {
        let nodes = variables.iter().map(|name| Node { parent: None, children: Vec::new(), text: (*name).to_owned() });
        Self { nodes: nodes.collect(), roots: variables.len(), named: vec![false; variables.len()] }
    }

    /// The variable of this name, which the expression reads.
    pub(super) fn root(&mut self, name: &str) -> Option<PathId> {
        let root = self.nodes[..self.roots].iter().position(|node| node.text == name)?;
        self.named[root] = true;
        Some(root)
    }

    /// Whether the expression reads the variable of this name.
    pub(super) fn reads(&self, name: &str) -> bool {
        self.nodes[..self.roots].iter().zip(&self.named).any(|(node, named)| *named && node.text == name)
    }

    /// The names of the variables.
    pub(super) fn roots(&self) -> impl Iterator<Item = &str> {
        self.nodes[..self.roots].iter().map(|node| node.text.as_str())
    }

    /// The path one step further; the same number for the same path.
    pub(super) fn child(&mut self, parent: PathId, segment: Segment) -> PathId {
        let there = |&&child: &&PathId| self.nodes[child].parent.as_ref().is_some_and(|(_, known)| *known == segment);
        if let Some(&child) = self.nodes[parent].children.iter().find(there) {
            return child;
        }
        let text = match &segment {
            Segment::Key(key) => format!("{}.{key}", self.nodes[parent].text),
            Segment::Index(index) => format!("{}[{index}]", self.nodes[parent].text),
        };
        let child = self.nodes.len();
        self.nodes.push(Node { parent: Some((parent, segment)), children: Vec::new(), text });
        self.nodes[parent].children.push(child);
        child
    }

    /// The path as a person writes it.
    pub(super) fn text(&self, path: PathId) -> &str {
        &self.nodes[path].text
    }

    pub(super) fn parent(&self, path: PathId) -> Option<PathId> {
        self.nodes[path].parent.as_ref().map(|(parent, _)| *parent)
    }

    fn key_child(&self, parent: PathId, key: &str) -> Option<PathId> {
        let is = |&child: &PathId| matches!(&self.nodes[child].parent, Some((_, Segment::Key(known))) if **known == *key);
        self.nodes[parent].children.iter().copied().find(is)
    }

    fn index_child(&self, parent: PathId, index: usize) -> Option<PathId> {
        let is =
            |&child: &PathId| matches!(self.nodes[child].parent, Some((_, Segment::Index(known))) if usize::try_from(known) == Ok(index));
        self.nodes[parent].children.iter().copied().find(is)
    }
}

/// What lies at a path.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place<'e> {
    /// A JSON value as written, without white space around it.
    Json(&'e str),
    /// A string.
    Text(&'e str),
    /// A map of JSON texts.
    Members(&'e [(&'e str, Bytes)]),
    /// A map of strings.
    Headers(&'e Headers),
    /// An `int`.
    Int(i64),
    /// A `double`.
    Double(f64),
    /// A `duration`.
    Duration(Duration),
}

impl Place<'_> {
    /// CEL's name of its type.
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Self::Json(raw) => Kind::of(raw).type_name(),
            Self::Text(_) => "string",
            Self::Members(_) | Self::Headers(_) => "map",
            Self::Int(_) => "int",
            Self::Double(_) => "double",
            Self::Duration(_) => "google.protobuf.Duration",
        }
    }

    fn is_map(&self) -> bool {
        match self {
            Self::Json(raw) => Kind::of(raw) == Kind::Object,
            Self::Members(_) | Self::Headers(_) => true,
            Self::Text(_) | Self::Int(_) | Self::Double(_) | Self::Duration(_) => false,
        }
    }
}

/// What is known of a path so far.
#[derive(Debug, Clone, Copy)]
enum State<'e> {
    /// Its parent has not been read yet.
    Unread,
    /// Its parent has been read and does not have it.
    Absent,
    /// It is not JSON text.
    Unreadable,
    /// There it is.
    At(Place<'e>),
}

/// Where the paths of an expression lead in one event.
#[derive(Debug)]
pub(super) struct Places<'e> {
    paths: &'e Paths,
    roots: &'e [Root<'e>],
    states: Vec<Cell<State<'e>>>,
}

impl<'e> Places<'e> {
    pub(super) fn new(paths: &'e Paths, roots: &'e [Root<'e>]) -> Self {
        Self { paths, roots, states: vec![Cell::new(State::Unread); paths.nodes.len()] }
    }

    /// What lies at `path`.
    pub(super) fn at(&self, path: PathId) -> Result<Place<'e>, EvaluationError> {
        if let State::Unread = self.states[path].get() {
            match self.paths.nodes[path].parent {
                None => self.states[path].set(self.roots.get(path).map_or(State::Absent, |root| root_state(*root))),
                Some((parent, _)) => self.read(parent)?,
            }
        }
        match self.states[path].get() {
            State::At(place) => Ok(place),
            State::Unreadable => Err(EvaluationError(format!("`{}` is not JSON", self.paths.text(path)))),
            State::Unread | State::Absent => Err(self.absent(path)),
        }
    }

    /// `has(path)`: whether the map one step before has it. An error where there is no such map.
    pub(super) fn has(&self, path: PathId) -> Result<bool, EvaluationError> {
        let Some(parent) = self.paths.parent(path) else { return Ok(true) };
        let place = self.at(parent)?;
        if !place.is_map() {
            return Err(self.no_members(parent, place));
        }
        if let State::Unread = self.states[path].get() {
            self.read(parent)?;
        }
        Ok(matches!(self.states[path].get(), State::At(_) | State::Unreadable))
    }

    /// Reads the container at `parent` once, for all of its wanted members.
    fn read(&self, parent: PathId) -> Result<(), EvaluationError> {
        let place = self.at(parent)?;
        for &child in &self.paths.nodes[parent].children {
            self.states[child].set(State::Absent);
        }
        match place {
            Place::Json(raw) => {
                if !self.are_known(parent, raw) {
                    self.read_json(parent, raw)?;
                }
            }
            Place::Members(members) => {
                for (name, data) in members {
                    if let Some(child) = self.paths.key_child(parent, name) {
                        self.states[child].set(root_state(Root::Json(data)));
                    }
                }
            }
            Place::Headers(headers) => {
                for &child in &self.paths.nodes[parent].children {
                    if let Some((_, Segment::Key(name))) = &self.paths.nodes[child].parent
                        && let Some(text) = headers.text(name)
                    {
                        self.states[child].set(State::At(Place::Text(text)));
                    }
                }
            }
            Place::Text(_) | Place::Int(_) | Place::Double(_) | Place::Duration(_) => {}
        }
        Ok(())
    }

    /// Whether it is known of all wanted members of a text where they lie; then that is noted.
    fn are_known(&self, parent: PathId, text: &'e str) -> bool {
        let Some(document) = self.document(parent) else { return false };
        self.paths.nodes[parent].children.iter().all(|&child| {
            let Some((_, Segment::Key(name))) = &self.paths.nodes[child].parent else { return false };
            match document.known(name) {
                Lies::Unknown => return false,
                Lies::Nowhere => {}
                Lies::At(range) => self.states[child].set(text.get(range).map_or(State::Unreadable, |raw| State::At(Place::Json(raw)))),
            }
            true
        })
    }

    fn read_json(&self, parent: PathId, raw: &'e str) -> Result<(), EvaluationError> {
        if let Some(members) = self.document(parent).and_then(Document::members) {
            for (name, raw) in members {
                if let Some(child) = self.paths.key_child(parent, name) {
                    self.states[child].set(State::At(Place::Json(raw)));
                }
            }
            return Ok(());
        }
        let mut json = serde_json::Deserializer::from_str(raw);
        let reader = Reader { places: self, parent };
        let read = match Kind::of(raw) {
            Kind::Object => json.deserialize_map(reader),
            Kind::Array => json.deserialize_seq(reader),
            Kind::Text | Kind::Number | Kind::Bool | Kind::Null => Ok(()),
        };
        read.map_err(|_| EvaluationError(format!("`{}` is not JSON", self.paths.text(parent))))
    }

    /// The text that several expressions read.
    fn document(&self, path: PathId) -> Option<&'e Document<'e>> {
        match self.roots.get(path) {
            Some(Root::Document(document)) => Some(document),
            Some(
                Root::Json(_) | Root::Members(_) | Root::Headers(_) | Root::Text(_) | Root::Int(_) | Root::Double(_) | Root::Duration(_),
            )
            | None => None,
        }
    }

    /// Why nothing lies at `path`, although something lies one step before.
    fn absent(&self, path: PathId) -> EvaluationError {
        let Some((parent, segment)) = &self.paths.nodes[path].parent else {
            return EvaluationError(format!("`{}` has no value here", self.paths.text(path)));
        };
        let State::At(place) = self.states[*parent].get() else {
            return EvaluationError(format!("`{}` has no value here", self.paths.text(*parent)));
        };
        let is_list = matches!(place, Place::Json(raw) if Kind::of(raw) == Kind::Array);
        match segment {
            _ if place.is_map() => EvaluationError(format!("no such key: `{}`", self.paths.text(path))),
            Segment::Index(_) if is_list => EvaluationError(format!("index out of bounds: `{}`", self.paths.text(path))),
            Segment::Key(_) | Segment::Index(_) => self.no_members(*parent, place),
        }
    }

    fn no_members(&self, path: PathId, place: Place<'_>) -> EvaluationError {
        EvaluationError(format!("`{}` is a {}; it has no such members", self.paths.text(path), place.type_name()))
    }
}

fn root_state(root: Root<'_>) -> State<'_> {
    match root {
        Root::Json(bytes) => match std::str::from_utf8(bytes).map(str::trim_ascii) {
            Ok(text) if !text.is_empty() => State::At(Place::Json(text)),
            Ok(_) | Err(_) => State::Unreadable,
        },
        Root::Document(document) => document.text().map_or(State::Unreadable, |text| State::At(Place::Json(text))),
        Root::Members(members) => State::At(Place::Members(members)),
        Root::Headers(headers) => State::At(Place::Headers(headers)),
        Root::Int(int) => State::At(Place::Int(int)),
        Root::Text(text) => State::At(Place::Text(text)),
        Root::Double(double) => State::At(Place::Double(double)),
        Root::Duration(duration) => State::At(Place::Duration(duration)),
    }
}

/// Reads one container and notes where its wanted members lie.
struct Reader<'p, 'e> {
    places: &'p Places<'e>,
    parent: PathId,
}

impl<'e> Visitor<'e> for Reader<'_, 'e> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object or an array")
    }

    fn visit_map<A: MapAccess<'e>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(wanted) = map.next_key_seed(Wanted { paths: self.places.paths, parent: self.parent })? {
            match wanted {
                Some(child) => {
                    let raw = map.next_value::<&'e RawValue>()?.get();
                    self.places.states[child].set(State::At(Place::Json(raw)));
                }
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'e>>(self, mut seq: A) -> Result<(), A::Error> {
        let mut left = self.places.paths.nodes[self.parent].children.len();
        let mut index = 0;
        loop {
            if left > 0
                && let Some(child) = self.places.paths.index_child(self.parent, index)
            {
                let Some(raw) = seq.next_element::<&'e RawValue>()? else { return Ok(()) };
                self.places.states[child].set(State::At(Place::Json(raw.get())));
                left -= 1;
            } else if seq.next_element::<IgnoredAny>()?.is_none() {
                return Ok(());
            }
            index += 1;
        }
    }
}

/// A member's name, as the path that wants it.
struct Wanted<'e> {
    paths: &'e Paths,
    parent: PathId,
}

impl<'de> DeserializeSeed<'de> for Wanted<'_> {
    type Value = Option<PathId>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Wanted<'_> {
    type Value = Option<PathId>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a member's name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.paths.key_child(self.parent, name))
    }
}
