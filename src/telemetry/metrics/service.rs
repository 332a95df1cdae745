//! The series of one service, looked up once: the call path finds a counter by two array indices, and takes no lock.

use std::sync::Arc;
use std::time::Duration;

use prometheus::{Gauge, GaugeVec, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};

use super::labels::ServiceLabels;
use super::state::BreakerState;
use super::{inc, register, table};
use crate::event::envelope::Reason;
use crate::machine::breaker::{Cause, StateName};
use crate::machine::health::Health;
use crate::machine::judgement::CallOutcome;

/// A service's backlog, as it is shown.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Backlogged {
    /// Parked calls.
    pub depth: u64,
    /// Of these, calls whose time has come.
    pub due: u64,
    /// The age of the oldest.
    pub oldest: Duration,
    /// When it will be gone, seconds from now, if that can be said.
    pub drain_seconds: Option<f64>,
    /// How long its topic keeps records, seconds, if that is known and has an end.
    pub retention_seconds: Option<f64>,
    /// How much of that the oldest record has behind it.
    pub retention_used: f64,
    /// Whether that is less than a call may be parked.
    pub retention_short: bool,
}

/// The families whose series belong to services.
pub(super) struct Families {
    calls: IntCounterVec,
    call_duration: HistogramVec,
    limit: IntGaugeVec,
    state: IntGaugeVec,
    alone: IntGaugeVec,
    transitions: IntCounterVec,
    refused: IntCounterVec,
    late: IntCounterVec,
    health_checks: IntCounterVec,
    fallbacks: IntCounterVec,
    expression_failures: IntCounterVec,
    parked: IntCounterVec,
    drained: IntCounterVec,
    depth: IntGaugeVec,
    due: IntGaugeVec,
    oldest: GaugeVec,
    drain: GaugeVec,
    retention: GaugeVec,
    retention_used: GaugeVec,
    retention_short: IntGaugeVec,
}

impl Families {
    pub(super) fn register(registry: &Registry) -> Self {
        Self {
            calls: register::counters(registry, &table::CALLS),
            call_duration: register::histograms(registry, &table::CALL_DURATION),
            limit: register::gauges(registry, &table::CONCURRENCY_LIMIT),
            state: register::gauges(registry, &table::BREAKER_STATE),
            alone: register::gauges(registry, &table::BREAKER_ALONE),
            transitions: register::counters(registry, &table::BREAKER_TRANSITIONS),
            refused: register::counters(registry, &table::BREAKER_REFUSED),
            late: register::counters(registry, &table::BREAKER_LATE),
            health_checks: register::counters(registry, &table::HEALTH_CHECKS),
            fallbacks: register::counters(registry, &table::FALLBACKS),
            expression_failures: register::counters(registry, &table::EXPRESSION_FAILURES),
            parked: register::counters(registry, &table::PARKED),
            drained: register::counters(registry, &table::DRAINED),
            depth: register::gauges(registry, &table::RETRY_DEPTH),
            due: register::gauges(registry, &table::RETRY_DUE),
            oldest: register::seconds(registry, &table::RETRY_OLDEST),
            drain: register::seconds(registry, &table::RETRY_DRAIN),
            retention: register::seconds(registry, &table::RETRY_RETENTION),
            retention_used: register::seconds(registry, &table::RETRY_RETENTION_USED),
            retention_short: register::gauges(registry, &table::RETRY_RETENTION_SHORT),
        }
    }
}

/// One service's series.
pub(super) struct ServiceSeries {
    pub(super) name: Arc<str>,
    calls: [IntCounter; CallOutcome::ALL.len()],
    call_duration: Histogram,
    pub(super) limit: IntGauge,
    pub(super) state: BreakerState,
    transitions: Vec<Option<IntCounter>>,
    pub(super) refused: IntCounter,
    pub(super) late: IntCounter,
    pub(super) fallbacks: IntCounter,
    pub(super) expression_failures: IntCounter,
    /// Of a service that is asked.
    health_checks: Option<[IntCounter; Health::ALL.len()]>,
    parking: Option<Parking>,
}

/// The series of a service that parks.
struct Parking {
    parked: [IntCounter; Reason::ALL.len()],
    drained: IntCounter,
    depth: IntGauge,
    due: IntGauge,
    oldest: Gauge,
    drain: Gauge,
    retention: Gauge,
    retention_used: Gauge,
    retention_short: IntGauge,
}

