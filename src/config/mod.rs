//! From files, environment and flags to a [`Config`] that needs no second look, or to every fault at once.
//!
//! Layers, later over earlier: `config/default.toml` (compiled in; it is the manual) ← `--config FILE` … ← `FUSEBOX_SECTION__KEY` ←
//! flags. Tables merge key by key; everything else, arrays and a fallback's body included, is replaced whole. Each value remembers where
//! it came from, so that a fault names its key and its file or variable.
//!
//! The way in: [`sources`] reads each source into a layer, [`tree`] merges them, [`reader`] walks the tree as [`sections`] ask it
//! to, by the [`shape`] of each key. The same walk describes the keys to [`mod@schema`] and lists what is set to [`show`].
//!
//! Guarantees: no fault, warning, [`Loaded::show`] or `Debug` output holds a secret. Reading changes nothing and connects to nothing; it
//! opens the files that the config names. What it leaves to others: whether a server can be reached, and what librdkafka thinks of
//! properties that Fusebox does not own.

mod breaker_table;
mod checked;
mod faults;
mod layer;
mod path;
mod reader;
mod schema;
mod sections;
mod shape;
mod show;
mod sources;
#[cfg(test)]
mod tests;
mod tree;

pub use breaker_table::{breaker_table, changed_breaker, read_breaker};
pub use checked::*;
pub use faults::{Fault, Faults, Origin};
pub use schema::schema;
pub use show::Format;
pub use sources::{DEFAULTS, Override, Sources};

use reader::{Reader, Setting};
use tree::Tree;

/// A config that was read without a fault.
#[derive(Debug)]
pub struct Loaded {
    /// The config.
    pub config: Config,
    /// What deserves a look but stops nothing.
    pub warnings: Vec<Fault>,
    settings: Vec<Setting>,
}

impl Loaded {
    /// The effective config as text, with the source of each value and without secrets.
    pub fn show(&self, format: Format) -> String {
        show::show(&self.settings, format)
    }

    /// The effective config, a key each: its name, its value without secrets, and where it was written.
    pub fn values(&self) -> impl Iterator<Item = (String, &serde_json::Value, &Origin)> {
        self.settings.iter().map(|setting| (setting.path.to_string(), &setting.value, &setting.origin))
    }
}

/// Reads the config.
///
/// # Errors
/// Everything that is wrong with it. When a file cannot be read at all, what it may have put right is not judged: keys that are missing or at
/// odds with each other.
pub fn load<E: IntoIterator<Item = (String, String)>>(sources: Sources<E>) -> Result<Loaded, Faults> {
    let mut faults = Vec::new();
    let mut layers = Vec::new();
    for layer in std::iter::once(sources::defaults()).chain(sources.files.iter().map(|path| sources::file(path))) {
        match layer {
            Ok(layer) => layers.push(layer),
            Err(fault) => faults.push(fault),
        }
    }
    let whole = faults.is_empty();
    let services = layers.iter().flat_map(|layer| sources::services(&layer.values)).collect();
    layers.push(sources::environment(sources.env.into_iter(), &services, &mut faults));
    layers.push(sources::overrides(sources.overrides, &mut faults));
    let tree = Tree::merge(layers);
    let reader = if whole { Reader::new(&tree) } else { Reader::partial(&tree) };
    let mut warnings = Vec::new();
    let config = reader.root(|root| sections::config(root, &mut warnings));
    let (found, settings, _) = reader.finish();
    faults.extend(found);
    match config {
        Some(config) if faults.is_empty() => Ok(Loaded { config, warnings, settings }),
        _ => Err(Faults(faults)),
    }
}
