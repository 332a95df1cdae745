//! The only road to a service: ask its breaker, wait for a turn, call within the timeout, judge the reply, settle.
//!
//! A call that is cancelled (its future dropped, or polled after a stop has cut it) settles as neither success nor failure and gives its permit and its
//! turn back. A refused call costs no turn, no network and no wait.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use serde::de::IgnoredAny;

use super::breakers::{Admission, Breakers};
use super::facts::Fact;
use super::ports::{Body, Call, CallError, Caller, Clock, Reply, Witness, World};
use super::stop::Stop;
use super::timers::Timers;
use super::turns::{Class, Turn, Turns};
use crate::event::Headers;
use crate::event::outcome::NULL;
use crate::machine::breaker::StateName;
use crate::machine::disposition::End;
use crate::machine::drain_window::DrainWindow;
use crate::machine::judgement::{Answer, BodyKind, CallOutcome, CallVerdict, Judgement, judge};
use crate::machine::limit::{self, Sign};
use crate::machine::time::Tick;
use crate::machine::verdict::{self, Seen};

/// How a service is called.
#[derive(Debug, Clone)]
pub struct Manner {
    /// The longest a call may take, and the longest it waits for its turn.
    pub timeout: Duration,
    /// From when a good answer counts as slow.
    pub slow: Option<Duration>,
    /// Calls in flight at once.
    pub concurrency: usize,
    /// Of these, drained ones at most, until [`Guard::share_drain`] says how many of them are this instance's.
    pub drain_concurrency: usize,
    /// How many of them there are at a time, where that is found out; `None`: always all.
    pub adaptive: Option<limit::Settings>,
    /// What its breaker hears of a reply, where the status does not say it.
    pub rules: verdict::Rules,
}

/// One service's guard.
pub struct Guard<W: World> {
    service: usize,
    manner: Manner,
    turns: Turns,
    /// What drained calls use of their places.
    window: Mutex<DrainWindow>,
    timers: Timers,
    breakers: Arc<Breakers<W>>,
    caller: Arc<W::Caller>,
    clock: W::Clock,
    witness: Arc<W::Witness>,
    stop: Stop,
}

/// A request, ready to be made as often as it may be.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The body, JSON.
    pub body: &'a Bytes,
    /// What the service knows a repeated call by.
    pub idempotency_key: &'a str,
    /// W3C trace headers to hand on.
    pub trace: &'a [(&'static str, Bytes)],
}

/// How a guarded call ended.
#[derive(Debug)]
pub struct Guarded {
    /// How it ended.
    pub end: End,
    /// The answer, JSON; null where there is none.
    pub data: Bytes,
    /// Calls made and failed.
    pub failed_calls: u32,
    /// All in all, waiting included.
    pub took: Duration,
    /// The breaker's state at the end.
    pub state: StateName,
    /// When asking again makes sense, where that is known.
    pub retry_at: Option<Tick>,
}

impl<W: World> Guard<W> {
    /// A guard over the service of this index.
    pub fn new(
        service: usize,
        manner: Manner,
        breakers: Arc<Breakers<W>>,
        caller: Arc<W::Caller>,
        clock: W::Clock,
        witness: Arc<W::Witness>,
        stop: Stop,
    ) -> Self {
        let turns = Turns::new(manner.concurrency, manner.drain_concurrency, manner.adaptive);
        let window = Mutex::new(DrainWindow::new(manner.drain_concurrency));
        Self { service, manner, turns, window, timers: Timers::default(), breakers, caller, clock, witness, stop }
    }

    /// How many calls may be in flight now.
    pub fn places(&self) -> usize {
        self.turns.places()
    }

    /// Drained calls may use so many places from now on: what this instance has of what all of them may use.
    pub fn share_drain(&self, places: usize) {
        self.turns.set_drain_max(places);
        self.window().allow(places);
    }

    /// How many of those places drained calls use now.
    pub fn drain_window(&self) -> usize {
        self.window().places()
    }

    /// The service is away: when it is back, drained calls begin with one of their places.
    pub fn restart_drain(&self) {
        self.window().restart();
    }

