//! The config from the outside: sources in, checked values or faults out.

mod bodies;
mod brake;
mod changed;
mod layers;
mod manual;
mod never_panics;
mod secrets;
mod wrong;

use std::path::PathBuf;

use super::{Fault, Faults, Loaded, Override, Sources, load};

/// Sources under construction: files in a directory of their own, which is gone when this is dropped.
pub(super) struct World {
    directory: tempfile::TempDir,
    files: Vec<PathBuf>,
    env: Vec<(String, String)>,
    overrides: Vec<Override>,
}

impl World {
    /// No source besides the defaults.
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap(), files: Vec::new(), env: Vec::new(), overrides: Vec::new() }
    }

    /// One file, `a.toml`.
    fn file(text: &str) -> Self {
        Self::new().and_file("a.toml", text)
    }

    /// A config file more. `DIR` in its text is the directory's path.
    fn and_file(mut self, name: &str, text: &str) -> Self {
        let path = self.other_file(name, &text.replace("DIR", self.directory.path().to_str().unwrap()));
        self.files.push(path);
        self
    }

    /// A file that is none of the config's own.
    fn other_file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn and_secret(self, name: &str, text: &str) -> Self {
        self.other_file(name, text);
        self
    }

    fn and_env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.replace("DIR", self.directory.path().to_str().unwrap())));
        self
    }

    fn and_flag(mut self, key: &str, value: impl Into<toml::Value>) -> Self {
        self.overrides.push(Override { key: key.to_owned(), flag: format!("--{key}"), value: value.into() });
        self
    }

    fn load(&self) -> Result<Loaded, Faults> {
        load(Sources { files: self.files.clone(), env: self.env.clone(), overrides: self.overrides.clone() })
    }

    /// What is wrong, a line each, without the directory's path.
    fn faults(&self) -> String {
        self.clean(&self.load().expect_err("this config should be refused").to_string())
    }

    fn loaded(&self) -> Loaded {
        self.load().unwrap_or_else(|faults| panic!("this config should be taken:\n{faults}"))
    }

    fn clean(&self, text: &str) -> String {
        text.replace(&format!("{}/", self.directory.path().display()), "")
    }

    fn warnings(&self) -> Vec<String> {
        self.loaded().warnings.iter().map(|warning: &Fault| self.clean(&warning.to_string())).collect()
    }
}
