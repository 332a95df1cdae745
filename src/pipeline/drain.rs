//! The retry path: parked calls in, deliveries made, through the same guard as live calls.
//!
//! Each service's parked calls wait in a queue by due time. One goes when it is due *and* its breaker admits it; refused, it stays where it
//! is and spends nothing. A service whose breaker refuses is left alone until its breaker changes: nothing here polls.
//!
//! How many go at once is the fleet's budget: this instance's share of it follows from its partitions ([`crate::machine::share`]). A partition is
//! given up only when what is out fits the share that is left, so that its places are free when its next owner has them; a call that takes
//! longer than a hand-over may is the exception.
//!
//! What is read is bounded by the budget; calls that wait for reasons of their own make way in it for those behind them ([`shelf`]).
//!
//! Guarantees: a parked call ends as a delivery or a dead letter; its record is finished only when what it leaves behind (a copy with one attempt more, a dead
//! letter, a delivery's record) is acknowledged.

mod keys;
mod ordered;
mod shelf;

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::FutureExt;
use tokio::sync::broadcast;
use uuid::Uuid;

use super::breakers::Breakers;
use super::facts::Fact;
use super::finisher::{Begun, Finish, Finisher, Stub};
use super::guard::{Guard, Guarded, Request};
use super::hand_over::HandOvers;
use super::leave::{cut_calls_later, leave};
use super::orders::{OrderBook, PATIENCE};
use super::ports::{Aborted, Ack, Acks, Budget, Chance, Clock, Intake, Placed, Refetch, Subscription, Witness, World};
use super::process::SHARE;
use super::pulse::{Pulse, ROUND};
use super::running::{About, Running, Stuck, at_stage};
use super::stages::{Leaving, Left, unreadable};
use super::stop::{Ended, Stop};
use super::timers::Alarm;
use super::turns::Class;
use crate::event::dead_letter::{Code, DeadLetter, Letterbox};
use crate::event::delivery::{self, Delivery};
use crate::event::envelope::{self, Parked, Parking, Reason};
use crate::event::{Incoming, Topic, UnixMillis};
use crate::machine::breaker::StateName;
use crate::machine::disposition::{Bounds, Drained, End, drained, overdue};
use crate::machine::due_queue::DueQueue;
use crate::machine::share::Owned;
use crate::machine::time::Tick;
use keys::{Keys, Turn};
use ordered::{Lane, Paced};
use shelf::Shelved;

/// When a breaker is asked again that refuses without saying until when, should no change be heard of.
const UNHEARD: Duration = Duration::from_secs(5);

/// The least time between two questions to a breaker that refuses.
const SOON: Duration = Duration::from_millis(10);

/// How long a call waits that got no turn: live calls have the service to themselves that long.
const AFTER_OVERLOAD: Duration = Duration::from_secs(1);

/// How parked calls are drained.
pub struct Settings {
    /// The longest time between two commits while records finish.
    pub commit_interval: Duration,
    /// How long a stop may take.
    pub stop_timeout: Duration,
    /// How long records of a partition that is to be given up may take to finish.
    pub hand_over_timeout: Duration,
    /// The longest text beside a commit.
    pub max_ahead_bytes: usize,
    /// Records finish together, in transactions that begin at least so far apart; `None`: each by itself.
    pub together: Option<Duration>,
    /// Dead letters.
    pub dead_letters: Letterbox,
    /// Where it is said how each parked call ended.
    pub deliveries: Option<Topic>,
    /// Calls that may be put aside to make way for others.
    pub max_aside: usize,
}

/// A service whose calls are parked.
pub struct Route<W: World> {
    /// An index into the config's services.
    pub service: usize,
    /// Its name.
    pub name: String,
    /// The road to it.
    pub guard: Arc<Guard<W>>,
    /// How often and how long a call may be tried.
    pub bounds: Bounds,
    /// Calls in flight at once, in the whole fleet.
    pub concurrency: usize,
    /// Calls of one key go one at a time, in their order.
    pub ordered: bool,
}

