//! A backlog that is drained by a fleet: as many drained calls at a service as `drain_concurrency` says, however many instances there are.

use fusebox::edge::embedded::stub::{Act, Ended, Entry};
use http::StatusCode;

use crate::harness::{Event, World, until};

/// Drained calls that may be at the service, all instances together.
const BUDGET: usize = 6;

const CONFIG: &str = r#"
[services.notifier.breaker]
fail_max = 1
recovery_timeout = "500ms"
[services.notifier.retry]
max_attempts = 1000
drain_concurrency = 6
"#;

fn answered(calls: &[Entry]) -> usize {
    calls.iter().filter(|call| call.ended == Some(Ended::Answered(200))).count()
}

#[test]
fn a_fleet_drains_with_one_budget() {
    let world = World::new("drained").partitions(6).config(CONFIG).start();
    let notifier = world.stub("notifier");
    notifier.set(Act::fail(StatusCode::SERVICE_UNAVAILABLE));
    let mut fleet = [(); 3].map(|()| world.run());
    until("each has two partitions", || world.drain_shares() == [2, 2, 2]);
    let events = 600;
    world.publish(&(0..events).map(|number| Event::of(&format!("cam-{number}")).notifying()).collect::<Vec<_>>());
    world.outcomes(events);
    until("no call is under way", || world.calls("notifier").iter().all(|call| call.ended.is_some()));
    let before = world.calls("notifier").len();

    notifier.set(Act::Slow { ms: 100 });
    until("it is drained", || answered(&world.calls("notifier")) >= 60);
    // One more instance, and its places are another's no more; then one fewer.
    let mut fourth = world.run();
    until("the fourth has a partition", || world.drain_shares() == [1, 1, 2, 2]);
    assert_eq!(fleet[0].stop(), 0, "{}", fleet[0].log());
    assert!(answered(&world.calls("notifier")) < events, "they change while it drains");
    until("all is drained", || answered(&world.calls("notifier")) >= events);

    let calls = world.calls("notifier");
    let most = calls[before..].iter().map(|call| call.in_flight_at_start).max();
    assert_eq!(most, Some(BUDGET), "all of the budget is used, and no more");
    for instance in fleet[1..].iter_mut().chain([&mut fourth]) {
        assert_eq!(instance.stop(), 0, "{}", instance.log());
    }
}
