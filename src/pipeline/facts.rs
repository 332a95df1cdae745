//! What happened, as typed facts. A loop says each once; what is logged and counted of it is its witness's affair.

use std::time::Duration;

use uuid::Uuid;

use super::brakes::{Release, Stopped};
use super::tuning::Tuning;
use crate::event::dead_letter::Code;
use crate::event::envelope::Reason;
use crate::event::outcome::Status;
use crate::event::{Source, Topic, TopicPartition};
use crate::machine::breaker::{Transition, Verdict};
use crate::machine::disposition::FallbackKind;
use crate::machine::health::Health;
use crate::machine::judgement::CallOutcome;
use crate::machine::verdict::Rule;

/// Something that happened. Services are indices into the config's services.
#[derive(Debug)]
pub enum Fact<'a> {
    /// A breaker changed state.
    Transition {
        /// Of which service.
        service: usize,
        /// How.
        transition: &'a Transition,
    },
    /// A breaker goes by a change of its settings.
    Tuned {
        /// Of which service.
        service: usize,
        /// Which.
        tuning: &'a Tuning,
    },
    /// A change of settings that was made while the store was away has given way to one that was stored meanwhile.
    TuningLost {
        /// Of which service.
        service: usize,
        /// What is lost.
        lost: &'a Tuning,
        /// What stands.
        stored: &'a Tuning,
    },
    /// A breaker refused a call.
    Refused {
        /// Of which service.
        service: usize,
    },
    /// A call ended.
    Called {
        /// Of which service.
        service: usize,
        /// How.
        outcome: CallOutcome,
        /// What the breaker hears of it; `None`: nothing, for it was cancelled.
        verdict: Option<Verdict>,
        /// How long it took.
        took: Duration,
    },
    /// A service was asked for its health.
    HealthChecked {
        /// Which.
        service: usize,
        /// What it said.
        health: Health,
        /// How long that took.
        took: Duration,
    },
    /// A verdict came too late to count.
    Late {
        /// Of which service.
        service: usize,
    },
    /// A fallback stood in.
    FellBack {
        /// For which service.
        service: usize,
        /// Which.
        kind: FallbackKind,
    },
    /// A call was parked, and Kafka has acknowledged it.
    Parked {
        /// For which service.
        service: usize,
        /// Why.
        reason: Reason,
    },
    /// A parked call was delivered.
    Drained {
        /// To which service.
        service: usize,
        /// How long it was parked.
        parked_for: Duration,
    },
    /// A record became a dead letter, and Kafka has acknowledged it.
    DeadLettered {
        /// Why.
        code: Code,
        /// Why, in a sentence.
        error: &'a str,
        /// The event's coordinates.
        origin: &'a Source,
    },
    /// An event finished.
    Finished {
        /// With which outcome; `None`: as a dead letter alone.
        status: Option<Status>,
        /// From its reading to its last acknowledgement.
        took: Duration,
    },
    /// A record was not acknowledged and will be published again.
    PublishFailed {
        /// Where it should have gone.
        topic: &'a Topic,
        /// Why not.
        error: &'a str,
    },
    /// Partitions came.
    Assigned {
        /// Which.
        partitions: &'a [TopicPartition],
    },
    /// Partitions went.
    Revoked {
        /// Which.
        partitions: &'a [TopicPartition],
        /// Without warning: another instance has them already.
        lost: bool,
    },
    /// A partition was stopped: too many of its records are bad.
    Stopped {
        /// Which.
        partition: &'a TopicPartition,
        /// Why and where.
        stopped: &'a Stopped,
    },
    /// A stopped partition goes on.
    Released(&'a Release),
    /// An expression could not be evaluated over an event.
    ExpressionFailed {
        /// Of which service's stage.
        service: usize,
        /// The event's coordinates.
        source: &'a Source,
        /// Why.
        error: &'a str,
    },
    /// An expression that judges a service's replies could not be evaluated over one of them.
    VerdictFailed {
        /// Of which service.
        service: usize,
        /// Which expression.
        rule: Rule,
        /// Why.
        error: &'a str,
    },
    /// A record has been running for longer than its calls may take.
    Stuck {
        /// The service of the stage that it is at.
        service: usize,
        /// The record's coordinates.
        source: &'a Source,
        /// Its event.
        event: Uuid,
        /// For how long.
        ran: Duration,
    },
    /// The store came or went.
    Store {
        /// Whether it is there.
        up: bool,
        /// What was wrong with it.
        error: &'a str,
    },
}