/// What a drain is made of.
pub struct Parts<W: World, S> {
    /// How parked calls are drained.
    pub settings: Settings,
    /// The services whose calls are parked.
    pub routes: Vec<Route<W>>,
    /// Where they come from.
    pub subscription: S,
    /// What reads them again that were put aside.
    pub refetch: Arc<dyn Refetch>,
    /// Where what they leave behind goes.
    pub publisher: W::Publisher,
    /// What Kafka says of it.
    pub acks: Acks,
    /// What is read and not finished.
    pub budget: Arc<Budget>,
    /// When to stop.
    pub stop: Stop,
    /// The breakers.
    pub breakers: Arc<Breakers<W>>,
    /// Time.
    pub clock: W::Clock,
    /// Chance.
    pub chance: W::Chance,
    /// Those who want to know.
    pub witness: Arc<W::Witness>,
    /// Where the queues are shown.
    pub gauges: Arc<Gauges>,
    /// Where it shows that it goes on.
    pub pulse: Arc<Pulse>,
    /// What operators have ordered.
    pub orders: Arc<OrderBook>,
}

/// The queues of this process, by service's index, as they were a moment ago.
#[derive(Debug, Default)]
pub struct Gauges(Mutex<BTreeMap<usize, Gauge>>);

/// One service's queue in this process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Gauge {
    /// Parked calls read and not finished, those included that were put aside.
    pub held: usize,
    /// Of these, waiting although they are due.
    pub due: usize,
    /// When the oldest of them was first parked.
    pub oldest: Option<UnixMillis>,
    /// Of these, put aside: to be read again when they are to go.
    pub shelved: usize,
    /// Parked calls delivered since the process began.
    pub drained: u64,
}

impl Gauges {
    /// Nothing is shown.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// A service's queue.
    pub fn of(&self, service: usize) -> Gauge {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&service).copied().unwrap_or_default()
    }

    fn show(&self, service: usize, gauge: Gauge) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(service, gauge);
    }
}

