//! What breakers would have done: recorded calls run through settings that were not in force ([`run`]), and operations that another
//! breaker was led through as well ([`replay`]).
//!
//! Time is the trace's, chance a caller's; nothing is read or written. How traces are read and what is shown of them is the command's affair.

pub mod replay;
pub mod run;
pub mod truth;

use super::breaker::{Breaker, StateName};
use super::time::Tick;

/// Does at their own times what a breaker's timers would have done by `now`, as long as it is in a state that `timed` says is left by one; `note`
/// hears when, and which state it is in after that.
fn run_out(breaker: &mut Breaker, now: Tick, timed: impl Fn(StateName) -> bool, mut note: impl FnMut(Tick, StateName)) {
    while timed(breaker.state_name())
        && let Some(deadline) = breaker.next_deadline().filter(|deadline| *deadline <= now)
    {
        // A probe's lease that ends is a deadline too, and no end of the state.
        let changed = breaker.advance(deadline).is_some();
        let given_up = breaker.give_up(deadline);
        note(deadline, breaker.state_name());
        if !changed && !given_up {
            break;
        }
    }
}
