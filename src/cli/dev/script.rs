//! The story that `fusebox dev` tells: a short outage of the notifier, and what follows from it, told as it really happens.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::StatusCode;
use tokio::sync::broadcast::error::RecvError;

use super::cameras::Cameras;
use super::screen::{Screen, ServiceLine};
use super::{Args, World};
use crate::app::{Signals, Started};
use crate::config::{Config, Fallback};
use crate::edge::embedded::stub::{Act, Behaviour};
use crate::machine::breaker::{Cause, StateName};
use crate::machine::time::Tick;
use crate::pipeline::ports::Clock;
use crate::telemetry::notice::Notice;

/// When the notifier begins to fail, and when it works again.
const OUTAGE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(17));

/// When the story ends whatever has happened.
const LATEST_END: Duration = Duration::from_secs(55);

/// How a stub fails.
pub(super) fn failure() -> Act {
    Act::fail(StatusCode::SERVICE_UNAVAILABLE)
}

/// What has been seen of a service.
#[derive(Default)]
struct Seen {
    parked: u64,
    drained: u64,
}

/// Tells the story until the instance is told to stop.
pub(super) async fn play(config: &Config, args: &Args, world: &World, screen: &mut Screen, running: Started, signals: &Signals) {
    let clock = running.clock;
    let began = clock.now();
    let mut notices = running.teller.subscribe();
    let mut seen: BTreeMap<String, Seen> = BTreeMap::new();
    let cameras = Cameras::new(config.topics.events.clone(), args.rate.get());
    let tally = Arc::clone(&cameras.tally);
    let waiting = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let publishing = {
        let (metrics, waiting, kafka) = (Arc::clone(&running.metrics), Arc::clone(&waiting), config.kafka.clone());
        tokio::spawn(async move {
            let backlog = |published: u64| published.saturating_sub(metrics.events()).max(waiting.load(Ordering::Relaxed));
            if let Err(error) = cameras.run(&kafka, backlog).await {
                tracing::error!(target: "fusebox::dev", %error, "the cameras cannot publish");
            }
        })
    };
    screen.say(&greeting(config, args, world));
    if !args.fail.is_empty() {
        // There is no story to be told first.
        screen.say(&next_steps(config, args, world));
    }
    let mut plot = Plot::new(args.fail.is_empty());
    let mut ticks = tokio::time::interval(screen.interval());
    let mut last = (began, 0);
    let end = args.seconds.map_or(Tick::NEVER, |seconds| began.plus(Duration::from_secs(seconds)));
    loop {
        tokio::select! {
            () = signals.stop.cancelled() => break,
            () = clock.sleep_until(end) => break,
            notice = notices.recv() => match notice {
                Ok(notice) => {
                    count(&mut seen, &notice);
                    plot.hear(&notice, screen);
                }
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => break,
            },
            _ = ticks.tick() => {
                let now = clock.now();
                let services = lines(config, &running, &seen);
                let held = |service: &ServiceLine| service.parking.map_or(0, |(_, _, waiting)| waiting);
                waiting.store(services.iter().map(held).sum::<usize>() as u64, Ordering::Relaxed);
                let notifier = services.iter().find(|service| service.service == "notifier");
                plot.advance(now.since(began), world, screen, notifier, || next_steps(config, args, world));
                let finished = running.metrics.events();
                let seconds = now.since(last.0).as_secs_f64().max(0.001);
                let mut line = format!(
                    "{} events published, {finished} finished, {:.0} a second",
                    tally.published.load(Ordering::Relaxed),
                    (finished - last.1) as f64 / seconds
                );
                if tally.held_back.load(Ordering::Relaxed) {
                    line.push_str("; the cameras wait: the embedded Kafka would drop what is not read yet");
                }
                if now.since(last.0) >= Duration::from_secs(2) {
                    last = (now, finished);
                }
                screen.show(&line, &services);
            }
        }
    }
    publishing.abort();
    signals.stop.cancel();
    screen.end();
}

fn count(seen: &mut BTreeMap<String, Seen>, notice: &Notice) {
    match notice {
        Notice::Parked { service, .. } => seen.entry(service.to_string()).or_default().parked += 1,
        Notice::Drained { service, .. } => seen.entry(service.to_string()).or_default().drained += 1,
        Notice::Transition { .. } | Notice::DeadLettered { .. } => {}
    }
}

fn lines(config: &Config, running: &Started, seen: &BTreeMap<String, Seen>) -> Vec<ServiceLine> {
    config
        .services
        .iter()
        .enumerate()
        .map(|(index, service)| {
            let seen = seen.get(&service.name);
            ServiceLine {
                service: service.name.clone(),
                state: running.breakers.state(index),
                probes_in: running.breakers.retry_at(index).map(|at| at.since(running.clock.now())),
                parking: matches!(service.fallback, Fallback::Park(_))
                    .then(|| seen.map_or((0, 0, 0), |seen| (seen.parked, seen.drained, running.gauges.of(index).held))),
            }
        })
        .collect()
}

