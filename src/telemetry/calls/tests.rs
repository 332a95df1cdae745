use super::*;
use crate::config::LogFormat;
use crate::telemetry::capture::logged;

const PATH: &str = "calls.jsonl";

/// What was recorded by `work` in a file that held `before`.
fn recorded(before: &str, work: impl FnOnce(&Recorder)) -> String {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(PATH);
    std::fs::write(&path, before).unwrap();
    let (recorder, flusher) = Recorder::open(&path).unwrap();
    work(&recorder);
    drop(flusher);
    assert_eq!(recorder.dropped().get(), 0);
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn each_verdict_is_a_line() {
    let failure = |retry_after| Verdict::Failure { retry_after };
    for (ended, micros, verdict, expected) in [
        (1_000, 12_345, Verdict::Success, r#"{"at":988,"service":"rag","duration_ms":12.345,"verdict":"success"}"#),
        (1_000, 0, Verdict::Slow, r#"{"at":1000,"service":"rag","duration_ms":0.0,"verdict":"slow"}"#),
        (1_000, 1, failure(None), r#"{"at":1000,"service":"rag","duration_ms":0.001,"verdict":"failure"}"#),
        (
            90_000,
            60_000_001,
            failure(Some(Duration::from_secs(3))),
            r#"{"at":30000,"service":"rag","duration_ms":60000.001,"verdict":"failure","retry_after_ms":3000}"#,
        ),
        (
            1,
            2_000,
            failure(Some(Duration::MAX)),
            r#"{"at":-1,"service":"rag","duration_ms":2.0,"verdict":"failure","retry_after_ms":18446744073709551615}"#,
        ),
        (1_000, 7_000, Verdict::Ignored, r#"{"at":993,"service":"rag","duration_ms":7.0,"verdict":"ignored"}"#),
    ] {
        let text = recorded("", |recorder| recorder.record("rag", UnixMillis(ended), Duration::from_micros(micros), verdict));
        assert_eq!(text, format!("{expected}\n"));
    }
}

#[test]
fn what_a_file_holds_is_kept_and_the_end_waits_for_every_line() {
    for (before, kept) in [("", ""), ("whole\n", "whole\n"), ("whole\ntorn", "whole\ntorn\n")] {
        let text = recorded(before, |recorder| {
            for ended in 0..100 {
                recorder.record("rag", UnixMillis(ended), Duration::ZERO, Verdict::Success);
            }
        });
        let lines: Vec<_> = text.strip_prefix(kept).unwrap().lines().collect();
        assert_eq!(lines.len(), 100, "{before:?}");
        assert!(lines.iter().enumerate().all(|(at, line)| line.starts_with(&format!("{{\"at\":{at},"))), "{lines:?}");
    }
}

#[test]
fn a_file_that_cannot_be_opened_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    for path in [directory.path(), &directory.path().join("none").join(PATH)] {
        assert!(Recorder::open(path).is_err(), "{}", path.display());
    }
}

/// A disk that has room for so many bytes, twice: it is full when they are used up, and room is made once it has said so.
struct Disk {
    room: Vec<usize>,
    holds: Vec<u8>,
}

impl Write for Disk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(room) = self.room.first_mut() else {
            self.holds.extend_from_slice(bytes);
            return Ok(bytes.len());
        };
        let taken = bytes.len().min(*room);
        if taken == 0 {
            self.room.remove(0);
            return Err(ErrorKind::StorageFull.into());
        }
        *room -= taken;
        self.holds.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes as the pipe does: a batch at a time, whose rest is dropped at an error.
fn batch(lines: &mut Lines<Disk>, bytes: &[u8]) {
    let mut written = 0;
    while written < bytes.len() {
        match lines.write(&bytes[written..]) {
            Ok(more) => written += more,
            Err(_) => break,
        }
    }
}

#[test]
fn a_full_disk_is_told_once_and_the_next_line_that_fits_is_whole() {
    for (room, holds) in
        [(vec![6, 1], "one\ntw\nfive\n"), (vec![4, 0], "one\nfive\n"), (vec![0, 0], "five\n"), (vec![6, 0], "one\ntw\nfive\n")]
    {
        let mut lines = Lines::behind(Disk { room: room.clone(), holds: Vec::new() }, false, Path::new(PATH));
        let told = logged(LogFormat::Text, "warn", || {
            batch(&mut lines, b"one\ntwo\nthree\n");
            batch(&mut lines, b"four\n");
            batch(&mut lines, b"five\n");
        });
        assert_eq!(String::from_utf8_lossy(&lines.out.holds), holds, "{room:?}");
        assert_eq!(told.len(), 1, "{told:#?}");
        assert!(told[0].contains(PATH) && told[0].contains("calls cannot be recorded"), "{told:#?}");
    }
}