/// Runs until told to stop, or until the consumer ends.
pub async fn run<W: World, S: Subscription>(parts: Parts<W, S>) -> Ended {
    let Parts {
        settings,
        routes,
        mut subscription,
        refetch,
        publisher,
        mut acks,
        budget,
        stop,
        breakers,
        clock,
        chance,
        witness,
        gauges,
        pulse,
        orders,
    } = parts;
    let mut changes = breakers.changes();
    let mut ordered = orders.changes();
    // Before the first call: one that was discarded must not be made.
    tokio::select! {
        biased;
        () = orders.caught_up() => {}
        () = clock.sleep_until(clock.now().plus(PATIENCE)) => {
            tracing::warn!(target: "fusebox", "what was ordered for parked calls cannot be read yet; they are made without it");
        }
        () = stop.requested() => {}
    }
    let keys = Keys::of(&routes);
    let queues = routes.into_iter().map(|route| Queue {
        route: Arc::new(route),
        waiting: DueQueue::new(),
        lanes: BTreeMap::new(),
        running: 0,
        places: 0,
        refused_until: None,
        drained: 0,
    });
    let (commit_interval, stop_timeout, hand_over_timeout) = (settings.commit_interval, settings.stop_timeout, settings.hand_over_timeout);
    let mut drain = Drain {
        shelf: Shelved::new(refetch, Arc::clone(&budget), settings.max_aside),
        finisher: Finisher::new(
            publisher,
            settings.max_ahead_bytes,
            budget,
            settings.dead_letters.clone(),
            clock.clone(),
            chance.clone(),
            Arc::clone(&witness),
        )
        .together(settings.together)
        .holding_early(),
        settings,
        queues: queues.collect(),
        keys,
        breakers,
        clock: clock.clone(),
        chance,
        witness,
        gauges,
        orders,
        running: Running::default(),
        hand_overs: HandOvers::default(),
        owned: Owned::default(),
        paces: BTreeMap::new(),
    };
    drain.reconsider_shelf();
    let mut next_commit = clock.now().plus(commit_interval);
    let mut next_look = clock.now();
    let mut stopping: Option<Tick> = None;
    let mut cut = false;
    let (mut alarm, mut requested) = (Alarm::default(), pin!(stop.requested()));
    loop {
        for _ in 0..SHARE {
            let Some(ack) = acks.try_recv() else { break };
            drain.acked(ack);
        }
        for _ in 0..SHARE {
            let Some(Some(ran)) = drain.running.next().now_or_never() else { break };
            drain.ran(ran, stopping.is_some());
        }
        let mut wake = vec![next_commit, next_look];
        if stopping.is_none() {
            drain.let_in();
            wake.extend(drain.start_due());
            wake.extend(drain.tend_shelf(clock.now()));
        }
        let now = clock.now();
        pulse.beat(now);
        let fits = drain.fits_its_share();
        let released = drain.hand_overs.advance(&mut drain.finisher, fits, now);
        drain.keys.forget(|partition| released.contains(partition));
        drain.cut_off_ended();
        drain.finisher.tell_holds(&subscription);
        drain.finisher.transact(&subscription);
        if stopping.is_some() && drain.is_idle() {
            break;
        }
        wake.extend(stopping.into_iter().chain(drain.finisher.next_retry()).chain(drain.hand_overs.next_deadline()));
        wake.extend(drain.finisher.next_transaction());
        let wake = wake.into_iter().min().unwrap_or(Tick::NEVER);
        alarm.set(wake, &clock);
        tokio::select! {
            biased;
            () = changes.changed() => drain.ask_again(),
            heard = ordered.recv() => match heard {
                Ok(()) | Err(broadcast::error::RecvError::Lagged(_)) => drain.reconsider(),
                // The book is held here too.
                Err(broadcast::error::RecvError::Closed) => {}
            },
            () = stop.calls_cut(), if stopping.is_some() && !cut => {
                cut = true;
                drain.running.poll_all();
            }
            () = &mut requested, if stopping.is_none() => {
                subscription.stop_taking();
                drain.finisher.hurry();
                drain.let_waiting_go(|_| true);
                stopping = Some(clock.now().plus(stop_timeout));
                cut_calls_later(&stop, &clock, stop_timeout);
            }
            answer = drain.shelf.answer() => drain.refetched(answer),
            intake = subscription.next() => match intake {
                None => return Ended::ConsumerGone,
                Some(Intake::Records(records)) => drain.take(records, stopping.is_some()),
                Some(Intake::Assigned(assignments)) => {
                    drain.hand_overs.came(&assignments);
                    // Of one that was ours already, the end of its life was not told.
                    drain.let_waiting_go(|partition| assignments.iter().any(|came| came.partition == *partition));
                    drain.keys.forget(|partition| assignments.iter().any(|came| came.partition == *partition));
                    assignments.iter().for_each(|came| drain.owned.came(came.partition.clone()));
                    drain.share(&subscription);
                    drain.finisher.assign(assignments);
                }
                Some(Intake::Revoked(partitions, give_up)) => {
                    drain.let_waiting_go(|partition| partitions.contains(partition));
                    partitions.iter().for_each(|gone| drain.owned.goes(gone));
                    drain.share(&subscription);
                    let lives = drain.finisher.lives(&partitions);
                    drain.hand_overs.begin(lives, give_up, clock.now().plus(hand_over_timeout));
                    drain.finisher.hurry();
                }
                Some(Intake::Lost(partitions)) => {
                    drain.let_waiting_go(|partition| partitions.contains(partition));
                    partitions.iter().for_each(|gone| drain.owned.goes(gone));
                    drain.keys.forget(|partition| partitions.contains(partition));
                    drain.share(&subscription);
                    drain.finisher.lose(&partitions);
                }
                Some(Intake::Transacted(answer)) => drain.transacted(answer),
            },
            Some(ack) = acks.recv() => drain.acked(ack),
            Some(ran) = drain.running.next(), if !drain.running.is_empty() => drain.ran(ran, stopping.is_some()),
            () = alarm.rings() => {}
        }
        drain.cut_off_ended();
        let now = clock.now();
        drain.finisher.retry();
        if next_look <= now {
            // Topics grow.
            drain.share(&subscription);
            drain.look_through();
            pulse.show_stuck(drain.look(now));
            next_look = now.plus(ROUND);
        }
        if next_commit <= now {
            let moved = drain.finisher.moved();
            if !moved.is_empty() {
                subscription.commit(moved);
            }
            next_commit = now.plus(commit_interval);
        }
        if stopping.is_some_and(|deadline| deadline <= now) {
            break;
        }
    }
    pulse.end();
    let unfinished = drain.running.len() + drain.finisher.len();
    leave(subscription, &mut drain.finisher, &mut drain.hand_overs, &clock, stopping, unfinished).await
}

