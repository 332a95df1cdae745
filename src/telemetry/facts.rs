//! The witness: each fact is one line of the log and its counters, matched once.
//!
//! | fact | level | |
//! |---|---|---|
//! | a breaker opens | warn | |
//! | a partition is stopped | warn | |
//! | any other transition, partitions come and go, a stopped one goes on | info | |
//! | the store goes, comes | warn, info | on change only |
//! | dead letter, failed publish, failed expression, stuck record | warn | a few a second of each kind, then a count |
//! | park, drain, fallback, refusal, late verdict, call, health check, end of an event | debug | |
//!
//! What happens for every event costs a few atomic additions and one comparison of levels; its fields are computed only if its line
//! is written.

use std::fmt::{self, Display};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use tokio::sync::broadcast;
use tracing::{debug, info, warn};
use uuid::Uuid;

use super::calls::Recorder;
use super::flood::{Admission, Flood};
use super::metrics::{DEAD_LETTERED, Metrics};
use super::notice::{Listeners, Notice};
use crate::event::dead_letter::Code;
use crate::event::outcome::Status;
use crate::event::{Source, Topic, TopicPartition};
use crate::machine::breaker::{StateName, Transition};
use crate::machine::verdict::Rule;
use crate::pipeline::brakes::{Release, Stopped};
use crate::pipeline::facts::Fact;
use crate::pipeline::ports::{Clock, Witness};
use crate::pipeline::tuning::{Chosen, Tuning};

/// The target of every line that the program itself writes.
pub const TARGET: &str = "fusebox";

/// Tells log, metrics and listeners what happened.
#[derive(Debug)]
pub struct Teller<C> {
    metrics: Arc<Metrics>,
    clock: C,
    services: Vec<Arc<str>>,
    topics: Vec<Topic>,
    dead_letters: [Flood; Code::ALL.len()],
    expressions: Vec<Flood>,
    publishes: Vec<Flood>,
    stuck: Flood,
    store: AtomicU8,
    listeners: Listeners,
    recorder: Option<Recorder>,
}

/// What is known of the store.
const UNKNOWN: u8 = 0;
const DOWN: u8 = 1;
const UP: u8 = 2;

impl<C: Clock> Teller<C> {
    /// A teller that counts in `metrics`, where it finds the services' names as well. The clock is read for what may be a flood, and
    /// for nothing else.
    pub fn new(metrics: Arc<Metrics>, clock: C) -> Self {
        let services: Vec<_> = metrics.names().cloned().collect();
        let topics: Vec<_> = metrics.topics().cloned().collect();
        Self {
            dead_letters: Code::ALL.map(|_| Flood::default()),
            expressions: services.iter().map(|_| Flood::default()).collect(),
            publishes: topics.iter().map(|_| Flood::default()).collect(),
            stuck: Flood::default(),
            store: AtomicU8::new(UNKNOWN),
            listeners: Listeners::new(),
            recorder: None,
            services,
            topics,
            metrics,
            clock,
        }
    }

    /// Has every judged call recorded.
    #[must_use]
    pub fn recording(self, recorder: Option<Recorder>) -> Self {
        Self { recorder, ..self }
    }

    /// Notices from now on, for a screen.
    pub fn subscribe(&self) -> broadcast::Receiver<Notice> {
        self.listeners.subscribe()
    }

    /// Says what floods have left out of the log. To be called about once a second; uncalled, the next line of the same kind says it.
    pub fn tick(&self) {
        let now = self.clock.now();
        for (flood, code) in self.dead_letters.iter().zip(Code::ALL) {
            if let Some(left_out) = flood.settle(now) {
                warn!(target: TARGET, code = code.as_str(), left_out, "dead letters whose lines were left out");
            }
        }
        for (flood, service) in self.expressions.iter().zip(&self.services) {
            if let Some(left_out) = flood.settle(now) {
                warn!(target: TARGET, service = &**service, left_out, "failed expressions whose lines were left out");
            }
        }
        for (flood, topic) in self.publishes.iter().zip(&self.topics) {
            if let Some(left_out) = flood.settle(now) {
                warn!(target: TARGET, topic = topic.as_str(), left_out, "failed publishes whose lines were left out");
            }
        }
        if let Some(left_out) = self.stuck.settle(now) {
            warn!(target: TARGET, left_out, "stuck records whose lines were left out");
        }
    }

