//! Whether the process does its work, and whether events can be processed: what probes and operators ask.

use std::sync::Arc;
use std::time::Duration;

use super::backlog::Backlog;
use super::{Loop, Real};
use crate::edge::api::{Part, PartState, Readiness};
use crate::edge::clock::SystemClock;
use crate::edge::kafka::{ConsumerHealth, Producer};
use crate::pipeline::guard::Guard;
use crate::pipeline::keeper::{StoreHealth, StoreState};
use crate::pipeline::ports::{Budget, Clock};
use crate::pipeline::stop::Stop;
use crate::telemetry::metrics::Metrics;
use tokio::task::AbortHandle;

/// What is watched.
pub(super) struct Watch {
    pub(super) instance: String,
    pub(super) loops: Vec<Watched>,
    pub(super) guards: Vec<Arc<Guard<Real>>>,
    pub(super) store: Arc<StoreHealth>,
    pub(super) backlog: Arc<Backlog>,
    pub(super) producer: Producer,
    pub(super) stop: Stop,
    pub(super) clock: SystemClock,
}

pub(super) struct Watched {
    name: &'static str,
    health: Arc<ConsumerHealth>,
    budget: Arc<Budget>,
    task: AbortHandle,
}

impl Watched {
    pub(super) fn of(running: &Loop) -> Self {
        Self {
            name: running.name,
            health: Arc::clone(&running.health),
            budget: Arc::clone(&running.budget),
            task: running.task.abort_handle(),
        }
    }
}

impl Watch {
    /// Whether every loop and its consumer still work; if not, why.
    pub(super) fn alive(&self) -> Result<(), String> {
        for Watched { name, health, task, .. } in &self.loops {
            if task.is_finished() {
                return Err(format!("the loop of {name} has ended"));
            }
            if let Some(error) = health.fatal() {
                return Err(format!("the consumer of {name} has ended: {error}"));
            }
            let silent = self.clock.now().since(health.last_poll());
            if silent > health.longest_silence() {
                return Err(format!("the consumer of {name} has not polled for {} s", silent.as_secs()));
            }
        }
        match self.producer.fatal() {
            Some(error) => Err(format!("the producer cannot publish any more: {error}")),
            None => Ok(()),
        }
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
        part(PartState::Ok, None)
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
        let part = |state, detail: Option<&str>| Part { name: "redis", state, detail: detail.map(str::to_owned) };
        match self.store.state() {
            StoreState::Absent => part(PartState::Ok, Some("not configured: breakers live in this process alone")),
            StoreState::Up => part(PartState::Ok, None),
            StoreState::Down => part(PartState::Degraded, Some("does not answer: breakers go on with what this instance knows")),
        }
    }

    /// Sets the gauges that mirror what others hold.
    pub(super) fn show(&self, metrics: &Metrics) {
        let held = self.loops.iter().map(|watched| watched.budget.held());
        let (records, bytes) = held.fold((0, 0), |(records, bytes), (more, longer)| (records + more, bytes + longer));
        metrics.set_in_flight(records, bytes);
        metrics.set_paused(self.loops.iter().map(|watched| watched.health.paused()).sum());
        for (service, guard) in self.guards.iter().enumerate() {
            metrics.set_concurrency_limit(service, guard.places());
        }
        metrics.set_store_up(self.store.state() == StoreState::Up);
    }
}