    fn window(&self) -> MutexGuard<'_, DrainWindow> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The longest that one try may take: to wait for a turn, and to call.
    pub fn longest(&self) -> Duration {
        self.manner.timeout * 2
    }

    /// Makes a call, up to `tries` times while it fails and may be tried again. Each try is admitted and settled on its own.
    pub async fn call(&self, class: Class, request: Request<'_>, tries: u32) -> Guarded {
        let began = self.clock.micros();
        let (mut failed_calls, mut now, mut refused) = (0, began, None);
        let (end, data) = loop {
            let (end, data) = self.attempt(class, request, &mut now, &mut refused).await;
            if !matches!(end, End::Failed { .. }) {
                break (end, data);
            }
            failed_calls += 1;
            // A service that says when to come back is not asked again before.
            if failed_calls >= tries || matches!(end, End::Failed { retry_after: Some(_), .. }) {
                break (end, data);
            }
        };
        // A refused try after failed ones ends the call, but the calls that were made did fail.
        Guarded {
            end,
            data,
            failed_calls,
            took: Duration::from_micros(now - began),
            state: self.breakers.state(self.service),
            retry_at: if matches!(end, End::Done { .. }) { None } else { self.breakers.retry_at(self.service).or(refused) },
        }
    }

    /// What is said of a call that is not made, because it goes behind others of its key.
    pub fn behind(&self) -> Guarded {
        let state = self.breakers.state(self.service);
        Guarded { end: End::Behind, data: NULL, failed_calls: 0, took: Duration::ZERO, state, retry_at: None }
    }

    /// One try. `now` is the clock's last reading, in microseconds, and is read anew after whatever took time: reading it costs as much
    /// as asking the breaker. `refused` is told until when the breaker refused it, where it says.
    async fn attempt(&self, class: Class, request: Request<'_>, now: &mut u64, refused: &mut Option<Tick>) -> (End, Bytes) {
        // Refused now, it waits for no turn; admitted now, it would hold a probe's permit while it waits for one.
        if self.breakers.refuses_at(self.service, self.clock.tick_at(*now)) {
            self.witness.tell(Fact::Refused { service: self.service });
            return (End::CircuitOpen, NULL);
        }
        let turn = match self.turns.try_take(class) {
            Some(turn) => turn,
            // Apart, so that the calls that need not wait, which is most of them, do not carry the state of waiting.
            None => {
                let turn = Box::pin(self.wait_for_turn(class)).await;
                *now = self.clock.micros();
                match turn {
                    Ok(turn) => turn,
                    Err(end) => return (end, NULL),
                }
            }
        };
        if self.stop.are_calls_cut() {
            return (End::Stopped, NULL);
        }
        let tick = self.clock.tick_at(*now);
        let admission = match self.breakers.admit(self.service, tick) {
            Ok(admission) => admission,
            Err(refusal) => {
                *refused = refusal.until;
                return (End::CircuitOpen, NULL);
            }
        };
        let in_flight = InFlight { guard: self, class, began: *now, admission: Some(admission) };
        let call =
            Call { service: self.service, body: request.body.clone(), idempotency_key: request.idempotency_key, trace: request.trace };
        let mut limit = self.timers.until(self.clock.instant(tick.plus(self.manner.timeout)));
        let mut call = pin!(self.caller.call(call));
        // Whoever cuts calls polls them after: to be told by the stop itself would cost each call an entry in a list that all share.
        let reply = poll_fn(|context| {
            if self.stop.are_calls_cut() {
                return Poll::Ready(Waited::Cut);
            }
            if let Poll::Ready(reply) = call.as_mut().poll(context) {
                return Poll::Ready(Waited::Reply(reply));
            }
            Pin::new(&mut limit).poll(context).map(|()| Waited::TooLong)
        });
        let reply = reply.await;
        *now = self.clock.micros();
        let came = match reply {
            Waited::Cut => return (End::Stopped, NULL),
            Waited::TooLong => Came::without_reply(Answer::TimedOut),
            Waited::Reply(Err(_)) => Came::without_reply(Answer::NoReply),
            Waited::Reply(Ok(reply)) => Came::of(reply),
        };
        (in_flight.settle(&came, &turn, *now), came.data)
    }

