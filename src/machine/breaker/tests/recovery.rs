//! From every state that can be reached, a service that works closes its breaker: searched, not sampled.

use std::collections::{HashSet, VecDeque};

use super::*;

/// What may happen next. Small numbers, so that different ways meet in the same states.
#[derive(Debug, Clone, Copy)]
enum Step {
    Admit,
    /// Ends the oldest call that is out.
    End(Option<Verdict>),
    /// Loses the oldest call that is out: its end never comes.
    Lose,
    Wait(u64),
    Lock(LockKind, Option<u64>),
    Release,
    Reset(Automatic),
    /// Hears of another instance's state in the generation this far above.
    Hear(u64, u8),
}

const STEPS: &[Step] = &[
    Step::Admit,
    Step::End(Some(Verdict::Success)),
    Step::End(Some(FAILURE)),
    Step::End(None),
    Step::Lose,
    Step::Wait(1),
    Step::Wait(3),
    Step::Wait(u64::MAX / 4),
    Step::Lock(LockKind::ForcedOpen, None),
    Step::Lock(LockKind::ForcedOpen, Some(2)),
    Step::Lock(LockKind::MetricsOnly, Some(2)),
    Step::Lock(LockKind::ForcedClosed, None),
    Step::Release,
    Step::Reset(Automatic::Open),
    Step::Reset(Automatic::HalfOpen),
    Step::Hear(0, 0),
    Step::Hear(0, 1),
    Step::Hear(1, 1),
    Step::Hear(1, 2),
];

struct World {
    breaker: Breaker,
    out: VecDeque<Permit>,
    now: u64,
}

impl World {
    fn after(settings: &Settings, path: &[Step]) -> Self {
        let mut world = Self { breaker: Breaker::new(settings.clone(), Tick(0)), out: VecDeque::new(), now: 0 };
        for step in path {
            world.take(*step);
        }
        world
    }

    fn take(&mut self, step: Step) {
        let now = Tick(self.now);
        match step {
            Step::Admit => self.out.extend(self.breaker.admit(now).0),
            Step::End(verdict) => match (self.out.pop_front(), verdict) {
                (Some(permit), Some(verdict)) => drop(settle(&mut self.breaker, permit, verdict, self.now)),
                (Some(permit), None) => self.breaker.abandon(permit),
                (None, _) => {}
            },
            Step::Lose => drop(self.out.pop_front()),
            Step::Wait(millis) => self.now = self.now.saturating_add(millis).min(u64::MAX / 2),
            Step::Lock(kind, ttl) => drop(self.breaker.lock(lock(kind, ttl.map(|ttl| self.now + ttl)), now)),
            Step::Release => drop(self.breaker.release("ann", "drill", now)),
            Step::Reset(state) => drop(self.breaker.reset_to(state, "ann", "drill", now, || 0.0)),
            Step::Hear(ahead, held) => {
                let held =
                    [Held::Closed, Held::Open { until: now.plus(Duration::from_millis(2)) }, Held::HalfOpen][usize::from(held)].clone();
                let heard = Snapshot { trips: 1, ..snapshot(self.breaker.generation().0 + ahead, held) };
                self.breaker.yield_to(&heard, now);
            }
        }
    }

    /// The state with its times counted from now, so that the same state at another time is the same.
    fn key(&self) -> String {
        let left = |at: Tick| at.0.saturating_sub(self.now);
        let state = match &self.breaker.state {
            State::Closed => "closed".to_owned(),
            State::Open { until } => format!("open {}", left(*until)),
            State::HalfOpen { probes, successes } => {
                let leases: Vec<_> =
                    probes.iter().map(|probe| (left(probe.lease_ends), self.out.iter().any(|p| p.probe == Some(probe.id)))).collect();
                format!("half-open {leases:?} {successes}")
            }
            State::Locked(lock) => format!("{:?} {:?}", lock.kind, lock.expires_at.map(left)),
        };
        let current: Vec<_> = self.out.iter().map(|permit| permit.life == self.breaker.life).collect();
        format!("{state} {:?} {current:?} {}", self.breaker.counts(Tick(self.now)).failures, self.breaker.trips.min(2))
    }

    /// The service works from now on. A lock for good is taken off, another's end awaited; else nobody does anything but call, and wait as
    /// they are told.
    fn heal(&mut self, settings: &Settings) -> Result<(), String> {
        match &self.breaker.state {
            State::Locked(Lock { expires_at: None, .. }) => self.take(Step::Release),
            State::Locked(Lock { expires_at: Some(at), .. }) => self.now = self.now.max(at.0),
            State::Closed | State::Open { .. } | State::HalfOpen { .. } => {}
        }
        let enough = settings.success_threshold.max(1) + 4;
        for _ in 0..enough {
            let (answer, _) = self.breaker.admit(Tick(self.now));
            match answer {
                Ok(permit) => drop(settle(&mut self.breaker, permit, Verdict::Success, self.now)),
                Err(Refusal { until: Some(until), .. }) => self.now = self.now.max(until.0),
                Err(refusal) => return Err(format!("{refusal:?} names no time")),
            }
            if self.breaker.state_name() == StateName::Closed {
                return Ok(());
            }
        }
        Err(format!("still {:?}", self.breaker))
    }
}

fn explore(settings: &Settings, depth: usize) -> usize {
    let mut seen = HashSet::new();
    let mut paths: VecDeque<Vec<Step>> = VecDeque::from([Vec::new()]);
    while let Some(path) = paths.pop_front() {
        for step in STEPS {
            let mut path = path.clone();
            path.push(*step);
            let mut world = World::after(settings, &path);
            if !seen.insert(world.key()) {
                continue;
            }
            if let Err(stuck) = world.heal(settings) {
                panic!("after {path:?}: {stuck}");
            }
            if path.len() < depth && world.out.len() < 4 {
                paths.push_back(path);
            }
        }
    }
    seen.len()
}

#[test]
fn a_working_service_closes_its_breaker_from_every_reachable_state() {
    let small = Settings {
        policy: PolicySettings::Consecutive { fail_max: NonZeroU32::new(2).expect("is not zero") },
        recovery_timeout: Duration::from_millis(3),
        lease: Duration::from_millis(2),
        ..settings()
    };
    for (permits, success_threshold, lease) in [(1, 1, 2), (2, 2, 2), (2, 3, 1), (0, 0, 0), (0, 2, 0), (u32::MAX, 2, 2)] {
        let settings = Settings { permits, success_threshold, lease: Duration::from_millis(lease), ..small.clone() };
        let states = explore(&settings, 5);
        assert!(states > 200, "only {states} states were reached: the search has lost its way");
    }
}