    fn stuck(&self, service: usize, source: &Source, event: Uuid, ran: Duration) {
        if let Admission::Write { left_out } = self.admit(Some(&self.stuck)) {
            warn!(
                target: TARGET,
                service = self.name(service),
                topic = source.topic.as_str(),
                partition = source.partition.0,
                offset = source.offset.0,
                event_id = %event,
                ran_s = ran.as_secs(),
                left_out = some(left_out),
                "a record has been running for longer than its calls may take"
            );
        }
    }

    /// A service's name. An index that is not the config's has none; that is no reason to stop.
    fn name(&self, service: usize) -> &str {
        self.services.get(service).map_or("?", |name| name)
    }

    fn shared_name(&self, service: usize) -> Arc<str> {
        self.services.get(service).map_or_else(|| "?".into(), Arc::clone)
    }

    /// Whether a line is written. What belongs to no known kind is: that is a defect of this program, not a flood.
    fn admit(&self, flood: Option<&Flood>) -> Admission {
        flood.map_or(Admission::Write { left_out: 0 }, |flood| flood.admit(self.clock.now()))
    }

    fn tuned(&self, service: usize, tuning: &Tuning) {
        let Tuning { revision, chosen, actor, reason, at: _, instance } = tuning;
        let service = self.name(service);
        match chosen {
            Chosen::Configured => {
                info!(target: TARGET, service, revision, actor, reason, by = instance, "the breaker goes by the configured settings again");
            }
            Chosen::Given(_) => {
                info!(target: TARGET, service, revision, actor, reason, by = instance, "the breaker goes by changed settings");
            }
            Chosen::Unreadable(error) => {
                warn!(
                    target: TARGET,
                    service,
                    revision,
                    actor,
                    reason,
                    by = instance,
                    error,
                    "changed settings cannot be read by this version; the breaker goes on with those that it has"
                );
            }
        }
    }

    fn tuning_lost(&self, service: usize, lost: &Tuning, stored: &Tuning) {
        warn!(
            target: TARGET,
            service = self.name(service),
            revision = lost.revision,
            actor = lost.actor,
            reason = lost.reason,
            stored_revision = stored.revision,
            stored_actor = stored.actor,
            stored_reason = stored.reason,
            "settings that were changed while the store was away give way to those that were changed there"
        );
    }

    fn transition(&self, service: usize, transition: &Transition) {
        self.metrics.transition(service, transition);
        self.listeners.say(|| Notice::Transition { service: self.shared_name(service), transition: Arc::new(transition.clone()) });
        let Transition { from, to, cause, generation, counts, actor, reason, alone, fleet, at: _ } = transition;
        macro_rules! line {
            ($level:ident) => {
                $level!(
                    target: TARGET,
                    service = self.name(service),
                    from = from.as_str(),
                    to = to.as_str(),
                    cause = cause.as_str(),
                    generation = generation.0,
                    calls = counts.calls,
                    failures = counts.failures,
                    slow = counts.slow,
                    actor = actor.as_deref(),
                    reason = reason.as_deref(),
                    alone = alone.then_some(true),
                    instances = fleet.as_ref().map(|fleet| fleet.instances),
                    failing_instances = fleet.as_ref().map(|fleet| fleet.failing),
                    "{}", said_of(*to, *alone)
                )
            };
        }
        match to {
            StateName::Open | StateName::ForcedOpen => line!(warn),
            StateName::Closed | StateName::HalfOpen | StateName::ForcedClosed | StateName::MetricsOnly => line!(info),
        }
    }

