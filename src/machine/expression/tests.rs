mod agreement;
mod bounds;
mod shipped;

use super::*;
use crate::event::decode::decode;
use crate::event::known::Known;
use crate::event::{Incoming, Offset, Partition, Source, Topic, UnixMillis};
use std::fmt::Debug;

const EVENT: &str = r#"{"id":"8d0e","camera_id":"cam-1","timestamp":"2026-11-03T21:04:05Z","label":"person","n":3,"big":123456789012345678901234567890,
"half":0.5,"one":1.0,"uint":18446744073709551615,"nil":null,"yes":true,"no":false,"text":"naïve \u00e9\ud83d\ude00 \"q\"","empty":"",
"k\u00e9y":1,"a b":2,"twice":1,"twice":[2,3],"list":[1,"two",null,[4],{"five":5}],"none":[],"map":{"x":{"y":[10,20]},"z":null},"nothing":{},
"twins":{"a":1,"b":2,"a":3},"recipients":["a@b.c","d@e.f"],"detections":[{"label":"person","confidence":0.9,"bounding_box":{"x_min":1}},{"label":"car","confidence":0.25}]}"#;

/// Renders over `EVENT`, two results and three headers; an error as its text.
fn render(source: &str) -> Result<String, String> {
    let template = Template::compile(source).map_err(|error| error.to_string())?;
    world(|scope| template.render(scope)).map(text).map_err(|error| error.0)
}

fn text(json: Bytes) -> String {
    String::from_utf8(json.to_vec()).expect("JSON is UTF-8")
}

