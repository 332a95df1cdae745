use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::*;
use crate::config::Fallback;
use crate::event::Partition;
use crate::machine::breaker::{Counts, Generation};
use crate::machine::disposition::FallbackKind;
use crate::machine::time::Tick;
use crate::telemetry::capture::{metrics, series};

/// The names and labels in a text, values left out.
fn names(text: &str) -> BTreeSet<String> {
    text.lines().filter(|line| !line.starts_with('#')).map(|line| line.rsplit_once(' ').unwrap().0.to_owned()).collect()
}

/// A series' value.
fn value(text: &str, series: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}

#[test]
fn every_series_of_the_config_is_there_from_the_start() {
    let text = metrics().render();
    let mut expected: BTreeSet<String> = BTreeSet::new();
    let mut add = |name: &str, labels: String| expected.insert(format!("fusebox_{name}{{{labels}}}"));
    for service in ["rag", "notifier"] {
        let own = format!("service=\"{service}\"");
        for outcome in ["ok", "slow", "rejected", "http_5xx", "http_429", "timeout", "connect", "bad_body", "cancelled"] {
            add("calls_total", format!("outcome=\"{outcome}\",{own}"));
        }
        for state in StateName::ALL.map(StateName::as_str) {
            add("breaker_state", format!("{own},state=\"{state}\""));
        }
        for (from, to) in StateName::ALL.into_iter().flat_map(|from| StateName::ALL.map(|to| (from, to))) {
            for cause in Cause::ALL.into_iter().filter(|cause| cause.joins(from, to)) {
                let (from, to, cause) = (from.as_str(), to.as_str(), cause.as_str());
                add("breaker_transitions_total", format!("cause=\"{cause}\",from=\"{from}\",{own},to=\"{to}\""));
            }
        }
        for name in ["concurrency_limit", "breaker_alone", "breaker_refused_total", "breaker_late_total", "expression_failures_total"] {
            add(name, own.clone());
        }
        add("call_duration_seconds_sum", own.clone());
        add("call_duration_seconds_count", own.clone());
        for bound in BUCKETS.map(|bound| bound.to_string()).into_iter().chain(["+Inf".to_owned()]) {
            add("call_duration_seconds_bucket", format!("{own},le=\"{bound}\""));
        }
    }
    add("fallbacks_total", "kind=\"cached\",service=\"rag\"".into());
    add("fallbacks_total", "kind=\"park\",service=\"notifier\"".into());
    for reason in ["circuit_open", "timeout", "connect", "http_5xx", "http_429", "retryable", "overload", "shutdown", "behind"] {
        add("parked_total", format!("reason=\"{reason}\",service=\"notifier\""));
    }
    for outcome in ["healthy", "unhealthy", "timeout", "connect"] {
        add("health_checks_total", format!("outcome=\"{outcome}\",service=\"notifier\""));
    }
    for name in [
        "drained_total",
        "retry_depth",
        "retry_due",
        "retry_oldest_seconds",
        "retry_drain_seconds",
        "retry_retention_seconds",
        "retry_retention_used_ratio",
        "retry_retention_short",
    ] {
        add(name, "service=\"notifier\"".into());
    }
    for outcome in ["ok", "partial_success", "fallback", "error", "dead_lettered"] {
        add("events_total", format!("outcome=\"{outcome}\""));
    }
    for code in Code::ALL {
        add("dead_letters_total", format!("code=\"{}\"", code.as_str()));
    }
    for topic in ["dead-letters", "outcomes", "retry"] {
        add("publish_failures_total", format!("topic=\"{topic}\""));
    }
    add("commits_total", "result=\"ok\"".into());
    add("commits_total", "result=\"failed\"".into());
    for bound in BUCKETS.map(|bound| bound.to_string()).into_iter().chain(["+Inf".to_owned()]) {
        add("event_duration_seconds_bucket", format!("le=\"{bound}\""));
    }
    for plain in [
        "event_duration_seconds_sum",
        "event_duration_seconds_count",
        "in_flight",
        "in_flight_bytes",
        "paused_partitions",
        "braked_partitions",
    ] {
        expected.insert(format!("fusebox_{plain}"));
    }
    for plain in
        ["rebalances_total", "stalled_partitions", "stuck_records", "store_up", "log_lines_dropped_total", "call_records_dropped_total"]
    {
        expected.insert(format!("fusebox_{plain}"));
    }
    let build = text.lines().find(|line| line.starts_with("fusebox_build_info")).unwrap();
    assert!(build.contains(&format!("version=\"{}\"", env!("CARGO_PKG_VERSION"))) && build.ends_with(" 1"), "{build}");

    let mut got = names(&text);
    got.retain(|name| !name.starts_with("process_") && !name.starts_with("fusebox_build_info"));
    assert_eq!(got, expected);
    for name in &got {
        let value = value(&text, name).unwrap();
        if name.starts_with("fusebox_retry_drain_seconds") || name.starts_with("fusebox_retry_retention_seconds") {
            assert!(value.is_nan(), "{name}: nothing was asked yet");
            continue;
        }
        let one = name.starts_with("fusebox_breaker_state") && name.contains("state=\"closed\"");
        assert_eq!(Some(value), Some(if one { 1.0 } else { 0.0 }), "{name}");
    }
}