struct Drain<W: World> {
    settings: Settings,
    queues: Vec<Queue<W>>,
    shelf: Shelved,
    /// What waits for others of its key.
    keys: Keys,
    finisher: Finisher<W, Finished>,
    breakers: Arc<Breakers<W>>,
    clock: W::Clock,
    chance: W::Chance,
    witness: Arc<W::Witness>,
    gauges: Arc<Gauges>,
    orders: Arc<OrderBook>,
    running: Running<(usize, Stub), Ran>,
    hand_overs: HandOvers,
    owned: Owned,
    /// Of each order that has a rate and calls here.
    paces: BTreeMap<Uuid, Paced>,
}

struct Queue<W: World> {
    route: Arc<Route<W>>,
    waiting: DueQueue<Waiting>,
    /// By their order, those that are due by it, or are to become dead letters.
    lanes: BTreeMap<Uuid, Lane>,
    running: usize,
    /// How many of its calls may run here.
    places: usize,
    /// Its breaker has said no: it is asked again when it changes, or then.
    refused_until: Option<Tick>,
    drained: u64,
}

/// A parked call that waits.
struct Waiting {
    begun: Begun,
    parked: Parked,
    /// The order that counts for it.
    order: Option<Uuid>,
}

/// A parked call that was made, or refused.
struct Ran {
    queue: usize,
    due: Tick,
    waiting: Waiting,
    guarded: Option<Guarded>,
}

/// What is told of a parked call when its record is finished.
struct Finished {
    done: Option<Done>,
    turn: Option<Turn>,
}

/// A parked call that was delivered.
struct Done {
    queue: usize,
    first_parked_at: UnixMillis,
}

impl<W: World> Drain<W> {
    fn take(&mut self, records: Vec<Incoming>, stopping: bool) {
        if stopping {
            self.finisher.leave(&records);
            return;
        }
        let begun = self.finisher.take(records);
        self.queue(begun);
    }

    /// Takes what has waited for room beside its partition's commit, and has it now.
    fn let_in(&mut self) {
        let begun = self.finisher.let_in();
        self.queue(begun);
    }

    fn queue(&mut self, records: Vec<Begun>) {
        for begun in records {
            self.come(begun);
        }
    }

    /// What a record says, and of which queue it is; one that nobody can make is given up.
    fn open(&mut self, begun: Begun) -> Option<(usize, Waiting)> {
        let now = self.clock.wall();
        let parked = match envelope::read(begun.record.clone(), now) {
            Ok(parked) => parked,
            Err((_, error)) => {
                let leaving = unreadable(&begun.record, error.code, &error.message, &self.settings.dead_letters, now);
                self.finish(begun, vec![leaving], None);
                return None;
            }
        };
        let Some(index) = self.queues.iter().position(|queue| queue.route.name == *parked.service) else {
            let error = format!("no service named `{}` parks its calls here", parked.service);
            let leaving = unreadable(&begun.record, Code::InvalidField, &error, &self.settings.dead_letters, now);
            self.finish(begun, vec![leaving], None);
            return None;
        };
        Some((index, Waiting { begun, parked, order: None }))
    }

    /// When a call falls due by itself: no later than any delay that is given here, whatever a writer with another clock says.
    fn due(&self, index: usize, parked: &Parked) -> Tick {
        let latest = self.clock.wall().plus(self.queues[index].route.bounds.schedule.max);
        self.clock.tick_of(parked.parking.not_before.min(latest))
    }

    /// What is this instance's of the places that are the fleet's, as partitions and their topics are now.
    fn share(&mut self, subscription: &impl Subscription) {
        for topic in self.owned.topics() {
            if let Some(size) = subscription.size(&topic) {
                self.owned.size(topic, size);
            }
        }
        for queue in &mut self.queues {
            let places = self.owned.share(queue.route.concurrency);
            if std::mem::replace(&mut queue.places, places) != places {
                queue.route.guard.share_drain(places);
            }
        }
        self.share_paces();
    }

