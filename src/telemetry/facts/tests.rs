use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::*;
use crate::config::LogFormat;
use crate::event::UnixMillis;
use crate::event::envelope::Reason;
use crate::event::outcome::Status;
use crate::event::{Offset, Partition};
use crate::machine::breaker::{Cause, Counts, Generation, PolicySettings, Settings, Verdict};
use crate::machine::disposition::FallbackKind;
use crate::machine::health::Health;
use crate::machine::judgement::CallOutcome;
use crate::machine::time::Tick;
use crate::telemetry::capture::{Stopped, logged, metrics};

const RAG: usize = 0;
const NOTIFIER: usize = 1;

fn teller() -> Teller<Stopped> {
    Teller::new(metrics(), Stopped::default())
}

/// The lines of `work` as JSON, without timestamp, target and instance, at `level`.
fn lines(level: &str, work: impl FnOnce()) -> Vec<Value> {
    let parse = |line: &String| {
        let mut line: Value = serde_json::from_str(line).unwrap();
        let object = line.as_object_mut().unwrap();
        assert_eq!(object.remove("target").unwrap(), TARGET);
        assert!(object.remove("timestamp").is_some() && object.remove("instance").is_some());
        line
    };
    logged(LogFormat::Json, level, work).iter().map(parse).collect()
}

