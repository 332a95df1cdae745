//! What the documents say exists: their links lead somewhere, their commands parse, their metrics are in the table of metrics, their config
//! is taken, and the tests that they name are there. A reader at three in the morning types what stands there.
//!
//! Each rule is a function from a document to violations, each a sentence with file and line; the tests at the end show each a
//! document that breaks it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use clap::Parser as _;
use clap::error::ErrorKind;
use fusebox::cli::Cli;
use fusebox::config::{Sources, load};

/// A Markdown file.
struct Document {
    /// From the root of the tree.
    path: String,
    text: String,
}

/// A fenced block.
struct Block {
    language: String,
    /// Of its first line, from 1.
    line: usize,
    text: String,
    /// The last line above it that is not empty.
    above: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn documents() -> Vec<Document> {
    let beside = ["docs", "docs/guide"].into_iter().flat_map(|directory| fs::read_dir(root().join(directory)).expect(directory));
    let beside = beside.map(|entry| entry.expect("an entry").path());
    let mut paths: Vec<PathBuf> = beside.filter(|path| path.extension().is_some_and(|end| end == "md")).collect();
    paths.extend(["README.md", "CHANGELOG.md"].map(|name| root().join(name)));
    paths.sort();
    let read = |path: PathBuf| Document {
        path: path.strip_prefix(root()).expect("below the root").display().to_string(),
        text: fs::read_to_string(&path).expect("UTF-8"),
    };
    paths.into_iter().map(read).collect()
}

/// Fails with every violation at once.
fn hold(rule: impl Fn(&Document) -> Vec<String>) {
    let documents = documents();
    assert!(documents.len() > 5, "the documents were not found");
    let violations: Vec<String> = documents.iter().flat_map(rule).collect();
    assert!(violations.is_empty(), "{} violations:\n  {}", violations.len(), violations.join("\n  "));
}

impl Document {
    fn blocks(&self) -> Vec<Block> {
        let mut blocks: Vec<Block> = Vec::new();
        let mut open = false;
        let mut above = "";
        for (number, line) in (1..).zip(self.text.lines()) {
            if let Some(language) = line.trim_start().strip_prefix("```") {
                open = !open;
                if open {
                    blocks.push(Block {
                        language: language.trim().to_owned(),
                        line: number + 1,
                        text: String::new(),
                        above: above.to_owned(),
                    });
                }
            } else if let (true, Some(block)) = (open, blocks.last_mut()) {
                block.text.push_str(line);
                block.text.push('\n');
            }
            if !line.trim().is_empty() {
                above = line;
            }
        }
        blocks
    }

    /// The lines outside of fenced blocks, with their numbers from 1.
    fn prose(&self) -> Vec<(usize, &str)> {
        let mut open = false;
        let outside = (1..).zip(self.text.lines()).filter(|(_, line)| {
            let fence = line.trim_start().starts_with("```");
            open ^= fence;
            !open && !fence
        });
        outside.collect()
    }

    /// What stands in backticks in the prose.
    fn spans(&self) -> Vec<(usize, &str)> {
        self.prose().into_iter().flat_map(|(number, line)| line.split('`').skip(1).step_by(2).map(move |span| (number, span))).collect()
    }

