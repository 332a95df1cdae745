//! What runs at once: each record's future, with what must be known of it if it is cut off before its end, and what a look at it from
//! outside needs to name it.
//!
//! Every call ends within its timeout. A record that runs for longer than all of its calls together may take shows a defect: a timer that
//! never fired, a lock that is not given back. Nothing can be done for it here but to say which it is, while it can still be looked at.
//!
//! Looking costs a walk over what runs, once a round of the loop's timer; a record that does not hang pays for a few words beside its future.

use std::cell::Cell;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use uuid::Uuid;

use crate::event::Source;
use crate::machine::time::Tick;

/// How many times longer than its calls may take a record runs before it is stuck: between them is work of this program's own, on a machine that
/// may have little CPU left.
pub const PATIENCE: u32 = 2;

thread_local! {
    /// The stage that the future which is being polled is at.
    static STAGE: Cell<usize> = const { Cell::new(0) };
}

/// The future that is being polled goes on to another of its stages. Outside of [`Running`] nobody listens.
pub fn at_stage(stage: usize) {
    STAGE.set(stage);
}

/// Futures that end with an `R`; of one that is cut off, a `K` is left.
pub struct Running<K, R>(FuturesUnordered<Run<K, R>>);

/// One record that runs.
struct Run<K, R> {
    left: K,
    future: BoxFuture<'static, R>,
    about: About,
    stage: usize,
    since: Tick,
    /// From when it has been running for too long.
    stuck_at: Tick,
    /// When it is spoken of next.
    speak_at: Tick,
}

/// Which record.
#[derive(Debug, Clone)]
pub struct About {
    /// Where it was read.
    pub source: Source,
    /// Its event.
    pub event: Uuid,
}

/// A record that has been running for too long.
#[derive(Debug)]
pub struct Stuck<'a> {
    /// Which.
    pub about: &'a About,
    /// The stage that it is at, by number.
    pub stage: usize,
    /// For how long.
    pub ran: Duration,
}

impl<K: Unpin, R> Future for Run<K, R> {
    type Output = R;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<R> {
        STAGE.set(self.stage);
        let polled = self.future.as_mut().poll(context);
        self.stage = STAGE.get();
        polled
    }
}

impl<K: Unpin, R> Default for Running<K, R> {
    fn default() -> Self {
        Self(FuturesUnordered::new())
    }
}

impl<K: Unpin, R> Running<K, R> {
    /// One more. All of its calls together may take `longest`.
    pub fn push(&mut self, left: K, about: About, now: Tick, longest: Duration, future: BoxFuture<'static, R>) {
        let stuck_at = now.plus(longest.saturating_mul(PATIENCE));
        self.0.push(Run { left, future, about, stage: 0, since: now, stuck_at, speak_at: stuck_at });
    }

    /// The next that ends; `None` if nothing runs.
    pub async fn next(&mut self) -> Option<R> {
        self.0.next().await
    }

    /// Drops those for which `ends` holds, where they are: a call that one of them makes is cancelled, its permit and its turn given back.
    /// Gives what is left of them. Looks at every one.
    pub fn cut_off(&mut self, mut ends: impl FnMut(&K) -> bool) -> Vec<K> {
        let mut cut = Vec::new();
        for run in std::mem::take(&mut self.0) {
            if ends(&run.left) { cut.push(run.left) } else { self.0.push(run) }
        }
        cut
    }

    /// Polls all of them, as if each had been woken: something has changed that none of them waits for.
    pub fn poll_all(&mut self) {
        drop(self.cut_off(|_| false));
    }

    /// How many run for too long. Each is told when it is found, and again each time it has run for twice as long.
    pub fn look(&mut self, now: Tick, mut tell: impl FnMut(Stuck<'_>)) -> usize {
        let mut stuck = 0;
        for run in self.0.iter_mut().filter(|run| run.stuck_at <= now) {
            stuck += 1;
            if run.speak_at <= now {
                let ran = now.since(run.since);
                tell(Stuck { about: &run.about, stage: run.stage, ran });
                // At least a round of whoever looks, should it have begun at the end of time.
                run.speak_at = now.plus(ran.max(Duration::from_secs(1)));
            }
        }
        stuck
    }

    /// How many run.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none does.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Offset, Partition, Topic};
    use futures_util::FutureExt;
    use std::sync::Arc;

    fn about(offset: i64) -> About {
        let source = Source { topic: Topic::from("t"), partition: Partition(0), offset: Offset(offset) };
        About { source, event: Uuid::nil() }
    }

    #[test]
    fn one_that_hangs_is_named_once_and_again_when_it_has_run_twice_as_long() {
        let longest = Duration::from_secs(30);
        let mut running = Running::default();
        let hangs = async {
            at_stage(2);
            std::future::pending::<()>().await;
        };
        running.push((), about(7), Tick(0), longest, hangs.boxed());
        running.push((), about(8), Tick(1_000), longest, async {}.boxed());
        assert!(running.next().now_or_never().is_some(), "what ends, ends");
        assert!(running.next().now_or_never().is_none());
        let mut told = Vec::new();
        for second in 0..300 {
            let stuck = running.look(Tick(second * 1_000), |stuck| {
                told.push((stuck.about.source.offset.0, stuck.stage, stuck.ran.as_secs()));
            });
            assert_eq!(stuck, usize::from(second >= 60), "{second}");
        }
        assert_eq!(told, [(7, 2, 60), (7, 2, 120), (7, 2, 240)]);
    }

    #[test]
    fn what_is_cut_off_is_dropped_at_once_and_the_rest_goes_on() {
        let (stays, goes) = (Arc::new(()), Arc::new(()));
        let mut running = Running::default();
        for (left, held) in [("stays", Arc::clone(&stays)), ("goes", Arc::clone(&goes)), ("goes too", Arc::clone(&goes))] {
            let run = async move {
                tokio::task::yield_now().await;
                drop(held);
                left
            };
            running.push(left, about(0), Tick(0), Duration::ZERO, run.boxed());
        }
        assert_eq!(running.next().now_or_never(), None, "all have begun");
        let mut cut = running.cut_off(|left| left.starts_with("goes"));
        cut.sort_unstable();
        assert_eq!((cut, running.len()), (vec!["goes", "goes too"], 1));
        assert_eq!((Arc::strong_count(&goes), Arc::strong_count(&stays)), (1, 2), "with what they held");
        let next = std::iter::from_fn(|| running.next().now_or_never()).flatten().next();
        assert_eq!((next, running.is_empty()), (Some("stays"), true));
    }
}
