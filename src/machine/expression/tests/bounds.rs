//! What an expression may cost, and that no source is answered with a panic.

use proptest::prelude::*;

use super::{Bytes, Condition, Document, Headers, MAX_SOURCE_BYTES, Scope, Template, render};

#[test]
fn a_deep_source_is_an_error_however_it_is_deep() {
    const DEEP: usize = 10_000;
    for (open, middle, close) in [
        ("(", "1", ")"),
        ("[", "1", "]"),
        ("{'a':", "1", "}"),
        ("!", "true", ""),
        ("-", "event.n", ""),
        ("- ", "event.n", ""),
        ("1+", "1", ""),
        ("1 in ", "[1]", ""),
        ("event.", "n", ""),
        ("", "event", ".a"),
        ("", "event", "[0]"),
        ("", "event", ".size()"),
        ("size(", "event", ")"),
        ("true?1:", "2", ""),
        ("true&&", "true", ""),
        ("'", "(((((((((((((((((", "((((((1+1+1+1+1+1+1+1"),
        ("r'\\'+", "1", ""),
        ("event.list.map(x,", "x", ")"),
    ] {
        for deep in [MAX_SOURCE_BYTES / (open.len() + close.len()) - middle.len(), DEEP] {
            let source = format!("{}{middle}{}", open.repeat(deep), close.repeat(deep));
            let error = Template::compile(&source).expect_err(open);
            assert!(error.message.len() < 1_000, "{open}{middle}{close}: {}", error.message);
        }
    }
}

#[test]
fn what_is_just_shallow_enough_is_compiled_and_evaluated() {
    for (open, middle, close, deep) in [
        ("event.n+", "1", "", 120),
        ("event.n-", "1", "", 30),
        ("event.yes&&", "true", "", 80),
        ("", "event", ".a", 200),
        ("[", "1", "]", 90),
        ("[", "1", "] == [1]", 15),
        ("!", "event.yes", "", 200),
        ("event.yes?1:", "2", "", 60),
    ] {
        let source = format!("{}{middle}{}", open.repeat(deep), close.repeat(deep));
        let answer = render(&source);
        assert!(answer.is_ok() || close == ".a", "{open}{middle}{close}: {answer:?}");
    }
    let wide = format!("[{}event.n]", "event.n + 1, ".repeat(1_000));
    assert_eq!(render(&wide).map(|json| json.len()), Ok(2 * 1_000 + 3));
    // What stands in strings and comments is not deep.
    assert_eq!(render(&format!("'{}' // {}", "((..".repeat(500), "1+1+".repeat(500))).map(|json| json.len()), Ok(2_002));
}

#[test]
fn a_long_source_is_an_error() {
    let source = format!("'{}'", "x".repeat(MAX_SOURCE_BYTES));
    let error = Condition::compile(&source).expect_err("too long");
    assert_eq!(error.message, format!("the expression has {} bytes; at most 65536 are compiled", source.len()));
}

#[test]
fn loops_that_multiply_run_over_small_inputs_only() {
    let headers = Headers::new();
    let over = |source: &str, bytes: usize| {
        let list = format!("[{}1]", "1,".repeat(bytes / 2 - 1));
        let event = Bytes::from(format!(r#"{{"list":{list},"label":"1","one":[1]}}"#));
        let template = Template::compile(source).unwrap_or_else(|error| panic!("{source}: {error}"));
        template
            .render(&Scope { event: &Document::of(&event), results: &[], headers: &headers })
            .map(|json| json.len())
            .map_err(|error| error.0)
    };
    let refused = |answer: &Result<usize, String>| answer.as_ref().is_err_and(|error| error.starts_with("the loops would take some "));
    for (source, small, large) in [
        ("size(event.list.map(x, event.list))", 100, 8_000),
        ("event.list.all(x, x in event.list)", 100, 8_000),
        ("size(event.list.map(x, event.list.filter(y, y == x)))", 100, 8_000),
        ("size(event.list.map(x, event.list.map(y, event.list)))", 20, 600),
    ] {
        assert!(over(source, small).is_ok(), "{source}: {:?}", over(source, small));
        assert!(refused(&over(source, large)), "{source}: {:?}", over(source, large));
    }
    // Each turn looks at its own element, or at little else.
    for source in [
        "size(event.list.map(x, x + 1)) > 0",
        "size(event.list.filter(x, string(x) == event.label)) > 0",
        "size(event.list.map(x, [x].map(y, y))) > 0",
        "size(event.list.filter(x, x in event.one)) > 0",
    ] {
        assert_eq!(over(source, 20_000), Ok(4), "{source}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_compiled_or_refused(source in "\\PC{0,40}") {
        let _ = Template::compile(&source);
    }

    #[test]
    fn any_tokens_are_compiled_or_refused(tokens in proptest::collection::vec(proptest::sample::select(TOKENS), 0..12)) {
        let source = tokens.concat();
        if let Ok(template) = Template::compile(&source) {
            let event = Bytes::from_static(br#"{"a":[1,2],"b":"x"}"#);
            let _ = template.render(&Scope { event: &Document::of(&event), results: &[], headers: &Headers::new() });
        }
    }
}

const TOKENS: &[&str] = &[
    "event",
    "results",
    "headers",
    ".a",
    ".b",
    "x",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    ",",
    ":",
    "?",
    ".",
    "+",
    "-",
    "*",
    "/",
    "%",
    "!",
    "=",
    "==",
    "!=",
    "<",
    ">=",
    "&&",
    "||",
    " in ",
    "'a'",
    "\"",
    "'",
    "r'",
    "b'\\xff'",
    "'''",
    "\\",
    "`",
    "@",
    "#",
    "$",
    "\n",
    "0",
    "1u",
    "1.5",
    "1e400",
    "0x",
    ".e",
    "-9223372036854775808",
    "true",
    "null",
    "has(",
    "size(",
    ".map(x, ",
    ".filter(",
    ".all(x,",
    ".exists_one(x, x)",
    "int(",
    "timestamp(",
    "duration('1h')",
    "type(",
    "dyn(",
    ".matches('(')",
    ".startsWith(",
    "é",
    "\u{1F600}",
    "\0",
    "// ",
    "as ",
    "if",
    "loop",
];
