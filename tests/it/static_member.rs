//! A static member (`group.instance.id`): a restart within its session moves no partition.

use crate::harness::{Event, World, until};

/// Two services park, so that an instance has two consumers in the group of the parked calls.
const TWO_PARK: &str = r#"
[kafka.properties]
"group.instance.id" = "place-1"
[services.vms.breaker]
recovery_timeout = "1s"
[services.vms.fallback]
kind = "park"
"#;

#[test]
fn consumers_of_one_instance_do_not_put_each_other_out() {
    let world = World::new("static").config(TWO_PARK);
    let topic = format!("it-static-{}.vms.retry", uuid::Uuid::new_v4().simple());
    let world = world.config(&format!("[services.vms.retry]\ntopic = \"{topic}\"")).start();
    let mut first = world.run();
    until("both retry topics are assigned", || {
        assert_eq!(first.exited(), None, "{}", first.log());
        let log = first.log();
        [&topic, &world.retries].iter().all(|topic| log.contains(&format!("{topic}/0")))
    });
    assert_eq!(world.outcome_of(&Event::of("cam-1").notifying())["status"], "ok");
    assert_eq!(first.stop(), 0, "{}", first.log());

    // The same places, taken up again at once.
    let mut second = world.run();
    assert_eq!(world.outcome_of(&Event::of("cam-1").notifying())["status"], "ok");
    assert_eq!(second.stop(), 0, "{}", second.log());
}
