//! The checkout, read once for each test: its Rust sources, each with its code laid bare, and the files for people.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::code;

/// Where files are looked for; what is built, fetched or run beside them is not the tree's.
const PLACES: [&str; 7] = ["src", "tests", "benches", "config", "deploy", "docs", "README.md"];

/// One Rust file.
#[derive(Debug)]
pub struct Source {
    /// From the checkout's root, with `/`.
    pub path: String,
    /// As written.
    pub text: String,
    /// Its code: comments, texts and `#[cfg(test)]` modules blanked, every line where it was.
    pub code: String,
    /// Whether all of it is compiled for tests only.
    pub test: bool,
}

impl Source {
    /// A source of that text, as if it stood at that path.
    pub fn new(path: &str, text: &str) -> Self {
        let code = code::without_tests(&code::bare(text));
        Self { path: path.to_owned(), text: text.to_owned(), code, test: is_test(path) }
    }

    /// The module's names from the crate's root: `src/edge/kafka/mod.rs` is `["edge", "kafka"]`.
    pub fn module(&self) -> Vec<&str> {
        let path = self.path.trim_start_matches("src/").trim_end_matches(".rs").trim_end_matches("/mod");
        if matches!(path, "lib" | "main") { Vec::new() } else { path.split('/').collect() }
    }

    /// The layer it belongs to: its first name, `lib` or `main`.
    pub fn layer(&self) -> &str {
        self.module().first().copied().unwrap_or_else(|| self.path.trim_start_matches("src/").trim_end_matches(".rs"))
    }
}

/// Tests that stand in files of their own, beside what they test or in `tests/` and `benches/`.
fn is_test(path: &str) -> bool {
    !path.starts_with("src/") || path.ends_with("/tests.rs") || path.contains("/tests/")
}

/// The modules that a file declares behind `#[cfg(test)]`, as paths without their ending.
fn declared_for_tests(source: &Source) -> Vec<String> {
    let directory = match source.path.rsplit_once('/') {
        Some((directory, "mod.rs" | "lib.rs" | "main.rs")) => directory,
        _ => source.path.trim_end_matches(".rs"),
    };
    let items = source.code.match_indices("#[cfg(test)]").map(|(at, attribute)| source.code[at + attribute.len()..].trim_start());
    let names = items.filter_map(|item| {
        let item = item.strip_prefix("pub(crate) ").or_else(|| item.strip_prefix("pub(super) ")).unwrap_or(item);
        item.strip_prefix("mod ")?.split_once(';').map(|(name, _)| name)
    });
    names.map(|name| format!("{directory}/{name}")).collect()
}

/// Every file that a rule may want to read.
pub struct Tree {
    rust: Vec<Source>,
    others: BTreeMap<String, String>,
}

impl Tree {
    /// Reads the checkout that this test was compiled in.
    pub fn read() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut texts = BTreeMap::new();
        for place in PLACES {
            read_into(&mut texts, root, place);
        }
        let (rust, others): (BTreeMap<_, _>, BTreeMap<_, _>) = texts.into_iter().partition(|(path, _)| path.ends_with(".rs"));
        assert!(rust.contains_key("src/lib.rs"), "no sources at {}", root.display());
        let mut rust: Vec<Source> = rust.iter().map(|(path, text)| Source::new(path, text)).collect();
        let only_tested: Vec<String> = rust.iter().flat_map(declared_for_tests).collect();
        for source in &mut rust {
            source.test |=
                only_tested.iter().any(|module| source.path == format!("{module}.rs") || source.path.starts_with(&format!("{module}/")));
        }
        Self { rust, others }
    }

    /// Every Rust file, tests and benches too.
    pub fn rust(&self) -> impl Iterator<Item = &Source> {
        self.rust.iter()
    }

    /// What ships: everything under `src` but tests.
    pub fn sources(&self) -> impl Iterator<Item = &Source> {
        self.rust.iter().filter(|source| !source.test)
    }

    /// The other files whose names end so.
    pub fn files<'a>(&'a self, ext: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        let wanted = move |path: &str| path.rsplit_once('.').is_some_and(|(_, end)| end == ext);
        self.others.iter().filter(move |(path, _)| wanted(path)).map(|(path, text)| (path.as_str(), text.as_str()))
    }

    /// One other file.
    pub fn text(&self, path: &str) -> &str {
        self.others.get(path).unwrap_or_else(|| panic!("{path} is missing"))
    }
}

fn read_into(texts: &mut BTreeMap<String, String>, root: &Path, place: &str) {
    let at = root.join(place);
    if at.is_dir() {
        for entry in fs::read_dir(&at).expect("a directory that can be read") {
            let name = entry.expect("an entry").file_name();
            read_into(texts, root, &format!("{place}/{}", name.to_str().expect("a name in UTF-8")));
        }
    } else if let Ok(text) = fs::read_to_string(&at) {
        // What is no text (a font, a picture) breaks no rule of words.
        texts.insert(place.to_owned(), text);
    }
}

#[test]
fn a_file_knows_its_module() {
    let module = |path| Source::new(path, "").module().join("::");
    assert_eq!(module("src/edge/kafka/mod.rs"), "edge::kafka");
    assert_eq!(module("src/event/decode.rs"), "event::decode");
    assert_eq!(module("src/lib.rs"), "");
    assert_eq!(Source::new("src/main.rs", "").layer(), "main");
    assert!(Source::new("src/event/decode/tests.rs", "").test && !Source::new("src/event/decode.rs", "").test);
}

#[test]
fn a_module_that_is_declared_for_tests_is_one() {
    let declared = |path, text| declared_for_tests(&Source::new(path, text));
    assert_eq!(declared("src/pipeline/mod.rs", "mod a;\n#[cfg(test)]\nmod fakes;\nmod b;"), ["src/pipeline/fakes"]);
    assert_eq!(declared("src/pipeline/drain.rs", "#[cfg(test)]\npub(crate) mod fakes;"), ["src/pipeline/drain/fakes"]);
    assert_eq!(declared("src/a.rs", "#[cfg(test)]\nmod tests { mod b; }"), Vec::<String>::new());
}