impl ServiceSeries {
    pub(super) fn new(families: &Families, service: &ServiceLabels) -> Self {
        let name = service.name.as_str();
        Self {
            name: name.into(),
            calls: CallOutcome::ALL.map(|outcome| families.calls.with_label_values(&[name, outcome.as_str()])),
            call_duration: families.call_duration.with_label_values(&[name]),
            limit: families.limit.with_label_values(&[name]),
            state: BreakerState::new(
                StateName::ALL.map(|state| families.state.with_label_values(&[name, state.as_str()])),
                families.alone.with_label_values(&[name]),
            ),
            transitions: transitions()
                .map(|(from, to, cause)| {
                    let labels = [name, from.as_str(), to.as_str(), cause.as_str()];
                    cause.joins(from, to).then(|| families.transitions.with_label_values(&labels))
                })
                .collect(),
            refused: families.refused.with_label_values(&[name]),
            late: families.late.with_label_values(&[name]),
            fallbacks: families.fallbacks.with_label_values(&[name, service.fallback_kind.as_str()]),
            expression_failures: families.expression_failures.with_label_values(&[name]),
            health_checks: service
                .checked
                .then(|| Health::ALL.map(|health| families.health_checks.with_label_values(&[name, health.as_str()]))),
            parking: service.parks.then(|| {
                let parking = Parking {
                    parked: Reason::ALL.map(|reason| families.parked.with_label_values(&[name, reason.as_str()])),
                    drained: families.drained.with_label_values(&[name]),
                    depth: families.depth.with_label_values(&[name]),
                    due: families.due.with_label_values(&[name]),
                    oldest: families.oldest.with_label_values(&[name]),
                    drain: families.drain.with_label_values(&[name]),
                    retention: families.retention.with_label_values(&[name]),
                    retention_used: families.retention_used.with_label_values(&[name]),
                    retention_short: families.retention_short.with_label_values(&[name]),
                };
                // Nothing was asked yet.
                parking.set(&Backlogged::default());
                parking
            }),
        }
    }

    pub(super) fn called(&self, outcome: CallOutcome, took: Duration) {
        inc(&self.calls, outcome as usize);
        self.call_duration.observe(took.as_secs_f64());
    }

    pub(super) fn transition(&self, from: StateName, to: StateName, cause: Cause) {
        if let Some(Some(counter)) = self.transitions.get(place(from, to, cause)) {
            counter.inc();
        }
    }

    pub(super) fn health_checked(&self, health: Health) {
        if let Some(counters) = &self.health_checks {
            inc(counters, health as usize);
        }
    }

    pub(super) fn parked(&self, reason: Reason) {
        if let Some(parking) = &self.parking {
            inc(&parking.parked, reason as usize);
        }
    }

    pub(super) fn drained(&self) {
        if let Some(parking) = &self.parking {
            parking.drained.inc();
        }
    }

    pub(super) fn set_retry(&self, backlog: &Backlogged) {
        if let Some(parking) = &self.parking {
            parking.set(backlog);
        }
    }
}

impl Parking {
    fn set(&self, backlog: &Backlogged) {
        self.depth.set(super::level(backlog.depth));
        self.due.set(super::level(backlog.due));
        self.oldest.set(backlog.oldest.as_secs_f64());
        // What is not known compares with nothing: no alert fires for it.
        self.drain.set(backlog.drain_seconds.unwrap_or(f64::NAN));
        self.retention.set(backlog.retention_seconds.unwrap_or(f64::NAN));
        self.retention_used.set(backlog.retention_used);
        self.retention_short.set(i64::from(backlog.retention_short));
    }
}

/// Every triple of states and cause, joined or not, in the order of [`place`].
fn transitions() -> impl Iterator<Item = (StateName, StateName, Cause)> {
    StateName::ALL
        .into_iter()
        .flat_map(|from| StateName::ALL.into_iter().flat_map(move |to| Cause::ALL.into_iter().map(move |cause| (from, to, cause))))
}

fn place(from: StateName, to: StateName, cause: Cause) -> usize {
    (from as usize * StateName::ALL.len() + to as usize) * Cause::ALL.len() + cause as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transition_has_its_own_place() {
        for (at, (from, to, cause)) in transitions().enumerate() {
            assert_eq!(place(from, to, cause), at, "{from:?} {to:?} {cause:?}");
        }
    }
}
