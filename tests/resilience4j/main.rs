//! The policies `count` and `time` beside resilience4j: what it was recorded to decide (`recorded.jsonl`; README.md says how), `fusebox simulate
//! --replay` makes of the same operations too, one by one.

use std::process::Command;

use serde_json::Value as Json;

#[test]
fn decides_as_resilience4j_does() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/resilience4j/recorded.jsonl");
    let recorded = std::fs::read_to_string(path).expect("is there");
    // What came of an operation elsewhere, a replay leaves out: so the recordings are its input as well.
    let done = Command::new(env!("CARGO_BIN_EXE_fusebox")).args(["simulate", "--replay", path]).output().expect("runs");
    assert_eq!((done.status.code(), String::from_utf8_lossy(&done.stderr).as_ref()), (Some(0), ""));
    let replayed = String::from_utf8(done.stdout).expect("is text");
    assert_eq!(replayed.lines().count(), recorded.lines().count());
    let mut operations = 0;
    for (number, (seen, expected)) in replayed.lines().zip(recorded.lines()).enumerate() {
        let [seen_world, expected_world] = [seen, expected].map(|line| serde_json::from_str::<Json>(line).expect("is JSON"));
        let ops = |world: &Json| world["ops"].as_array().expect("is a list").clone();
        let (seen_ops, expected_ops) = (ops(&seen_world), ops(&expected_world));
        for (place, (seen, expected)) in seen_ops.iter().zip(&expected_ops).enumerate() {
            assert_eq!(seen, expected, "line {}, operation {place}: {}", number + 1, expected_world["breaker"]);
        }
        assert_eq!(seen, expected, "line {}", number + 1);
        operations += expected_ops.len();
    }
    assert!(operations > 30_000, "only {operations} operations were recorded");
}
