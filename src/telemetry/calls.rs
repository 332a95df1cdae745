//! A record of every call that was judged, in a file: what the breakers heard, to be played to breakers with other settings.
//!
//! ```json
//! {"at":1767225600123,"service":"rag","duration_ms":12.345,"verdict":"failure","retry_after_ms":3000}
//! ```
//!
//! Lines come in the order in which calls ended. Who called, what was said, and where the service is does not stand in them.
//!
//! Guarantees:
//! - Recording never waits for the disk: lines go through a [`Pipe`], and what it cannot take is dropped and counted.
//! - A file that can no longer be written to is told once in the log; after that its lines are counted.
//! - What is appended begins on a line of its own, even behind one that a crash or a full disk cut off.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use tracing::warn;

use super::facts::TARGET;
use super::pipe::{DroppedLines, Flusher, Pipe};
use crate::event::UnixMillis;
use crate::machine::breaker::Verdict;

/// How long a line waits for others to be written with: what a process that is killed may lose.
pub const LINGER: Duration = Duration::from_millis(100);

/// Where calls are recorded. Clones write to the same file.
#[derive(Debug, Clone)]
pub struct Recorder(Pipe);

impl Recorder {
    /// Opens a file to append to; creates it if there is none. The flusher is to be kept until nothing is recorded any more.
    ///
    /// # Errors
    /// The file cannot be opened for reading and appending, or the thread that writes cannot be started.
    pub fn open(path: &Path) -> io::Result<(Self, Flusher)> {
        let file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
        let torn = ends_within_a_line(&file)?;
        let (pipe, flusher) = Pipe::start("calls", LINGER, Lines::behind(file, torn, path))?;
        Ok((Self(pipe), flusher))
    }

    /// The count of calls that could not be recorded, for [`super::metrics::Metrics::new`].
    pub fn dropped(&self) -> DroppedLines {
        self.0.dropped()
    }

    /// Records a call that has just ended. Apart, since most instances record nothing.
    #[inline(never)]
    pub(super) fn record(&self, service: &str, ended: UnixMillis, took: Duration, verdict: Verdict) {
        // Neither a number nor a text can fail to become JSON.
        if let Ok(mut line) = serde_json::to_vec(&Recorded::of(service, ended, took, verdict)) {
            line.push(b'\n');
            self.0.put(&line);
        }
    }
}

/// One line.
#[derive(Debug, Serialize)]
struct Recorded<'a> {
    /// When the call began.
    at: i64,
    service: &'a str,
    /// To the microsecond.
    duration_ms: f64,
    verdict: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
}

impl<'a> Recorded<'a> {
    fn of(service: &'a str, ended: UnixMillis, took: Duration, verdict: Verdict) -> Self {
        let whole = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let (verdict, retry_after) = match verdict {
            Verdict::Success => ("success", None),
            Verdict::Slow => ("slow", None),
            Verdict::Failure { retry_after } => ("failure", retry_after),
            Verdict::Ignored => ("ignored", None),
        };
        Self {
            at: ended.0.saturating_sub_unsigned(whole(took)),
            service,
            duration_ms: (took.as_secs_f64() * 1_000_000.0).round() / 1_000.0,
            verdict,
            retry_after_ms: retry_after.map(whole),
        }
    }
}

/// A file that lines are appended to.
#[derive(Debug)]
struct Lines<W> {
    out: W,
    /// What was written last did not end its line.
    within: bool,
    /// The rest of that line will not come.
    torn: bool,
    /// The log has said that the file cannot be written to.
    told: bool,
    path: PathBuf,
}

impl<W: Write> Lines<W> {
    fn behind(out: W, torn: bool, path: &Path) -> Self {
        Self { out, within: torn, torn, told: false, path: path.to_owned() }
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.torn {
            self.out.write_all(b"\n")?;
            (self.torn, self.within) = (false, false);
        }
        self.out.write(bytes)
    }

    /// The pipe drops the rest of what it was writing.
    fn give_up(&mut self, error: &io::Error) {
        self.torn = self.within;
        if !std::mem::replace(&mut self.told, true) {
            let path = self.path.display();
            warn!(target: TARGET, %path, %error, "calls cannot be recorded; those that are lost are counted");
        }
    }
}

impl<W: Write> Write for Lines<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.append(bytes);
        match &written {
            Ok(0) => self.give_up(&ErrorKind::WriteZero.into()),
            Ok(taken) => self.within = !bytes[..*taken].ends_with(b"\n"),
            // The pipe tries again.
            Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => {}
            Err(error) => self.give_up(error),
        }
        written
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn ends_within_a_line(file: &File) -> io::Result<bool> {
    let length = file.metadata()?.len();
    let mut last = [b'\n'];
    if length > 0 {
        file.read_exact_at(&mut last, length - 1)?;
    }
    Ok(last != *b"\n")
}

#[cfg(test)]
mod tests;