    /// Whether no more calls run than this instance has places for: it may have had more a moment ago.
    fn fits_its_share(&self) -> bool {
        self.queues.iter().all(|queue| queue.running <= queue.places)
    }

    /// How many calls of a queue may be out now.
    fn places(&self, index: usize) -> usize {
        let queue = &self.queues[index];
        // While half-open one is out at a time: more would only be refused, for the permits are few.
        let half_open = self.breakers.state(queue.route.service) == StateName::HalfOpen;
        queue.places.min(if half_open { 1 } else { queue.route.guard.drain_window() })
    }

    /// Starts what is due and may go, and says when something will fall due that may go.
    fn start_due(&mut self) -> Vec<Tick> {
        let now = self.clock.now();
        let mut next = Vec::new();
        for index in 0..self.queues.len() {
            next.extend(self.give_up_condemned(index, now));
            if let Some(until) = self.paused_until(index) {
                next.extend(until);
                continue;
            }
            while let Some((due, lane)) = self.next_to_be_made(index) {
                let queue = &self.queues[index];
                let service = queue.route.service;
                let places = self.places(index);
                if let Some(until) = queue.refused_until.filter(|until| *until > now) {
                    next.push(until);
                    break;
                }
                if queue.running >= places {
                    break;
                }
                if due > now {
                    next.push(due);
                    break;
                }
                if self.breakers.refuses(service) {
                    queue.route.guard.restart_drain();
                    self.queues[index].refused_until = Some(ask_again_at(self.breakers.retry_at(service), now));
                    continue;
                }
                self.start(index, lane, now);
            }
        }
        next
    }

