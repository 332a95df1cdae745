//! How a loop ends: calls are cut when the rest of a stop's time is needed, then what is finished is committed and the group is left.

use std::time::Duration;

use super::finisher::Finisher;
use super::hand_over::HandOvers;
use super::ports::{Clock, Subscription, World};
use super::stop::{Ended, Stop, calls_may_take};
use crate::machine::time::Tick;

/// The least time that is left to commit and leave the group, whatever was used up before.
const TO_LEAVE: Duration = Duration::from_secs(1);

/// Commits what is finished and leaves the group, within what is left of a stop.
pub(super) async fn leave<W: World, S: Subscription, T>(
    subscription: S,
    finisher: &mut Finisher<W, T>,
    hand_overs: &mut HandOvers,
    clock: &W::Clock,
    deadline: Option<Tick>,
    unfinished: usize,
) -> Ended {
    // Whoever waits for an answer about revoked partitions could not leave.
    hand_overs.end(finisher);
    let held = finisher.held();
    let points = finisher.release(&held);
    let latest = deadline.unwrap_or_default().max(clock.now().plus(TO_LEAVE));
    let taken = tokio::select! {
        biased;
        taken = subscription.close(points) => taken,
        () = clock.sleep_until(latest) => false,
    };
    match (unfinished, taken) {
        (0, true) => Ended::Clean,
        (0, false) => Ended::Uncommitted,
        _ => Ended::Unfinished(unfinished),
    }
}

/// Takes a stop's second step when its time has come, without holding up the loop.
pub(super) fn cut_calls_later<C: Clock>(stop: &Stop, clock: &C, timeout: Duration) {
    let (stop, clock) = (stop.clone(), clock.clone());
    let at = clock.now().plus(calls_may_take(timeout));
    tokio::spawn(async move {
        clock.sleep_until(at).await;
        stop.cut_calls();
    });
}
