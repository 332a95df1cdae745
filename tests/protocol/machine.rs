//! The program's own breaker, as states that can be compared, hashed and branched from.
//!
//! A breaker can be none of this, and its permits must not be copied. So a state is the way to it: what was done to a new breaker, in order. It is
//! done again to go on from there. Two ways lead to the same state if the breakers and permits look the same, every field of them; what follows
//! from a step is remembered, so that each is taken once.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fusebox::machine::breaker::{
    Automatic, Breaker, Cause, Generation, Lease, Lock, LockKind, Permit, Settings, Snapshot, StateName, Tenure, Verdict,
};
use fusebox::machine::time::Tick;

use super::store::State;
use super::wire::snapshot_of;

/// What can be done to a breaker.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Op {
    /// A call asks; the permit is kept by this number.
    Admit(u8),
    /// The call of that number has worked, or not.
    Settle(u8, bool),
    /// Time has passed.
    Advance,
    Adopt(State, Cause),
    YieldTo(State),
    StandBy(State),
    Lock(LockKind, Option<Tick>, &'static str),
    Reset(Automatic),
    Release,
    Share(bool),
    Grant(Generation, u64, Tick),
    KeepToLeases(Generation),
    DoWithoutLeases,
    Revoke(u64),
}

/// A change of state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moved {
    pub from: StateName,
    pub to: StateName,
    pub cause: Cause,
    pub before: Generation,
    pub generation: Generation,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    pub moved: Option<Moved>,
    /// A call was admitted, its verdict counted, a lease was taken or taken back, something was given up.
    pub done: bool,
    /// The admitted call is a probe, and went with a lease.
    pub probe: bool,
    pub leased: bool,
}

/// A state.
#[derive(Debug)]
pub struct Node {
    id: u128,
    path: Option<(Arc<Node>, Op, Tick)>,
    began: Tick,
    pub snapshot: Snapshot,
    pub tenure: Tenure,
}

impl PartialEq for Node {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for Node {}

impl Hash for Node {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id.hash(state);
    }
}

/// A breaker and the permits of its calls.
struct Live {
    breaker: Breaker,
    permits: Vec<(u8, Permit)>,
}

/// From which state, what, and when.
type Step = (u128, Op, Tick);

/// All states that were met.
#[derive(Debug)]
pub struct Machines {
    settings: Arc<Settings>,
    nodes: Mutex<HashMap<u128, Arc<Node>>>,
    steps: Mutex<HashMap<Step, (Arc<Node>, Outcome)>>,
}

impl Machines {
    pub fn new(settings: Settings) -> Self {
        Self { settings: Arc::new(settings), nodes: Mutex::default(), steps: Mutex::default() }
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// A breaker that begins now.
    pub fn begin(&self, now: Tick) -> Arc<Node> {
        let mut live = Live::new(Arc::clone(&self.settings), now);
        self.node(&mut live, None, now, now)
    }

    /// The state after it.
    pub fn step(&self, node: &Arc<Node>, op: &Op, now: Tick) -> (Arc<Node>, Outcome) {
        let key = (node.id, op.clone(), now);
        if let Some(known) = self.steps.lock().expect("whole").get(&key) {
            return known.clone();
        }
        let mut live = self.live(node);
        let outcome = live.apply(op, now);
        let next = self.node(&mut live, Some((Arc::clone(node), op.clone(), now)), node.began, now);
        let step = (next, outcome);
        self.steps.lock().expect("whole").insert(key, step.clone());
        step
    }

    fn live(&self, node: &Arc<Node>) -> Live {
        let mut way = Vec::new();
        let mut at = node;
        while let Some((before, op, now)) = &at.path {
            way.push((op, *now));
            at = before;
        }
        let mut live = Live::new(Arc::clone(&self.settings), node.began);
        live.breaker.tenure(node.began);
        for (op, now) in way.into_iter().rev() {
            live.apply(op, now);
            live.breaker.tenure(now);
        }
        live
    }

    fn node(&self, live: &mut Live, path: Option<(Arc<Node>, Op, Tick)>, began: Tick, now: Tick) -> Arc<Node> {
        let tenure = live.breaker.tenure(now);
        live.permits.sort_by_key(|(number, _)| *number);
        let text = format!("{:?} {:?}", live.breaker, live.permits);
        let half = |salt: u8| {
            let mut hasher = DefaultHasher::new();
            (salt, &text).hash(&mut hasher);
            u128::from(hasher.finish())
        };
        let id = half(0) << 64 | half(1);
        let node = || Arc::new(Node { id, path, began, snapshot: live.breaker.snapshot(), tenure });
        Arc::clone(self.nodes.lock().expect("whole").entry(id).or_insert_with(node))
    }
}

impl Live {
    fn new(settings: Arc<Settings>, now: Tick) -> Self {
        Self { breaker: Breaker::new(settings, now), permits: Vec::new() }
    }

    fn take(&mut self, number: u8) -> Permit {
        let place = self.permits.iter().position(|(known, _)| *known == number).expect("a call that is out");
        self.permits.swap_remove(place).1
    }

    fn apply(&mut self, op: &Op, now: Tick) -> Outcome {
        let (from, before) = (self.breaker.state_name(), self.breaker.generation());
        let leases = self.breaker.tenure(now).used.len();
        let (mut done, mut probe) = (false, false);
        let breaker = &mut self.breaker;
        let moved = match op {
            Op::Admit(number) => {
                let (answer, moved) = breaker.admit(now, || 0.0);
                if let Ok(permit) = answer {
                    (done, probe) = (true, permit.is_probe());
                    self.permits.push((*number, permit));
                }
                moved.map(|moved| *moved)
            }
            Op::Settle(number, works) => {
                let verdict = if *works { Verdict::Success } else { Verdict::Failure { retry_after: None } };
                let permit = self.take(*number);
                let settled = self.breaker.settle(permit, verdict, Duration::ZERO, now, || 0.0);
                done = !settled.late;
                settled.transition.map(|moved| *moved)
            }
            Op::Advance => {
                let moved = breaker.advance(now);
                done = breaker.give_up(now);
                moved
            }
            Op::Adopt(state, cause) => breaker.adopt(&snapshot_of(state, now), *cause, now),
            Op::YieldTo(state) => breaker.yield_to(&snapshot_of(state, now), now),
            Op::StandBy(state) => breaker.stand_by(&snapshot_of(state, now), now),
            Op::Lock(kind, expires_at, actor) => {
                let lock = Lock { kind: *kind, actor: (*actor).to_owned(), reason: String::new(), expires_at: *expires_at };
                Some(breaker.lock(lock, now))
            }
            Op::Reset(to) => Some(breaker.reset_to(*to, "ann", "", now, || 0.0)),
            Op::Release => breaker.release("ann", "", now),
            Op::Share(shared) => {
                breaker.share_probes(*shared, now);
                None
            }
            Op::Grant(generation, id, use_by) => {
                done = breaker.grant(*generation, Lease { id: *id, use_by: *use_by }, now);
                None
            }
            Op::KeepToLeases(generation) => {
                breaker.keep_to_leases(*generation, now);
                None
            }
            Op::DoWithoutLeases => {
                done = breaker.do_without_leases();
                None
            }
            Op::Revoke(id) => {
                done = breaker.revoke(*id);
                None
            }
        };
        let leased = self.breaker.tenure(now).used.len() > leases;
        let moved = moved.map(|moved| Moved { from, to: moved.to, cause: moved.cause, before, generation: moved.generation });
        Outcome { moved, done, probe, leased }
    }
}