    fn start(&mut self, index: usize, lane: Option<Uuid>, now: Tick) {
        let queue = &mut self.queues[index];
        let Some((due, waiting)) = queue.pop_due(lane, now) else { return };
        if !self.finisher.is_current(&waiting.begun) {
            self.finisher.forget(&waiting.begun);
            return;
        }
        let parking = waiting.parked.parking;
        if let Some(code) = overdue(parking.attempt, parking.first_parked_at, self.clock.wall(), &queue.route.bounds) {
            self.give_up(index, waiting, code, parking.attempt);
            return;
        }
        if let Some(order) = lane {
            self.take_slot(order, now);
        }
        let queue = &mut self.queues[index];
        queue.running += 1;
        let route = Arc::clone(&queue.route);
        let about = About { source: waiting.begun.record.source.clone(), event: waiting.parked.event_id };
        let longest = route.guard.longest();
        let left = (index, waiting.begun.stub());
        let run = async move {
            at_stage(index);
            let trace: Vec<(&'static str, Bytes)> = waiting.parked.trace().map(|(name, value)| (name, value.clone())).collect();
            let request = Request { body: &waiting.parked.body, idempotency_key: &waiting.parked.idempotency_key, trace: &trace };
            let guarded = AssertUnwindSafe(route.guard.call(Class::Drain, request, 1)).catch_unwind().await.ok();
            Ran { queue: index, due, waiting, guarded }
        };
        self.running.push(left, about, now, longest, run.boxed());
    }

    fn ran(&mut self, ran: Ran, stopping: bool) {
        let Ran { queue: index, due, waiting, guarded } = ran;
        let now = self.clock.now();
        let going = stopping || self.hand_overs.has(&waiting.begun.record.source.topic_partition());
        let queue = &mut self.queues[index];
        queue.running -= 1;
        if !self.finisher.is_current(&waiting.begun) {
            self.finisher.forget(&waiting.begun);
            return;
        }
        let parking = waiting.parked.parking;
        let retry_at = guarded.as_ref().and_then(|guarded| guarded.retry_at);
        // A call that met a defect counts as failed: it must not be tried for ever.
        let end = guarded
            .map_or(End::Failed { outcome: crate::machine::judgement::CallOutcome::Connect, retry_after: None }, |guarded| guarded.end);
        let bounds = queue.route.bounds;
        let ended = drained(end, parking.attempt, &bounds, self.chance.roll());
        // Whatever is out of its order's reach by now; a call that keeps its place is not.
        let stays = match ended {
            Drained::Stay => true,
            Drained::Again { .. } => queue.route.ordered,
            Drained::Delivered | Drained::DeadLetter(_) => false,
        };
        if !stays {
            self.tell_done(&waiting);
        }
        match ended {
            // It stays on its topic, for whoever has the partition next.
            Drained::Stay | Drained::Again { .. } if stays && going => self.finisher.forget(&waiting.begun),
            Drained::Stay => {
                let due = if end == End::Overload { now.plus(AFTER_OVERLOAD) } else { due };
                if end == End::CircuitOpen {
                    self.queues[index].refused_until = Some(ask_again_at(retry_at, now));
                }
                self.line_up(index, due, waiting);
            }
            Drained::Delivered => {
                let done = Done { queue: index, first_parked_at: parking.first_parked_at };
                let leaves = self.delivery(&waiting.parked, Delivery::Delivered, parking.attempt.saturating_add(1));
                self.finish(waiting.begun, leaves.into_iter().collect(), Some(done));
            }
            Drained::Again { reason, attempt, delay } if stays => self.keep_place(index, waiting, reason, attempt, delay),
            Drained::Again { reason, attempt, delay } => self.park_again(index, waiting, reason, attempt, delay),
            Drained::DeadLetter(code) => {
                let made = if matches!(end, End::Failed { .. } | End::Rejected) { 1 } else { 0 };
                self.give_up(index, waiting, code, parking.attempt.saturating_add(made));
            }
        }
    }

    fn park_again(&mut self, index: usize, waiting: Waiting, reason: Reason, attempt: u32, delay: Duration) {
        let Some(waiting) = self.discarded_meanwhile(waiting, attempt) else { return };
        let now = self.clock.wall();
        let Waiting { begun, parked, .. } = waiting;
        let parking = Parking {
            reason,
            attempt,
            parks: parked.parking.parks.saturating_add(1),
            not_before: now.plus(delay),
            first_parked_at: parked.parking.first_parked_at,
        };
        let what = Left::Parked { service: self.queues[index].route.service, reason };
        self.finish(begun, vec![Leaving { record: parked.again(parking, now), what }], None);
    }

    fn give_up(&mut self, index: usize, waiting: Waiting, code: Code, attempts: u32) {
        let route = &self.queues[index].route;
        let error = match code {
            Code::Expired => {
                format!("the call of service `{}` was parked for longer than {:?} (max_age)", route.name, route.bounds.max_age)
            }
            Code::RejectedByService => format!("service `{}` refused the call for good", route.name),
            _ => format!("service `{}` failed {attempts} times, which is as often as it may (max_attempts)", route.name),
        };
        self.end_as_dead_letter(waiting, code, error, attempts);
    }

    fn end_as_dead_letter(&mut self, waiting: Waiting, code: Code, error: String, attempts: u32) {
        let Waiting { begun, parked, .. } = waiting;
        let now = self.clock.wall();
        let mut record =
            DeadLetter { code, error: (&error).into(), origin: &parked.origin }.of(&begun.record, &self.settings.dead_letters, now);
        record.headers.set(crate::event::headers::name::ATTEMPT, attempts.to_string());
        let mut leaves = vec![Leaving { record, what: Left::DeadLetter { code, error } }];
        leaves.extend(self.delivery(&parked, Delivery::DeadLettered(code), attempts));
        self.finish(begun, leaves, None);
    }

    fn delivery(&self, parked: &Parked, how: Delivery, attempts: u32) -> Option<Leaving> {
        let topic = self.settings.deliveries.as_ref()?;
        Some(Leaving { record: delivery::record(topic, parked, how, attempts, self.clock.wall()), what: Left::Delivery })
    }

    fn finish(&mut self, begun: Begun, leaves: Vec<Leaving>, done: Option<Done>) {
        let turn = self.keys.turn(&begun.record, &self.queues).map(|(_, turn)| turn);
        self.finish_turn(begun, leaves, Finished { done, turn });
    }

    fn finish_turn(&mut self, begun: Begun, leaves: Vec<Leaving>, finished: Finished) {
        // Nothing that a parked call leaves behind waits for the rest of it.
        if let Finish::Left(Some(finished)) = self.finisher.finish(begun, leaves, finished) {
            self.finished(finished);
        }
    }

    fn acked(&mut self, ack: Ack) {
        if let Some(finished) = self.finisher.acked(ack) {
            self.finished(finished);
        }
    }

    fn transacted(&mut self, answer: Result<Placed, Aborted>) {
        for finished in self.finisher.transacted(answer) {
            self.finished(finished);
        }
    }

    fn finished(&mut self, Finished { done, turn }: Finished) {
        self.tell(done);
        if let Some(turn) = turn {
            self.next_of_key(turn);
        }
    }

    fn tell(&mut self, done: Option<Done>) {
        let Some(Done { queue, first_parked_at }) = done else { return };
        let queue = &mut self.queues[queue];
        queue.drained += 1;
        let parked_for = self.clock.wall().since(first_parked_at);
        self.witness.tell(Fact::Drained { service: queue.route.service, parked_for });
    }

    fn ask_again(&mut self) {
        for queue in &mut self.queues {
            queue.refused_until = None;
            if self.breakers.state(queue.route.service) == StateName::Open {
                queue.route.guard.restart_drain();
            }
        }
    }

    /// Names the calls that run for too long, and says how many they are.
    fn look(&mut self, now: Tick) -> usize {
        let (queues, witness) = (&self.queues, &self.witness);
        self.running.look(now, |Stuck { about, stage, ran }| {
            let service = queues.get(stage).map_or(usize::MAX, |queue| queue.route.service);
            witness.tell(Fact::Stuck { service, source: &about.source, event: about.event, ran });
        })
    }

    /// Gives up what has grown too old while it waited, and shows the queues.
    fn look_through(&mut self) {
        let (now, wall) = (self.clock.now(), self.clock.wall());
        for index in 0..self.queues.len() {
            let queue = &mut self.queues[index];
            let max_age = queue.route.bounds.max_age;
            let oldest =
                |queue: &Queue<W>| queue.to_be_made().flat_map(DueQueue::iter).map(|waiting| waiting.parked.parking.first_parked_at).min();
            if oldest(queue).is_some_and(|oldest| wall.since(oldest) > max_age) {
                for waiting in queue.remove_to_be_made(|waiting| wall.since(waiting.parked.parking.first_parked_at) > max_age) {
                    let attempts = waiting.parked.parking.attempt;
                    self.give_up(index, waiting, Code::Expired, attempts);
                }
            }
            let queue = &self.queues[index];
            let shelved = self.shelf.of(index, now);
            let gauge = Gauge {
                held: queue.waiting() + self.keys.len_of(index) + queue.running + shelved.calls,
                due: queue.to_be_made().map(|calls| calls.due(now)).sum::<usize>() + shelved.due,
                oldest: oldest(queue).into_iter().chain(self.keys.oldest_of(index)).chain(shelved.oldest).min(),
                shelved: shelved.calls,
                drained: queue.drained,
            };
            self.gauges.show(queue.route.service, gauge);
        }
    }

    /// Cuts off what was begun in lives that have ended: its call is another's to make.
    fn cut_off_ended(&mut self) {
        if !self.finisher.have_lives_ended() {
            return;
        }
        for (index, stub) in self.running.cut_off(|(_, stub)| self.finisher.is_over(stub)) {
            self.finisher.drop_stub(&stub);
            self.queues[index].running -= 1;
        }
    }

    fn is_idle(&self) -> bool {
        self.running.is_empty() && self.finisher.is_empty() && self.hand_overs.is_empty()
    }
}

/// When a breaker that refuses is asked again though nothing was heard of it: a probe that was lost gives its place back in silence.
fn ask_again_at(retry_at: Option<Tick>, now: Tick) -> Tick {
    retry_at.unwrap_or(now.plus(UNHEARD)).max(now.plus(SOON))
}

#[cfg(test)]
mod tests;
