//! Whether the process does its work, and whether events can be processed: what probes and operators ask.

use std::sync::Arc;
use std::time::Duration;

use super::backlog::Backlog;
use super::stalls::Stalls;
use super::{Loop, Real};
use crate::edge::api::{Part, PartState, Readiness};
use crate::edge::clock::SystemClock;
use crate::edge::kafka::{ConsumerHealth, Producer, Reading};
use crate::machine::time::Tick;
use crate::pipeline::brakes::Board;
use crate::pipeline::guard::Guard;
use crate::pipeline::keeper::{StoreHealth, StoreState};
use crate::pipeline::ports::{Budget, Clock};
use crate::pipeline::pulse::Pulse;
use crate::pipeline::stop::Stop;
use crate::telemetry::metrics::Metrics;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

/// What is watched.
pub(super) struct Watch {
    pub(super) instance: String,
    pub(super) loops: Vec<Watched>,
    pub(super) guards: Vec<Arc<Guard<Real>>>,
    pub(super) board: Arc<Board>,
    pub(super) store: Arc<StoreHealth>,
    pub(super) backlog: Arc<Backlog>,
    pub(super) stalls: Arc<Stalls>,
    /// What works beside the loops, by what it does, until the process ends.
    pub(super) tasks: Vec<(&'static str, AbortHandle)>,
    pub(super) ending: CancellationToken,
    pub(super) producer: Producer,
    pub(super) stop: Stop,
    pub(super) clock: SystemClock,
}

/// So many commits in a row that were not taken are more than a coordinator that moves.
const MANY_REFUSED: u32 = 10;

pub(super) struct Watched {
    name: &'static str,
    health: Arc<ConsumerHealth>,
    budget: Arc<Budget>,
    pulse: Arc<Pulse>,
    task: AbortHandle,
}

impl Watched {
    pub(super) fn of(running: &Loop) -> Self {
        Self {
            name: running.name,
            health: Arc::clone(&running.health),
            budget: Arc::clone(&running.budget),
            pulse: Arc::clone(&running.pulse),
            task: running.task.abort_handle(),
        }
    }

    /// One loop may end before another when the process was told to stop.
    fn alive(&self, now: Tick, stopping: bool) -> Result<(), String> {
        let Self { name, health, pulse, task, .. } = self;
        if task.is_finished() {
            if stopping {
                return Ok(());
            }
            return Err(format!("the loop of {name} has ended"));
        }
        if let Some(error) = health.fatal() {
            return Err(format!("the consumer of {name} has ended: {error}"));
        }
        let silent = now.since(health.last_poll());
        if silent > health.longest_silence() {
            return Err(format!("the consumer of {name} has not polled for {} s", silent.as_secs()));
        }
        match pulse.silence(now) {
            Some(silence) => Err(format!("the loop of {name} has not come round for {} s", silence.as_secs())),
            None => Ok(()),
        }
    }
}

impl Watch {
    /// Whether every loop and its consumer still work; if not, why.
    pub(super) fn alive(&self) -> Result<(), String> {
        let now = self.clock.now();
        self.loops.iter().try_for_each(|watched| watched.alive(now, self.stop.is_requested()))?;
        if let Some(error) = self.producer.fatal() {
            return Err(format!("the producer cannot publish any more: {error}"));
        }
        if let Some((what, _)) = self.tasks.iter().find(|(_, task)| task.is_finished()).filter(|_| !self.ending.is_cancelled()) {
            return Err(format!("{what} has ended"));
        }
        self.stalls.why().map_or(Ok(()), Err)
    }

    /// Whether events can be processed, and what each part says.
    pub(super) fn ready(&self) -> Readiness {
        let mut parts: Vec<Part> = self.loops.iter().map(|watched| self.consumer(watched)).collect();
        parts.push(self.topics());
        parts.push(self.redis());
        Readiness::of(&self.instance, parts)
    }

    fn consumer(&self, watched: &Watched) -> Part {
        let Watched { name, health, .. } = watched;
        let part = |state, detail: Option<String>| Part { name, state, detail };
        if self.stop.is_requested() {
            return part(PartState::Down, Some("the process was told to stop, and takes nothing new".to_owned()));
        }
        if let Err(why) = self.alive() {
            return part(PartState::Down, Some(why));
        }
        if !health.is_connected() {
            let why = health.last_error().unwrap_or_else(|| "not connected yet".to_owned());
            return part(PartState::Down, Some(format!("Kafka cannot be reached: {why}; it is tried again for as long as it takes")));
        }
        let refused = health.refused_commits();
        if refused >= MANY_REFUSED {
            let why = format!("Kafka has not taken the last {refused} commits; events go on, and what is not committed would run again");
            return part(PartState::Degraded, Some(why));
        }
        // Only one loop has partitions that are stopped.
        let stopped = if *name == "events" { stopped(&self.board) } else { None };
        part(if stopped.is_some() { PartState::Degraded } else { PartState::Ok }, stopped)
    }

    /// How far the partitions of a loop were read, a moment ago.
    pub(super) fn positions(&self, name: &str) -> Vec<Reading> {
        self.loops.iter().filter(|watched| watched.name == name).flat_map(|watched| watched.health.readings().partitions).collect()
    }

