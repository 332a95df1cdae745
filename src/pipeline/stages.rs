//! One event's way through the stages: what each answered, what stood in, and what the event must leave behind.
//!
//! Nothing is published here. What must be published is returned, so that it is published, and acknowledged, as one.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use super::behind::{self, Behind, Place};
use super::facts::Fact;
use super::guard::{Guard, Guarded, Request};
use super::ports::{Chance, Clock, Witness, World};
use super::running::at_stage;
use super::turns::Class;
use crate::event::dead_letter::{Code, DeadLetter, Letterbox};
use crate::event::envelope::{self, Parking, Reason};
use crate::event::headers::name;
use crate::event::json::write_members;
use crate::event::outcome::{self, NULL, StageOutcome, Status};
use crate::event::{Event, Incoming, Record, Topic, UnixMillis};
use crate::machine::disposition::{Bounds, End, FallbackKind, Live, live};
use crate::machine::expression::{Condition, Document, EvaluationError, Scope, Template};
use crate::machine::fallback::{self, Cache};

/// The stages of every event, and where what they leave behind goes.
pub struct Stages<W: World> {
    /// In order.
    pub stages: Vec<Stage<W>>,
    /// Outcomes.
    pub outcomes: Topic,
    /// Dead letters.
    pub dead_letters: Letterbox,
    /// Which calls go behind those that are parked.
    pub behind: Arc<Behind>,
    /// Unique to the process.
    pub instance: String,
    /// Time.
    pub clock: W::Clock,
    /// Chance.
    pub chance: W::Chance,
    /// Those who want to know.
    pub witness: Arc<W::Witness>,
}

/// One stage.
pub struct Stage<W: World> {
    /// The service: an index into the config's services.
    pub service: usize,
    /// Its name.
    pub name: String,
    /// HTTP's method.
    pub method: String,
    /// The path on the service.
    pub path: String,
    /// The road to it.
    pub guard: Arc<Guard<W>>,
    /// Live tries before the fallback.
    pub tries: u32,
    /// Run only if this holds.
    pub when: Option<Condition>,
    /// The request; `None`: `{"event": …, "results": …}`.
    pub body: Option<Template>,
    /// What stands in.
    pub fallback: Fallback,
}

/// What stands in for a stage's answer.
pub enum Fallback {
    /// The last good answer for the same key, else `default`.
    Cached {
        /// What answers are kept by.
        key: Template,
        /// The answers.
        cache: Mutex<Cache>,
        /// What stands in when none is kept.
        default: serde_json::Map<String, serde_json::Value>,
    },
    /// A body.
    Default {
        /// What stands in.
        body: serde_json::Map<String, serde_json::Value>,
    },
    /// The call is parked.
    Park {
        /// Where.
        topic: Topic,
        /// How often and how long it may be tried.
        bounds: Bounds,
        /// Whether it keeps its place behind those of its key.
        ordered: bool,
    },
    /// The stage is left out.
    Skip,
    /// The event ends with an error.
    Fail,
}

impl Fallback {
    /// The kind.
    pub fn kind(&self) -> FallbackKind {
        match self {
            Self::Cached { .. } => FallbackKind::Cached,
            Self::Default { .. } => FallbackKind::Default,
            Self::Park { .. } => FallbackKind::Park,
            Self::Skip => FallbackKind::Skip,
            Self::Fail => FallbackKind::Fail,
        }
    }
}

/// A record that an event leaves behind.
#[derive(Debug)]
pub struct Leaving {
    /// The record.
    pub record: Record,
    /// What it is.
    pub what: Left,
}

/// What a record is that something leaves behind: told to the witness when Kafka has acknowledged it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Left {
    /// An event's outcome.
    Outcome,
    /// A parked call.
    Parked {
        /// For which service.
        service: usize,
        /// Why.
        reason: Reason,
    },
    /// A dead letter.
    DeadLetter {
        /// Why.
        code: Code,
        /// Why, in a sentence.
        error: String,
    },
    /// The end of a parked call, for those who want to know.
    Delivery,
}

/// How an event ended.
#[derive(Debug)]
pub enum EventEnd {
    /// It is finished when these are acknowledged.
    Finished {
        /// Its outcome's status; `None`: it ends as a dead letter alone.
        status: Option<Status>,
        /// What it leaves behind.
        leaves: Vec<Leaving>,
    },
    /// It was cut short by a stop, and is left to the next instance.
    Unfinished,
}

