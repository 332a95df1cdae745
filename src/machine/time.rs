//! The machine's time: milliseconds on a clock that never goes back.

use std::time::Duration;

/// An instant on the process's monotonic clock, in milliseconds since an origin of its own. Never compared between
/// processes: what crosses the process's border is a [`crate::event::UnixMillis`] or a remaining time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tick(pub u64);

impl Tick {
    /// The end of time: later than every other tick.
    pub const NEVER: Self = Self(u64::MAX);

    /// This instant and `duration` later; saturates at [`Tick::NEVER`].
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }

    /// How long after `earlier` this instant is; zero if it is not later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}