    /// Every command of the blocks that a shell is meant to read, lines joined that end with a backslash.
    fn shell(&self) -> Vec<(usize, Vec<String>)> {
        let mut commands = Vec::new();
        for block in self.blocks().into_iter().filter(|block| block.language == "sh") {
            let joined = block.text.replace("\\\n", " ");
            for (number, line) in (block.line..).zip(joined.lines()) {
                commands.extend(words(line).into_iter().map(|command| (number, command)));
            }
        }
        commands
    }
}

/// A line's commands, each as its words: quotes are taken off, pipes and the like separate, a comment ends the line.
fn words(line: &str) -> Vec<Vec<String>> {
    let mut commands = vec![Vec::new()];
    let (mut word, mut quote) = (None::<String>, None);
    for sign in line.chars() {
        match (quote, sign) {
            (Some(open), _) if open == sign => quote = None,
            (None, '"' | '\'') => {
                quote = Some(sign);
                word.get_or_insert_default();
            }
            (None, '#') if word.is_none() => break,
            (None, ' ' | '|' | '>' | '<' | ';' | '&') => {
                commands.last_mut().expect("one").extend(word.take());
                if sign != ' ' {
                    commands.push(Vec::new());
                }
            }
            _ => word.get_or_insert_default().push(sign),
        }
    }
    commands.last_mut().expect("one").extend(word);
    commands.into_iter().filter(|command| !command.is_empty()).collect()
}

/// Links within the tree lead to a file, and to a heading if they name one.
fn links(document: &Document) -> Vec<String> {
    let directory = root().join(&document.path).parent().expect("a directory").to_owned();
    let mut violations = Vec::new();
    for (number, line) in document.prose() {
        for target in line.split("](").skip(1).filter_map(|rest| rest.split(')').next()).filter(|target| !target.contains("://")) {
            let (file, heading) = target.split_once('#').unwrap_or((target, ""));
            let path = if file.is_empty() { root().join(&document.path) } else { directory.join(file) };
            let violation = match fs::read_to_string(&path) {
                Err(_) if !path.is_dir() => "there is no such file",
                Ok(text) if !heading.is_empty() && !text.lines().any(|line| slug(line).as_deref() == Some(heading)) => {
                    "there is no such heading"
                }
                _ => continue,
            };
            violations.push(format!("{}:{number}: {target}: {violation}", document.path));
        }
    }
    violations
}

/// A heading's name in a link.
fn slug(line: &str) -> Option<String> {
    let heading = line.strip_prefix('#')?.trim_start_matches('#').trim().to_lowercase();
    Some(
        heading
            .chars()
            .filter(|sign| sign.is_alphanumeric() || " -_".contains(*sign))
            .map(|sign| if sign == ' ' { '-' } else { sign })
            .collect(),
    )
}

/// Every `fusebox …` parses: in a block to its last word; in the prose, where a command's name alone may stand, as far as it goes.
fn commands(document: &Document) -> Vec<String> {
    let in_blocks = document.shell().into_iter().map(|(number, words)| (number, words, false));
    let in_prose = document.spans().into_iter().flat_map(|(number, span)| words(span).into_iter().map(move |words| (number, words, true)));
    let mut violations = Vec::new();
    for (number, words, prose) in in_blocks.chain(in_prose) {
        let words: Vec<String> = words.into_iter().skip_while(|word| is_assignment(word)).filter(|word| word != "…").collect();
        let Some(program) = words.first() else { continue };
        if program != "fusebox" && !program.ends_with("/fusebox") || (prose && words.len() == 1) {
            continue;
        }
        let unfinished =
            [ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand, ErrorKind::MissingSubcommand, ErrorKind::MissingRequiredArgument];
        if let Err(error) = Cli::try_parse_from(&words)
            && !matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion)
            && !(prose && unfinished.contains(&error.kind()))
        {
            let why = error.to_string();
            violations.push(format!("{}:{number}: {}: {}", document.path, words.join(" "), why.lines().next().unwrap_or_default()));
        }
    }
    violations
}

