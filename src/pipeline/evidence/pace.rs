//! When what an instance sees is told again, and for how long it lasts.

use std::time::Duration;

use crate::machine::breaker::Testimony;
use crate::machine::time::Tick;

/// How often that a breaker is alone is told again, at the least: a dead one's word is weighed for little longer than its figures would be.
const RETELL: Duration = Duration::from_secs(20);

/// For how many of these times it lasts.
const RETOLD: u32 = 3;

/// What was told last of a service.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Said {
    /// What.
    pub testimony: Testimony,
    /// When it was first told.
    changed: Tick,
    /// When it was told last, and the others were heard.
    at: Tick,
}

/// How often things are told.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    reread: Duration,
    look: Duration,
}

impl Pace {
    /// What the others say is read anew after `reread`, and found to be due within `look`.
    pub fn new(reread: Duration, look: Duration) -> Self {
        Self { reread, look }
    }

    /// What is told now of a testimony that is of use for so long, and for how long others are to weigh it; `None`: nothing, for it was `said`.
    pub fn due(&self, said: Option<&Said>, testimony: Testimony, of_use: Duration, now: Tick) -> Option<(Said, Duration)> {
        let same = said.filter(|said| said.testimony == testimony);
        let after = if testimony.alone { self.reread.min(RETELL) } else { self.reread };
        if same.is_some_and(|said| now.since(said.at) < after) {
            return None;
        }
        let changed = same.map_or(now, |said| said.changed);
        let lasts = if testimony.alone {
            // Whoever is alone is so until it is not.
            of_use.max(RETOLD * (after + self.look))
        } else {
            of_use.saturating_sub(now.since(changed))
        };
        Some((Said { testimony, changed, at: now }, lasts))
    }
}
