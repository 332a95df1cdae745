use std::io::Read;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::*;
use crate::telemetry::capture::logged;

#[test]
fn a_json_line_is_one_object_with_its_fields_beside_the_fixed_ones() {
    let lines = logged(LogFormat::Json, "info", || {
        tracing::warn!(target: "lib", count = 3u64, share = 0.5, ok = true, r#type = "a\"b\nc", none = None::<u64>, "what {}", "happened");
        tracing::info!(target: "lib", level = "theirs", cause = ?Some(1), huge = 4_000_000_000_000_000_000_000_u128);
        tracing::debug!(target: "lib", "not this one");
    });
    let parsed: Vec<Value> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    for line in &parsed {
        let timestamp = line["timestamp"].as_str().unwrap();
        assert!(crate::event::UnixMillis::from_rfc3339(timestamp).is_some_and(|at| at.0 > 1_700_000_000_000), "{timestamp}");
    }
    let rest: Vec<&str> = lines.iter().map(|line| line.split_once(',').unwrap().1).collect();
    let expected = [
        r#""level":"WARN","target":"lib","instance":"i-1","message":"what happened","count":3,"share":0.5,"ok":true,"type":"a\"b\nc"}"#,
        r#""level":"INFO","target":"lib","instance":"i-1","message":"","field_level":"theirs","cause":"Some(1)","huge":"4000000000000000000000"}"#,
    ];
    assert_eq!(rest, expected);
}

#[test]
fn a_text_line_is_one_line_without_colour() {
    let lines = logged(LogFormat::Text, "info", || {
        tracing::info!(target: "fusebox", service = "rag", error = "one\ntwo\u{1b}[31m", "called");
    });
    assert_eq!(lines.len(), 1, "{lines:?}");
    let (_, rest) = lines[0].split_once("  ").unwrap();
    assert_eq!(rest, r#"INFO fusebox: called service="rag" error="one\ntwo\u{1b}[31m""#);
}

#[test]
fn which_lines_a_filter_lets_through() {
    let all = ["fusebox WARN", "fusebox INFO", "librdkafka WARN", "librdkafka INFO", "rdkafka::client INFO", "hyper DEBUG"];
    for (wanted, through) in [
        ("info", &[0, 1, 2][..]),
        ("INFO", &[0, 1, 2]),
        ("debug", &[0, 1, 2, 5]),
        ("warn", &[0, 2]),
        ("error", &[]),
        ("off", &[]),
        ("fusebox=info", &[0, 1]),
        ("info, librdkafka=info", &[0, 1, 2, 3]),
        ("debug,rdkafka=debug,hyper=off", &[0, 1, 2, 4]),
    ] {
        let lines = logged(LogFormat::Json, wanted, || {
            tracing::warn!(target: "fusebox", "0");
            tracing::info!(target: "fusebox", "1");
            tracing::warn!(target: "librdkafka", "2");
            tracing::info!(target: "librdkafka", "3");
            tracing::info!(target: "rdkafka::client", "4");
            tracing::debug!(target: "hyper", "5");
        });
        let got: Vec<_> =
            lines.iter().map(|line| serde_json::from_str::<Value>(line).unwrap()["message"].as_str().unwrap().to_owned()).collect();
        let got: Vec<_> = got.iter().map(|at| all[at.parse::<usize>().unwrap()]).collect();
        let expected: Vec<_> = through.iter().map(|at| all[*at]).collect();
        assert_eq!(got, expected, "{wanted}");
    }
}

#[test]
fn a_bad_filter_is_told_what_is_wrong() {
    for (text, expected) in [
        ("", "it is empty: write off, error, warn, info, debug or trace"),
        (" , ", "it is empty: write off, error, warn, info, debug or trace"),
        ("inof", "`inof` is no level: write off, error, warn, info, debug or trace, or `inof=debug` if it is a target"),
        ("info,hyper", "`hyper` is no level: write off, error, warn, info, debug or trace, or `hyper=debug` if it is a target"),
        (
            "hyper=loud",
            concat!(
                "error parsing level filter: expected one of \"off\", \"error\", \"warn\", \"info\", \"debug\", \"trace\", or a number 0-5; ",
                "write a level, or `target=level`, separated by commas"
            ),
        ),
    ] {
        assert_eq!(filter(text).unwrap_err().to_string(), expected, "{text}");
    }
}

/// In the child of the test of this name: the log of a whole process, whose reader does what the parent says.
const CHILD: &str = "FUSEBOX_TEST_LOG_CHILD";
/// More than pipe and buffer hold, by far.
const LINES: u64 = 20_000;

/// Starts this test again as a process of its own; `reader` does as it likes with the child's stderr. The child's figures come back.
fn process(
    test: &str,
    reader: impl FnOnce(std::process::ChildStderr) -> Option<std::process::ChildStderr>,
) -> (String, std::process::ExitStatus) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(CHILD, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let kept = reader(child.stderr.take().unwrap());
    drop(child.stdin.take());
    let mut told = String::new();
    child.stdout.take().unwrap().read_to_string(&mut told).unwrap();
    let status = child.wait().unwrap();
    drop(kept);
    (told, status)
}

/// What the child does: logs as many lines, panics in a thread, and ends in good order.
fn child(lines: u64) {
    // The parent has done with stderr what it wants when stdin ends.
    io::stdin().read_to_end(&mut Vec::new()).unwrap();
    let log = start("info", LogFormat::Json, "child").unwrap();
    assert!(matches!(start("info", LogFormat::Text, "child"), Err(InitError::Twice(_))));
    for number in 0..lines {
        tracing::info!(number, "one line of many, so long that all of them are more than pipe and buffer hold");
    }
    std::thread::spawn(|| panic!("on purpose")).join().unwrap_err();
    let dropped = log.dropped();
    drop(log);
    println!("\nwent on, dropped={}", dropped.get());
}

fn dropped(told: &str) -> u64 {
    told.lines().find_map(|line| line.strip_prefix("went on, dropped=")).unwrap_or_else(|| panic!("{told}")).parse().unwrap()
}

#[test]
fn a_log_whose_reader_is_gone_ends_nothing() {
    if std::env::var_os(CHILD).is_some() {
        return child(LINES);
    }
    let (told, status) = process("telemetry::subscriber::tests::a_log_whose_reader_is_gone_ends_nothing", |_gone| None);
    assert!(status.success(), "{status}: {told}");
    assert_eq!(dropped(&told), LINES + 1, "each line, and the panic's");
}

#[test]
fn a_log_whose_reader_stands_still_holds_up_nothing() {
    if std::env::var_os(CHILD).is_some() {
        return child(LINES);
    }
    let (told, status) = process("telemetry::subscriber::tests::a_log_whose_reader_stands_still_holds_up_nothing", Some);
    assert!(status.success(), "{status}: {told}");
    assert!((1..LINES).contains(&dropped(&told)), "{told}");
}

#[test]
fn a_panic_is_one_line() {
    if std::env::var_os(CHILD).is_some() {
        return child(0);
    }
    let (sender, receiver) = std::sync::mpsc::channel();
    let (_, status) = process("telemetry::subscriber::tests::a_panic_is_one_line", |mut stderr| {
        std::thread::spawn(move || {
            let mut text = String::new();
            stderr.read_to_string(&mut text).unwrap();
            sender.send(text).unwrap();
        });
        None
    });
    assert!(status.success(), "{status}");
    let text = receiver.recv().unwrap();
    let panics: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).filter(|line: &Value| line["level"] == "ERROR").collect();
    let [panic] = &panics[..] else { panic!("{panics:?}") };
    assert_eq!((&panic["message"], &panic["panic"], &panic["instance"]), (&"panicked".into(), &"on purpose".into(), &"child".into()));
    assert!(panic["place"].as_str().unwrap().contains("tests.rs:"), "{panic}");
}