fn is_assignment(word: &str) -> bool {
    word.split_once('=').is_some_and(|(name, _)| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_'))
}

/// Every word that begins like a metric is in `docs/metrics.md`, a histogram's three series by their histogram.
fn metrics(document: &Document) -> Vec<String> {
    let table = fs::read_to_string(root().join("docs/metrics.md")).expect("docs/metrics.md");
    let mut violations = Vec::new();
    for (number, line) in (1..).zip(document.text.lines()) {
        let is_part = |sign: char| sign.is_ascii_alphanumeric() || sign == '_';
        for word in line.split(|sign| !is_part(sign)).filter(|word| word.starts_with("fusebox_")) {
            let bases = ["", "_bucket", "_sum", "_count"].iter().filter_map(|end| word.strip_suffix(end));
            // A name that ends with `_` is the beginning of several, as in `fusebox_retry_*`.
            let known = bases.into_iter().any(|base| table.contains(&format!("| `{base}` |")))
                || word.ends_with('_') && table.contains(&format!("| `{word}"));
            if !known {
                violations.push(format!("{}:{number}: no metric is named {word}", document.path));
            }
        }
    }
    violations
}

/// Every block of TOML is a config by itself, and so is every variable of the config in a command. Files of secrets and certificates, which
/// stand below `/run/secrets` in the documents, are made for it.
fn configs(document: &Document) -> Vec<String> {
    let directory = tempfile::tempdir().expect("a directory");
    let mut violations = Vec::new();
    for block in document.blocks().iter().filter(|block| block.language == "toml") {
        for path in block.text.split('"').filter_map(|text| text.strip_prefix("/run/secrets/")) {
            fs::write(directory.path().join(path), "ab".repeat(32)).expect("written");
        }
        let file = directory.path().join("block.toml");
        fs::write(&file, block.text.replace("/run/secrets", &directory.path().display().to_string())).expect("written");
        if let Err(faults) = load(Sources { files: vec![file], env: Vec::new(), overrides: Vec::new() }) {
            violations.push(format!("{}:{}: this config is refused: {faults}", document.path, block.line));
        }
    }
    for (number, words) in document.shell() {
        let env = words.iter().filter(|word| is_assignment(word) && word.contains("__"));
        let env: Vec<_> = env.filter_map(|word| word.split_once('=')).map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        if let Err(faults) = load(Sources { files: Vec::new(), env, overrides: Vec::new() }) {
            violations.push(format!("{}:{number}: this environment is refused: {faults}", document.path));
        }
    }
    violations
}

/// Every `make …` has its target, every path of a block behind `<!-- docs: tree -->` is there, and every block behind `<!-- docs: from … -->`
/// stands in that file.
fn places(document: &Document) -> Vec<String> {
    let makefile = fs::read_to_string(root().join("Makefile")).expect("Makefile");
    let spans = document.spans().into_iter().flat_map(|(number, span)| words(span).into_iter().map(move |words| (number, words)));
    let mut violations = Vec::new();
    for (number, words) in document.shell().into_iter().chain(spans) {
        if let [make, target, ..] = words.as_slice()
            && make == "make"
            && !makefile.lines().any(|line| line.starts_with(&format!("{target}:")))
        {
            violations.push(format!("{}:{number}: the Makefile has no target `{target}`", document.path));
        }
    }
    for block in &document.blocks() {
        let Some(path) = block.above.strip_prefix("<!-- docs: from ").and_then(|rest| rest.strip_suffix(" -->")) else { continue };
        if !fs::read_to_string(root().join(path)).is_ok_and(|text| text.contains(&block.text)) {
            violations.push(format!("{}:{}: does not stand in {path} like this", document.path, block.line));
        }
    }
    for block in document.blocks().iter().filter(|block| block.above == "<!-- docs: tree -->") {
        for (number, line) in (block.line..).zip(block.text.lines()) {
            let path = line.split_whitespace().next().unwrap_or_default();
            if path.is_empty() || !root().join(path).exists() {
                violations.push(format!("{}:{number}: there is no `{path}`", document.path));
            }
        }
    }
    violations
}

/// Every test that a table names in its column `test` exists.
fn tests(document: &Document) -> Vec<String> {
    let mut violations = Vec::new();
    let mut known = None;
    let mut named_here = false;
    for (number, line) in document.prose() {
        let Some(row) = line.strip_prefix('|').and_then(|row| row.trim_end().strip_suffix('|')) else {
            named_here = false;
            continue;
        };
        let last = row.rsplit('|').next().unwrap_or_default().trim();
        if last == "test" {
            named_here = true;
            continue;
        }
        if !named_here || last.starts_with("---") {
            continue;
        }
        let named: Vec<&str> = last.split('`').skip(1).step_by(2).collect();
        if named.is_empty() {
            violations.push(format!("{}:{number}: no test is named", document.path));
        }
        let known = known.get_or_insert_with(tests_of_the_tree);
        let missing = named.into_iter().filter(|name| !known.contains(*name));
        violations.extend(missing.map(|name| format!("{}:{number}: there is no test `{name}`", document.path)));
    }
    violations
}

/// The names of all tests of the tree that are not ignored: each a function with an attribute that ends with `test`, or one that `proptest!` makes one.
fn tests_of_the_tree() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut directories = vec![root().join("src"), root().join("tests")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") {
                names.extend(tests_of(&fs::read_to_string(&path).expect("UTF-8")));
            }
        }
    }
    names
}

