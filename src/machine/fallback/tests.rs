use super::*;
use serde_json::json;

const SECOND: Duration = Duration::from_secs(1);

fn cache(max_entries: usize, ttl: Duration) -> Cache {
    Cache::new(NonZeroUsize::new(max_entries).expect("not zero"), ttl)
}

#[test]
fn an_answer_is_good_for_its_time_to_live() {
    for (age_ms, good) in [(0, true), (1, true), (9_999, true), (10_000, true), (10_001, false), (u64::MAX - 1_000, false)] {
        let mut cache = cache(4, 10 * SECOND);
        cache.put("k", Bytes::from_static(b"1"), Tick(1_000));
        let now = Tick(1_000 + age_ms);
        let found = cache.get("k", now).map(|(data, age)| (data.clone(), age));
        assert_eq!(found, good.then_some((Bytes::from_static(b"1"), Duration::from_millis(age_ms))), "{age_ms} ms");
        assert_eq!(cache.len(), usize::from(good), "{age_ms} ms");
    }
}

#[test]
fn a_newer_answer_replaces_the_older_and_starts_its_age_anew() {
    let mut cache = cache(4, 10 * SECOND);
    cache.put("k", Bytes::from_static(b"1"), Tick(0));
    cache.put("k", Bytes::from_static(b"2"), Tick(9_000));
    assert_eq!(cache.get("k", Tick(15_000)), Some((&Bytes::from_static(b"2"), 6 * SECOND)));
    assert_eq!(cache.get("other", Tick(15_000)), None);
}

#[test]
fn the_bound_drops_what_was_used_longest_ago() {
    let mut cache = cache(2, 100 * SECOND);
    cache.put("a", Bytes::from_static(b"a"), Tick(0));
    cache.put("b", Bytes::from_static(b"b"), Tick(0));
    assert!(cache.get("a", Tick(1)).is_some());
    cache.put("c", Bytes::from_static(b"c"), Tick(2));
    assert_eq!(["a", "b", "c"].map(|key| cache.get(key, Tick(3)).is_some()), [true, false, true]);
    for key in 0..10_000 {
        cache.put(&key.to_string(), Bytes::new(), Tick(4));
    }
    assert_eq!(cache.len(), 2);
    assert!(!cache.is_empty());
}

#[test]
fn a_huge_bound_takes_no_room_in_advance() {
    assert!(cache(usize::MAX, SECOND).is_empty());
}

#[test]
fn asking_does_not_keep_an_answer_young() {
    let mut cache = cache(2, 10 * SECOND);
    cache.put("k", Bytes::new(), Tick(0));
    for second in 0..=10 {
        assert!(cache.get("k", Tick(second * 1_000)).is_some(), "{second}");
    }
    assert_eq!(cache.get("k", Tick(10_001)), None);
}

#[test]
fn a_default_says_that_it_is_one() {
    let Value::Object(body) = json!({"severity": "medium", "fallback": "old", "confidence": 0.5}) else { unreachable!("an object") };
    let text = explain("rulegen", StandIn::Default(&body), "circuit_open", Some(UnixMillis(1_793_739_845_678)));
    assert_eq!(
        std::str::from_utf8(&text),
        Ok(concat!(
            r#"{"severity":"medium","confidence":0.5,"fallback":{"kind":"default","reason":"circuit_open","explanation":"#,
            r#""A default stands in for the answer of rulegen: calls to it are held back for now. "#,
            r#"It is not asked again before 2026-11-03T21:04:05.678Z.","until":"2026-11-03T21:04:05.678Z"}}"#
        ))
    );
}

#[test]
fn a_cached_answer_keeps_its_spelling_and_says_its_age() {
    let explanation = |text: &str| {
        format!(
            r#""fallback":{{"kind":"cached","reason":"timeout","explanation":"{text}: it did not answer in time.","until":null,"age_seconds":"#
        )
    };
    for (data, age, members, words) in [
        (r#"{"b":1.50,"a":[ 1 ]}"#, 1, r#""b":1.50,"a":[ 1 ],"#, "1 second"),
        (r#" {"fallback":{"kind":"older"},"x":null} "#, 59, r#""x":null,"#, "59 seconds"),
        ("{}", 119, "", "1 minute"),
        (r#"{"n":123456789012345678901234567890}"#, 7_200, r#""n":123456789012345678901234567890,"#, "2 hours"),
        (r#"{"k\u00e9\"":1}"#, 90_000, r#""ké\"":1,"#, "1 day"),
        ("[1, 2]", 0, r#""value":[1, 2],"#, "0 seconds"),
        (r#""text""#, 0, r#""value":"text","#, "0 seconds"),
        ("null", 0, r#""value":null,"#, "0 seconds"),
        ("not JSON", 0, r#""value":null,"#, "0 seconds"),
    ] {
        let bytes = Bytes::copy_from_slice(data.as_bytes());
        let text = explain("rag", StandIn::Cached { data: &bytes, age: Duration::from_secs(age) }, "timeout", None);
        let sentence = explanation(&format!("An answer that rag gave {words} earlier stands in for its answer"));
        assert_eq!(std::str::from_utf8(&text), Ok(format!("{{{members}{sentence}{age}}}}}").as_str()), "{data}");
    }
}

#[test]
fn every_reason_is_a_sentence_about_the_service() {
    let body = Map::new();
    for reason in [
        "circuit_open",
        "timeout",
        "connect",
        "http_5xx",
        "http_429",
        "retryable",
        "overload",
        "bad_body",
        "rejected",
        "shutdown",
        "another",
    ] {
        for until in [None, Some(UnixMillis(0)), Some(UnixMillis(i64::MAX))] {
            let json: Value = serde_json::from_slice(&explain("vms \"2\"", StandIn::Default(&body), reason, until)).expect("JSON");
            let fallback = &json["fallback"];
            assert_eq!((&fallback["reason"], &fallback["kind"]), (&json!(reason), &json!("default")));
            let sentence = fallback["explanation"].as_str().expect("a string");
            assert!(sentence.contains("vms \"2\"") && sentence.ends_with('.') && !sentence.contains("_"), "{sentence}");
            assert_eq!(fallback["until"], until.map_or(Value::Null, |until| json!(until.to_rfc3339())));
            assert_eq!(fallback.get("age_seconds"), None);
        }
    }
}
