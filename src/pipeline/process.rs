//! The live path: records in, outcomes out, offsets committed behind them.
//!
//! One task drives everything: it takes what the consumer brings, keeps each key's events in order, runs as many at once as it may,
//! publishes what they leave behind, and commits what is finished. Nothing in it waits for one event.
//!
//! Guarantees: an event is finished only when Kafka has acknowledged everything that it leaves behind; no commit passes one that is not; what
//! was begun before a partition was given up changes nothing after, and calls no service any more.

use std::collections::{HashMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use foldhash::quality::RandomState;
use futures_util::future::FutureExt;

use self::intake::Suspect;
use super::brakes::{Board, Brakes};
use super::facts::Fact;
use super::finisher::{Begun, Finish, Finisher, Park, Stub};
use super::hand_over::HandOvers;
use super::leave::{cut_calls_later, leave};
use super::ports::{Aborted, Ack, Acks, Budget, Clock, Intake, Placed, Subscription, Witness, World};
use super::pulse::{Pulse, ROUND};
use super::running::{About, Running, Stuck};
use super::stages::{EventEnd, Leaving, Left, Stages, unreadable};
use super::stop::{Ended, Stop};
use super::timers::Alarm;
use crate::event::dead_letter::Code;
use crate::event::outcome::Status;
use crate::event::{Event, Incoming, Partition, TopicPartition};
use crate::machine::brake;
use crate::machine::lanes::Lanes;
use crate::machine::time::Tick;

mod intake;

/// What is kept in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ordering {
    /// Events of one key, within their partition.
    Key,
    /// Events of one partition.
    Partition,
    /// Nothing.
    Unordered,
}

/// How events are processed.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What is kept in order.
    pub ordering: Ordering,
    /// Events running at once.
    pub concurrency: usize,
    /// The largest event that is read, bytes.
    pub max_event_bytes: usize,
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
    /// When a partition whose records are bad is stopped; `None`: never.
    pub brake: Option<brake::Settings>,
}

/// What a processor is made of.
pub struct Parts<W: World, S> {
    /// How events are processed.
    pub settings: Settings,
    /// What is done with each.
    pub stages: Arc<Stages<W>>,
    /// Where they come from.
    pub subscription: S,
    /// Where what they leave behind goes.
    pub publisher: W::Publisher,
    /// What Kafka says of it.
    pub acks: Acks,
    /// What is read and not finished.
    pub budget: Arc<Budget>,
    /// When to stop.
    pub stop: Stop,
    /// Where it shows that it goes on.
    pub pulse: Arc<Pulse>,
    /// Where its partitions are shown, and let go on.
    pub board: Arc<Board>,
}

