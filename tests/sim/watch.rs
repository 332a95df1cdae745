//! Watches the loops as whoever probes the program does. In a world that goes on no alarm may be raised.

use std::sync::Arc;
use std::time::Duration;

use fusebox::pipeline::ports::Clock;
use fusebox::pipeline::pulse::{LONGEST_SILENCE, Pulse, ROUND};

use crate::world::SimClock;

/// Looks at each loop twice in a round: it came round a moment ago, and no record of it hangs.
pub async fn watch(pulses: [(&'static str, Arc<Pulse>); 2], clock: SimClock) {
    loop {
        tokio::time::sleep(ROUND / 2).await;
        // Long before a probe would fail: in a simulation nothing is late.
        let now = clock.now().plus(LONGEST_SILENCE.saturating_sub(ROUND + Duration::from_millis(100)));
        for (name, pulse) in &pulses {
            assert_eq!(pulse.silence(now), None, "the {name} loop has not come round for more than {ROUND:?} at {:?}", clock.elapsed());
            assert_eq!(pulse.stuck(), 0, "records of the {name} loop are said to hang at {:?}", clock.elapsed());
        }
    }
}