fn world<T>(run: impl FnOnce(&Scope<'_>) -> T) -> T {
    let mut headers = Headers::new();
    headers.append("traceparent", Some("00-first".into()));
    headers.append("traceparent", Some("00-\"last\"".into()));
    headers.append("binary", Some(Bytes::from_static(b"\xff")));
    headers.append("void", None);
    let results = [("rag", Bytes::from_static(br#" {"answer":{"score":0.75},"k":[1,2]} "#)), ("odd-name", Bytes::from_static(b"[true]"))];
    run(&Scope { event: &Document::of(&Bytes::from_static(EVENT.as_bytes())), results: &results, headers: &headers })
}

#[test]
fn what_is_picked_is_copied_as_it_is_written() {
    for (source, json) in [
        ("event.big", "123456789012345678901234567890"),
        ("event.one", "1.0"),
        ("event.text", r#""naïve \u00e9\ud83d\ude00 \"q\"""#),
        ("event.list", r#"[1,"two",null,[4],{"five":5}]"#),
        ("event.list[4].five", "5"),
        ("event.map.x['y'][1]", "20"),
        ("event['a b']", "2"),
        ("event['kéy']", "1"),
        ("event.twice", "[2,3]"),
        ("event.twins", r#"{"a":1,"b":2,"a":3}"#),
        ("event.twins.a", "3"),
        ("event.nil", "null"),
        (".event.n", "3"),
        ("results.rag", r#"{"answer":{"score":0.75},"k":[1,2]}"#),
        ("results.rag.answer.score", "0.75"),
        ("results['odd-name'][0]", "true"),
        ("headers.traceparent", r#""00-\"last\"""#),
        ("headers['traceparent']", r#""00-\"last\"""#),
        ("event", EVENT),
    ] {
        assert_eq!(render(source).as_deref(), Ok(json), "{source}");
    }
}

#[test]
fn what_is_written_keeps_the_order_of_the_source() {
    for (source, json) in [
        (
            r#"{"z": event.n, "a": {"y": 1, "b": [event.no, null, 'x']}, "m": "\"é"}"#,
            r#"{"z":3,"a":{"y":1,"b":[false,null,"x"]},"m":"\"é"}"#,
        ),
        ("[]", "[]"),
        ("{}", "{}"),
        ("10", "10"),
        ("-1", "-1"),
        ("2.50", "2.5"),
        ("7u", "7"),
        ("true ? {'b': 1, 'a': 2} : null", r#"{"b":1,"a":2}"#),
        ("event.nil == null ? event.n : event.gone", "3"),
        // What CEL computes is in no order, and therefore sorted.
        ("event.recipients.map(r, {'z': r, 'a': 1})", r#"[{"a":1,"z":"a@b.c"},{"a":1,"z":"d@e.f"}]"#),
        ("{1: 'one', true: 'yes'}", r#"{"1":"one","true":"yes"}"#),
        ("results", r#"{"rag": {"answer":{"score":0.75},"k":[1,2]} ,"odd-name":[true]}"#),
        ("headers", r#"{"traceparent":"00-\"last\""}"#),
        ("b'abc'", r#""YWJj""#),
        ("duration('90s')", r#""90s""#),
        ("duration('-1.5s')", r#""-1.5s""#),
        ("timestamp(event.timestamp)", r#""2026-11-03T21:04:05+00:00""#),
        ("event.camera_id + ':' + event.label", r#""cam-1:person""#),
        ("event.detections.filter(d, d.confidence > 0.5).map(d, d.label)", r#"["person"]"#),
        ("event.list.map(x, has(event.gone) || has(event.n))", "[true,true,true,true,true]"),
        ("event.detections.filter(event, has(event.bounding_box)).map(d, d.label) + [has(event.five)]", r#"["person",false]"#),
        ("[1] + event.none + event.twice", "[1,2,3]"),
        ("event.n + 1 + 1", "5"),
        ("event.detections.exists(event, event.label == 'car')", "true"),
    ] {
        assert_eq!(render(source).as_deref(), Ok(json), "{source}");
    }
}

#[test]
fn an_evaluation_that_fails_says_which_key_or_type() {
    for (source, error) in [
        ("event.gone", "no such key: `event.gone`"),
        ("event.gone.further", "no such key: `event.gone`"),
        ("has(event.gone.further)", "no such key: `event.gone`"),
        ("event.map.gone", "no such key: `event.map.gone`"),
        ("event.list[9]", "index out of bounds: `event.list[9]`"),
        ("event.list[-1]", "index out of bounds: `event.list[-1]`"),
        ("event.list.x", "`event.list` is a list; it has no such members"),
        ("event.nil.x", "`event.nil` is a null_type; it has no such members"),
        ("has(event.text.x)", "`event.text` is a string; it has no such members"),
        ("event.n[0]", "`event.n` is a number; it has no such members"),
        ("results.gone", "no such key: `results.gone`"),
        ("headers.binary", "no such key: `headers.binary`"),
        ("headers.void", "no such key: `headers.void`"),
        ("size(event.nil)", "a null_type has no size()"),
        ("size(event.n)", "a int has no size()"),
        ("event.n < 'x'", "`<` cannot compare int with string"),
        ("event.list < event.list", "`<` cannot compare list with list"),
        ("event.n ? 1 : 2", "a bool is expected, not a int"),
        ("!event.map", "a bool is expected, not a map"),
        ("event.yes && event.n", "`&&` takes a bool, not a int"),
        ("event.gone || event.no", "no such key: `event.gone`"),
        ("event.label + event.gone", "no such key: `event.gone`"),
        ("event.label + event.n", "`+` does not take string and int"),
        ("event.map + 1", "`+` does not take map and int"),
        ("1 - event.label", "`-` does not take int and string"),
        ("[has(event.gone.x)].map(x, x)", "no such key: `event.gone`"),
        ("event.list.map(x, has(event.n.x))", "`event.n` is a number; it has no such members"),
        ("int(event.label)", "`int` does not take this value"),
        ("event.n / 0", "division by zero"),
        ("9223372036854775807 + event.n", "`+` overflows"),
        ("type(event.n)", "the result is a type; JSON has no such value"),
        ("1.0 / 0.0", "the result is a double that JSON does not have (NaN or infinite)"),
        ("{1: 1, '1': 2}", "two keys of the resulting map are the same in JSON"),
        ("event.detections.map(d, d.bounding_box)", "no such key: `bounding_box`"),
    ] {
        assert_eq!(render(source), Err(error.to_owned()), "{source}");
    }
}

#[test]
fn no_value_of_the_event_is_in_an_error() {
    for source in [
        "event.label + 1",
        "event.label < 1",
        "int(event.label)",
        "timestamp(event.label)",
        "event.label.x",
        "event.recipients - 1",
        "event.label.matches('[')",
    ] {
        let error = render(source).expect_err(source);
        assert!(!error.contains("person") && !error.contains("a@b.c"), "{source}: {error}");
    }
}

#[test]
fn what_cannot_be_compiled_says_where() {
    for (source, line, column, message) in [
        ("", 1, 1, "the expression is empty"),
        (" \n ", 1, 1, "the expression is empty"),
        ("1 +", 1, 4, "mismatched input"),
        ("'open", 1, 1, "token recognition error"),
        ("evnt.id", 1, 1, "`evnt` is not known; the variables here are `event`, `results`, `headers`"),
        ("{'é': event.id,\n 'ü': evnt}", 2, 7, "`evnt` is not known"),
        ("event.list.map(x, y)", 1, 19, "`y` is not known"),
        ("event.list.map(x, x) == x", 1, 25, "`x` is not known"),
        ("frobnicate(event)", 1, 11, "there is no function `frobnicate`"),
        ("event.id.frobnicate()", 1, 20, "there is no function `frobnicate`"),
        ("Event{id: 1}", 1, 6, "`Event` is a message"),
        ("{'a': 1, 'a': 2}", 1, 10, "the key `a` stands twice"),
        ("event.?id", 1, 6, "unsupported syntax"),
        ("optional.of(1)", 1, 1, "`optional` is not known"),
        ("has(event)", 1, 5, "invalid argument to has() macro"),
        ("['é', 1 + ]", 1, 11, "mismatched input"),
        ("['é',\n 'éé' + + ]", 2, 9, "mismatched input"),
        ("99999999999999999999", 1, 1, "invalid int literal"),
        ("event.list.map(x, event.list.map(y, event.list.map(z, z)))", 1, 51, "loops are nested more than 2 deep"),
    ] {
        let error = Template::compile(source).expect_err(source);
        assert_eq!((error.line, error.column), (line, column), "{source}: {error}");
        assert!(error.message.contains(message), "{source}: {error}");
        let condition = Condition::compile(source);
        assert!(condition.is_err() || source.starts_with("{'a'"), "{source}");
    }
}

#[test]
fn a_condition_is_a_bool_or_an_error() {
    for (source, expected) in [
        ("size(event.recipients) > 0", Ok(true)),
        ("event.recipients.size() > 2", Ok(false)),
        ("has(event.gone) && event.gone.x", Ok(false)),
        ("event.yes", Ok(true)),
        ("event.map.z == null", Ok(true)),
        ("results.rag.answer.score >= 0.75", Ok(true)),
        ("'person' in event.detections.map(d, d.label)", Ok(true)),
        ("event.label", Err("a bool is expected, not a string")),
        ("event.nil", Err("a bool is expected, not a null_type")),
        ("event.map", Err("a bool is expected, not a map")),
        ("{'a': true}", Err("a bool is expected, not a map")),
        ("event.gone == 1", Err("no such key: `event.gone`")),
    ] {
        let held = world(|scope| Condition::compile(source).expect(source).holds(scope));
        assert_eq!(held, expected.map_err(EvaluationError::new), "{source}");
    }
}

#[test]
fn other_variables_can_be_named() {
    let names = ["calls", "failure_rate"];
    let trip = Condition::compile_over("calls >= 10 && failure_rate > 0.5 && calls * 2 > 10", &names).expect("CEL");
    for (calls, rate, holds) in [(10, 0.6, true), (9, 0.6, false), (10, 0.5, false)] {
        assert_eq!(trip.holds_over(&[Root::Int(calls), Root::Double(rate)]), Ok(holds), "{calls} {rate}");
    }
    assert_eq!(trip.holds_over(&[Root::Int(10)]), Err(EvaluationError::new("`failure_rate` has no value here")));
    let error = Condition::compile_over("event.id == ''", &names).expect_err("no such variable");
    assert!(error.message.contains("the variables here are `calls`, `failure_rate`"), "{error}");
}

#[test]
fn what_is_not_json_is_an_error() {
    let headers = Headers::new();
    for data in [&b""[..], b"{", b"{\"a\" 1}", b"\xff", b"   "] {
        let results = [("rag", Bytes::copy_from_slice(data))];
        let event = Bytes::from_static(b"{}");
        let scope = Scope { event: &Document::of(&event), results: &results, headers: &headers };
        for source in ["results.rag.a", "results.rag.map(a, a)", "size(results.rag)", "results.rag.a.b == 1"] {
            assert!(Template::compile(source).expect(source).render(&scope).is_err(), "{source} over {data:?}");
        }
    }
}

#[test]
fn what_is_known_of_an_event_reads_as_what_is_looked_for() {
    const EVENT: &str = concat!(
        r#"{"id":"67e55044-10b1-426f-9247-bb680e5fe0c8","timestamp":"2026-11-03T21:04:05Z","camera_id":"cam-1","label":"gone","label":"person","#,
        r#""detections":[{"label":"car","confidence":0.50}], "recipients" : ["a@b.c"],"notification_channels":[],"site":{"id":7},"metadata":{"zone":1},"#,
        r#""activity":"loitering","event_type":"motion"}"#
    );
    let record = Incoming {
        source: Source { topic: Topic::from("events"), partition: Partition(0), offset: Offset(0) },
        key: None,
        value: Some(EVENT.into()),
        headers: Headers::new(),
        timestamp: None,
    };
    let event = decode(&record, EVENT.len(), UnixMillis(1)).expect("an event");
    assert_ne!(event.known, Known::default());
    let headers = Headers::new();
    let (known, read) = (Document::of_event(&event), Document::of(&event.json));
    let scope = |document| Scope { event: document, results: &[], headers: &headers };
    for source in [
        "{'id': event.id, 'all': event, 'to': event.recipients}",
        "{'id': event.id, 'site': has(event.site) ? event.site : null}",
        "has(event.query) ? event.query : 'none'",
        "{'first': event.detections[0].confidence, 'zone': event.metadata}",
        "event.detections.map(d, d.label)",
        "event.label + event.camera_id",
        "event.activity",
        "event.event_type + event.activity",
        "event.site.id",
        "event.nothing",
    ] {
        let template = Template::compile(source).expect(source);
        assert_eq!(template.render(&scope(&known)), template.render(&scope(&read)), "{source}");
    }
}

#[test]
fn expressions_are_shared_between_threads() {
    fn shared<T: Clone + Send + Sync + Debug>(_: &T) {}
    shared(&Condition::compile("event.yes").expect("CEL"));
    let template = Template::compile("event.list.map(x, x)").expect("CEL");
    shared(&template);
    assert_eq!(format!("{template:?}"), r#"Template("event.list.map(x, x)")"#);
}

#[test]
fn a_condition_of_one_word_is_known_without_an_event() {
    for (source, constant) in [("false", Some(false)), (" true ", Some(true)), ("1 == 2", None), ("has(event.a)", None)] {
        assert_eq!(Condition::compile(source).expect(source).constant(), constant, "{source}");
    }
}