    /// Waits for a turn, at most as long as a call may take.
    async fn wait_for_turn(&self, class: Class) -> Result<Turn, End> {
        let deadline = self.clock.now().plus(self.manner.timeout);
        tokio::select! {
            biased;
            turn = self.turns.take(class) => Ok(turn),
            () = self.stop.calls_cut() => Err(End::Stopped),
            () = self.clock.sleep_until(deadline) => Err(End::Overload),
        }
    }
}

impl<W: World> Guard<W> {
    /// What the service's expressions say of a reply. Apart, since most services have none.
    #[inline(never)]
    fn weigh(&self, came: &Came, took: Duration) -> Judgement {
        let seen = Seen { answer: came.answer, headers: &came.headers, body: &came.data, took, slow: self.manner.slow };
        self.manner.rules.judge(&seen, |rule, error| {
            self.witness.tell(Fact::VerdictFailed { service: self.service, rule, error: &error.0 });
        })
    }
}

/// How waiting for a reply ended.
enum Waited {
    Reply(Result<Reply, CallError>),
    TooLong,
    Cut,
}

/// A call that has been admitted and not judged.
struct InFlight<'a, W: World> {
    guard: &'a Guard<W>,
    class: Class,
    began: u64,
    admission: Option<Admission<'a, W>>,
}

impl<W: World> InFlight<'_, W> {
    fn settle(mut self, came: &Came, turn: &Turn, now: u64) -> End {
        let took = Duration::from_micros(now - self.began);
        let manner = &self.guard.manner;
        let judgement = if manner.rules.is_empty() { judge(came.answer, took, manner.slow) } else { self.guard.weigh(came, took) };
        let verdict = judgement.verdict;
        self.guard.witness.tell(Fact::Called { service: self.guard.service, outcome: judgement.outcome, verdict: Some(verdict), took });
        if let Some(admission) = self.admission.take() {
            let counts = admission.settle(verdict, took, self.guard.clock.tick_at(now));
            // A late verdict is of a service as it was: what it says of its load is late too.
            if let (true, Some(sign)) = (counts, Sign::of(came.answer)) {
                turn.tell(sign, self.began, took);
                let drained = self.class == Class::Drain;
                if drained || (sign == Sign::Overloaded && self.guard.manner.drain_concurrency > 0) {
                    self.guard.window().hear(sign, drained, self.began, now);
                }
            }
        }
        match judgement.call {
            CallVerdict::Done { data } => End::Done { data },
            CallVerdict::Again { retry_after } => End::Failed { outcome: judgement.outcome, retry_after },
            CallVerdict::Refused => End::Rejected,
        }
    }
}

impl<W: World> Drop for InFlight<'_, W> {
    fn drop(&mut self) {
        if self.admission.is_some() {
            let (service, took) = (self.guard.service, Duration::from_micros(self.guard.clock.micros() - self.began));
            self.guard.witness.tell(Fact::Called { service, outcome: CallOutcome::Cancelled, verdict: None, took });
        }
    }
}

/// What came of a call.
pub(super) struct Came {
    pub(super) answer: Answer,
    headers: Headers,
    /// The body, if it is an answer; else null.
    data: Bytes,
}

impl Came {
    fn without_reply(answer: Answer) -> Self {
        Self { answer, headers: Headers::new(), data: NULL }
    }

    pub(super) fn of(reply: Reply) -> Self {
        let (body, data) = match reply.body {
            Body::CutOff => (BodyKind::CutOff, NULL),
            Body::TooLarge => (BodyKind::Unreadable, NULL),
            Body::Whole(bytes) => {
                let trimmed = bytes.trim_ascii();
                if trimmed.is_empty() {
                    (BodyKind::Empty, NULL)
                } else if is_json(trimmed) {
                    (BodyKind::Json, bytes.slice_ref(trimmed))
                } else {
                    (BodyKind::Unreadable, NULL)
                }
            }
        };
        let answer = Answer::Replied { status: reply.status, body, retry_after: reply.retry_after };
        Self { answer, headers: reply.headers, data }
    }
}

fn is_json(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok())
}

#[cfg(test)]
mod tests;
