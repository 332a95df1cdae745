//! What a screen wants to know at once: transitions, parks, drains, dead letters. Read by `fusebox dev` and by the stream of
//! server-sent events.
//!
//! A notice is made only while somebody listens. A listener that is slower than what happens misses the oldest and is told how many
//! (`RecvError::Lagged`); it holds up nobody.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::broadcast;

use crate::event::Source;
use crate::event::dead_letter::Code;
use crate::event::envelope::Reason;
use crate::machine::breaker::Transition;

/// Something that happened, for a screen.
#[derive(Debug, Clone, PartialEq)]
pub enum Notice {
    /// A breaker changed state.
    Transition {
        /// Of which service.
        service: Arc<str>,
        /// How.
        transition: Arc<Transition>,
    },
    /// A call was parked.
    Parked {
        /// For which service.
        service: Arc<str>,
        /// Why.
        reason: Reason,
    },
    /// A parked call was delivered.
    Drained {
        /// To which service.
        service: Arc<str>,
        /// How long it was parked.
        parked_for: Duration,
    },
    /// A record became a dead letter.
    DeadLettered {
        /// Why.
        code: Code,
        /// The event's coordinates.
        origin: Source,
    },
}

/// Notices kept for a listener that is behind: a second's worth of a busy instance's parks, about 64 KB.
const BACKLOG: usize = 1_024;

/// Those who listen.
#[derive(Debug)]
pub(super) struct Listeners {
    sender: broadcast::Sender<Notice>,
    /// Whether anybody may be listening. The channel itself knows, but behind a lock that every park would take.
    heard: AtomicBool,
}

impl Listeners {
    pub(super) fn new() -> Self {
        Self { sender: broadcast::Sender::new(BACKLOG), heard: AtomicBool::new(false) }
    }

    pub(super) fn subscribe(&self) -> broadcast::Receiver<Notice> {
        let receiver = self.sender.subscribe();
        self.heard.store(true, Ordering::SeqCst);
        receiver
    }

    /// Makes a notice, if somebody listens.
    pub(super) fn say(&self, notice: impl FnOnce() -> Notice) {
        if !self.heard.load(Ordering::Relaxed) || self.sender.send(notice()).is_ok() {
            return;
        }
        self.heard.store(false, Ordering::SeqCst);
        // One who subscribed while the last one's absence was noted must not be taken for absent.
        if self.sender.receiver_count() > 0 {
            self.heard.store(true, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drained() -> Notice {
        Notice::Drained { service: "notifier".into(), parked_for: Duration::ZERO }
    }

    #[test]
    fn a_notice_is_made_only_for_somebody() {
        let listeners = Listeners::new();
        listeners.say(|| panic!("nobody listens"));
        let mut receiver = listeners.subscribe();
        listeners.say(drained);
        assert_eq!(receiver.try_recv().unwrap(), drained());
        drop(receiver);
        listeners.say(drained);
        listeners.say(|| panic!("the last one has left"));
        let mut receiver = listeners.subscribe();
        listeners.say(drained);
        assert_eq!(receiver.try_recv().unwrap(), drained());
    }

    #[test]
    fn a_slow_listener_misses_the_oldest_and_is_told() {
        let listeners = Listeners::new();
        let mut receiver = listeners.subscribe();
        for _ in 0..BACKLOG + 3 {
            listeners.say(drained);
        }
        assert_eq!(receiver.try_recv(), Err(broadcast::error::TryRecvError::Lagged(3)));
        assert_eq!(receiver.try_recv().unwrap(), drained());
    }
}
