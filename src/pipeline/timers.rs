//! Time limits of calls: waits that are set again and again instead of being made and taken down for each.
//!
//! A call nearly always ends long before its limit. A wait of its own would be entered with the runtime's clock and taken out again, for nothing.
//! These are kept, and moved on for the next call: moving one that is still running to a later time costs no lock. One service's limits are all as
//! far away, so the next is later than the last.

use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};

use tokio::time::{Instant, Sleep};

use super::ports::Clock;
use crate::machine::time::Tick;

/// Waits that nobody uses just now. For one runtime.
#[derive(Debug, Default)]
pub struct Timers(Mutex<Vec<Pin<Box<Sleep>>>>);

/// A wait until an instant. Dropped, it is kept for the next.
#[derive(Debug)]
pub struct Timer<'a> {
    /// `None`: it never ends.
    sleep: Option<Pin<Box<Sleep>>>,
    kept: &'a Timers,
}

impl Timers {
    /// A wait until this instant; `None` never comes.
    pub fn until(&self, at: Option<Instant>) -> Timer<'_> {
        let sleep = at.map(|at| {
            let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
            match kept {
                Some(mut sleep) => {
                    sleep.as_mut().reset(at);
                    sleep
                }
                None => Box::pin(tokio::time::sleep_until(at)),
            }
        });
        Timer { sleep, kept: self }
    }
}

/// The wait of a loop for whatever it has to do next by the clock; set anew only when that changes.
#[derive(Debug, Default)]
pub struct Alarm {
    at: Tick,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Alarm {
    /// Waits until a tick from now on.
    pub fn set(&mut self, at: Tick, clock: &impl Clock) {
        if self.at == at && self.sleep.is_some() {
            return;
        }
        self.at = at;
        match (clock.instant(at), &mut self.sleep) {
            (None, _) => self.sleep = None,
            (Some(instant), Some(sleep)) => sleep.as_mut().reset(instant),
            (Some(instant), None) => self.sleep = Some(Box::pin(tokio::time::sleep_until(instant))),
        }
    }

    /// Waits until then. May be asked again at once when it has come.
    pub async fn rings(&mut self) {
        match &mut self.sleep {
            Some(sleep) => sleep.await,
            None => std::future::pending().await,
        }
    }
}

impl Future for Timer<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.sleep.as_mut().map_or(Poll::Pending, |sleep| sleep.as_mut().poll(context))
    }
}

impl Drop for Timer<'_> {
    fn drop(&mut self) {
        if let Some(sleep) = self.sleep.take() {
            self.kept.0.lock().unwrap_or_else(PoisonError::into_inner).push(sleep);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::fakes::PausedClock;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn each_wait_ends_at_its_own_time_however_often_it_was_used() {
        let (clock, timers) = (PausedClock::new(), Timers::default());
        for (number, wait) in [500, 10, 2_000, 1, 300, 300].into_iter().enumerate() {
            let at = clock.now().plus(Duration::from_millis(wait));
            // One that is dropped before its time, as after a call that ends well.
            let mut early = timers.until(clock.instant(at));
            assert!(futures_util::poll!(&mut early).is_pending(), "{number}");
            drop(early);
            timers.until(clock.instant(at)).await;
            assert_eq!(clock.now(), at, "{number}");
        }
        assert_eq!(timers.0.lock().unwrap().len(), 1, "one was enough");
    }

    #[tokio::test(start_paused = true)]
    async fn an_alarm_rings_when_it_was_set_to_last() {
        let (clock, mut alarm) = (PausedClock::new(), Alarm::default());
        let after = |wait| clock.now().plus(Duration::from_millis(wait));
        for (first, then) in [(500, 10), (10, 500), (0, 7), (7, 7)] {
            let at = after(then);
            alarm.set(after(first), &clock);
            alarm.set(at, &clock);
            alarm.rings().await;
            assert_eq!(clock.now(), at);
            alarm.rings().await;
        }
        alarm.set(Tick::NEVER, &clock);
        assert!(futures_util::poll!(std::pin::pin!(alarm.rings())).is_pending());
    }

    #[tokio::test(start_paused = true)]
    async fn never_does_not_come() {
        let (clock, timers) = (PausedClock::new(), Timers::default());
        assert_eq!(clock.instant(Tick::NEVER), None);
        tokio::select! {
            () = timers.until(None) => unreachable!("never"),
            () = tokio::time::sleep(Duration::from_secs(1_000_000)) => {}
        }
    }
}