/// Where the story is.
struct Plot {
    act: Scene,
    tripped: bool,
    told_parking: bool,
    told_probe: bool,
    recovered: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scene {
    Peace,
    Outage,
    Return,
    Over,
}

impl Plot {
    fn new(scripted: bool) -> Self {
        let act = if scripted { Scene::Peace } else { Scene::Over };
        Self { act, tripped: false, told_parking: false, told_probe: false, recovered: false }
    }

    fn advance(&mut self, at: Duration, world: &World, screen: &Screen, notifier: Option<&ServiceLine>, next_steps: impl Fn() -> String) {
        match self.act {
            Scene::Peace if at >= OUTAGE.0 => {
                self.act = Scene::Outage;
                screen.say("\n1. The notifier begins to fail: every call is answered 503.");
                set(world, failure());
            }
            Scene::Outage if at >= OUTAGE.1 => {
                self.act = Scene::Return;
                screen.say("5. The notifier works again. Nobody tells the breaker: its next probe finds out.");
                set(world, Act::Ok);
            }
            Scene::Return => {
                let (_, drained, waiting) = notifier.and_then(|notifier| notifier.parking).unwrap_or_default();
                if self.recovered && drained > 0 && waiting == 0 {
                    self.act = Scene::Over;
                    screen.say(&format!(
                        "7. Drained: {drained} notifications were parked, some more than once, and all of them are delivered.\n{}",
                        next_steps()
                    ));
                } else if at >= LATEST_END {
                    self.act = Scene::Over;
                    screen
                        .say(&format!("7. {waiting} notifications are still parked; they are drained as they fall due.\n{}", next_steps()));
                }
            }
            Scene::Peace | Scene::Outage | Scene::Over => {}
        }
    }

    fn hear(&mut self, notice: &Notice, screen: &Screen) {
        let scripted = matches!(self.act, Scene::Outage | Scene::Return);
        match notice {
            Notice::Transition { service, transition } => {
                let told = match (transition.cause, transition.to) {
                    (Cause::Policy, _) if scripted && !self.tripped => {
                        self.tripped = true;
                        "2. After four failures in a row its breaker trips. Calls are refused at once, and no event waits for the notifier."
                    }
                    (Cause::Timer, StateName::HalfOpen) if scripted && !self.told_probe => {
                        self.told_probe = true;
                        "4. The open time is over: one call goes as a probe. If it fails, the breaker opens again."
                    }
                    (Cause::Recovered, _) if self.act == Scene::Return && !self.recovered => {
                        self.recovered = true;
                        "6. A probe succeeds and the breaker closes: the parked notifications are drained, live ones first."
                    }
                    _ => {
                        let (from, to, cause) = (transition.from.as_str(), transition.to.as_str(), transition.cause.as_str());
                        screen.aside(&format!("   {service}: {from} → {to} ({cause})"));
                        return;
                    }
                };
                screen.say(told);
            }
            Notice::Parked { .. } if scripted && self.tripped && !self.told_parking => {
                self.told_parking = true;
                screen.say("3. Notifications are parked on the retry topic. A parked call spends no attempt.");
            }
            Notice::Parked { .. } | Notice::Drained { .. } | Notice::DeadLettered { .. } => {}
        }
    }
}

fn set(world: &World, act: Act) {
    if let Some(stub) = world.stubs.get("notifier") {
        stub.set(Behaviour::from(act));
    }
}

fn greeting(config: &Config, args: &Args, world: &World) -> String {
    let plan = if args.fail.is_empty() {
        "In a moment the notifier will fail for a while: watch what follows.".to_owned()
    } else {
        format!("Failing from the start: {}.", args.fail.join(", "))
    };
    format!(
        "Fusebox runs here with an embedded Kafka at {}, four stub services, {} camera events a second, and its API at http://{}.\n{plan}",
        world.kafka.brokers(),
        args.rate,
        config.http.listen
    )
}

fn next_steps(config: &Config, args: &Args, world: &World) -> String {
    let (api, brokers, token) = (config.http.listen, world.kafka.brokers(), &world.token);
    format!(
        "\nWhat to try next, in another terminal:\n\
         \n  see what became of the events\n    kcat -b {brokers} -t {} -C -o -5 -e\
         \n  make a service fail, hang, slow down, and work again (rag, rulegen, notifier, vms)\
         \n    curl -H 'content-type: application/json' http://{api}/dev/services/rag -d '{{\"kind\":\"hang\"}}'\
         \n    curl -H 'content-type: application/json' http://{api}/dev/services/rag -d '{{\"kind\":\"ok\"}}'\
         \n  look at the breakers and the backlog\
         \n    curl http://{api}/api/v1/circuit-breakers/health\n    curl http://{api}/api/v1/retry\
         \n  force a breaker open, as at three in the morning\
         \n    FUSEBOX_TOKEN={token} FUSEBOX_API=http://{api} fusebox breakers force vms forced_open --reason maintenance --ttl 5m\
         \n  publish an event of your own\
         \n    echo '{{\"camera_id\":\"front-door\",\"recipients\":[\"me\"]}}' | kcat -b {brokers} -t {} -P\
         \n\n{}\n",
        config.topics.outcomes,
        config.topics.events,
        if args.seconds.is_some() { "It ends by itself." } else { "It goes on until Ctrl-C." }
    )
}
