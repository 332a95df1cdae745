//! The one table of metrics: names, kinds, labels, help. Whatever is registered is registered from a row of it, and
//! `docs/metrics.md` is held to it by a test.
//!
//! Names follow Prometheus' conventions: one prefix, base units (seconds, bytes), `_total` for counters and for nothing else.

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only rises; starts at 0 with the process.
    Counter,
    /// Rises and falls.
    Gauge,
    /// Seconds, counted in [`BUCKETS`].
    Histogram,
}

impl Kind {
    /// The word, as the text format's `# TYPE` line spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// One row: a metric and what its series are told apart by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Family {
    /// The full name, prefix included.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// Its labels' names, in the order in which their values are given.
    pub labels: &'static [&'static str],
    /// What it means, in a sentence or two.
    pub help: &'static str,
}

/// The histograms' upper bounds, seconds. Three a decade, so that an interpolated quantile is off by a factor of 2.5 at most. From 1 ms
/// (a call on the same host is faster than that, and it does not matter by how much) to 30 s (the longest of the shipped timeouts),
/// closer together where those timeouts lie (15, 20, 25 and 30 s), so that a call given up is told from one that just made it.
pub const BUCKETS: [f64; 16] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0];

const fn counter(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Family {
    Family { name, kind: Kind::Counter, labels, help }
}

const fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Family {
    Family { name, kind: Kind::Gauge, labels, help }
}

const fn histogram(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Family {
    Family { name, kind: Kind::Histogram, labels, help }
}

macro_rules! table {
    ($($row:ident = $family:expr;)*) => {
        $(pub(super) const $row: Family = $family;)*

        /// Every metric but those of the process.
        pub const TABLE: &[Family] = &[$($row),*];
    };
}

table! {
    EVENTS = counter(
        "fusebox_events_total", &["outcome"],
        "Events that finished, by what became of them."
    );
    EVENT_DURATION = histogram(
        "fusebox_event_duration_seconds", &[],
        "Time from reading an event to the last acknowledgement of what it leaves behind."
    );
    CALLS = counter(
        "fusebox_calls_total", &["service", "outcome"],
        "Calls of a service that were made, live and draining, by how they ended."
    );
    CALL_DURATION = histogram(
        "fusebox_call_duration_seconds", &["service"],
        "Time that a call of a service took, body included."
    );
    CONCURRENCY_LIMIT = gauge(
        "fusebox_concurrency_limit", &["service"],
        "Calls of the service that may be in flight on this instance; moves where its concurrency is adaptive."
    );
    BREAKER_STATE = gauge(
        "fusebox_breaker_state", &["service", "state"],
        "1 for the state that the breaker is in on this instance, 0 for the others."
    );
    BREAKER_ALONE = gauge(
        "fusebox_breaker_alone", &["service"],
        "1 while the breaker is open on this instance alone: it sees failures, and fewer instances than the quorum do."
    );
    BREAKER_TRANSITIONS = counter(
        "fusebox_breaker_transitions_total", &["service", "from", "to", "cause"],
        "Changes of the breaker's state on this instance."
    );
    BREAKER_REFUSED = counter(
        "fusebox_breaker_refused_total", &["service"],
        "Calls that the breaker refused: none of them was made."
    );
    BREAKER_LATE = counter(
        "fusebox_breaker_late_total", &["service"],
        "Verdicts that came after the breaker had moved on, and were dropped."
    );
    HEALTH_CHECKS = counter(
        "fusebox_health_checks_total", &["service", "outcome"],
        "Times that the service was asked for its health, by what it said."
    );
    FALLBACKS = counter(
        "fusebox_fallbacks_total", &["service", "kind"],
        "Times that the service's fallback stood in for its answer."
    );
    EXPRESSION_FAILURES = counter(
        "fusebox_expression_failures_total", &["service"],
        "Expressions of the service's stage that could not be evaluated over an event, and of its verdicts that could not over a reply."
    );
    PARKED = counter(
        "fusebox_parked_total", &["service", "reason"],
        "Calls put on the service's retry topic and acknowledged there."
    );
    DRAINED = counter(
        "fusebox_drained_total", &["service"],
        "Parked calls that were delivered."
    );
    DEAD_LETTERS = counter(
        "fusebox_dead_letters_total", &["code"],
        "Records put on the dead-letter topic and acknowledged there."
    );
    RETRY_DEPTH = gauge(
        "fusebox_retry_depth", &["service"],
        "Calls parked on the service's retry topic."
    );
    RETRY_DUE = gauge(
        "fusebox_retry_due", &["service"],
        "Of the parked calls, those whose time has come; an estimate where more than 2,000 are parked."
    );
    RETRY_OLDEST = gauge(
        "fusebox_retry_oldest_seconds", &["service"],
        "Age of the call that has been parked longest; 0 if none is."
    );
    RETRY_DRAIN = gauge(
        "fusebox_retry_drain_seconds", &["service"],
        "Forecast of the time until no call is parked; NaN while there is none, as without any draining."
    );
    RETRY_RETENTION = gauge(
        "fusebox_retry_retention_seconds", &["service"],
        "For how long the service's retry topic keeps records; NaN while that is not known, and if it is without end."
    );
    RETRY_RETENTION_USED = gauge(
        "fusebox_retry_retention_used_ratio", &["service"],
        "How much of its topic's retention the oldest parked record has behind it: at 1 Kafka may delete it, undelivered."
    );
    RETRY_RETENTION_SHORT = gauge(
        "fusebox_retry_retention_short", &["service"],
        "1 while the retry topic keeps records for less than `retry.max_age`, so that parked calls could be deleted."
    );
    CONSUMER_LAG = gauge(
        "fusebox_consumer_lag", &["topic", "partition"],
        "End of a partition minus the group's commit, in records; right while paused."
    );
    IN_FLIGHT = gauge(
        "fusebox_in_flight", &[],
        "Records read and not finished."
    );
    IN_FLIGHT_BYTES = gauge(
        "fusebox_in_flight_bytes", &[],
        "Bytes of the records read and not finished, and twice those that they wait for Kafka to take."
    );
    PAUSED_PARTITIONS = gauge(
        "fusebox_paused_partitions", &[],
        "Assigned partitions that are paused because the bound of what is in flight is reached, or because what has finished of them would no longer fit beside their commit."
    );
    BRAKED_PARTITIONS = gauge(
        "fusebox_braked_partitions", &[],
        "Assigned partitions that are stopped because too many of their records are bad, until an operator lets them go on."
    );
    STALLED_PARTITIONS = gauge(
        "fusebox_stalled_partitions", &[],
        "Assigned partitions that have records and bring none, although nothing holds them; `/livez` fails then."
    );
    STUCK_RECORDS = gauge(
        "fusebox_stuck_records", &[],
        "Records that have been running for longer than their calls may take; the log names them."
    );
    REBALANCES = counter(
        "fusebox_rebalances_total", &[],
        "Times that partitions were assigned to this instance or taken from it."
    );
    COMMITS = counter(
        "fusebox_commits_total", &["result"],
        "Commits, by the broker's answer."
    );
    PUBLISH_FAILURES = counter(
        "fusebox_publish_failures_total", &["topic"],
        "Records that were not acknowledged by the topic and are published again."
    );
    STORE_UP = gauge(
        "fusebox_store_up", &[],
        "1 while Redis, in a cluster each node that is needed, can be reached; 0 while breakers decide with what their instance knows."
    );
    LOG_LINES_DROPPED = counter(
        "fusebox_log_lines_dropped_total", &[],
        "Log lines that nobody could take: the pipe was full or gone."
    );
    CALL_RECORDS_DROPPED = counter(
        "fusebox_call_records_dropped_total", &[],
        "Calls that were to be recorded in `telemetry.record_calls` and were not: the disk was full, or too slow."
    );
    BUILD_INFO = gauge(
        "fusebox_build_info", &["version", "revision"],
        "1; its labels say what is running."
    );
}
