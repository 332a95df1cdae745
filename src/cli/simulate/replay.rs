//! `fusebox simulate --replay`: lines of operations, each printed with what came of it.

use std::io::{self, BufRead, BufWriter, Write};
use std::process::ExitCode;

use serde_json::{Map, Value as Json, json};

use super::super::{Done, Failure};
use super::chance;
use crate::config::read_breaker;
use crate::machine::breaker::{StateName, Verdict};
use crate::machine::simulation::replay::{Came, NO_LEASE, Operation, Replay};
use crate::machine::time::Tick;

pub(super) fn run(lines: Box<dyn BufRead>, place: &str, seed: u64) -> Done {
    let mut out = BufWriter::new(std::io::stdout().lock());
    for (number, line) in lines.lines().enumerate() {
        let here = |message: String| Failure::Wrong(format!("{place}:{}: {message}", number + 1));
        let line = line.map_err(|error| here(format!("cannot be read: {error}")))?;
        if line.trim().is_empty() {
            continue;
        }
        let written = serde_json::to_string(&completed(&line, seed).map_err(here)?).map_err(|error| Failure::Failed(error.into()))?;
        // At once: whoever waits for what came of a line before writing the next one would wait for ever.
        match writeln!(out, "{written}").and_then(|()| out.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(ExitCode::SUCCESS),
            result => result.map_err(|error| anyhow::anyhow!("cannot write to standard output: {error}"))?,
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A line's world with each operation completed. Of an operation that is completed already, what came of it elsewhere is left out.
fn completed(line: &str, seed: u64) -> Result<Json, String> {
    let mut world: Map<String, Json> = serde_json::from_str(line).map_err(|error| format!("is no JSON object: {error}"))?;
    let t0 = match world.get("t0") {
        None => 0.0,
        Some(t0) => t0.as_f64().filter(|t0| *t0 >= 0.0).ok_or("`t0` should be Unix time in milliseconds")?,
    };
    let table = match world.get("breaker") {
        None => Map::new(),
        Some(Json::Object(table)) => table.clone(),
        Some(_) => return Err("`breaker` should be an object with the keys of a `breaker` table".to_owned()),
    };
    // The reader makes a lease of it, which is a second longer.
    let timeout = match world.get("timeout") {
        None => NO_LEASE,
        Some(timeout) => timeout
            .as_str()
            .and_then(|text| humantime::parse_duration(text).ok())
            .map(|timeout| timeout.min(NO_LEASE))
            .ok_or("`timeout` should be a length of time such as \"30s\"")?,
    };
    let settings = read_breaker(table, timeout).map_err(|faults| format!("`breaker`: {}", faults.to_string().replace('\n', "; ")))?;
    let Some(Json::Array(ops)) = world.remove("ops") else {
        return Err("`ops` should be an array of [dt_ms, op, id]".to_owned());
    };
    let mut now = t0;
    let mut replay = Replay::new(settings, tick(now), chance(seed));
    let mut done = Vec::with_capacity(ops.len());
    for (place, op) in ops.iter().enumerate() {
        let wrong = |message: &str| format!("operation {place}, {op}: {message}");
        let parts = op.as_array().ok_or_else(|| wrong("should be [dt_ms, op, id]"))?;
        let dt = parts.first().and_then(Json::as_f64).filter(|dt| *dt >= 0.0).ok_or_else(|| wrong("dt_ms should be a number from 0"))?;
        now += dt;
        let word = parts.get(1).and_then(Json::as_str).ok_or_else(|| wrong("op should be a word"))?;
        let id = parts.get(2).unwrap_or(&Json::Null);
        let name = id.to_string();
        let operation = operation(word, &name).map_err(|message| wrong(&message))?;
        if id.is_null() && matches!(operation, Operation::Ask(_) | Operation::Settle(..)) {
            return Err(wrong("needs the id of a call"));
        }
        let came = replay.apply(operation, tick(now)).map_err(|error| wrong(&error.to_string()))?;
        let result = match came {
            Came::Admitted(admitted) => json!(admitted),
            Came::Late => json!("late"),
            Came::Nothing => Json::Null,
        };
        let shown = replay.shown(tick(now));
        let counts = shown.counts;
        done.push(json!([parts[0], word, id, result, shown.state, counts.calls, counts.failures, counts.slow, shown.refused]));
    }
    world.insert("ops".to_owned(), done.into());
    Ok(world.into())
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0, and cut to whole milliseconds as meant")]
fn tick(now: f64) -> Tick {
    Tick(now as u64)
}

fn operation<'a>(word: &str, id: &'a str) -> Result<Operation<'a>, String> {
    Ok(match word {
        "acq" => Operation::Ask(id),
        "ok" => Operation::Settle(id, Verdict::Success),
        "err" => Operation::Settle(id, Verdict::Failure { retry_after: None }),
        "ign" => Operation::Settle(id, Verdict::Ignored),
        "release" => Operation::Release,
        "wait" => Operation::Wait,
        other => match other.strip_prefix("force:") {
            Some("auto") => Operation::Release,
            Some(state) => Operation::Force(StateName::parse(state).ok_or_else(|| {
                let known = StateName::ALL.map(StateName::as_str).join(", ");
                format!("there is no state {state:?}; known: {known}")
            })?),
            None => return Err(format!("there is no operation {other:?}; known: acq, ok, err, ign, force:<state>, release, wait")),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_is_late_a_second_after_its_timeout() {
        let world = |timeout: &str, took: u64| {
            format!(
                r#"{{{timeout}"breaker":{{"fail_max":1,"recovery_timeout":"1s"}},"ops":[[0,"acq","a"],[0,"err","a"],[2000,"acq","p"],[{took},"ok","p"]]}}"#
            )
        };
        for (timeout, took, result, state) in [
            (r#""timeout":"30s","#, 30_999, Json::Null, "closed"),
            (r#""timeout":"30s","#, 31_000, json!("late"), "half_open"),
            (r#""timeout":"18446744073709551615s","#, 86_400_000, Json::Null, "closed"),
            ("", 86_400_000, Json::Null, "closed"),
        ] {
            let done = completed(&world(timeout, took), 0).expect("can be");
            assert_eq!((&done["ops"][3][3], &done["ops"][3][4]), (&result, &json!(state)), "{timeout} {took}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (line, expected) in [
            ("[]", "is no JSON object: invalid type: sequence, expected a map at line 1 column 0"),
            ("{}", "`ops` should be an array of [dt_ms, op, id]"),
            (r#"{"breaker": 3}"#, "`breaker` should be an object with the keys of a `breaker` table"),
            (
                r#"{"breaker": {"fail_mx": 3, "permits": 0}, "ops": []}"#,
                "`breaker`: permits: 0 is out of range: 1 to 10000; fail_mx: there is no such key; did you mean `fail_max`?",
            ),
            (r#"{"timeout": 3, "ops": []}"#, "`timeout` should be a length of time such as \"30s\""),
            (
                r#"{"ops": [[1, "go", 1]]}"#,
                "operation 0, [1,\"go\",1]: there is no operation \"go\"; known: acq, ok, err, ign, force:<state>, release, wait",
            ),
            (r#"{"ops": [[-1, "acq", 1]]}"#, "operation 0, [-1,\"acq\",1]: dt_ms should be a number from 0"),
            (r#"{"ops": [[0, "acq"]]}"#, "operation 0, [0,\"acq\"]: needs the id of a call"),
            (r#"{"ops": [[0, "ok", 7]]}"#, "operation 0, [0,\"ok\",7]: no call of this id has asked"),
            (
                r#"{"ops": [[0, "force:ajar", null]]}"#,
                "operation 0, [0,\"force:ajar\",null]: there is no state \"ajar\"; known: closed, open, half_open, forced_open, forced_closed, metrics_only",
            ),
        ] {
            assert_eq!(completed(line, 0).expect_err(line), expected);
        }
    }
}
