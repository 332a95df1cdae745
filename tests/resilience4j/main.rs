//! The policies `count` and `time` beside resilience4j: what it was recorded to decide (`recorded.jsonl`; README.md says how), they decide too,
//! operation by operation.

use fusebox::config::read_breaker;
use fusebox::machine::breaker::{StateName, Verdict};
use fusebox::machine::simulation::replay::{Came, NO_LEASE, Operation, Replay};
use fusebox::machine::time::Tick;
use serde_json::{Map, Value as Json, json};

fn operation<'a>(word: &str, id: &'a str) -> Operation<'a> {
    match word {
        "acq" => Operation::Ask(id),
        "ok" => Operation::Settle(id, Verdict::Success),
        "err" => Operation::Settle(id, Verdict::Failure { retry_after: None }),
        "ign" => Operation::Settle(id, Verdict::Ignored),
        "release" => Operation::Release,
        "wait" => Operation::Wait,
        order => Operation::Force(order.strip_prefix("force:").and_then(StateName::parse).expect("an order")),
    }
}

#[test]
fn decides_as_resilience4j_does() {
    let mut operations = 0;
    for (number, line) in include_str!("recorded.jsonl").lines().enumerate() {
        let recorded: Map<String, Json> = serde_json::from_str(line).expect("is JSON");
        let table = recorded["breaker"].as_object().expect("is a table").clone();
        let settings = read_breaker(table, NO_LEASE).unwrap_or_else(|faults| panic!("line {}: {faults}", number + 1));
        let mut now = recorded["t0"].as_u64().expect("is a time");
        let mut replay = Replay::new(settings, Tick(now), || 0.0);
        for (place, op) in recorded["ops"].as_array().expect("is a list").iter().enumerate() {
            now += op[0].as_u64().expect("is a time");
            let came = replay.apply(operation(op[1].as_str().expect("is a word"), &op[2].to_string()), Tick(now)).expect("can be");
            let result = match came {
                Came::Admitted(admitted) => json!(admitted),
                Came::Late => json!("late"),
                Came::Nothing => Json::Null,
            };
            let shown = replay.shown(Tick(now));
            let counts = shown.counts;
            let seen = json!([result, shown.state.as_str(), counts.calls, counts.failures, counts.slow, shown.refused]);
            let expected: Json = op.as_array().expect("is a list")[3..].into();
            assert_eq!(seen, expected, "line {}, operation {place}, {op}: {}", number + 1, recorded["breaker"]);
            operations += 1;
        }
    }
    assert!(operations > 30_000, "only {operations} operations were recorded");
}
