//! Redis is killed and started again, sometimes with nothing, sometimes frozen, while instances are killed and a service comes and goes.
//!
//! Beside what every scenario has to show: no call is refused, and none takes longer, for want of Redis; no attempt is counted that was not
//! made; probes are as few as `permits` says, in the whole fleet while Redis has been there, in each instance else; and in the end all
//! instances and Redis are of one mind, the lock and the settings that an operator gave before it all began included.

mod plan;
mod server;
mod verdict;

use std::cell::RefCell;
use std::thread::sleep;
use std::time::{Duration, Instant};

use fusebox::edge::clock::wall_of;
use fusebox::edge::embedded::stub::Act;
use http::StatusCode;
use serde_json::json;

use self::plan::Fault;
use self::server::Server;
use crate::chance::{Chance, length};
use crate::harness::{World, within};
use crate::trial::{self, MAX_IN_FLIGHT, Plan, Trial};

const INSTANCES: usize = 3;

/// As in [`crate::killed`]: sessions that end soon. Calls are short, so that a probe that hangs is followed soon; there is no end to attempts,
/// so that each notification must arrive.
const CONFIG: &str = r#"
[kafka.properties]
"session.timeout.ms" = "2000"
"heartbeat.interval.ms" = "300"
[services.notifier]
timeout = "1s"
[services.notifier.breaker]
fail_max = 2
recovery_timeout = "200ms"
[services.notifier.retry]
max_attempts = 10000
"#;

/// What happened, and when: unix ms.
pub struct Happened {
    at: i64,
    fault: Fault,
}

fn now() -> i64 {
    wall_of(std::time::SystemTime::now()).0
}

fn strike(trial: &mut Trial<'_>, redis: &mut Server, fault: Fault) {
    let notifier = trial.world.stub("notifier");
    trial.fleet.say(&format!("{fault:?}"));
    match fault {
        Fault::RedisKilled => redis.kill(),
        Fault::RedisStarted { empty } => {
            if empty {
                redis.forget();
            }
            redis.run();
        }
        Fault::RedisFrozen => redis.signal("STOP"),
        Fault::RedisThawed => redis.signal("CONT"),
        Fault::Down { hangs: true } => notifier.set(Act::Hang),
        Fault::Down { hangs: false } => notifier.set(Act::fail(StatusCode::SERVICE_UNAVAILABLE)),
        Fault::Well => notifier.set(Act::Jitter { min_ms: 0, max_ms: 60 }),
        Fault::Killed(place) => {
            trial.fleet.kill(place);
            trial.allowed.kills += 1;
            trial.fleet.join(place);
        }
    }
}

/// What the operator has changed `fail_max` of the service `vms` to. None of its calls that hang may trip it.
const FAIL_MAX: u64 = 900_000;

/// In what instances and Redis differ: the state or the generation of a service; whether the operator's lock is on, and settings are as changed.
fn disagreement(trial: &Trial<'_>) -> Option<String> {
    for service in ["rag", "rulegen", "notifier", "vms"] {
        let stored = trial.world.redis().breaker(service);
        let text = |name: &str| stored.get(name).cloned().unwrap_or_default();
        let expected =
            if stored.contains_key("state") { (text("state"), text("generation")) } else { ("closed".to_owned(), "0".to_owned()) };
        let wanted = if service == "rulegen" { "forced_closed" } else { "closed" };
        if expected.0 != wanted {
            return Some(format!("Redis has {service} as {expected:?}, not {wanted}"));
        }
        for place in trial.fleet.running() {
            let breaker = trial.fleet.instance(place).breaker(service);
            let has = (breaker["state"].as_str().unwrap_or_default().to_owned(), breaker["generation"].to_string());
            if has != expected {
                return Some(format!("{place} has {service} as {has:?}, Redis has {expected:?}"));
            }
            let settings = (breaker["settings"]["fail_max"].as_u64(), breaker["settings_revision"].as_u64(), text("settings_revision"));
            if service == "vms" && settings != (Some(FAIL_MAX), Some(1), "1".to_owned()) {
                return Some(format!("{place} has changed settings as {settings:?}"));
            }
        }
    }
    None
}

fn run(name: &str, rate: usize, length: Duration) {
    let mut redis = Server::start();
    let url = redis.url();
    let happened = RefCell::new(Vec::new());
    let check = |world: &World| println!("{name}: {}", verdict::judge(world, &happened.borrow(), INSTANCES));
    let plan = Plan {
        name,
        config: CONFIG.to_owned(),
        rate,
        redis: Some(&url),
        // As in `killed`: what a session's two seconds bring on top.
        repeats_each: MAX_IN_FLIGHT + 2 * rate / INSTANCES,
        check: &check,
        ..Plan::default()
    };
    trial::run(&plan, |trial| {
        let forced = trial.fleet.instance(0).force("rulegen", &json!({ "state": "forced_closed", "reason": "chaos" }));
        assert_eq!(forced.status, 200, "{forced:?}");
        let changed = trial.fleet.instance(1).change_settings("vms", None, &json!({ "fail_max": FAIL_MAX }));
        assert_eq!(changed.status, 200, "{changed:?}");
        trial.world.stub("notifier").set(Act::Jitter { min_ms: 0, max_ms: 60 });
        let faults = plan::draw(&mut Chance::of(trial.chance.seed()), length, INSTANCES);
        let from = Instant::now();
        for (at, fault) in faults {
            sleep(at.saturating_sub(from.elapsed()));
            // A service is down from when all know it; it is well, and Redis away, from before that.
            let before = now();
            strike(trial, &mut redis, fault);
            let at = if matches!(fault, Fault::RedisStarted { .. } | Fault::RedisThawed | Fault::Down { .. }) { now() } else { before };
            happened.borrow_mut().push(Happened { at, fault });
        }
        let from = Instant::now();
        within(Duration::from_secs(60), "instances and Redis agree", || match disagreement(trial) {
            None => Some(()),
            Some(what) if from.elapsed() > Duration::from_secs(55) => panic!("{what}"),
            Some(_) => None,
        });
        let generation = trial.world.redis().breaker("notifier").remove("generation");
        trial.fleet.say(&format!("all agree {:.1} s after the last fault: {generation:?}", from.elapsed().as_secs_f64()));
        // Nor was it chance: whoever had not heard of the others yet has by now.
        sleep(plan::SETTLED_IN);
        assert_eq!(disagreement(trial), None, "they stay as they are");
    });
}

#[test]
fn redis_comes_and_goes_in_short() {
    run("redis", 60, Duration::from_secs(15));
}

#[test]
#[ignore = "minutes: make chaos"]
fn redis_comes_and_goes() {
    run("redis-long", 100, length(Duration::from_secs(90)));
}