/// Every sample but the process's and the histograms' buckets.
fn samples(metrics: &Metrics) -> BTreeMap<String, String> {
    let text = metrics.render();
    let ours = text.lines().filter(|line| line.starts_with("fusebox_") && !line.contains("_bucket{"));
    ours.map(|line| line.rsplit_once(' ').unwrap()).map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// The samples that `work` changes, without the prefix, as `name{labels} value`; those that go are `name{labels} gone`.
fn changes(metrics: &Metrics, work: impl FnOnce()) -> Vec<String> {
    let before = samples(metrics);
    work();
    let after = samples(metrics);
    let differ = after.iter().filter(|(name, value)| before.get(*name) != Some(*value)).map(|(name, value)| format!("{name} {value}"));
    let gone = before.keys().filter(|name| !after.contains_key(*name)).map(|name| format!("{name} gone"));
    differ.chain(gone).map(|line| line.trim_start_matches("fusebox_").to_owned()).collect()
}

fn transition(from: StateName, to: StateName, cause: Cause, generation: u64) -> Transition {
    Transition {
        from,
        to,
        cause,
        generation: Generation(generation),
        at: Tick(0),
        counts: Counts::default(),
        actor: None,
        reason: None,
        alone: false,
        fleet: None,
    }
}

fn origin(offset: i64) -> Source {
    Source { topic: "events".into(), partition: Partition(3), offset: Offset(offset) }
}

fn tuning(revision: u64, chosen: Chosen) -> Tuning {
    Tuning { revision, chosen, actor: "ann".into(), reason: "noisy".into(), at: UnixMillis(0), instance: "b".into() }
}

#[test]
fn each_fact_is_one_line_and_its_counters() {
    use StateName::{Closed, ForcedOpen, Open};
    let tripped = Transition {
        counts: Counts { calls: 5, failures: 5, slow: 0, consecutive_failures: 5 },
        ..transition(Closed, Open, Cause::Policy, 1)
    };
    let forced = Transition {
        actor: Some("ann".to_owned()),
        reason: Some("maintenance\n\"tonight\"".to_owned()),
        ..transition(Open, ForcedOpen, Cause::Forced, 2)
    };
    let closed = transition(StateName::HalfOpen, Closed, Cause::Recovered, 3);
    let (source, dead_letters, foreign) = (origin(42), Topic::from("dead-letters"), Topic::from("foreign"));
    let partitions = [0, 1].map(|partition| TopicPartition { topic: "events".into(), partition: Partition(partition) });
    let took = Duration::from_millis(1_500);
    let settings = Settings::new(PolicySettings::Consecutive { fail_max: std::num::NonZeroU32::MIN }, took, took);
    let given = tuning(3, Chosen::Given(Arc::new(settings)));
    let configured = tuning(4, Chosen::Configured);
    let unreadable = tuning(5, Chosen::Unreadable("mood: there is no such key".to_owned()));

    let facts: Vec<(Fact<'_>, Value, &[&str])> = vec![
        (
            Fact::Transition { service: RAG, transition: &tripped },
            json!({"level": "WARN", "message": "the breaker is open: calls are refused", "service": "rag", "from": "closed", "to": "open",
                   "cause": "policy", "generation": 1, "calls": 5, "failures": 5, "slow": 0}),
            &[
                r#"breaker_state{service="rag",state="closed"} 0"#,
                r#"breaker_state{service="rag",state="open"} 1"#,
                r#"breaker_transitions_total{cause="policy",from="closed",service="rag",to="open"} 1"#,
            ],
        ),
        (
            Fact::Transition { service: RAG, transition: &forced },
            json!({"level": "WARN", "message": "the breaker is forced open: calls are refused", "service": "rag", "from": "open",
                   "to": "forced_open", "cause": "forced", "generation": 2, "calls": 0, "failures": 0, "slow": 0, "actor": "ann",
                   "reason": "maintenance\n\"tonight\""}),
            &[
                r#"breaker_state{service="rag",state="closed"} 0"#,
                r#"breaker_state{service="rag",state="forced_open"} 1"#,
                r#"breaker_transitions_total{cause="forced",from="open",service="rag",to="forced_open"} 1"#,
            ],
        ),
        (
            Fact::Transition { service: RAG, transition: &closed },
            json!({"level": "INFO", "message": "the breaker is closed: calls go", "service": "rag", "from": "half_open", "to": "closed",
                   "cause": "recovered", "generation": 3, "calls": 0, "failures": 0, "slow": 0}),
            &[r#"breaker_transitions_total{cause="recovered",from="half_open",service="rag",to="closed"} 1"#],
        ),
        (
            Fact::Refused { service: RAG },
            json!({"level": "DEBUG", "message": "refused", "service": "rag"}),
            &[r#"breaker_refused_total{service="rag"} 1"#],
        ),
        (
            Fact::Called { service: NOTIFIER, outcome: CallOutcome::Http5xx, verdict: Some(Verdict::Failure { retry_after: None }), took },
            json!({"level": "DEBUG", "message": "called", "service": "notifier", "outcome": "http_5xx", "took_ms": 1500.0}),
            &[
                r#"call_duration_seconds_count{service="notifier"} 1"#,
                r#"call_duration_seconds_sum{service="notifier"} 1.5"#,
                r#"calls_total{outcome="http_5xx",service="notifier"} 1"#,
            ],
        ),
        (
            Fact::Late { service: RAG },
            json!({"level": "DEBUG", "message": "a verdict came too late to count", "service": "rag"}),
            &[r#"breaker_late_total{service="rag"} 1"#],
        ),
        (
            Fact::FellBack { service: RAG, kind: FallbackKind::Cached },
            json!({"level": "DEBUG", "message": "fell back", "service": "rag", "kind": "cached"}),
            &[r#"fallbacks_total{kind="cached",service="rag"} 1"#],
        ),
        (
            Fact::Parked { service: NOTIFIER, reason: Reason::CircuitOpen },
            json!({"level": "DEBUG", "message": "parked", "service": "notifier", "reason": "circuit_open"}),
            &[r#"parked_total{reason="circuit_open",service="notifier"} 1"#],
        ),
        (
            Fact::Drained { service: NOTIFIER, parked_for: took },
            json!({"level": "DEBUG", "message": "drained", "service": "notifier", "parked_for_ms": 1500.0}),
            &[r#"drained_total{service="notifier"} 1"#],
        ),
        (
            Fact::DeadLettered { code: Code::MissingField, error: "`camera_id` is absent", origin: &source },
            // What is said of bytes that cannot be read may quote them, and stays on the letter.
            json!({"level": "WARN", "message": "dead letter", "code": "missing_field", "topic": "events", "partition": 3, "offset": 42}),
            &[r#"dead_letters_total{code="missing_field"} 1"#],
        ),
        (
            Fact::DeadLettered { code: Code::Expired, error: "parked for too long", origin: &source },
            json!({"level": "WARN", "message": "dead letter", "code": "expired", "topic": "events", "partition": 3, "offset": 42,
                   "error": "parked for too long"}),
            &[r#"dead_letters_total{code="expired"} 1"#],
        ),
        (
            Fact::Finished { status: Some(Status::PartialSuccess), took },
            json!({"level": "DEBUG", "message": "finished", "outcome": "partial_success", "took_ms": 1500.0}),
            &["event_duration_seconds_count 1", "event_duration_seconds_sum 1.5", r#"events_total{outcome="partial_success"} 1"#],
        ),
        (
            Fact::Finished { status: None, took },
            json!({"level": "DEBUG", "message": "finished", "outcome": "dead_lettered", "took_ms": 1500.0}),
            &["event_duration_seconds_count 1", "event_duration_seconds_sum 1.5", r#"events_total{outcome="dead_lettered"} 1"#],
        ),
        (
            Fact::PublishFailed { topic: &dead_letters, error: "no leader" },
            json!({"level": "WARN", "message": "a record was not acknowledged and is published again", "topic": "dead-letters",
                   "error": "no leader"}),
            &[r#"publish_failures_total{topic="dead-letters"} 1"#],
        ),
        (
            Fact::PublishFailed { topic: &foreign, error: "no leader" },
            json!({"level": "WARN", "message": "a record was not acknowledged and is published again", "topic": "foreign",
                   "error": "no leader"}),
            &[],
        ),
        (
            Fact::Assigned { partitions: &partitions },
            json!({"level": "INFO", "message": "partitions assigned", "count": 2, "partitions": "events/0 events/1"}),
            &["rebalances_total 1"],
        ),
        (
            Fact::Revoked { partitions: &partitions, lost: false },
            json!({"level": "INFO", "message": "partitions revoked", "count": 2, "partitions": "events/0 events/1"}),
            &["rebalances_total 1", r#"consumer_lag{partition="1",topic="events"} gone"#],
        ),
        (
            Fact::Revoked { partitions: &partitions[..1], lost: true },
            json!({"level": "INFO", "message": "partitions lost", "count": 1, "partitions": "events/0"}),
            &["rebalances_total 1"],
        ),
        (
            Fact::ExpressionFailed { service: RAG, source: &source, error: "no such key: query" },
            json!({"level": "WARN", "message": "an expression could not be evaluated", "service": "rag", "topic": "events", "partition": 3,
                   "offset": 42, "error": "no such key: query"}),
            &[r#"expression_failures_total{service="rag"} 1"#],
        ),
        (
            Fact::HealthChecked { service: NOTIFIER, health: Health::Unhealthy, took: Duration::from_micros(1_500) },
            json!({"level": "DEBUG", "message": "asked for its health", "service": "notifier", "health": "unhealthy", "took_ms": 1.5}),
            &[r#"health_checks_total{outcome="unhealthy",service="notifier"} 1"#],
        ),
        (
            Fact::VerdictFailed { service: RAG, rule: Rule::Failure, error: "no such key: `body.error`" },
            json!({"level": "WARN", "message": "a reply could not be judged by an expression", "service": "rag", "key": "failure",
                   "error": "no such key: `body.error`"}),
            &[r#"expression_failures_total{service="rag"} 1"#],
        ),
        (
            Fact::Tuned { service: RAG, tuning: &given },
            json!({"level": "INFO", "message": "the breaker goes by changed settings", "service": "rag", "revision": 3, "actor": "ann",
                   "reason": "noisy", "by": "b"}),
            &[],
        ),
        (
            Fact::Tuned { service: RAG, tuning: &configured },
            json!({"level": "INFO", "message": "the breaker goes by the configured settings again", "service": "rag", "revision": 4,
                   "actor": "ann", "reason": "noisy", "by": "b"}),
            &[],
        ),
        (
            Fact::Tuned { service: RAG, tuning: &unreadable },
            json!({"level": "WARN", "message": "changed settings cannot be read by this version; the breaker goes on with those that it has",
                   "service": "rag", "revision": 5, "actor": "ann", "reason": "noisy", "by": "b", "error": "mood: there is no such key"}),
            &[],
        ),
        (
            Fact::TuningLost { service: RAG, lost: &given, stored: &configured },
            json!({"level": "WARN", "message": "settings that were changed while the store was away give way to those that were changed there",
                   "service": "rag", "revision": 3, "actor": "ann", "reason": "noisy", "stored_revision": 4, "stored_actor": "ann",
                   "stored_reason": "noisy"}),
            &[],
        ),
        (
            Fact::Stuck { service: RAG, source: &source, event: uuid::Uuid::nil(), ran: Duration::from_millis(61_500) },
            json!({"level": "WARN", "message": "a record has been running for longer than its calls may take", "service": "rag",
                   "topic": "events", "partition": 3, "offset": 42, "event_id": "00000000-0000-0000-0000-000000000000", "ran_s": 61}),
            &[],
        ),
        (
            Fact::Store { up: true, error: "" },
            json!({"level": "INFO", "message": "the store is there: breakers are shared"}),
            &["store_up 1"],
        ),
        (
            Fact::Store { up: false, error: "timed out" },
            json!({"level": "WARN", "message": "the store is away: each instance decides with what it knows", "error": "timed out"}),
            &[],
        ),
        (Fact::Refused { service: 99 }, json!({"level": "DEBUG", "message": "refused", "service": "?"}), &[]),
        (
            Fact::Parked { service: RAG, reason: Reason::Timeout },
            json!({"level": "DEBUG", "message": "parked", "service": "rag", "reason": "timeout"}),
            &[],
        ),
    ];
    for (fact, line, counters) in facts {
        let told = format!("{fact:?}");
        let teller = teller();
        teller.metrics.set_lag(&partitions[1], 9);
        let mut counted = Vec::new();
        let written = lines("trace", || counted = changes(&teller.metrics, || teller.tell(fact)));
        assert_eq!(written, [line], "{told}");
        assert_eq!(counted, counters, "{told}");
    }
}

#[test]
fn a_flood_is_a_few_lines_of_each_kind_and_a_count() {
    let teller = teller();
    let (outcomes, source) = (Topic::from("outcomes"), origin(1));
    let flood = || {
        for offset in 0..1_000 {
            teller.tell(Fact::DeadLettered { code: Code::InvalidJson, error: "cut off", origin: &origin(offset) });
            teller.tell(Fact::PublishFailed { topic: &outcomes, error: "no leader" });
            teller.tell(Fact::ExpressionFailed { service: RAG, source: &source, error: "no such key" });
        }
        teller.tell(Fact::DeadLettered { code: Code::TooLarge, error: "2 MiB", origin: &source });
    };
    let written = lines("trace", flood);
    assert_eq!(written.len(), 5 + 5 + 5 + 1, "five of each, and the other code's own");

    let written = lines("trace", || {
        teller.tick();
        teller.clock.0.store(1_000, Ordering::Relaxed);
        teller.tell(Fact::DeadLettered { code: Code::InvalidJson, error: "cut off", origin: &source });
        teller.tick();
        teller.tick();
    });
    let [next, expressions, publishes] = &written[..] else { panic!("{written:#?}") };
    assert_eq!((&next["message"], &next["left_out"]), (&json!("dead letter"), &json!(995)));
    assert_eq!((&expressions["service"], &expressions["left_out"]), (&json!("rag"), &json!(995)));
    assert_eq!((&publishes["topic"], &publishes["left_out"]), (&json!("outcomes"), &json!(995)));
    assert_eq!(samples(&teller.metrics)["fusebox_dead_letters_total{code=\"invalid_json\"}"], "1001", "the counter leaves nothing out");
}

#[test]
fn the_store_is_spoken_of_when_it_changes() {
    let teller = teller();
    let written = lines("trace", || {
        for up in [false, false, true, true, true, false] {
            teller.tell(Fact::Store { up, error: "gone" });
        }
    });
    assert_eq!(written.iter().map(|line| line["level"].as_str().unwrap()).collect::<Vec<_>>(), ["WARN", "INFO", "WARN"]);
}

#[test]
fn at_info_an_event_writes_nothing() {
    let teller = teller();
    let written = lines("info", || {
        teller.tell(Fact::Called { service: RAG, outcome: CallOutcome::Ok, verdict: Some(Verdict::Success), took: Duration::ZERO });
        teller.tell(Fact::Refused { service: RAG });
        teller.tell(Fact::FellBack { service: RAG, kind: FallbackKind::Cached });
        teller.tell(Fact::Parked { service: NOTIFIER, reason: Reason::CircuitOpen });
        teller.tell(Fact::Drained { service: NOTIFIER, parked_for: Duration::ZERO });
        teller.tell(Fact::Finished { status: Some(Status::Ok), took: Duration::ZERO });
    });
    assert_eq!(written, [] as [Value; 0]);
}

#[test]
fn what_an_event_brings_becomes_no_label() {
    let teller = teller();
    let before: Vec<_> = samples(&teller.metrics).into_keys().collect();
    let evil = Source { topic: "evil\"}".into(), partition: Partition(-1), offset: Offset(i64::MAX) };
    teller.tell(Fact::DeadLettered { code: Code::InvalidField, error: "evil", origin: &evil });
    teller.tell(Fact::ExpressionFailed { service: RAG, source: &evil, error: "evil" });
    teller.tell(Fact::PublishFailed { topic: &evil.topic, error: "evil" });
    assert_eq!(samples(&teller.metrics).into_keys().collect::<Vec<_>>(), before);
    assert!(!teller.metrics.render().contains("evil"));
}

#[test]
fn listeners_hear_what_a_screen_shows() {
    let teller = teller();
    let mut listener = teller.subscribe();
    let opened = transition(StateName::Closed, StateName::Open, Cause::Policy, 1);
    let source = origin(7);
    teller.tell(Fact::Transition { service: RAG, transition: &opened });
    teller.tell(Fact::Called { service: RAG, outcome: CallOutcome::Ok, verdict: Some(Verdict::Success), took: Duration::ZERO });
    teller.tell(Fact::Parked { service: NOTIFIER, reason: Reason::Timeout });
    teller.tell(Fact::Drained { service: NOTIFIER, parked_for: Duration::from_secs(3) });
    teller.tell(Fact::DeadLettered { code: Code::Expired, error: "too old", origin: &source });
    let heard: Vec<_> = std::iter::from_fn(|| listener.try_recv().ok()).collect();
    let expected = [
        Notice::Transition { service: "rag".into(), transition: Arc::new(opened) },
        Notice::Parked { service: "notifier".into(), reason: Reason::Timeout },
        Notice::Drained { service: "notifier".into(), parked_for: Duration::from_secs(3) },
        Notice::DeadLettered { code: Code::Expired, origin: source },
    ];
    assert_eq!(heard, expected);
}

#[test]
fn judged_calls_are_recorded_and_cancelled_ones_are_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("calls.jsonl");
    let (recorder, flusher) = Recorder::open(&path).unwrap();
    let teller = teller().recording(Some(recorder));
    let took = Duration::from_millis(5);
    let failure = Verdict::Failure { retry_after: Some(Duration::from_secs(1)) };
    for (service, outcome, verdict) in [
        (RAG, CallOutcome::Ok, Some(Verdict::Success)),
        (NOTIFIER, CallOutcome::Http5xx, Some(failure)),
        (RAG, CallOutcome::Cancelled, None),
        // An expression has had another word than the status.
        (RAG, CallOutcome::Ok, Some(Verdict::Ignored)),
    ] {
        teller.tell(Fact::Called { service, outcome, verdict, took });
    }
    teller.tell(Fact::Refused { service: RAG });
    teller.tell(Fact::HealthChecked { service: NOTIFIER, health: Health::Healthy, took });
    drop(flusher);
    let text = std::fs::read_to_string(path).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(
        lines,
        [
            json!({"at": -5, "service": "rag", "duration_ms": 5.0, "verdict": "success"}),
            json!({"at": -5, "service": "notifier", "duration_ms": 5.0, "verdict": "failure", "retry_after_ms": 1000}),
            json!({"at": -5, "service": "rag", "duration_ms": 5.0, "verdict": "ignored"}),
        ]
    );
}
