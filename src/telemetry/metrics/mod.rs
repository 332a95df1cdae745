//! The metrics of one process: made once from the config, counted by [`super::facts`], set by the parts that own a gauge, read as
//! Prometheus' text.
//!
//! Guarantees:
//! - Every series that the config can produce exists from the start; only `consumer_lag` comes and goes, with the partitions.
//! - Counting is a few relaxed atomic additions: no lock, no hashing, no allocation. Only a scrape takes a lock, its own.
//! - A service's index that is not the config's, or a topic that nobody publishes to, counts nothing. It never panics.

mod labels;
mod register;
mod service;
mod state;
mod table;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus::process_collector::ProcessCollector;
use prometheus::{Histogram, IntCounter, IntGauge, IntGaugeVec, Registry, TextEncoder};

pub use self::labels::{Series, ServiceLabels};
pub use self::service::Backlogged;
use self::service::{Families, ServiceSeries};
pub use self::table::{BUCKETS, Family, Kind, TABLE};
use super::pipe::DroppedLines;
use crate::event::dead_letter::Code;
use crate::event::envelope::Reason;
use crate::event::outcome::Status;
use crate::event::{Topic, TopicPartition};
use crate::machine::breaker::{Cause, StateName, Transition};
use crate::machine::health::Health;
use crate::machine::judgement::CallOutcome;

/// The content type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// What became of an event that is a dead letter and nothing else, beside the outcomes' statuses.
pub(super) const DEAD_LETTERED: &str = "dead_lettered";

/// A commit's results, in the order of [`Metrics::count_commit`].
const COMMIT_RESULTS: [&str; 2] = ["ok", "failed"];

/// Counters lie in arrays in the order of their enum's `ALL` and are found by the variant's number. An `ALL` in another
/// order would count under the wrong label and nobody would see it, so it does not compile.
macro_rules! in_order {
    ($($name:ident)*) => {
        $(const _: () = {
            let mut at = 0;
            while at < $name::ALL.len() {
                assert!($name::ALL[at] as usize == at, concat!(stringify!($name), "::ALL is in the order of its variants"));
                at += 1;
            }
        };)*
    };
}
in_order! { Status Code Reason CallOutcome Health StateName Cause }

/// The metrics.
pub struct Metrics {
    registry: Registry,
    services: Vec<ServiceSeries>,
    events: [IntCounter; Status::ALL.len()],
    events_dead_lettered: IntCounter,
    event_duration: Histogram,
    dead_letters: [IntCounter; Code::ALL.len()],
    publish_failures: Vec<(Topic, IntCounter)>,
    lag: IntGaugeVec,
    in_flight: IntGauge,
    in_flight_bytes: IntGauge,
    paused_partitions: IntGauge,
    braked_partitions: IntGauge,
    stalled_partitions: IntGauge,
    stuck_records: IntGauge,
    rebalances: IntCounter,
    commits: [IntCounter; COMMIT_RESULTS.len()],
    store_up: Option<IntGauge>,
    log_lines_dropped: Mirror,
    call_records_dropped: Option<Mirror>,
    /// Held while gauges are set from what they mirror and read: two scrapes at once would see each other's half.
    scrape: Mutex<()>,
}

