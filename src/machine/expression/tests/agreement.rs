//! The plan says what CEL says: the same expressions over the same events, once planned, once by CEL alone.

use proptest::prelude::*;

use super::super::compile::{template, template_in_cel};
use super::super::{PIPELINE, Root};
use super::{EVENT, Headers};

/// Both answers: JSON as a value, or that there is none.
fn both(source: &str, event: &str) -> (Result<serde_json::Value, String>, Result<serde_json::Value, String>) {
    let headers = Headers::new();
    let results = [("rag", bytes::Bytes::copy_from_slice(event.as_bytes()))];
    let roots = [Root::Json(event.as_bytes()), Root::Members(&results), Root::Headers(&headers)];
    let read = |json: bytes::Bytes| serde_json::from_slice(&json).expect("what is rendered is JSON");
    let planned = match template(source, PIPELINE) {
        Ok(planned) => planned.render(&roots),
        // Made by chance, loops may be nested deeper than is allowed: refused by both.
        Err(error) if error.message.contains("loops are nested") => {
            assert!(template_in_cel(source, PIPELINE).is_err(), "{source}");
            return (Err(error.message.clone()), Err(error.message));
        }
        Err(error) => panic!("{source}: {error}"),
    };
    let in_cel = template_in_cel(source, PIPELINE).unwrap_or_else(|error| panic!("{source}: {error}")).render(&roots);
    (planned.map(read).map_err(|error| error.0), in_cel.map(read).map_err(|error| error.0))
}

fn agree(source: &str, event: &str) {
    let (planned, in_cel) = both(source, event);
    assert_eq!(planned.as_ref().ok(), in_cel.as_ref().ok(), "{source} over {event}: {planned:?} planned, {in_cel:?} in CEL");
}

/// Members of `EVENT`, and some that it has not.
const MEMBERS: &[&str] = &[
    "event.n",
    "event.big",
    "event.half",
    "event.one",
    "event.uint",
    "event.nil",
    "event.yes",
    "event.no",
    "event.text",
    "event.empty",
    "event['k\u{e9}y']",
    "event.twice",
    "event.list",
    "event.none",
    "event.map",
    "event.map.x.y",
    "event.map.z",
    "event.nothing",
    "event.twins",
    "event.gone",
    "event.gone.deep",
    "event.n.deep",
    "event.nil.deep",
    "event.list.deep",
    "event.list[0]",
    "event.list[3]",
    "event.list[99]",
    "event.list[-1]",
    "event.map[0]",
    "event.text[0]",
    "event",
    "results.rag.map",
    "results.gone",
];

const LITERALS: &[&str] =
    &["null", "true", "false", "3", "18446744073709551615u", "1.0", "1e30", "''", "b'x'", "[2,3]", "{'a': 3, 'b': 2}"];

#[test]
fn every_operator_over_every_member() {
    for member in MEMBERS {
        for unary in [
            "{m}",
            "size({m})",
            "{m}.size()",
            "!{m}",
            "has(event.map.x) && {m}",
            "{m} ? 1 : 2",
            "[{m}, 1]",
            "{'a': {m}}",
            "{m} == {m}",
            "{m} + {m}",
            "-{m}",
            "{m}.exists(x, x == 4)",
        ] {
            agree(&unary.replace("{m}", member), EVENT);
        }
        for literal in LITERALS {
            for operator in ["==", "!=", "<", ">=", "&&", "||", "in"] {
                agree(&format!("{member} {operator} {literal}"), EVENT);
                agree(&format!("{literal} {operator} {member}"), EVENT);
            }
            // A map behind a list gives its keys, in no order: there is nothing to agree on.
            if !literal.starts_with(['{', '[']) {
                agree(&format!("{member} + {literal}"), EVENT);
                agree(&format!("{literal} + {member}"), EVENT);
            }
        }
        for other in MEMBERS {
            agree(&format!("{member} == {other}"), EVENT);
        }
    }
}

#[test]
fn has_over_every_member() {
    for parent in [
        "event",
        "event.map",
        "event.map.x",
        "event.gone",
        "event.n",
        "event.nil",
        "event.list",
        "event.text",
        "event.list[4]",
        "results",
        "results.rag",
        "headers",
    ] {
        for key in ["x", "z", "five", "gone", "rag", "n", "nil"] {
            agree(&format!("has({parent}.{key})"), EVENT);
            agree(&format!("has({parent}.{key}) || true"), EVENT);
            agree(&format!("[1].map(x, has({parent}.{key}))"), EVENT);
            agree(&format!("has({parent}.{key}) && event.yes ? event.n : null"), EVENT);
        }
    }
}

fn json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        (-3_i64..3).prop_map(Into::into),
        any::<u64>().prop_map(Into::into),
        prop_oneof![Just(0.0), Just(1.0), Just(-0.5), any::<f64>().prop_filter("finite", |x| x.is_finite())].prop_map(Into::into),
        "[a-cé\"\\\\\u{1F600}]{0,3}".prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
            proptest::collection::hash_map("[a-c]", inner, 0..4).prop_map(|map| map.into_iter().collect()),
        ]
    })
}

fn path() -> impl Strategy<Value = String> {
    let step = prop_oneof![3 => "\\.[a-c]", 1 => "\\[[0-2]\\]", 1 => "\\['[a-c]'\\]"];
    (prop_oneof![Just("event"), Just("results.rag")], proptest::collection::vec(step, 1..4))
        .prop_map(|(root, steps)| format!("{root}{}", steps.concat()))
}

fn expression() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        6 => path(),
        2 => (path(), "[a-c]").prop_map(|(path, key)| format!("has({path}.{key})")),
        2 => path().prop_map(|path| format!("size({path})")),
        1 => proptest::sample::select(LITERALS).prop_map(str::to_owned),
    ];
    leaf.prop_recursive(4, 24, 3, |inner| {
        let binary = proptest::sample::select(&["==", "!=", "<", ">=", "&&", "||", "in"][..]);
        prop_oneof![
            4 => (inner.clone(), binary, inner.clone()).prop_map(|(left, operator, right)| format!("({left} {operator} {right})")),
            1 => inner.clone().prop_map(|of| format!("!({of})")),
            1 => (path(), "[a-c]").prop_map(|(path, text)| format!("({path} + '{text}')")),
            1 => (path(), -2..3_i32).prop_map(|(path, number)| format!("({number} + {path})")),
            2 => (inner.clone(), inner.clone(), inner.clone()).prop_map(|(a, b, c)| format!("({a} ? {b} : {c})")),
            1 => (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("[{a}, {b}]")),
            1 => (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("{{'z': {a}, 'a': {b}}}")),
            1 => (path(), inner).prop_map(|(path, of)| format!("{path}.exists(a, a == {of})")),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn any_expression_over_any_event(source in expression(), members in proptest::collection::hash_map("[a-c]", json(), 0..4)) {
        let event = serde_json::Value::from_iter(members).to_string();
        agree(&source, &event);
    }
}
