//! Where a value stands in the config: `services.rag.timeout`, `pipeline[0].when`.

use std::fmt;

/// One step from a table or an array to what is in it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    /// To a table's value.
    Key(String),
    /// To an array's element, from 0.
    Index(usize),
    /// To any value of a table whose keys the user chooses; written `<what the key is>`.
    AnyKey(&'static str),
    /// To any element of an array.
    AnyIndex,
}

/// The steps from the root to a value.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct KeyPath(Vec<Step>);

impl KeyPath {
    /// One step further.
    pub(super) fn then(&self, step: Step) -> Self {
        let mut steps = self.0.clone();
        steps.push(step);
        Self(steps)
    }

    /// One step further, to a table's value.
    pub(super) fn key(&self, key: &str) -> Self {
        self.then(Step::Key(key.to_owned()))
    }

    /// One step back; `None` at the root.
    pub(super) fn parent(&self) -> Option<Self> {
        let (_, steps) = self.0.split_last()?;
        Some(Self(steps.to_vec()))
    }

    /// The steps.
    pub(super) fn steps(&self) -> &[Step] {
        &self.0
    }

    /// The last step, if it is to a table's value.
    pub(super) fn last_key(&self) -> Option<&str> {
        match self.0.last() {
            Some(Step::Key(key)) => Some(key),
            Some(Step::Index(_) | Step::AnyKey(_) | Step::AnyIndex) | None => None,
        }
    }

    /// How many of its first steps `other` takes as well, and the path with `other`'s own names where any name goes.
    pub(super) fn as_seen_from(&self, other: &Self) -> (usize, Self) {
        let shared = self
            .0
            .iter()
            .zip(&other.0)
            .take_while(|(step, other)| {
                step == other || matches!((step, other), (Step::AnyKey(_), Step::Key(_)) | (Step::AnyIndex, Step::Index(_)))
            })
            .count();
        (shared, Self(other.0[..shared].iter().chain(&self.0[shared..]).cloned().collect()))
    }

    /// Whether it is `pattern`, in which `*` stands for any one key.
    pub(super) fn is(&self, pattern: &[&str]) -> bool {
        self.0.len() == pattern.len()
            && self.0.iter().zip(pattern).all(|(step, pattern)| matches!(step, Step::Key(key) if *pattern == "*" || key == pattern))
    }
}

impl<const N: usize> From<[&str; N]> for KeyPath {
    fn from(keys: [&str; N]) -> Self {
        Self(keys.iter().map(|key| Step::Key((*key).to_owned())).collect())
    }
}

impl From<Vec<String>> for KeyPath {
    fn from(keys: Vec<String>) -> Self {
        Self(keys.into_iter().map(Step::Key).collect())
    }
}

impl fmt::Display for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, step) in self.0.iter().enumerate() {
            let dot = if place == 0 { "" } else { "." };
            match step {
                Step::Key(key) => write!(f, "{dot}{}", spelled(key))?,
                Step::Index(index) => write!(f, "[{index}]")?,
                Step::AnyKey(what) => write!(f, "{dot}<{what}>")?,
                Step::AnyIndex => f.write_str("[]")?,
            }
        }
        Ok(())
    }
}

/// A key as TOML spells it: bare where it may be, quoted where it must be.
pub(super) fn spelled(key: &str) -> String {
    let bare = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
    if bare { key.to_owned() } else { toml::Value::String(key.to_owned()).to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_reads_as_toml_does() {
        let path = KeyPath::from(["kafka", "properties", "sasl.password"]);
        assert_eq!(path.to_string(), r#"kafka.properties."sasl.password""#);
        let stage = KeyPath::from(["pipeline"]).then(Step::Index(2)).key("when");
        assert_eq!(stage.to_string(), "pipeline[2].when");
        let any = KeyPath::from(["services"]).then(Step::AnyKey("name")).key("url");
        assert_eq!(any.to_string(), "services.<name>.url");
    }

    #[test]
    fn a_known_path_is_told_in_the_names_of_one_that_was_written() {
        let known = KeyPath::from(["services"]).then(Step::AnyKey("name")).key("timeout");
        let written = KeyPath::from(["services", "rag", "breaker", "timeout"]);
        assert_eq!(known.as_seen_from(&written), (2, KeyPath::from(["services", "rag", "timeout"])));
        assert_eq!(KeyPath::from(["redis", "timeout"]).as_seen_from(&written).0, 0);
    }

    #[test]
    fn a_star_stands_for_one_key() {
        let path = KeyPath::from(["services", "rag", "fallback", "body"]);
        assert!(path.is(&["services", "*", "fallback", "body"]));
        assert!(!path.is(&["services", "*", "fallback"]));
        assert!(!path.is(&["services", "*", "retry", "body"]));
    }
}