/// Runs until told to stop, or until the consumer ends.
pub async fn run<W: World, S: Subscription>(parts: Parts<W, S>) -> Ended {
    let Parts { settings, stages, mut subscription, publisher, mut acks, budget, stop, pulse, board } = parts;
    let (clock, chance, witness) = (stages.clock.clone(), stages.chance.clone(), Arc::clone(&stages.witness));
    let (commit_interval, stop_timeout, hand_over_timeout) = (settings.commit_interval, settings.stop_timeout, settings.hand_over_timeout);
    let mut processor = Processor {
        finisher: Finisher::new(publisher, settings.max_ahead_bytes, budget, stages.dead_letters.clone(), clock.clone(), chance, witness)
            .together(settings.together)
            .telling_skipped(settings.brake.is_some())
            .telling_parks(!stages.behind.is_empty()),
        brakes: Brakes::new(settings.brake.clone(), Arc::clone(&board)),
        settings,
        longest: stages.longest(),
        stages,
        clock: clock.clone(),
        now: 0,
        arrived: VecDeque::new(),
        lanes: Lanes::new(),
        hasher: RandomState::default(),
        running: Running::default(),
        hand_overs: HandOvers::default(),
        held: HashMap::default(),
        cut_short: 0,
    };
    let mut next_commit = clock.now().plus(commit_interval);
    let mut next_look = clock.now().plus(ROUND);
    let mut stopping: Option<Tick> = None;
    let mut cut = false;
    let (mut alarm, mut requested) = (Alarm::default(), pin!(stop.requested()));
    loop {
        // A bounded share of what has come back goes first; then new tasks and assignments get their turn before the rest of it, or a busy
        // loop would hear of a revocation too late.
        processor.now = clock.micros();
        for _ in 0..SHARE {
            let Some(ack) = acks.try_recv() else { break };
            processor.acked(ack);
        }
        for _ in 0..SHARE {
            let Some(Some(ran)) = processor.running.next().now_or_never() else { break };
            processor.ran(ran);
        }
        debug_assert!(processor.lanes_are_in_use(), "a lane holds memory, and nothing of it runs or waits");
        let now = clock.now();
        pulse.beat(now);
        if stopping.is_none() {
            processor.take();
            processor.let_in();
            processor.start_ready(now);
        }
        processor.hand_overs.advance(&mut processor.finisher, true, now);
        processor.cut_off_ended();
        processor.finisher.tell_holds(&subscription);
        if stopping.is_none() {
            processor.read_again(&subscription);
        }
        processor.finisher.transact(&subscription);
        if stopping.is_some() && processor.is_idle() {
            break;
        }
        let wake = [Some(next_commit), Some(next_look), stopping, processor.finisher.next_retry(), processor.hand_overs.next_deadline()];
        let wake = wake
            .into_iter()
            .chain([processor.finisher.next_transaction(), processor.brakes.next_due()])
            .flatten()
            .min()
            .unwrap_or(Tick::NEVER);
        alarm.set(wake, &clock);
        tokio::select! {
            biased;
            () = stop.calls_cut(), if stopping.is_some() && !cut => {
                cut = true;
                processor.running.poll_all();
            }
            () = &mut requested, if stopping.is_none() => {
                subscription.stop_taking();
                processor.finisher.hurry();
                processor.let_waiting_go(|_| true);
                stopping = Some(clock.now().plus(stop_timeout));
                cut_calls_later(&stop, &clock, stop_timeout);
            }
            intake = subscription.next() => match intake {
                None => return Ended::ConsumerGone,
                Some(Intake::Records(records)) => processor.arrived(records, stopping.is_some()),
                Some(Intake::Assigned(assignments)) => {
                    // What still waits of a life whose end was not told belongs to nobody: begun in the new one, it would hide what comes before it.
                    processor.let_waiting_go(|partition| assignments.iter().any(|came| came.partition == *partition));
                    processor.stages.behind.came(assignments.iter().map(|came| &came.partition), clock.now());
                    processor.hand_overs.came(&assignments);
                    if processor.brakes.came(&assignments) {
                        processor.finisher.begin_anew(assignments);
                    } else {
                        processor.finisher.assign(assignments);
                    }
                }
                Some(Intake::Revoked(partitions, give_up)) => {
                    processor.let_waiting_go(|partition| partitions.contains(partition));
                    processor.stages.behind.gone(&partitions);
                    processor.brakes.gone(&partitions);
                    let lives = processor.finisher.lives(&partitions);
                    processor.hand_overs.begin(lives, give_up, clock.now().plus(hand_over_timeout));
                    processor.finisher.hurry();
                }
                Some(Intake::Lost(partitions)) => {
                    processor.let_waiting_go(|partition| partitions.contains(partition));
                    processor.stages.behind.gone(&partitions);
                    processor.brakes.gone(&partitions);
                    processor.finisher.lose(&partitions);
                }
                Some(Intake::Transacted(answer)) => processor.transacted(answer),
            },
            Some(ack) = acks.recv() => {
                processor.now = clock.micros();
                processor.acked(ack);
            }
            Some(ran) = processor.running.next(), if !processor.running.is_empty() => processor.ran(ran),
            () = board.asked() => processor.take_orders(),
            () = alarm.rings() => {}
        }
        processor.cut_off_ended();
        let now = clock.now();
        processor.finisher.retry();
        processor.give_up_due(now);
        if next_commit <= now {
            let moved = processor.finisher.moved();
            if !moved.is_empty() {
                subscription.commit(moved);
            }
            next_commit = now.plus(commit_interval);
        }
        if next_look <= now {
            pulse.show_stuck(processor.look(now));
            next_look = now.plus(ROUND);
        }
        if stopping.is_some_and(|deadline| deadline <= now) {
            break;
        }
    }
    pulse.end();
    let unfinished = processor.running.len() + processor.finisher.len() + processor.cut_short;
    leave(subscription, &mut processor.finisher, &mut processor.hand_overs, &clock, stopping, unfinished).await
}

