//! What the tests share: a sample of series, a clock that is set by hand, and the lines that were logged meanwhile.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex};

use tracing::Dispatch;
use tracing_subscriber::fmt::MakeWriter;

use super::metrics::{Metrics, Series, ServiceLabels};
use super::pipe::DroppedLines;
use super::subscriber::{filter, subscriber};
use crate::config::LogFormat;
use crate::event::UnixMillis;
use crate::machine::disposition::FallbackKind;
use crate::machine::time::Tick;
use crate::pipeline::ports::Clock;

/// Two services, of which the second parks and is asked for its health, with a store.
pub(super) fn series() -> Series {
    let service = |name: &str, parks, fallback_kind| ServiceLabels { name: name.to_owned(), parks, checked: parks, fallback_kind };
    Series {
        services: vec![service("rag", false, FallbackKind::Cached), service("notifier", true, FallbackKind::Park)],
        topics: ["dead-letters", "outcomes", "retry"].map(Into::into).into(),
        store: true,
    }
}

/// Their metrics, while calls are recorded.
pub(super) fn metrics() -> Arc<Metrics> {
    LazyLock::force(&SUBSCRIBERS);
    Arc::new(Metrics::new(&series(), DroppedLines::default(), Some(DroppedLines::default())))
}

/// A clock that stands until it is set.
#[derive(Debug, Clone, Default)]
pub(super) struct Stopped(pub(super) Arc<AtomicU64>);

impl Clock for Stopped {
    fn now(&self) -> Tick {
        Tick(self.0.load(Ordering::Relaxed))
    }

    fn wall(&self) -> UnixMillis {
        UnixMillis(0)
    }

    fn instant(&self, _at: Tick) -> Option<tokio::time::Instant> {
        None
    }
}

/// Two subscribers that live as long as the tests. While a process has only one, `tracing` asks the thread that reaches a line first
/// whether anybody wants it, and keeps the answer for all: a test that captures nothing would silence another's lines. With two it
/// asks them all.
static SUBSCRIBERS: LazyLock<[Dispatch; 2]> = LazyLock::new(|| [(); 2].map(|()| Dispatch::new(tracing_subscriber::registry())));

/// The lines that `work` logs on this thread, as `init` would have them written.
pub(crate) fn logged(format: LogFormat, wanted: &str, work: impl FnOnce()) -> Vec<String> {
    LazyLock::force(&SUBSCRIBERS);
    let memory = Memory::default();
    let subscriber = subscriber(filter(wanted).unwrap(), format, "i-1", false, memory.clone());
    tracing::subscriber::with_default(subscriber, work);
    let text = String::from_utf8(memory.0.lock().unwrap().clone()).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'), "a line ends: {text:?}");
    text.lines().map(str::to_owned).collect()
}

#[derive(Debug, Clone, Default)]
struct Memory(Arc<Mutex<Vec<u8>>>);

impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Memory {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}
