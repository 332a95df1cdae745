//! A record that runs: its future, with what a look at it from outside needs to know, so that one that runs for too long can be named.
//!
//! Every call ends within its timeout. A record that runs for longer than all of its calls together may take shows a defect: a timer that
//! never fired, a lock that is not given back. Nothing can be done for it here but to say which it is, while it can still be looked at.
//!
//! Looking costs a walk over what runs, once a round of the loop's timer; a record that does not hang pays for a few words beside its future.

use std::cell::Cell;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use pin_project_lite::pin_project;
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

/// The future that is being polled goes on to another of its stages. Outside of a [`Run`] nobody listens.
pub fn at_stage(stage: usize) {
    STAGE.set(stage);
}

pin_project! {
    /// One record that runs.
    pub struct Run<F> {
        #[pin]
        future: F,
        about: About,
        stage: usize,
        since: Tick,
        // From when it has been running for too long.
        stuck_at: Tick,
        // When it is spoken of next.
        speak_at: Tick,
    }
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

impl<F: Future> Run<F> {
    /// Begins. All of its calls together may take `longest`.
    pub fn new(about: About, now: Tick, longest: Duration, future: F) -> Self {
        let stuck_at = now.plus(longest.saturating_mul(PATIENCE));
        Self { future, about, stage: 0, since: now, stuck_at, speak_at: stuck_at }
    }
}

impl<F: Future> Future for Run<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let run = self.project();
        STAGE.set(*run.stage);
        let polled = run.future.poll(context);
        *run.stage = STAGE.get();
        polled
    }
}

/// How many run for too long. Each is told when it is found, and again each time it has run for twice as long.
pub fn look<F: Future>(running: &mut FuturesUnordered<Run<F>>, now: Tick, mut tell: impl FnMut(Stuck<'_>)) -> usize {
    let mut stuck = 0;
    for run in Pin::new(running).iter_pin_mut().filter(|run| run.stuck_at <= now) {
        stuck += 1;
        let run = run.project();
        if *run.speak_at <= now {
            let ran = now.since(*run.since);
            tell(Stuck { about: run.about, stage: *run.stage, ran });
            // At least a round of whoever looks, should it have begun at the end of time.
            *run.speak_at = now.plus(ran.max(Duration::from_secs(1)));
        }
    }
    stuck
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Offset, Partition, Topic};
    use futures_util::future::FutureExt;
    use futures_util::stream::StreamExt;

    #[test]
    fn one_that_hangs_is_named_once_and_again_when_it_has_run_twice_as_long() {
        let about = |offset| About {
            source: Source { topic: Topic::from("t"), partition: Partition(0), offset: Offset(offset) },
            event: Uuid::nil(),
        };
        let longest = Duration::from_secs(30);
        let mut running = FuturesUnordered::new();
        let hangs = async {
            at_stage(2);
            std::future::pending::<()>().await;
        };
        running.push(Run::new(about(7), Tick(0), longest, hangs.boxed()));
        running.push(Run::new(about(8), Tick(1_000), longest, async {}.boxed()));
        assert!(running.next().now_or_never().is_some(), "what ends, ends");
        assert!(running.next().now_or_never().is_none());
        let mut told = Vec::new();
        for second in 0..300 {
            let stuck = look(&mut running, Tick(second * 1_000), |stuck| {
                told.push((stuck.about.source.offset.0, stuck.stage, stuck.ran.as_secs()));
            });
            assert_eq!(stuck, usize::from(second >= 60), "{second}");
        }
        assert_eq!(told, [(7, 2, 60), (7, 2, 120), (7, 2, 240)]);
    }
}
