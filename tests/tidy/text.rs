//! What must and what must not stand in a file, and how long it may be.

use super::code;
use super::tree::Source;

/// The longest file, in lines, its tests not counted.
const MAX_LINES: usize = 450;

/// Files that are longer, each with the reason.
pub const LONG: &[(&str, &str)] = &[
    ("src/machine/breaker/mod.rs", "every operation in every state, side by side: a pair that is out of sight is a pair forgotten"),
    ("src/pipeline/drain.rs", "one loop and the state that only it may touch"),
];

/// A file of the crate opens with its job. Tests beside the code need none: the module that they test has it.
pub fn opening(source: &Source) -> Vec<String> {
    let beside = source.test && source.path.starts_with("src/");
    if beside || source.text.starts_with("//! ") {
        return Vec::new();
    }
    vec![format!("{}:1: opens without `//!`: say its job, its guarantees, what it leaves to others", source.path)]
}

/// Nothing is left for later, and no lint is silenced without a reason that is itself checked.
pub fn undone(source: &Source) -> Vec<String> {
    // In two parts, so that this file does not break its own rule.
    const MARKS: [[&str; 2]; 3] = [["TO", "DO"], ["FIX", "ME"], ["XX", "X"]];
    const MACROS: [&str; 3] = ["todo", "unimplemented", "dbg"];
    let marked = code::words(&source.text).filter(|(_, word)| MARKS.iter().any(|mark| mark.concat() == **word));
    let marked = marked.map(|(at, word)| (at, format!("`{word}`: do it, or leave it out")));
    let called = code::words(&source.code).filter(|(at, word)| MACROS.contains(word) && source.code[at + word.len()..].starts_with('!'));
    let called = called.map(|(at, word)| (at, format!("`{word}!`: finish it")));
    let silenced = ["#[allow(", "#![allow("].into_iter().flat_map(|attribute| source.code.match_indices(attribute));
    let silenced = silenced.map(|(at, attribute)| (at, format!("`{attribute}…`: use `expect` with a reason, which ends with its cause")));
    marked.chain(called).chain(silenced).map(|(at, what)| format!("{}:{}: {what}", source.path, code::line(&source.text, at))).collect()
}

/// Unsafe code stands in the embedded Kafka's foreign calls and nowhere else.
pub fn unsafe_code(source: &Source) -> Vec<String> {
    if source.path.starts_with("src/edge/embedded/mock") {
        return Vec::new();
    }
    let found = code::words(&source.code).filter(|(_, word)| *word == "unsafe");
    found
        .map(|(at, _)| format!("{}:{}: unsafe code outside src/edge/embedded/mock*.rs", source.path, code::line(&source.code, at)))
        .collect()
}

/// Files are at most [`MAX_LINES`] long, but for those that are listed, and no listed one is short.
pub fn lengths(sources: &[&Source], long: &[(&str, &str)]) -> Vec<String> {
    let listed = |path: &str| long.iter().any(|(name, _)| *name == path);
    let mut violations = Vec::new();
    for source in sources {
        let lines = length(source);
        if lines > MAX_LINES && !listed(&source.path) {
            violations.push(format!("{}: {lines} lines; one idea a file is at most {MAX_LINES}: split it", source.path));
        }
        if lines <= MAX_LINES && listed(&source.path) {
            violations.push(format!("{}: {lines} lines: strike it from the long files of tests/tidy/text.rs", source.path));
        }
    }
    let gone = long.iter().filter(|(path, _)| !sources.iter().any(|source| source.path == *path));
    violations.extend(gone.map(|(path, _)| format!("{path}: does not exist: strike it from the long files of tests/tidy/text.rs")));
    violations
}

/// Lines, less those of test modules within.
fn length(source: &Source) -> usize {
    let is_blank = |line: &str| line.trim().is_empty();
    let bare = code::bare(&source.text);
    source.text.lines().count() - bare.lines().zip(source.code.lines()).filter(|(bare, code)| !is_blank(bare) && is_blank(code)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken(rule: fn(&Source) -> Vec<String>, path: &str, text: &str) -> usize {
        rule(&Source::new(path, text)).len()
    }

    #[test]
    fn a_file_without_its_doc_is_found() {
        assert_eq!(broken(opening, "src/a.rs", "// A comment is not a doc.\n"), 1);
        assert_eq!(broken(opening, "src/a.rs", ""), 1);
        assert_eq!(broken(opening, "tests/a.rs", "use b;"), 1);
        assert_eq!(broken(opening, "src/a.rs", "//! A job.\n"), 0);
        assert_eq!(broken(opening, "src/a/tests.rs", "use super::*;"), 0);
    }

    #[test]
    fn what_is_left_undone_is_found() {
        let mark = ["TO", "DO"].concat();
        assert_eq!(broken(undone, "src/a.rs", &format!("// {mark}: later")), 1);
        assert_eq!(broken(undone, "src/a.rs", &format!("// {mark}S and {mark}_x are words of their own")), 0);
        assert_eq!(broken(undone, "src/a.rs", "fn f() { todo!() } fn g() { unimplemented!(\"x\") } fn h() { dbg!(1); }"), 3);
        assert_eq!(broken(undone, "src/a.rs", "#[allow(dead_code)] fn f() {}\n#![allow(x)]"), 2);
        assert_eq!(broken(undone, "src/a.rs", "// #[allow(x)] todo!()\n#[expect(x, reason = \"y\")] fn todo() {}"), 0);
    }

    #[test]
    fn unsafe_code_elsewhere_is_found() {
        assert_eq!(broken(unsafe_code, "src/machine/a.rs", "unsafe { f() }"), 1);
        assert_eq!(broken(unsafe_code, "src/edge/embedded/mock.rs", "unsafe { f() }"), 0);
        assert_eq!(broken(unsafe_code, "src/machine/a.rs", "// unsafe\n#![deny(unsafe_code)]"), 0);
    }

    #[test]
    fn a_long_file_is_found_and_a_needless_exception_too() {
        let text = |lines: usize| "x;\n".repeat(lines);
        let a = Source::new("src/a.rs", &text(MAX_LINES + 1));
        let b = Source::new("src/b.rs", &format!("{}#[cfg(test)]\nmod tests {{\n{}}}\n", text(MAX_LINES), text(50)));
        assert_eq!(length(&b), MAX_LINES);
        assert_eq!(lengths(&[&a, &b], &[]).len(), 1);
        assert_eq!(lengths(&[&a, &b], &[("src/a.rs", "why")]).len(), 0);
        assert_eq!(lengths(&[&a, &b], &[("src/a.rs", "why"), ("src/b.rs", "why"), ("src/c.rs", "why")]).len(), 2);
    }
}