/// Acknowledgements and ended events that are taken in before the loop looks at anything else.
pub(super) const SHARE: usize = 256;

struct Processor<W: World> {
    settings: Settings,
    stages: Arc<Stages<W>>,
    /// What an event's calls may take.
    longest: Duration,
    clock: W::Clock,
    finisher: Finisher<W, Done>,
    /// When the loop last came round, in microseconds: near enough for how long an event took.
    now: u64,
    /// Records that have not begun, in order.
    arrived: VecDeque<Vec<Incoming>>,
    lanes: Lanes<LaneId, Box<Waiting>>,
    hasher: RandomState,
    running: Running<(Option<LaneId>, Stub), Ran>,
    hand_overs: HandOvers,
    brakes: Brakes<Suspect>,
    /// Lanes of events whose outcomes wait for what they speak of.
    held: HashMap<u64, Option<LaneId>, foldhash::fast::RandomState>,
    /// Events that a stop has left to the next instance in the middle of their stages.
    cut_short: usize,
}

type LaneId = (Partition, u64);

/// An event that waits for its lane.
struct Waiting {
    begun: Begun,
    event: Event,
    since: u64,
}

/// An event that has run through its stages.
struct Ran {
    lane: Option<LaneId>,
    begun: Begun,
    since: u64,
    end: EventEnd,
}

/// What is told of an event when it is finished.
struct Done {
    status: Option<Status>,
    since: u64,
}

/// Runs an event through its stages.
async fn run_through<W: World>(stages: Arc<Stages<W>>, lane: Option<LaneId>, waiting: Box<Waiting>) -> Ran {
    // A defect that shows in one event must not stop the partition: the event becomes a dead letter.
    let run = AssertUnwindSafe(stages.run(&waiting.begun.record, &waiting.event)).catch_unwind().await;
    let Waiting { begun, since, event: _ } = *waiting;
    let end = run.unwrap_or_else(|_| {
        let error = "processing the event met a defect; the log has a line about it";
        let now = stages.clock.wall();
        let leaving = unreadable(&begun.record, Code::StageFailed, error, &stages.dead_letters, now);
        EventEnd::Finished { status: None, leaves: vec![leaving] }
    });
    Ran { lane, begun, since, end }
}

impl<W: World> Processor<W> {
    fn arrived(&mut self, records: Vec<Incoming>, stopping: bool) {
        if stopping {
            self.finisher.leave(&records);
            return;
        }
        self.arrived.push_back(records);
    }

    fn start_ready(&mut self, now: Tick) {
        while self.running.len() < self.settings.concurrency {
            let Some((lane, waiting)) = self.lanes.next() else { return };
            let about = About { source: waiting.begun.record.source.clone(), event: waiting.event.id };
            let left = (lane, waiting.begun.stub());
            let run = run_through(Arc::clone(&self.stages), lane, waiting);
            self.running.push(left, about, now, self.longest, run.boxed());
        }
    }

    fn ran(&mut self, ran: Ran) {
        let Ran { lane, begun, since, end } = ran;
        match end {
            EventEnd::Unfinished => {
                self.cut_short += 1;
                self.finisher.forget(&begun);
                self.lanes.done(lane);
            }
            EventEnd::Finished { status, leaves } => self.finish(lane, begun, leaves, Done { status, since }),
        }
    }