    fn dead_lettered(&self, code: Code, error: &str, origin: &Source) {
        self.metrics.dead_lettered(code);
        self.listeners.say(|| Notice::DeadLettered { code, origin: origin.clone() });
        if let Admission::Write { left_out } = self.admit(self.dead_letters.get(code as usize)) {
            warn!(
                target: TARGET,
                code = code.as_str(),
                topic = origin.topic.as_str(),
                partition = origin.partition.0,
                offset = origin.offset.0,
                error = (!quotes_the_event(code)).then_some(error),
                left_out = some(left_out),
                "dead letter"
            );
        }
    }

    fn publish_failed(&self, topic: &Topic, error: &str) {
        self.metrics.publish_failed(topic);
        let flood = self.topics.iter().position(|known| known == topic).and_then(|place| self.publishes.get(place));
        if let Admission::Write { left_out } = self.admit(flood) {
            warn!(target: TARGET, topic = topic.as_str(), error, left_out = some(left_out), "a record was not acknowledged and is published again");
        }
    }

    fn expression_failed(&self, service: usize, source: &Source, error: &str) {
        self.metrics.expression_failed(service);
        if let Admission::Write { left_out } = self.admit(self.expressions.get(service)) {
            warn!(
                target: TARGET,
                service = self.name(service),
                topic = source.topic.as_str(),
                partition = source.partition.0,
                offset = source.offset.0,
                error,
                left_out = some(left_out),
                "an expression could not be evaluated"
            );
        }
    }

    fn verdict_failed(&self, service: usize, rule: Rule, error: &str) {
        self.metrics.expression_failed(service);
        if let Admission::Write { left_out } = self.admit(self.expressions.get(service)) {
            warn!(
                target: TARGET,
                service = self.name(service),
                key = %rule,
                error,
                left_out = some(left_out),
                "a reply could not be judged by an expression"
            );
        }
    }

    fn revoked(&self, partitions: &[TopicPartition], lost: bool) {
        self.metrics.rebalanced();
        for partition in partitions {
            self.metrics.remove_lag(partition);
        }
        let message = if lost { "partitions lost" } else { "partitions revoked" };
        info!(target: TARGET, count = partitions.len(), partitions = %Listed(partitions), "{message}");
    }

    fn store(&self, up: bool, error: &str) {
        self.metrics.set_store_up(up);
        let now = if up { UP } else { DOWN };
        let changed = self.store.swap(now, Ordering::Relaxed) != now;
        match (changed, up) {
            (false, _) => {}
            (true, true) => info!(target: TARGET, "the store is there: breakers are shared"),
            (true, false) => warn!(target: TARGET, error, "the store is away: each instance decides with what it knows"),
        }
    }
}

