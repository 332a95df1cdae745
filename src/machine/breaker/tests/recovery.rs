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
    /// Takes other settings: these of [`others`].
    Retune(u8),
    /// A lease is granted; none is to be had; the store fails; it is away, or back.
    Grant,
    Keep,
    Forgo,
    Share(bool),
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
    Step::Retune(0),
    Step::Retune(1),
    Step::Retune(2),
    Step::Retune(3),
];

/// What the settings of a search may be changed to.
fn others(settings: &Settings) -> [Arc<Settings>; 4] {
    let [count, time, ..] = windows();
    let (none, little) = (Duration::ZERO, Duration::from_millis(2));
    [
        settings.clone(),
        Settings { policy: count, permits: 3, half_open_failure_rate: Some(0.0), half_open_timeout: None, ..settings.clone() },
        Settings {
            policy: time,
            permits: 1,
            success_threshold: 2,
            half_open_failure_rate: None,
            recovery_timeout: none,
            ..settings.clone()
        },
        Settings { policy: consecutive(1), half_open_timeout: Some(little), lease: none, ramp: little, ..settings.clone() },
    ]
    .map(Arc::new)
}
/// The same with probes that the fleet shares.
const LEASE_STEPS: &[Step] = &[
    Step::Admit,
    Step::End(Some(Verdict::Success)),
    Step::End(Some(FAILURE)),
    Step::Lose,
    Step::Wait(1),
    Step::Wait(3),
    Step::Wait(2_500),
    Step::Reset(Automatic::HalfOpen),
    Step::Hear(1, 1),
    Step::Grant,
    Step::Keep,
    Step::Forgo,
    Step::Share(true),
    Step::Share(false),
];

struct World {
    others: [Arc<Settings>; 4],
    breaker: Breaker,
    out: VecDeque<Permit>,
    now: u64,
}

impl World {
    fn after(others: &[Arc<Settings>; 4], path: &[Step]) -> Self {
        let mut world =
            Self { others: others.clone(), breaker: Breaker::new(Arc::clone(&others[0]), Tick(0)), out: VecDeque::new(), now: 0 };
        for step in path {
            world.take(*step);
        }
        world
    }

    fn take(&mut self, step: Step) {
        let now = Tick(self.now);
        match step {
            Step::Admit => self.out.extend(self.breaker.admit(now, || 0.0).0),
            Step::End(verdict) => match (self.out.pop_front(), verdict) {
                (Some(permit), Some(verdict)) => drop(settle(&mut self.breaker, permit, verdict, self.now)),
                (Some(permit), None) => self.breaker.abandon(permit, Tick(0)),
                (None, _) => {}
            },
            Step::Lose => drop(self.out.pop_front()),
            Step::Wait(millis) => self.now = self.now.saturating_add(millis).min(u64::MAX / 2),
            Step::Lock(kind, ttl) => drop(self.breaker.lock(lock(kind, ttl.map(|ttl| self.now + ttl)), now)),
            Step::Release => drop(self.breaker.release("ann", "drill", now)),
            Step::Grant => {
                self.breaker.grant(self.breaker.generation(), Lease { id: self.now, use_by: now.plus(Duration::from_millis(2)) }, now);
            }
            Step::Keep => self.breaker.keep_to_leases(self.breaker.generation(), now),
            Step::Forgo => drop(self.breaker.do_without_leases()),
            Step::Share(shared) => self.breaker.share_probes(shared, now),
            Step::Reset(state) => drop(self.breaker.reset_to(state, "ann", "drill", now, || 0.0)),
            Step::Hear(ahead, held) => {
                let held =
                    [Held::Closed, Held::Open { until: now.plus(Duration::from_millis(2)) }, Held::HalfOpen][usize::from(held)].clone();
                let heard = Snapshot { trips: 1, ..snapshot(self.breaker.generation().0 + ahead, held) };
                self.breaker.yield_to(&heard, now);
            }
            Step::Retune(number) => {
                self.breaker.retune(Arc::clone(&self.others[usize::from(number)]), now, || 0.0);
            }
        }
    }

