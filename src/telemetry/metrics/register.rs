//! From a row of the table to a metric in a registry.
//!
//! Registration fails only for a name that is malformed or there twice. The rows are constants, and a test registers all
//! of them: it cannot fail in a running program, whatever the config says.

use prometheus::core::Collector;
use prometheus::{GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use super::table::{BUCKETS, Family};

const SOUND: &str = "a row of the table has a valid name, valid labels and is registered once";

pub(super) fn counter(registry: &Registry, family: &Family) -> IntCounter {
    add(registry, IntCounter::with_opts(opts(family)).expect(SOUND))
}

pub(super) fn counters(registry: &Registry, family: &Family) -> IntCounterVec {
    add(registry, IntCounterVec::new(opts(family), family.labels).expect(SOUND))
}

pub(super) fn gauge(registry: &Registry, family: &Family) -> IntGauge {
    add(registry, IntGauge::with_opts(opts(family)).expect(SOUND))
}

pub(super) fn gauges(registry: &Registry, family: &Family) -> IntGaugeVec {
    add(registry, IntGaugeVec::new(opts(family), family.labels).expect(SOUND))
}

pub(super) fn seconds(registry: &Registry, family: &Family) -> GaugeVec {
    add(registry, GaugeVec::new(opts(family), family.labels).expect(SOUND))
}

pub(super) fn histogram(registry: &Registry, family: &Family) -> Histogram {
    add(registry, Histogram::with_opts(buckets(family)).expect(SOUND))
}

pub(super) fn histograms(registry: &Registry, family: &Family) -> HistogramVec {
    add(registry, HistogramVec::new(buckets(family), family.labels).expect(SOUND))
}

fn add<M: Collector + Clone + 'static>(registry: &Registry, metric: M) -> M {
    registry.register(Box::new(metric.clone())).expect(SOUND);
    metric
}

fn opts(family: &Family) -> Opts {
    Opts::new(family.name, family.help)
}

fn buckets(family: &Family) -> HistogramOpts {
    HistogramOpts::from(opts(family)).buckets(BUCKETS.to_vec())
}
