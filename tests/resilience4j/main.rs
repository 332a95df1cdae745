//! The policies `count` and `time` beside resilience4j: what it was recorded to decide (`recorded.jsonl`; README.md says how), they decide too,
//! operation by operation.

use std::collections::HashMap;
use std::time::Duration;

use fusebox::config::read_breaker;
use fusebox::machine::breaker::{Automatic, Breaker, Lock, LockKind, Permit, StateName, Verdict};
use fusebox::machine::time::Tick;
use serde_json::{Map, Value as Json, json};

/// Longer than any world: resilience4j gives no lease.
const NO_LEASE: Duration = Duration::from_secs(100 * 365 * 24 * 3_600);

struct World {
    breaker: Breaker,
    asked: HashMap<u64, (Option<Permit>, u64)>,
    refused: u64,
}

impl World {
    fn apply(&mut self, op: &str, id: Option<u64>, now: u64) -> Json {
        let tick = Tick(now);
        // resilience4j leaves `open` when it is asked, and `half_open` by a timer.
        while self.breaker.state_name() == StateName::HalfOpen
            && let Some(deadline) = self.breaker.next_deadline().filter(|deadline| *deadline <= tick)
        {
            self.breaker.advance(deadline);
        }
        match op {
            "acq" => {
                let (answer, _) = self.breaker.admit(tick, || 0.0);
                let admitted = answer.is_ok();
                self.refused += u64::from(!admitted);
                self.asked.insert(id.expect("an ask has an id"), (answer.ok(), now));
                json!(admitted)
            }
            "ok" | "err" | "ign" => {
                let (permit, began) = self.asked.remove(&id.expect("a verdict has an id")).expect("was asked");
                let verdict = match op {
                    "ok" => Verdict::Success,
                    "err" => Verdict::Failure { retry_after: None },
                    _ => Verdict::Ignored,
                };
                let permit = permit.expect("only admitted calls have a verdict");
                let settled = self.breaker.settle(permit, verdict, Duration::from_millis(now - began), tick, || 0.0);
                if settled.late { json!("late") } else { Json::Null }
            }
            "release" => {
                self.breaker.release("ann", "", tick);
                Json::Null
            }
            "wait" => Json::Null,
            order => {
                let lock = |kind| Lock { kind, actor: "ann".to_owned(), reason: String::new(), expires_at: None };
                match order.strip_prefix("force:").expect("an order") {
                    "forced_open" => self.breaker.lock(lock(LockKind::ForcedOpen), tick),
                    "forced_closed" => self.breaker.lock(lock(LockKind::ForcedClosed), tick),
                    "metrics_only" => self.breaker.lock(lock(LockKind::MetricsOnly), tick),
                    "closed" => self.breaker.reset_to(Automatic::Closed, "ann", "", tick, || 0.0),
                    "open" => self.breaker.reset_to(Automatic::Open, "ann", "", tick, || 0.0),
                    "half_open" => self.breaker.reset_to(Automatic::HalfOpen, "ann", "", tick, || 0.0),
                    other => panic!("no state is called {other}"),
                };
                Json::Null
            }
        }
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
        let mut world = World { breaker: Breaker::new(settings, Tick(now)), asked: HashMap::new(), refused: 0 };
        for (place, op) in recorded["ops"].as_array().expect("is a list").iter().enumerate() {
            now += op[0].as_u64().expect("is a time");
            let result = world.apply(op[1].as_str().expect("is a word"), op[2].as_u64(), now);
            let counts = world.breaker.counts(Tick(now));
            let seen = json!([result, world.breaker.state_name().as_str(), counts.calls, counts.failures, counts.slow, world.refused]);
            let expected: Json = op.as_array().expect("is a list")[3..].into();
            assert_eq!(seen, expected, "line {}, operation {place}, {op}: {}", number + 1, recorded["breaker"]);
            operations += 1;
        }
    }
    assert!(operations > 30_000, "only {operations} operations were recorded");
}