impl<C: Clock> Witness for Teller<C> {
    fn tell(&self, fact: Fact<'_>) {
        match fact {
            Fact::Transition { service, transition } => self.transition(service, transition),
            Fact::Tuned { service, tuning } => self.tuned(service, tuning),
            Fact::TuningLost { service, lost, stored } => self.tuning_lost(service, lost, stored),
            Fact::Refused { service } => {
                self.metrics.refused(service);
                debug!(target: TARGET, service = self.name(service), "refused");
            }
            Fact::Called { service, outcome, verdict, took } => {
                self.metrics.called(service, outcome, took);
                if let (Some(recorder), Some(verdict)) = (&self.recorder, verdict) {
                    recorder.record(self.name(service), self.clock.wall(), took, verdict);
                }
                debug!(target: TARGET, service = self.name(service), outcome = outcome.as_str(), took_ms = millis(took), "called");
            }
            Fact::HealthChecked { service, health, took } => {
                self.metrics.health_checked(service, health);
                debug!(target: TARGET, service = self.name(service), health = health.as_str(), took_ms = millis(took), "asked for its health");
            }
            Fact::Late { service } => {
                self.metrics.late(service);
                debug!(target: TARGET, service = self.name(service), "a verdict came too late to count");
            }
            Fact::FellBack { service, kind } => {
                self.metrics.fell_back(service);
                debug!(target: TARGET, service = self.name(service), kind = kind.as_str(), "fell back");
            }
            Fact::Parked { service, reason } => {
                self.metrics.parked(service, reason);
                self.listeners.say(|| Notice::Parked { service: self.shared_name(service), reason });
                debug!(target: TARGET, service = self.name(service), reason = reason.as_str(), "parked");
            }
            Fact::Drained { service, parked_for } => {
                self.metrics.drained(service);
                self.listeners.say(|| Notice::Drained { service: self.shared_name(service), parked_for });
                debug!(target: TARGET, service = self.name(service), parked_for_ms = millis(parked_for), "drained");
            }
            Fact::DeadLettered { code, error, origin } => self.dead_lettered(code, error, origin),
            Fact::Finished { status, took } => {
                self.metrics.finished(status, took);
                let outcome = status.map_or(DEAD_LETTERED, Status::as_str);
                debug!(target: TARGET, outcome, took_ms = millis(took), "finished");
            }
            Fact::PublishFailed { topic, error } => self.publish_failed(topic, error),
            Fact::Assigned { partitions } => {
                self.metrics.rebalanced();
                info!(target: TARGET, count = partitions.len(), partitions = %Listed(partitions), "partitions assigned");
            }
            Fact::Revoked { partitions, lost } => self.revoked(partitions, lost),
            Fact::Stopped { partition, stopped } => stop(partition, stopped),
            Fact::Released(release) => released(release),
            Fact::ExpressionFailed { service, source, error } => self.expression_failed(service, source, error),
            Fact::VerdictFailed { service, rule, error } => self.verdict_failed(service, rule, error),
            Fact::Stuck { service, source, event, ran } => self.stuck(service, source, event, ran),
            Fact::Store { up, error } => self.store(up, error),
        }
    }
}

fn stop(partition: &TopicPartition, stopped: &Stopped) {
    warn!(
        target: TARGET,
        topic = partition.topic.as_str(),
        partition = partition.partition.0,
        bad = stopped.bad,
        among_good = (stopped.rule.good() > 0).then_some(stopped.rule.good()),
        from = stopped.first.0,
        at = stopped.at.0,
        code = stopped.code.as_str(),
        "a partition is stopped: too many of its records are bad; they are held, and are no dead letters until `fusebox partitions release`"
    );
}

fn released(release: &Release) {
    info!(
        target: TARGET,
        topic = release.partition.topic.as_str(),
        partition = release.partition.partition.0,
        at = release.at.0,
        through = release.through.0,
        actor = release.actor,
        reason = release.reason,
        "a stopped partition goes on"
    );
}

/// Whether the sentence of such a dead letter may quote what somebody sent: it stands on the letter, and not in the log.
pub fn quotes_the_event(code: Code) -> bool {
    match code {
        Code::InvalidJson | Code::NotAnObject | Code::MissingField | Code::InvalidField => true,
        Code::TooLarge
        | Code::NotTaken
        | Code::AttemptsExhausted
        | Code::Expired
        | Code::RejectedByService
        | Code::StageFailed
        | Code::Discarded => false,
    }
}

/// What a state means for those who call, for somebody who is woken by the line.
fn said_of(state: StateName, alone: bool) -> &'static str {
    match state {
        StateName::Open if alone => {
            "the breaker is open here alone: this instance's calls are refused; fewer instances than the quorum see failures"
        }
        StateName::HalfOpen if alone => "the breaker is half-open here alone: probes go",
        StateName::Closed => "the breaker is closed: calls go",
        StateName::Open => "the breaker is open: calls are refused",
        StateName::HalfOpen => "the breaker is half-open: probes go",
        StateName::ForcedOpen => "the breaker is forced open: calls are refused",
        StateName::ForcedClosed => "the breaker is forced closed: calls go, whatever their answers",
        StateName::MetricsOnly => "the breaker only records: calls go",
    }
}

/// A count as a field that is left out when there is nothing to count.
fn some(count: u32) -> Option<u32> {
    (count > 0).then_some(count)
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}

/// Partitions, separated by spaces.
struct Listed<'a>(&'a [TopicPartition]);

impl Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, partition) in self.0.iter().enumerate() {
            if place > 0 {
                f.write_str(" ")?;
            }
            partition.fmt(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
