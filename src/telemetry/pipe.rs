//! Between those who write lines and the file descriptor that the lines go to: a buffer and a thread. The log has one, and so have the
//! [records of calls](super::calls).
//!
//! Guarantees:
//! - Putting a line never waits for a reader. A line is copied into the buffer under a lock that is held for the copy alone; when the
//!   buffer is full, the line is dropped and counted.
//! - A pipe that is full, gone, or not blocking harms nobody: lines that cannot be written are dropped and counted, and the next
//!   ones are tried again.
//! - A thread that lingers is woken for many lines at once, not for each.
//! - Memory is bounded in bytes, whatever the lines' lengths: [`CAPACITY`] waiting and as much being written.
//! - The end waits [`FLUSH`] at most for what is still in the buffer.
//!
//! `tracing-appender`'s writer does most of this and is not used: its bound is in lines, it does not count what a broken pipe
//! swallows, and when the pipe is full at the end it says so with `println!`, which waits for ever if stdout is the same pipe, and
//! panics if stdout is closed.

use std::io::{self, ErrorKind, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

/// Bytes that may wait: some 4,000 lines of 250 bytes, 40 s of the most that floods let through.
pub const CAPACITY: usize = 1024 * 1024;

/// The longest that the end waits for a reader: short beside every orchestrator's grace period (Kubernetes: 30 s).
pub const FLUSH: Duration = Duration::from_secs(1);

/// Between two tries of a descriptor that does not block (another program that shares it made it so) and is full.
const FULL_PAUSE: Duration = Duration::from_millis(10);

/// How many lines nobody could take. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct DroppedLines(Arc<AtomicU64>);

impl DroppedLines {
    /// So far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn add(&self, lines: u64) {
        self.0.fetch_add(lines, Ordering::Relaxed);
    }
}

/// Where lines are put.
#[derive(Debug, Clone)]
pub struct Pipe(Arc<Shared>);

/// Keeps the pipe flowing; dropped, it waits for what is in the buffer and takes no more.
#[derive(Debug)]
#[must_use = "dropped at once, it ends the log before its first line"]
pub struct Flusher(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    buffer: Mutex<Buffer>,
    /// Something is in the buffer, or it is closing.
    wake: Condvar,
    /// The buffer is empty and nothing is being written.
    idle: Condvar,
    dropped: DroppedLines,
    capacity: usize,
    linger: Duration,
}

#[derive(Debug, Default)]
struct Buffer {
    waiting: Vec<u8>,
    writing: bool,
    closing: bool,
}

impl Pipe {
    /// Starts the thread of this name that writes to `out`. A line waits up to `linger` for others to be written with, unless the buffer
    /// is half full before, or the end comes.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(thread: &str, linger: Duration, out: impl Write + Send + 'static) -> io::Result<(Self, Flusher)> {
        Self::with_capacity(thread, linger, out, CAPACITY)
    }

    pub(super) fn with_capacity(
        thread: &str,
        linger: Duration,
        out: impl Write + Send + 'static,
        capacity: usize,
    ) -> io::Result<(Self, Flusher)> {
        let shared = Arc::new(Shared {
            buffer: Mutex::default(),
            wake: Condvar::new(),
            idle: Condvar::new(),
            dropped: DroppedLines::default(),
            capacity,
            linger,
        });
        let theirs = Arc::clone(&shared);
        std::thread::Builder::new().name(thread.to_owned()).spawn(move || theirs.run(out))?;
        Ok((Self(Arc::clone(&shared)), Flusher(shared)))
    }

    /// Puts a line, its end included, or counts it as dropped.
    pub fn put(&self, line: &[u8]) {
        self.0.put(line);
    }

    /// The count of what could not be written.
    pub fn dropped(&self) -> DroppedLines {
        self.0.dropped.clone()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Buffer> {
        // A buffer is whole after every step, so one that a panic left behind can be used.
        self.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, line: &[u8]) {
        let mut buffer = self.lock();
        if buffer.closing || buffer.waiting.len() + line.len() > self.capacity {
            drop(buffer);
            self.dropped.add(1);
            return;
        }
        let before = buffer.waiting.len();
        buffer.waiting.extend_from_slice(line);
        // The thread sleeps only over an empty buffer, or one that is less than half full.
        let wakes = before == 0 || (!self.is_half_full(before) && self.is_half_full(buffer.waiting.len()));
        drop(buffer);
        if wakes {
            self.wake.notify_one();
        }
    }

    fn is_half_full(&self, waiting: usize) -> bool {
        waiting >= self.capacity / 2
    }

    fn run(&self, mut out: impl Write) {
        let mut batch = Vec::new();
        while self.take(&mut batch) {
            let written = write(&mut out, &batch);
            self.dropped.add(lines(&batch[written..]));
            batch.clear();
        }
    }

    /// Waits for lines, and takes them all; false when there will be none.
    fn take(&self, batch: &mut Vec<u8>) -> bool {
        let mut buffer = self.lock();
        buffer.writing = false;
        while buffer.waiting.is_empty() {
            self.idle.notify_all();
            if buffer.closing {
                return false;
            }
            buffer = self.wake.wait(buffer).unwrap_or_else(PoisonError::into_inner);
        }
        if !self.linger.is_zero() {
            let fills = |buffer: &mut Buffer| !buffer.closing && !self.is_half_full(buffer.waiting.len());
            (buffer, _) = self.wake.wait_timeout_while(buffer, self.linger, fills).unwrap_or_else(PoisonError::into_inner);
        }
        std::mem::swap(batch, &mut buffer.waiting);
        buffer.writing = true;
        true
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        let mut buffer = self.0.lock();
        buffer.closing = true;
        self.0.wake.notify_one();
        // Whether all is written or the time is over: the program ends.
        let _ = self.0.idle.wait_timeout_while(buffer, FLUSH, |buffer| buffer.writing || !buffer.waiting.is_empty());
    }
}

/// Writes as much as can be; says how many bytes that was.
fn write(out: &mut impl Write, bytes: &[u8]) -> usize {
    let mut written = 0;
    while written < bytes.len() {
        match out.write(&bytes[written..]) {
            Ok(0) => break,
            Ok(more) => written += more,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(FULL_PAUSE),
            Err(_) => break,
        }
    }
    written
}

fn lines(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|byte| **byte == b'\n').count() as u64
}

/// Takes one line a write, as the subscriber gives them.
#[derive(Debug)]
pub struct Line<'a>(&'a Shared);

impl Write for Line<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.put(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Pipe {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        Line(&self.0)
    }
}

#[cfg(test)]
mod tests;