#[test]
fn without_a_store_there_is_no_store_that_could_be_down() {
    let text = Metrics::new(&Series { store: false, ..series() }, DroppedLines::default(), None).render();
    assert!(!text.contains("store_up"), "{text}");
}

#[test]
fn what_could_not_be_recorded_is_counted_where_calls_are_recorded() {
    let dropped = || DroppedLines::default();
    assert!(!Metrics::new(&series(), dropped(), None).render().contains("call_records"));
    let records = dropped();
    let metrics = Metrics::new(&series(), dropped(), Some(records.clone()));
    for (more, expected) in [(0, 0.0), (2, 2.0), (0, 2.0), (1, 3.0)] {
        records.add(more);
        let text = metrics.render();
        assert_eq!(value(&text, "fusebox_call_records_dropped_total"), Some(expected));
        assert_eq!(value(&text, "fusebox_log_lines_dropped_total"), Some(0.0));
    }
}

#[test]
fn the_text_keeps_prometheus_rules() {
    let metrics = metrics();
    metrics.set_lag(&TopicPartition { topic: "events".into(), partition: Partition(3) }, 1);
    let text = metrics.render();
    let mut types = BTreeMap::new();
    let mut helps = BTreeMap::new();
    for line in text.lines() {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            assert_eq!(types.insert(name, kind), None, "{name} has one type");
        } else if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            assert!(help.ends_with('.') || help.ends_with("running."), "{name}: a sentence: {help}");
            assert_eq!(helps.insert(name, help), None, "{name} has one help");
        } else {
            let name = &line[..line.find(['{', ' ']).unwrap()];
            let family = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|end| name.strip_suffix(end).filter(|name| types.get(name) == Some(&"histogram")));
            assert!(types.contains_key(family.unwrap_or(name)), "{line} comes behind its type");
        }
    }
    assert_eq!(types.keys().collect::<Vec<_>>(), helps.keys().collect::<Vec<_>>());
    for (name, kind) in &types {
        assert_eq!(name.ends_with("_total"), *kind == "counter", "{name}: _total is for counters and for all of them");
        assert!(name.starts_with("fusebox_") || name.starts_with("process_"), "{name}");
        for unit in ["_ms", "_millis", "_milliseconds", "_kb", "_minutes", "_percent"] {
            assert!(!name.contains(unit), "{name} is not in a base unit");
        }
        assert!(*kind != "histogram" || name.ends_with("_seconds"), "{name}");
    }
    let ours: Vec<_> = types.iter().filter(|(name, _)| name.starts_with("fusebox_")).map(|(name, kind)| (*name, *kind)).collect();
    let mut table: Vec<_> = TABLE.iter().map(|family| (family.name, family.kind.as_str())).collect();
    table.sort_unstable();
    assert_eq!(ours, table, "what is registered is what the table says");
}

#[test]
fn two_scrapes_differ_in_values_only() {
    let metrics = metrics();
    let without_process = |text: String| text.lines().filter(|line| !line.starts_with("process_")).map(str::to_owned).collect::<Vec<_>>();
    let first = without_process(metrics.render());
    assert_eq!(first, without_process(metrics.render()));
    metrics.called(0, CallOutcome::Ok, Duration::from_millis(3));
    let third = without_process(metrics.render());
    let differ: Vec<_> = first.iter().zip(&third).filter(|(before, after)| before != after).map(|(_, after)| after.as_str()).collect();
    assert_eq!(differ.len(), 1 + 2 + BUCKETS.len() + 1 - 2, "the count, the sum, the number, and each bucket from 5 ms on: {differ:#?}");
}