    fn topics(&self) -> Part {
        let part = |state, detail| Part { name: "topics", state, detail };
        let Some(found) = self.backlog.inspection() else {
            return part(PartState::Degraded, Some("Kafka has not said yet whether the topics exist".to_owned()));
        };
        if !found.missing.is_empty() {
            let names: Vec<&str> = found.missing.iter().map(crate::event::Topic::as_str).collect();
            return part(PartState::Down, Some(format!("missing: {}; `fusebox migrate` creates them", names.join(", "))));
        }
        if let Some((topic, has, needed)) = found.too_few.first() {
            let why =
                format!("`{topic}` has {has} partitions, and with `retry.order = \"key\"` needs {needed}, as many as `topics.events`");
            return part(PartState::Down, Some(why));
        }
        if let Some((topic, kept, needed)) = found.too_short.first() {
            let whole = |duration: &Duration| humantime::format_duration(Duration::from_secs(duration.as_secs())).to_string();
            let why = format!(
                "`{topic}` keeps records for {}, but a call may be parked for {}: raise its retention.ms, or lower retry.max_age",
                whole(kept),
                whole(needed)
            );
            return part(PartState::Degraded, Some(why));
        }
        part(PartState::Ok, None)
    }

    fn redis(&self) -> Part {
        let part = |state, detail: Option<String>| Part { name: "redis", state, detail };
        match self.store.state() {
            StoreState::Absent => part(PartState::Ok, Some("not configured: breakers live in this process alone".to_owned())),
            StoreState::Up => part(PartState::Ok, None),
            StoreState::Down => {
                let fault = self.store.fault();
                let why = if fault.is_empty() { "not reached yet" } else { &fault };
                part(PartState::Degraded, Some(format!("{why}: breakers go on with what this instance knows")))
            }
        }
    }

    /// Sets the gauges that mirror what others hold.
    pub(super) fn show(&self, metrics: &Metrics) {
        let held = self.loops.iter().map(|watched| watched.budget.held());
        let (records, bytes) = held.fold((0, 0), |(records, bytes), (more, longer)| (records + more, bytes + longer));
        metrics.set_in_flight(records, bytes);
        metrics.set_paused(self.loops.iter().map(|watched| watched.health.paused()).sum());
        metrics.set_braked(self.board.stopped().len());
        metrics.set_hanging(self.stalls.stalled(), self.loops.iter().map(|watched| watched.pulse.stuck()).sum());
        for (service, guard) in self.guards.iter().enumerate() {
            metrics.set_concurrency_limit(service, guard.places());
        }
        metrics.set_store_up(self.store.state() == StoreState::Up);
    }
}

/// Which partitions are stopped, and what to do.
fn stopped(board: &Board) -> Option<String> {
    let stopped = board.stopped();
    let (partition, why) = stopped.first()?;
    let others = match stopped.len() {
        1 => String::new(),
        all => format!(", and {} more", all - 1),
    };
    Some(format!(
        "{partition} is stopped at {} ({}): too many of its records are bad{others}; see `fusebox partitions list`, and let it go on with `fusebox partitions release`",
        why.at,
        why.code.as_str()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::edge::kafka::{ConsumerOptions, KafkaSubscription};
    use crate::event::Topic;
    use crate::pipeline::pulse::LONGEST_SILENCE;

    #[tokio::test]
    async fn a_loop_that_stands_still_or_has_ended_is_told() {
        let clock = SystemClock::new();
        let budget = Budget::new(1, 1);
        // Nobody listens there: whether Kafka can be reached does not matter to whether the process lives.
        let settings = config::Kafka { brokers: "127.0.0.1:1".into(), group: "g".into(), properties: Default::default() };
        let options = ConsumerOptions {
            transactional_id: None,
            group: "g".into(),
            seat: None,
            topics: vec![Topic::from("t")],
            client_id: "test".into(),
            budget: Arc::clone(&budget),
            ahead: crate::edge::kafka::Ahead { records: 1, bytes: 1 },
            max_record_bytes: 1,
            revoke_wait: Some(LONGEST_SILENCE * 10),
            on_commit: Arc::new(|_| {}),
        };
        let subscription = KafkaSubscription::start(&settings, options, clock).expect("a client");
        let task = tokio::spawn(std::future::pending::<()>());
        let pulse = Pulse::new(clock.now());
        let health = subscription.health();
        let watched = Watched { name: "events", health, budget, pulse: Arc::clone(&pulse), task: task.abort_handle() };
        let now = clock.now();
        assert_eq!(watched.alive(now, false), Ok(()));
        let late = now.plus(LONGEST_SILENCE + Duration::from_secs(5));
        assert_eq!(watched.alive(late, false), Err("the loop of events has not come round for 35 s".to_owned()));
        pulse.beat(late);
        assert_eq!(watched.alive(late, false), Ok(()));
        task.abort();
        assert!(task.await.is_err());
        assert_eq!(watched.alive(late, false), Err("the loop of events has ended".to_owned()));
        assert_eq!(watched.alive(late, true), Ok(()), "told to stop, one loop ends before another");
    }
}
