//! Recorded calls, as JSON lines or CSV, by service.

use std::collections::BTreeMap;
use std::io::BufRead;
use std::time::Duration;

use serde::Deserialize;

use super::super::{Failure, say};
use crate::event::UnixMillis;
use crate::machine::breaker::Verdict;
use crate::machine::simulation::truth::Call;
use crate::machine::time::Tick;

/// A recorded call, as it is written.
#[derive(Debug, Deserialize)]
struct Line {
    at: At,
    service: String,
    #[serde(default)]
    duration_ms: Option<f64>,
    #[serde(default)]
    duration: Option<String>,
    verdict: String,
    #[serde(default)]
    retry_after_ms: Option<f64>,
}

/// A time: Unix milliseconds, or RFC 3339.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum At {
    Millis(f64),
    Text(String),
}

/// The end of the year 9999, the last that RFC 3339 can write. A call that ends later was not written in milliseconds.
const LAST: Tick = Tick(253_402_300_799_999);

const COLUMNS: &str = "at, service, duration_ms, verdict and, if need be, retry_after_ms";

/// The calls of each service, by when they began.
pub(super) fn read(mut text: Box<dyn BufRead>, place: &str) -> Result<BTreeMap<String, Vec<Call>>, Failure> {
    let mut services: BTreeMap<String, Vec<Call>> = BTreeMap::new();
    let mut take = |number: u64, line: Result<Line, String>| -> Result<(), Failure> {
        let (service, call) = line.and_then(call).map_err(|error| Failure::Wrong(format!("{place}:{number}: {error}")))?;
        services.entry(service).or_default().push(call);
        Ok(())
    };
    let unreadable = |error| Failure::Wrong(format!("{place}: cannot be read: {error}"));
    let first = text.fill_buf().map_err(unreadable)?;
    if first.trim_ascii_start().first().is_none_or(|first| *first == b'{') {
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.map_err(|error| Failure::Wrong(format!("{place}:{number}: cannot be read: {error}")))?;
            if line.trim().is_empty() {
                continue;
            }
            let read = serde_json::from_str(&line);
            if read.as_ref().is_err_and(serde_json::Error::is_eof) {
                // Whoever recorded it was killed while it wrote.
                say(&format!("{place}:{number}: the line is cut off, and left out"));
                continue;
            }
            take(number, read.map_err(|error| format!("is no recorded call ({error}); a line has {COLUMNS}")))?;
        }
    } else {
        let mut lines = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(text);
        let headings = lines.headers().map_err(|error| Failure::Wrong(format!("{place}:1: {error}")))?.clone();
        for heading in ["at", "service", "verdict"] {
            if !headings.iter().any(|known| known == heading) {
                return Err(Failure::Wrong(format!("{place}:1: there is no column {heading:?}; CSV begins with a heading: {COLUMNS}")));
            }
        }
        for record in lines.records() {
            let record = record.map_err(|error| Failure::Wrong(format!("{place}: {error}")))?;
            let number = record.position().map_or(0, csv::Position::line);
            take(
                number,
                record.deserialize(Some(&headings)).map_err(|error| format!("is no recorded call ({error}); a line has {COLUMNS}")),
            )?;
        }
    }
    for calls in services.values_mut() {
        calls.sort_by_key(|call| call.at);
    }
    Ok(services)
}

fn call(line: Line) -> Result<(String, Call), String> {
    let at = match &line.at {
        At::Millis(millis) if *millis >= 0.0 => *millis,
        At::Millis(millis) => return Err(format!("`at`, {millis}, is before 1970")),
        At::Text(text) => match UnixMillis::from_rfc3339(text) {
            #[expect(clippy::cast_precision_loss, reason = "milliseconds of this age of the world")]
            Some(at) if at.0 >= 0 => at.0 as f64,
            _ => return Err(format!("`at`, {text:?}, should be Unix milliseconds or RFC 3339")),
        },
    };
    let took = match (line.duration_ms, &line.duration) {
        (Some(millis), None) => millis_of(millis).ok_or_else(|| format!("`duration_ms`, {millis}, should be a number from 0"))?,
        (None, Some(text)) => humantime::parse_duration(text).map_err(|error| format!("`duration`, {text:?}: {error}"))?,
        (Some(_), Some(_)) => return Err("has `duration_ms` and `duration`: one is enough".to_owned()),
        (None, None) => return Err("has no `duration_ms`".to_owned()),
    };
    let retry_after = match line.retry_after_ms {
        None => None,
        Some(millis) => Some(millis_of(millis).ok_or_else(|| format!("`retry_after_ms`, {millis}, should be a number from 0"))?),
    };
    let verdict = match line.verdict.as_str() {
        "success" | "ok" => Verdict::Success,
        "slow" => Verdict::Slow,
        "failure" | "err" => Verdict::Failure { retry_after },
        "ignored" | "ign" => Verdict::Ignored,
        other => return Err(format!("`verdict`, {other:?}, should be success, slow, failure or ignored")),
    };
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0; whole milliseconds are enough")]
    let at = Tick(at as u64);
    let call = Call { at, took, verdict };
    if call.ended() > LAST {
        return Err("ends after the year 9999: `at` is in milliseconds since 1970".to_owned());
    }
    Ok((line.service, call))
}