impl<W: World> Stages<W> {
    /// The longest that the calls of one event may take, all tries of all stages together.
    pub fn longest(&self) -> Duration {
        let longest = |stage: &Stage<W>| {
            let waits = matches!(stage.fallback, Fallback::Park { ordered: true, .. });
            let wait = if waits { behind::PATIENCE } else { Duration::ZERO };
            stage.guard.longest().saturating_mul(stage.tries).saturating_add(wait)
        };
        self.stages.iter().map(longest).fold(Duration::ZERO, Duration::saturating_add)
    }

    /// Runs an event through its stages.
    pub async fn run(&self, record: &Incoming, event: &Event) -> EventEnd {
        let mut document = None;
        let trace: Vec<(&'static str, Bytes)> = event.trace().map(|(name, value)| (name, value.clone())).collect();
        let mut progress = Progress { results: Vec::new(), outcomes: Vec::new(), leaves: Vec::new() };
        for (number, stage) in self.stages.iter().enumerate() {
            at_stage(number);
            match self.run_stage(stage, event, &mut document, &trace, &mut progress).await {
                Ok(Next::Stage) => {}
                Ok(Next::Failed { error }) => {
                    let what = Left::DeadLetter { code: Code::StageFailed, error };
                    progress.leaves.push(self.dead_letter(record, event, &stage.name, what));
                    return self.finished(event, progress, true);
                }
                Ok(Next::Unfinished) => return EventEnd::Unfinished,
                Err(error) => {
                    let error = format!("stage `{}`: {error}", stage.name);
                    self.witness.tell(Fact::ExpressionFailed { service: stage.service, source: &event.source, error: &error });
                    // What earlier stages left behind is left behind all the same: their calls were parked, not made.
                    progress.leaves.push(self.dead_letter(
                        record,
                        event,
                        &stage.name,
                        Left::DeadLetter { code: Code::InvalidField, error },
                    ));
                    return EventEnd::Finished { status: None, leaves: progress.leaves };
                }
            }
        }
        self.finished(event, progress, false)
    }

    async fn run_stage<'s, 'e>(
        &'s self,
        stage: &'s Stage<W>,
        event: &'e Event,
        document: &mut Option<Document<'e>>,
        trace: &[(&'static str, Bytes)],
        progress: &mut Progress<'s>,
    ) -> Result<Next, EvaluationError> {
        // Switched off, it costs nothing.
        if stage.when.as_ref().and_then(Condition::constant) == Some(false) {
            return Ok(Next::Stage);
        }
        // Made by the first stage that looks into it.
        let document = document.get_or_insert_with(|| Document::of_event(event));
        let scope = Scope { event: document, results: &progress.results, headers: &event.headers };
        if let Some(when) = &stage.when
            && !when.holds(&scope)?
        {
            return Ok(Next::Stage);
        }
        let body = match &stage.body {
            Some(template) => template.render(&scope)?,
            None => everything(&event.json, &progress.results),
        };
        let cache_key = match &stage.fallback {
            Fallback::Cached { key, .. } => Some(key.render(&scope)?),
            Fallback::Default { .. } | Fallback::Park { .. } | Fallback::Skip | Fallback::Fail => None,
        };
        let idempotency_key = envelope::idempotency_key(event.id, &stage.name);
        let request = Request { body: &body, idempotency_key: &idempotency_key, trace };
        let guarded = match self.place(stage, event).await {
            Place::Free => stage.guard.call(Class::Live, request, stage.tries).await,
            Place::Behind => stage.guard.behind(),
        };
        let decision = live(guarded.end, stage.fallback.kind(), guarded.failed_calls, stage.max_attempts());
        let mut outcome = StageOutcome {
            success: false,
            fallback_used: false,
            parked: false,
            data: NULL,
            error_type: guarded.end.error_type(),
            response_time_ms: milliseconds(guarded.took),
            circuit_breaker_state: guarded.state.as_str(),
        };
        match decision {
            Live::Answer => {
                if let (Fallback::Cached { cache, .. }, Some(key)) = (&stage.fallback, cache_key) {
                    let mut cache = cache.lock().unwrap_or_else(PoisonError::into_inner);
                    cache.put(&String::from_utf8_lossy(&key), guarded.data.clone(), self.clock.now());
                }
                outcome.success = true;
                outcome.data = guarded.data;
            }
            Live::Delivered => outcome.success = true,
            Live::FallBack => match self.stand_in(stage, &guarded, cache_key.as_deref()) {
                StandIn::Data(data) => {
                    outcome.fallback_used = true;
                    outcome.data = data;
                }
                StandIn::Nothing => outcome.fallback_used = true,
                StandIn::Failure => {
                    let error =
                        format!("stage `{}` failed ({}), and its fallback is `fail`", stage.name, outcome.error_type.unwrap_or("error"));
                    progress.outcomes.push((&stage.name, outcome));
                    return Ok(Next::Failed { error });
                }
            },
            Live::Park { reason } => {
                outcome.parked = true;
                let record = self.park(stage, event, request, &progress.results, &guarded, reason);
                progress.leaves.push(Leaving { record, what: Left::Parked { service: stage.service, reason } });
                self.witness.tell(Fact::FellBack { service: stage.service, kind: FallbackKind::Park });
            }
            Live::DeadLetter(code) => {
                let parked = self.park(stage, event, request, &progress.results, &guarded, Reason::CircuitOpen);
                let error = match code {
                    Code::RejectedByService => format!("service `{}` refused the call for good", stage.name),
                    _ => format!("service `{}` failed {} times, which is as often as it may", stage.name, guarded.failed_calls),
                };
                let letter = DeadLetter { code, error: Cow::Borrowed(&error), origin: &event.source };
                let mut record = letter.of_unsent(parked, &self.dead_letters, self.clock.wall());
                // It was never parked: only how often it was called is true of it.
                for header in [name::REASON, name::PARKS, name::NOT_BEFORE, name::FIRST_PARKED_AT] {
                    record.headers.remove(header);
                }
                let calls = guarded.failed_calls + u32::from(code == Code::RejectedByService);
                record.headers.set(name::ATTEMPT, calls.to_string());
                progress.leaves.push(Leaving { record, what: Left::DeadLetter { code, error } });
            }
            Live::Unfinished => return Ok(Next::Unfinished),
        }
        if outcome.data != NULL {
            progress.results.push((&stage.name, outcome.data.clone()));
        }
        progress.outcomes.push((&stage.name, outcome));
        Ok(Next::Stage)
    }

    async fn place(&self, stage: &Stage<W>, event: &Event) -> Place {
        match stage.fallback {
            // Apart: events that wait for nothing do not carry the state of waiting.
            Fallback::Park { ordered: true, .. } => {
                Box::pin(self.behind.place(stage.service, &event.source, &event.key, &self.clock)).await
            }
            _ => Place::Free,
        }
    }

    fn stand_in(&self, stage: &Stage<W>, guarded: &Guarded, cache_key: Option<&[u8]>) -> StandIn {
        let reason = guarded.end.error_type().unwrap_or("error");
        let until = guarded.retry_at.map(|tick| self.clock.wall_of(tick));
        let explain = |answer| StandIn::Data(fallback::explain(&stage.name, answer, reason, until));
        let stand_in = match &stage.fallback {
            Fallback::Cached { cache, default, .. } => {
                let key = String::from_utf8_lossy(cache_key.unwrap_or_default());
                let mut cache = cache.lock().unwrap_or_else(PoisonError::into_inner);
                match cache.get(&key, self.clock.now()) {
                    Some((data, age)) => explain(fallback::StandIn::Cached { data, age }),
                    None => explain(fallback::StandIn::Default(default)),
                }
            }
            Fallback::Default { body } => explain(fallback::StandIn::Default(body)),
            Fallback::Park { .. } | Fallback::Skip => StandIn::Nothing,
            Fallback::Fail => StandIn::Failure,
        };
        self.witness.tell(Fact::FellBack { service: stage.service, kind: stage.fallback.kind() });
        stand_in
    }

    fn park(
        &self,
        stage: &Stage<W>,
        event: &Event,
        request: Request<'_>,
        results: &[(&str, Bytes)],
        guarded: &Guarded,
        reason: Reason,
    ) -> Record {
        let Request { body, idempotency_key, .. } = request;
        let now = self.clock.wall();
        let (topic, delay, ordered) = match &stage.fallback {
            Fallback::Park { topic, bounds, ordered } => (topic, first_delay(guarded, bounds, self.chance.roll()), *ordered),
            _ => (&self.dead_letters.topic, Duration::ZERO, false),
        };
        let call = envelope::Call { service: &stage.name, event, method: &stage.method, path: &stage.path, idempotency_key, body, results };
        let parking = Parking { reason, attempt: guarded.failed_calls, parks: 1, not_before: now.plus(delay), first_parked_at: now };
        // All of a key on one partition: that of its events' number, however many there are, so that no partition that is added moves it.
        let partition = ordered.then_some(event.source.partition);
        Record { partition, ..envelope::park(topic, &call, parking, now) }
    }

    fn dead_letter(&self, record: &Incoming, event: &Event, service: &str, what: Left) -> Leaving {
        let (code, error) = match &what {
            Left::DeadLetter { code, error } => (*code, error.as_str()),
            Left::Outcome | Left::Parked { .. } | Left::Delivery => (Code::StageFailed, ""),
        };
        let letter = DeadLetter { code, error: error.into(), origin: &event.source };
        let mut record = letter.of(record, &self.dead_letters, self.clock.wall());
        record.headers.set(name::SERVICE, service.to_owned());
        record.headers.set(name::EVENT_ID, event.id.to_string());
        Leaving { record, what }
    }

    fn finished(&self, event: &Event, progress: Progress<'_>, failed: bool) -> EventEnd {
        let status = Status::of(progress.outcomes.iter().map(|(_, outcome)| outcome), failed);
        let record = outcome::record(&self.outcomes, event, status, &progress.outcomes, &self.instance, self.clock.wall());
        let mut leaves = progress.leaves;
        leaves.push(Leaving { record, what: Left::Outcome });
        EventEnd::Finished { status: Some(status), leaves }
    }
}

impl<W: World> Stage<W> {
    fn max_attempts(&self) -> u32 {
        match &self.fallback {
            Fallback::Park { bounds, .. } => bounds.max_attempts,
            Fallback::Cached { .. } | Fallback::Default { .. } | Fallback::Skip | Fallback::Fail => u32::MAX,
        }
    }
}

/// What the stages that ran have left.
struct Progress<'s> {
    results: Vec<(&'s str, Bytes)>,
    outcomes: Vec<(&'s str, StageOutcome)>,
    leaves: Vec<Leaving>,
}

enum Next {
    Stage,
    Failed { error: String },
    Unfinished,
}

enum StandIn {
    Data(Bytes),
    Nothing,
    Failure,
}

/// A parked call that failed before waits as long as it would after its first failure; one that was never made may go as soon as it can.
fn first_delay(guarded: &Guarded, bounds: &Bounds, roll: f64) -> Duration {
    match guarded.end {
        End::Failed { retry_after, .. } => bounds.schedule.delay(guarded.failed_calls.max(1), retry_after, roll),
        End::Done { .. } | End::Rejected | End::CircuitOpen | End::Overload | End::Stopped | End::Behind => Duration::ZERO,
    }
}

/// `{"event": …, "results": …}`.
fn everything(event: &Bytes, results: &[(&str, Bytes)]) -> Bytes {
    let mut body = Vec::with_capacity(event.len() + 64 + results.iter().map(|(_, data)| data.len() + 32).sum::<usize>());
    body.extend_from_slice(b"{\"event\":");
    body.extend_from_slice(event);
    body.extend_from_slice(b",\"results\":");
    write_members(&mut body, results);
    body.push(b'}');
    body.into()
}

fn milliseconds(took: Duration) -> f64 {
    let rounded = (took.as_secs_f64() * 1e6).round();
    rounded / 1e3
}

/// What is said of an event that cannot be read: its dead letter.
pub fn unreadable(record: &Incoming, code: Code, error: &str, dead_letters: &Letterbox, now: UnixMillis) -> Leaving {
    let letter = DeadLetter { code, error: error.into(), origin: &record.source };
    let made = if code == Code::TooLarge { letter.of_too_large(record, dead_letters, now) } else { letter.of(record, dead_letters, now) };
    Leaving { record: made, what: Left::DeadLetter { code, error: error.to_owned() } }
}
