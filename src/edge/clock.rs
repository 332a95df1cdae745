//! The process's clocks: the only place where one is read.
//!
//! Ticks come from the monotonic clock, counted from long before the [`SystemClock`] was made, so that what began before the process did, and is
//! heard of from others, has a tick of its own; a change of the wall clock does not move them. Under tokio's paused time (tests) ticks and
//! waits follow that, the wall clock does not.

use std::time::SystemTime;

use tokio::time::{Duration, Instant};

use crate::event::UnixMillis;
use crate::machine::time::Tick;
use crate::pipeline::ports::Clock;

/// How long before a clock was made its ticks begin: ten years, the longest time that a config can name.
const BEFORE: Duration = Duration::from_secs(3_650 * 86_400);

/// The machine's own clocks. A copy counts from the same origin; two that were made apart do not, so a program makes one.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock {
    /// When it was made.
    origin: Instant,
}

impl SystemClock {
    /// A clock that has been running for so long that nothing was before it.
    #[expect(clippy::new_without_default, reason = "a default would hide that every clock has an origin of its own")]
    pub fn new() -> Self {
        Self { origin: now() }
    }

    fn elapsed(&self) -> Duration {
        now().saturating_duration_since(self.origin) + BEFORE
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Tick {
        Tick(u64::try_from(self.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    fn micros(&self) -> u64 {
        u64::try_from(self.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn wall(&self) -> UnixMillis {
        wall_of(wall())
    }

    /// `None` also if it is later than the platform can say. What was before the clock was made is that moment.
    fn instant(&self, at: Tick) -> Option<Instant> {
        let later = || Duration::from_millis(at.0).saturating_sub(BEFORE);
        (at != Tick::NEVER).then(|| self.origin.checked_add(later())).flatten()
    }
}

/// A [`SystemTime`] as it travels; times before 1970 are negative.
pub fn wall_of(time: SystemTime) -> UnixMillis {
    let millis = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
    UnixMillis(match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => millis(after),
        Err(before) => -millis(before.duration()),
    })
}

#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the monotonic clock")]
fn now() -> Instant {
    Instant::now()
}

#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the wall clock")]
fn wall() -> SystemTime {
    SystemTime::now()
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::Poll;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn ticks_follow_time_and_waits_end_at_their_tick() {
        let clock = SystemClock::new();
        let made = clock.now();
        clock.sleep_until(Tick(made.0 + 1_500)).await;
        assert_eq!(clock.now(), Tick(made.0 + 1_500));
        for past in [made.0 + 3, made.0, made.0 - 3, 0] {
            clock.sleep_until(Tick(past)).await;
        }
        assert_eq!(clock.now(), Tick(made.0 + 1_500), "a tick that is past is waited for no longer");
        assert_eq!(clock.micros(), (made.0 + 1_500) * 1_000);
        tokio::time::advance(Duration::from_secs(50 * 86_400)).await;
        assert_eq!(clock.now(), Tick(made.0 + 1_500 + 50 * 86_400_000));
    }

    /// Else a breaker that recovered last week would let calls back by and by in each process that is started.
    #[test]
    fn what_was_before_the_process_has_a_tick_and_a_time() {
        let clock = SystemClock::new();
        let years = Duration::from_secs(9 * 365 * 86_400);
        let before = Tick(clock.now().0 - u64::try_from(years.as_millis()).expect("fits"));
        assert_eq!(clock.now().since(before).as_secs(), years.as_secs());
        assert!(clock.wall().since(clock.wall_of(before)).as_secs().abs_diff(years.as_secs()) <= 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_never_comes_is_never_waited_out() {
        let clock = SystemClock::new();
        for at in [Tick::NEVER, Tick(u64::MAX - 1)] {
            let mut wait = pin!(clock.sleep_until(at));
            assert!(matches!(futures_util::poll!(&mut wait), Poll::Pending));
            tokio::time::advance(Duration::from_secs(86_400 * 365)).await;
            assert!(matches!(futures_util::poll!(&mut wait), Poll::Pending), "{at:?}");
        }
    }

    #[test]
    fn wall_times_on_both_sides_of_the_epoch() {
        let second = Duration::from_secs(1);
        assert_eq!(wall_of(SystemTime::UNIX_EPOCH + second), UnixMillis(1_000));
        assert_eq!(wall_of(SystemTime::UNIX_EPOCH - second), UnixMillis(-1_000));
        assert!(SystemClock::new().wall() > UnixMillis(1_700_000_000_000));
    }
}