fn millis_of(millis: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(millis / 1_000.0).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &'static str) -> Result<BTreeMap<String, Vec<Call>>, String> {
        read(Box::new(text.as_bytes()), "calls").map_err(|failure| match failure {
            Failure::Wrong(message) => message,
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn json_lines_and_csv_are_the_same() {
        let lines = read_text(
            "{\"at\": 2000, \"service\": \"rag\", \"duration_ms\": 1.5, \"verdict\": \"failure\", \"retry_after_ms\": 3000}\n\n\
             {\"at\": 3000, \"service\": \"rag\", \"dura\n\
             {\"at\": \"1970-01-01T00:00:01Z\", \"service\": \"rag\", \"duration\": \"20ms\", \"verdict\": \"ok\"}\n",
        );
        let table = read_text(
            "at,service,duration_ms,verdict,retry_after_ms\n2000, rag, 1.5, failure, 3000\n1970-01-01T00:00:01Z,rag,20,success,\n",
        );
        let failure = Verdict::Failure { retry_after: Some(Duration::from_secs(3)) };
        let calls = vec![
            Call { at: Tick(1_000), took: Duration::from_millis(20), verdict: Verdict::Success },
            Call { at: Tick(2_000), took: Duration::from_micros(1_500), verdict: failure },
        ];
        assert_eq!(lines, Ok(BTreeMap::from([("rag".to_owned(), calls)])));
        assert_eq!(table, lines);
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        for (text, expected) in [
            (
                "{\"at\": 1}",
                "calls:1: is no recorded call (missing field `service` at line 1 column 9); a line has at, service, duration_ms, verdict and, if need be, retry_after_ms",
            ),
            ("{\"at\": 1, \"service\": \"a\", \"verdict\": \"ok\"}", "calls:1: has no `duration_ms`"),
            (
                "{\"at\": 1, \"service\": \"a\", \"duration_ms\": -1, \"verdict\": \"ok\"}",
                "calls:1: `duration_ms`, -1, should be a number from 0",
            ),
            (
                "{\"at\": 1795608000041000, \"service\": \"a\", \"duration_ms\": 1, \"verdict\": \"ok\"}",
                "calls:1: ends after the year 9999: `at` is in milliseconds since 1970",
            ),
            (
                "{\"at\": 253402300799999, \"service\": \"a\", \"duration_ms\": 1, \"verdict\": \"ok\"}",
                "calls:1: ends after the year 9999: `at` is in milliseconds since 1970",
            ),
            (
                "{\"at\": \"noon\", \"service\": \"a\", \"duration_ms\": 1, \"verdict\": \"ok\"}",
                "calls:1: `at`, \"noon\", should be Unix milliseconds or RFC 3339",
            ),
            (
                "{\"at\": 1, \"service\": \"a\", \"duration_ms\": 1, \"verdict\": \"meh\"}",
                "calls:1: `verdict`, \"meh\", should be success, slow, failure or ignored",
            ),
            (
                "at,service\n",
                "calls:1: there is no column \"verdict\"; CSV begins with a heading: at, service, duration_ms, verdict and, if need be, retry_after_ms",
            ),
            (
                "at,service,duration_ms,verdict\n1,a,1,ok\n1,a,1,meh\n",
                "calls:3: `verdict`, \"meh\", should be success, slow, failure or ignored",
            ),
        ] {
            assert_eq!(read_text(text).expect_err(text), expected);
        }
    }
}