    fn finish(&mut self, lane: Option<LaneId>, begun: Begun, leaves: Vec<Leaving>, done: Done) {
        if !self.stages.behind.is_empty() {
            self.note_parks(&begun, &leaves);
        }
        match self.finisher.finish(begun, leaves, done) {
            Finish::Left(done) => {
                self.tell(done);
                self.lanes.done(lane);
            }
            // The next event of the lane may not overtake its outcome.
            Finish::Held(number) => {
                self.held.insert(number, lane);
            }
        }
    }

    /// Before the next event of the key has its turn: it goes behind what this one parks.
    fn note_parks(&self, begun: &Begun, leaves: &[Leaving]) {
        if !self.finisher.is_current(begun) {
            return;
        }
        for Leaving { record, what } in leaves {
            if let Left::Parked { service, .. } = what {
                self.stages.behind.parks(*service, &begun.record.source, record.key.as_deref().unwrap_or_default());
            }
        }
    }

    fn note_park_ends(&mut self) {
        for Park { service, event, end } in self.finisher.parks() {
            self.stages.behind.park_ended(service, &event, end);
        }
    }

    fn acked(&mut self, ack: Ack) {
        let done = self.finisher.acked(ack);
        self.note_park_ends();
        self.tell(done);
        self.free_left();
    }

    fn transacted(&mut self, answer: Result<Placed, Aborted>) {
        self.now = self.clock.micros();
        for done in self.finisher.transacted(answer) {
            self.tell(Some(done));
        }
        self.note_park_ends();
    }

    fn tell(&self, done: Option<Done>) {
        if let Some(Done { status, since }) = done {
            let took = Duration::from_micros(self.now.saturating_sub(since));
            self.stages.witness.tell(Fact::Finished { status, took });
        }
    }

    /// Names what runs for too long, and says how much that is.
    fn look(&mut self, now: Tick) -> usize {
        let stages = &self.stages;
        self.running.look(now, |Stuck { about, stage, ran }| {
            let service = stages.stages.get(stage).map_or(usize::MAX, |stage| stage.service);
            stages.witness.tell(Fact::Stuck { service, source: &about.source, event: about.event, ran });
        })
    }

    /// Cuts off what was begun in lives that have ended: it must not go on calling services, nor hold up its lane.
    fn cut_off_ended(&mut self) {
        if !self.finisher.have_lives_ended() {
            return;
        }
        for (lane, stub) in self.running.cut_off(|(_, stub)| self.finisher.is_over(stub)) {
            self.finisher.drop_stub(&stub);
            self.lanes.done(lane);
        }
        for waiting in self.lanes.remove(|waiting| !self.finisher.is_current(&waiting.begun)) {
            self.finisher.forget(&waiting.begun);
        }
        self.free_left();
    }

    fn free_left(&mut self) {
        for number in self.finisher.left() {
            self.lanes.done(self.held.remove(&number).flatten());
        }
    }

    /// Lets go what has not begun to run.
    fn let_waiting_go(&mut self, leaves: impl Fn(&TopicPartition) -> bool) {
        for records in &mut self.arrived {
            let left: Vec<_> = records.extract_if(.., |record| leaves(&record.source.topic_partition())).collect();
            self.finisher.leave(&left);
        }
        self.finisher.let_held_go(&leaves);
        for suspect in self.brakes.let_go(&leaves) {
            self.finisher.forget(&suspect.begun);
        }
        for waiting in self.lanes.remove(|waiting| leaves(&waiting.begun.record.source.topic_partition())) {
            self.finisher.forget(&waiting.begun);
        }
    }

    fn lanes_are_in_use(&self) -> bool {
        self.lanes.lanes() <= self.lanes.len() + self.running.len() + self.held.len()
    }

    fn is_idle(&self) -> bool {
        self.running.is_empty() && self.finisher.is_empty() && self.hand_overs.is_empty()
    }
}

#[cfg(test)]
mod tests;