    /// The state with its times counted from now, so that the same state at another time is the same.
    fn key(&mut self) -> String {
        let tenure = self.breaker.tenure(Tick(self.now));
        let left = |at: Tick| at.0.saturating_sub(self.now);
        let state = match &self.breaker.state {
            State::Closed { ramping } => format!("closed {ramping}"),
            State::Open { until, .. } => format!("open {}", left(*until)),
            State::HalfOpen(half_open) => {
                let known = |id| self.out.iter().any(|permit| permit.probe == Some(id));
                let leases: Vec<_> = half_open.probes.iter().map(|probe| (left(probe.lease_ends), known(probe.id))).collect();
                format!("half-open {leases:?} {:?}", self.breaker.next_deadline().map(left))
            }
            State::Locked(lock) => format!("{:?} {:?}", lock.kind, lock.expires_at.map(left)),
        };
        let current: Vec<_> = self.out.iter().map(|permit| permit.life == self.breaker.life).collect();
        let settings = self.others.iter().position(|settings| Arc::ptr_eq(settings, self.breaker.settings()));
        let unused: Vec<_> = tenure.unused.iter().map(|lease| left(lease.use_by)).collect();
        format!(
            "{settings:?} {state} {unused:?} {} {:?} {current:?} {}",
            tenure.used.len(),
            self.breaker.counts(Tick(self.now)),
            self.breaker.trips.min(2)
        )
    }

    /// The service works from now on. A lock for good is taken off, another's end awaited; else nobody does anything but call, and wait as
    /// they are told.
    fn heal(&mut self) -> Result<(), String> {
        match &self.breaker.state {
            State::Locked(lock) => match lock.expires_at {
                None => self.take(Step::Release),
                Some(at) => self.now = self.now.max(at.0),
            },
            State::Closed { .. } | State::Open { .. } | State::HalfOpen(_) => {}
        }
        let settings = Arc::clone(self.breaker.settings());
        let enough = settings.round().map_or(settings.success_threshold, |round| round.size).max(1) + 8;
        for _ in 0..enough {
            let (answer, _) = self.breaker.admit(Tick(self.now), || 0.0);
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

fn explore(settings: &Settings, steps: &[Step], depth: usize) -> usize {
    let others = others(settings);
    let mut seen = HashSet::new();
    let mut paths: VecDeque<Vec<Step>> = VecDeque::from([Vec::new()]);
    while let Some(path) = paths.pop_front() {
        for step in steps {
            let mut path = path.clone();
            path.push(*step);
            let mut world = World::after(&others, &path);
            if !seen.insert(world.key()) {
                continue;
            }
            if let Err(stuck) = world.heal() {
                panic!("after {path:?}: {stuck}");
            }
            if path.len() < depth && world.out.len() < 4 {
                paths.push_back(path);
            }
        }
    }
    seen.len()
}

/// A window as small as the search: a call or two decide.
fn windows() -> [PolicySettings; 4] {
    let rates = Rates { minimum_calls: 2, failure_rate: 0.5, slow_call_rate: 1.0, slow_call_duration: Duration::from_millis(1) };
    let count = PolicySettings::Count { size: 3, rates };
    let time = PolicySettings::Time { window: Duration::from_secs(2), rates };
    let trip = Trip::compile("consecutive >= 2 || failure_rate >= 0.5 && calls >= 3").expect("is CEL");
    let expression = PolicySettings::Expression { trip, over: Over::Calls(4), slow: Duration::MAX };
    [count.clone(), time.clone(), expression, PolicySettings::Any(vec![count, time])]
}

#[test]
fn a_working_service_closes_its_breaker_from_every_reachable_state() {
    let small = Settings {
        recovery_timeout: Duration::from_millis(3),
        lease: Duration::from_millis(2),
        ..Settings::new(consecutive(2), Duration::from_millis(3), Duration::from_millis(2))
    };
    for (permits, success_threshold, lease) in [(1, 1, 2), (2, 2, 2), (2, 3, 1), (0, 0, 0), (0, 2, 0), (u32::MAX, 2, 2)] {
        let settings = Settings { permits, success_threshold, lease: Duration::from_millis(lease), ..small.clone() };
        let states = explore(&settings, STEPS, 8);
        assert!(states > 1_000, "only {states} states were reached: the search has lost its way");
    }
    for (permits, success_threshold) in [(1, 1), (2, 2)] {
        let settings = Settings { permits, success_threshold, ..small.clone() };
        let states = explore(&settings, LEASE_STEPS, 6);
        assert!(states > 200, "only {states} states were reached: the search has lost its way");
    }
    let round = |rate, timeout: Option<u64>, ramp| Settings {
        permits: 2,
        half_open_failure_rate: rate,
        half_open_timeout: timeout.map(Duration::from_millis),
        ramp: Duration::from_millis(ramp),
        ..small.clone()
    };
    for (number, settings) in [round(Some(0.5), None, 0), round(Some(1.0), Some(0), 5), round(None, Some(2), 5)].into_iter().enumerate() {
        for policy in windows().into_iter().chain([consecutive(2)]) {
            let states = explore(&Settings { policy, ignore_first: number as u32, ..settings.clone() }, STEPS, 6);
            assert!(states > 1_000, "only {states} states were reached: the search has lost its way");
        }
    }
}