fn tests_of(code: &str) -> Vec<String> {
    let (mut names, mut is_test, mut is_ignored) = (Vec::new(), false, false);
    for line in code.lines().map(str::trim_start) {
        if let Some(attribute) = line.strip_prefix("#[") {
            let path = attribute.split(['(', ']']).next().unwrap_or_default();
            is_test |= path.rsplit("::").next() == Some("test");
            is_ignored |= path.starts_with("ignore");
        } else if let Some(rest) = line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ") {
            if is_test && !is_ignored {
                names.extend(rest.split('(').next().map(str::to_owned));
            }
            (is_test, is_ignored) = (false, false);
        }
    }
    names
}

#[test]
fn links_lead_somewhere() {
    hold(links);
}

#[test]
fn commands_parse() {
    hold(commands);
}

#[test]
fn metrics_exist() {
    hold(metrics);
}

#[test]
fn configs_are_taken() {
    hold(configs);
}

#[test]
fn targets_and_paths_exist() {
    hold(places);
}

#[test]
fn tests_exist() {
    hold(tests);
}

#[test]
fn each_rule_finds_what_breaks_it() {
    let check = |rule: fn(&Document) -> Vec<String>, text: &str| rule(&Document { path: "docs/x.md".into(), text: text.into() }).len();
    for (rule, text, violations) in [
        (links as fn(&Document) -> Vec<String>, "[a](metrics.md) [b](../README.md#two-commands) [c](https://nowhere.invalid/)", 0),
        (links, "[a](nowhere.md) [b](../README.md#no-such-heading)", 2),
        (links, "```text\n[a](nowhere.md)\n```", 0),
        (commands, "`fusebox migrate --status`, `fusebox breakers`, `fusebox`", 0),
        (commands, "`fusebox migrait` `fusebox migrate --now`", 2),
        (commands, "```sh\nFUSEBOX_TOKEN=x fusebox --config a.toml breakers force rag auto --reason 'a b' | jq\n```", 0),
        (commands, "```sh\nfusebox breakers\n```", 1),
        (commands, "```sh\ncat x | target/release/fusebox publish -- - --none\n```", 1),
        (metrics, "fusebox_events_total, fusebox_retry_*, fusebox_event_duration_seconds_bucket", 0),
        (metrics, "fusebox_events fusebox_events_total_sum fusebox_nothing_*", 2),
        (configs, "```toml\n[kafka]\ngroup = \"a\"\n[kafka.properties]\nsasl.password_file = \"/run/secrets/p\"\n```", 0),
        (configs, "```toml\n[kafka]\ngrup = \"a\"\n```", 1),
        (configs, "```sh\nFUSEBOX_KAFKA__GROUP=a fusebox run\n```", 0),
        (configs, "```sh\nFUSEBOX_KAFKA__GRUP=a fusebox run\n```", 1),
        (tests, "| case | test |\n|---|---|\n| a | `tests_exist`, `links_lead_somewhere` |\n\n| b | c |\n|---|---|\n| `a` | `b` |", 0),
        (tests, "| case | test |\n|---|---|\n| a | `no_such_test` |\n| b | |\n| c | `tests_of` |", 3),
        (places, "`make test`\n<!-- docs: tree -->\n```text\nsrc/lib.rs  it\n```", 0),
        (places, "`make coffee`\n<!-- docs: tree -->\n\n```text\nsrc/nothing.rs  it\n```", 2),
        (places, "<!-- docs: from src/lib.rs -->\n```rust\npub mod machine;\n```", 0),
        (places, "<!-- docs: from src/lib.rs -->\n```rust\npub mod coffee;\n```\n<!-- docs: from src/no.rs -->\n```rust\n```", 2),
    ] {
        assert_eq!(check(rule, text), violations, "{text}");
    }
}