impl Metrics {
    /// Every series of a config. `log` counts the lines that the log lost, `records` the calls that were to be recorded and were not.
    pub fn new(series: &Series, log: DroppedLines, records: Option<DroppedLines>) -> Self {
        let registry = Registry::new();
        let families = Families::register(&registry);
        let events = register::counters(&registry, &table::EVENTS);
        let dead_letters = register::counters(&registry, &table::DEAD_LETTERS);
        let publish_failures = register::counters(&registry, &table::PUBLISH_FAILURES);
        let commits = register::counters(&registry, &table::COMMITS);
        let build = [env!("CARGO_PKG_VERSION"), option_env!("FUSEBOX_REVISION").unwrap_or("unknown")];
        register::gauges(&registry, &table::BUILD_INFO).with_label_values(&build).set(1);
        let metrics = Self {
            services: series.services.iter().map(|service| ServiceSeries::new(&families, service)).collect(),
            events: Status::ALL.map(|status| events.with_label_values(&[status.as_str()])),
            events_dead_lettered: events.with_label_values(&[DEAD_LETTERED]),
            event_duration: register::histogram(&registry, &table::EVENT_DURATION),
            dead_letters: Code::ALL.map(|code| dead_letters.with_label_values(&[code.as_str()])),
            publish_failures: series
                .topics
                .iter()
                .map(|topic| (topic.clone(), publish_failures.with_label_values(&[topic.as_str()])))
                .collect(),
            lag: register::gauges(&registry, &table::CONSUMER_LAG),
            in_flight: register::gauge(&registry, &table::IN_FLIGHT),
            in_flight_bytes: register::gauge(&registry, &table::IN_FLIGHT_BYTES),
            paused_partitions: register::gauge(&registry, &table::PAUSED_PARTITIONS),
            braked_partitions: register::gauge(&registry, &table::BRAKED_PARTITIONS),
            stalled_partitions: register::gauge(&registry, &table::STALLED_PARTITIONS),
            stuck_records: register::gauge(&registry, &table::STUCK_RECORDS),
            rebalances: register::counter(&registry, &table::REBALANCES),
            commits: COMMIT_RESULTS.map(|result| commits.with_label_values(&[result])),
            store_up: series.store.then(|| register::gauge(&registry, &table::STORE_UP)),
            log_lines_dropped: Mirror { shown: register::counter(&registry, &table::LOG_LINES_DROPPED), of: log },
            call_records_dropped: records.map(|of| Mirror { shown: register::counter(&registry, &table::CALL_RECORDS_DROPPED), of }),
            scrape: Mutex::new(()),
            registry,
        };
        if let Err(error) = metrics.registry.register(Box::new(ProcessCollector::for_self())) {
            tracing::warn!(error = %error, "the process's own metrics cannot be collected");
        }
        metrics
    }

    /// Everything, in Prometheus' text format ([`CONTENT_TYPE`]). Families come by name and series by label values, so that
    /// two scrapes differ in their values only.
    pub fn render(&self) -> String {
        let families = {
            let _scrape = self.scrape.lock().unwrap_or_else(PoisonError::into_inner);
            for service in &self.services {
                service.state.show();
            }
            for dropped in std::iter::once(&self.log_lines_dropped).chain(&self.call_records_dropped) {
                dropped.show();
            }
            self.registry.gather()
        };
        let mut text = String::with_capacity(64 * 1024);
        if let Err(error) = TextEncoder::new().encode_utf8(&families, &mut text) {
            tracing::error!(error = %error, "the metrics could not be written in full");
        }
        text
    }

    /// What is read and not finished, of all consumers together.
    pub fn set_in_flight(&self, records: usize, bytes: usize) {
        self.in_flight.set(level(records as u64));
        self.in_flight_bytes.set(level(bytes as u64));
    }

    /// How many partitions are paused, of all consumers together.
    pub fn set_paused(&self, partitions: usize) {
        self.paused_partitions.set(level(partitions as u64));
    }

    /// How many partitions are stopped because too many of their records are bad.
    pub fn set_braked(&self, partitions: usize) {
        self.braked_partitions.set(level(partitions as u64));
    }

    /// How many partitions have stalled, and how many records run for too long, of all loops together.
    pub fn set_hanging(&self, partitions: usize, records: usize) {
        self.stalled_partitions.set(level(partitions as u64));
        self.stuck_records.set(level(records as u64));
    }

    /// How far a partition's commit is behind its end, records.
    pub fn set_lag(&self, partition: &TopicPartition, records: u64) {
        let number = partition.partition.to_string();
        self.lag.with_label_values(&[partition.topic.as_str(), &number]).set(level(records));
    }

    /// Forgets a partition that is no longer this instance's: what its lag was here would stand for ever.
    pub fn remove_lag(&self, partition: &TopicPartition) {
        let number = partition.partition.to_string();
        // It is not there if the partition went before its lag was known.
        let _ = self.lag.remove_label_values(&[partition.topic.as_str(), &number]);
    }