#[test]
fn the_gauges_of_others() {
    let metrics = metrics();
    let of = |partition| TopicPartition { topic: "events".into(), partition: Partition(partition) };
    metrics.set_in_flight(12, 3_456);
    metrics.set_paused(2);
    metrics.set_braked(1);
    metrics.set_hanging(3, 4);
    metrics.set_concurrency_limit(1, 17);
    metrics.set_concurrency_limit(7, 17);
    metrics.set_lag(&of(0), 7);
    metrics.set_lag(&of(1), u64::MAX);
    metrics.remove_lag(&of(1));
    metrics.remove_lag(&of(2));
    let backlog = Backlogged {
        depth: 5,
        due: 4,
        oldest: Duration::from_millis(1_500),
        drain_seconds: Some(2.5),
        retention_seconds: Some(86_400.0),
        retention_used: 0.25,
        retention_short: true,
    };
    for service in [0, 1, 7] {
        metrics.set_retry(service, &backlog);
    }
    metrics.set_store_up(true);
    let forced = Transition {
        from: StateName::Closed,
        to: StateName::ForcedOpen,
        cause: Cause::Forced,
        generation: Generation(4),
        at: Tick(0),
        counts: Counts::default(),
        actor: None,
        reason: None,
        alone: false,
        fleet: None,
    };
    metrics.transition(1, &forced);
    metrics.count_commit(true);
    metrics.count_commit(true);
    metrics.count_commit(false);
    let text = metrics.render();
    for (series, expected) in [
        ("fusebox_in_flight", Some(12.0)),
        ("fusebox_in_flight_bytes", Some(3_456.0)),
        ("fusebox_paused_partitions", Some(2.0)),
        ("fusebox_braked_partitions", Some(1.0)),
        ("fusebox_stalled_partitions", Some(3.0)),
        ("fusebox_stuck_records", Some(4.0)),
        ("fusebox_concurrency_limit{service=\"notifier\"}", Some(17.0)),
        ("fusebox_concurrency_limit{service=\"rag\"}", Some(0.0)),
        ("fusebox_consumer_lag{partition=\"0\",topic=\"events\"}", Some(7.0)),
        ("fusebox_consumer_lag{partition=\"1\",topic=\"events\"}", None),
        ("fusebox_retry_depth{service=\"notifier\"}", Some(5.0)),
        ("fusebox_retry_due{service=\"notifier\"}", Some(4.0)),
        ("fusebox_retry_oldest_seconds{service=\"notifier\"}", Some(1.5)),
        ("fusebox_retry_drain_seconds{service=\"notifier\"}", Some(2.5)),
        ("fusebox_retry_retention_seconds{service=\"notifier\"}", Some(86_400.0)),
        ("fusebox_retry_retention_used_ratio{service=\"notifier\"}", Some(0.25)),
        ("fusebox_retry_retention_short{service=\"notifier\"}", Some(1.0)),
        ("fusebox_retry_depth{service=\"rag\"}", None),
        ("fusebox_store_up", Some(1.0)),
        ("fusebox_breaker_state{service=\"notifier\",state=\"forced_open\"}", Some(1.0)),
        ("fusebox_breaker_state{service=\"notifier\",state=\"closed\"}", Some(0.0)),
        ("fusebox_breaker_state{service=\"rag\",state=\"closed\"}", Some(1.0)),
        ("fusebox_commits_total{result=\"ok\"}", Some(2.0)),
        ("fusebox_commits_total{result=\"failed\"}", Some(1.0)),
    ] {
        assert_eq!(value(&text, series), expected, "{series}");
    }
}

#[test]
fn a_service_has_the_fallback_that_its_config_says() {
    for (fallback, kind) in [
        (Fallback::Default { body: serde_json::Map::new() }, FallbackKind::Default),
        (Fallback::Skip, FallbackKind::Skip),
        (Fallback::Fail, FallbackKind::Fail),
    ] {
        assert_eq!(
            ServiceLabels::of("vms", &fallback, false),
            ServiceLabels { name: "vms".into(), parks: false, checked: false, fallback_kind: kind }
        );
    }
}

/// `docs/metrics.md`, as it must be.
fn reference() -> String {
    use std::fmt::Write;
    let mut text = String::from(include_str!("reference.md"));
    let bounds: Vec<_> = BUCKETS.iter().map(f64::to_string).collect();
    writeln!(text, "- The upper bounds of every histogram, in seconds: {}.", bounds.join(", ")).unwrap();
    text.push_str("\n## Every metric\n\n| name | type | labels | meaning |\n|---|---|---|---|\n");
    for Family { name, kind, labels, help } in TABLE {
        let labels: Vec<_> = labels.iter().map(|label| format!("`{label}`")).collect();
        writeln!(text, "| `{name}` | {} | {} | {help} |", kind.as_str(), labels.join(", ")).unwrap();
    }
    text.push_str("\n## Label values\n\n| label | values |\n|---|---|\n");
    let mut row = |label: &str, values: &[&str]| {
        let values: Vec<_> = values.iter().map(|value| format!("`{value}`")).collect();
        writeln!(text, "| {label} | {} |", values.join(", ")).unwrap();
    };
    let statuses: Vec<_> = Status::ALL.map(Status::as_str).into_iter().chain([DEAD_LETTERED]).collect();
    row("`outcome` of events", &statuses);
    row("`outcome` of calls", &CallOutcome::ALL.map(CallOutcome::as_str));
    row("`outcome` of health checks", &Health::ALL.map(Health::as_str));
    row("`state`, `from`, `to`", &StateName::ALL.map(StateName::as_str));
    row("`cause`", &Cause::ALL.map(Cause::as_str));
    row("`kind`", &FallbackKind::ALL.map(FallbackKind::as_str));
    row("`reason`", &Reason::ALL.map(Reason::as_str));
    row("`code`", &Code::ALL.map(Code::as_str));
    row("`result`", &COMMIT_RESULTS);
    text.push_str("\n## The process\n\n| name | type | meaning |\n|---|---|---|\n");
    for description in prometheus::core::Collector::desc(&ProcessCollector::for_self()) {
        let kind = if description.fq_name.ends_with("_total") { "counter" } else { "gauge" };
        writeln!(text, "| `{}` | {kind} | {} |", description.fq_name, description.help).unwrap();
    }
    text
}

#[test]
fn the_docs_say_what_the_table_says() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md");
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert!(written == reference(), "docs/metrics.md is not what the table says. It must be:\n{}", reference());
}