    /// What is parked for a service. Does nothing for a service that does not park.
    pub fn set_retry(&self, service: usize, backlog: &Backlogged) {
        if let Some(series) = self.services.get(service) {
            series.set_retry(backlog);
        }
    }

    /// How many calls of a service may be in flight.
    pub fn set_concurrency_limit(&self, service: usize, calls: usize) {
        if let Some(series) = self.services.get(service) {
            series.limit.set(level(calls as u64));
        }
    }

    /// Whether the store can be reached. Does nothing if none is configured.
    pub fn set_store_up(&self, up: bool) {
        if let Some(gauge) = &self.store_up {
            gauge.set(i64::from(up));
        }
    }

    /// Events finished so far, however they ended.
    pub fn events(&self) -> u64 {
        self.events.iter().map(IntCounter::get).sum::<u64>() + self.events_dead_lettered.get()
    }

    /// A commit that the broker answered, or that failed.
    pub fn count_commit(&self, ok: bool) {
        inc(&self.commits, usize::from(!ok));
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.services.iter().map(|series| &series.name)
    }

    pub(super) fn topics(&self) -> impl Iterator<Item = &Topic> {
        self.publish_failures.iter().map(|(topic, _)| topic)
    }

    pub(super) fn transition(&self, service: usize, transition: &Transition) {
        if let Some(series) = self.services.get(service) {
            series.transition(transition.from, transition.to, transition.cause);
            series.state.enter(transition.generation, transition.to, transition.alone);
        }
    }

    pub(super) fn refused(&self, service: usize) {
        if let Some(series) = self.services.get(service) {
            series.refused.inc();
        }
    }

    pub(super) fn called(&self, service: usize, outcome: CallOutcome, took: Duration) {
        if let Some(series) = self.services.get(service) {
            series.called(outcome, took);
        }
    }

    pub(super) fn health_checked(&self, service: usize, health: Health) {
        if let Some(series) = self.services.get(service) {
            series.health_checked(health);
        }
    }

    pub(super) fn late(&self, service: usize) {
        if let Some(series) = self.services.get(service) {
            series.late.inc();
        }
    }

    pub(super) fn fell_back(&self, service: usize) {
        if let Some(series) = self.services.get(service) {
            series.fallbacks.inc();
        }
    }

    pub(super) fn expression_failed(&self, service: usize) {
        if let Some(series) = self.services.get(service) {
            series.expression_failures.inc();
        }
    }

    pub(super) fn parked(&self, service: usize, reason: Reason) {
        if let Some(series) = self.services.get(service) {
            series.parked(reason);
        }
    }

    pub(super) fn drained(&self, service: usize) {
        if let Some(series) = self.services.get(service) {
            series.drained();
        }
    }

    pub(super) fn dead_lettered(&self, code: Code) {
        inc(&self.dead_letters, code as usize);
    }

    pub(super) fn finished(&self, status: Option<Status>, took: Duration) {
        match status {
            Some(status) => inc(&self.events, status as usize),
            None => self.events_dead_lettered.inc(),
        }
        self.event_duration.observe(took.as_secs_f64());
    }

    pub(super) fn publish_failed(&self, topic: &Topic) {
        if let Some((_, counter)) = self.publish_failures.iter().find(|(known, _)| known == topic) {
            counter.inc();
        }
    }

    pub(super) fn rebalanced(&self) {
        self.rebalances.inc();
    }
}

/// A counter of what others count.
struct Mirror {
    shown: IntCounter,
    of: DroppedLines,
}

impl Mirror {
    fn show(&self) {
        self.shown.inc_by(self.of.get().saturating_sub(self.shown.get()));
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").field("services", &self.services.len()).finish_non_exhaustive()
    }
}

fn inc(counters: &[IntCounter], at: usize) {
    if let Some(counter) = counters.get(at) {
        counter.inc();
    }
}

/// A gauge's value; more than a gauge holds is the most that it holds.
fn level(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
