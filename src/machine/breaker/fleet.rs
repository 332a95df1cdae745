//! What a fleet's instances tell each other of a breaker's life, and what follows: evidence weighed over all of them, and a quorum.
//!
//! ```text
//!   this one's policy trips ──▶ quorum 1: the fleet opens
//!                           └─▶ else this one opens alone, and says so ─┐
//!   others tell of failures, or that they opened alone ─────────────────┴─▶ quorum reached: the fleet opens
//! ```
//!
//! - The fleet opens when [`Settings::quorum`] instances see failures (have some in their windows, or have opened alone), and either as many
//!   have opened alone or, with [`Scope::Fleet`], the sum of all their figures trips the policy. So a healthy instance masks nobody: what
//!   each weighs for itself it goes on weighing.
//! - Alone, a breaker goes its own way: open, half-open with probes of its own, closed again. For the fleet it is still the closed breaker of
//!   that generation ([`Breaker::snapshot`] says so), and whatever newer state it hears of ends that. So does an order. Its trips alone, and the
//!   longer open times that they led to, end with it.
//! - Half-open, the results of all instances' probes are weighed as if one instance had them, and the longest `Retry-After` among them holds.
//! - What was told of one generation is never weighed in another.
//!
//! What it leaves to others: telling and hearing ([`crate::pipeline::evidence`]). Until something is heard, a breaker weighs what it knows.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use super::leases::Leases;
use super::{Breaker, Cause, Counts, Generation, Over, PolicySettings, Settings, State, Transition};
use crate::machine::time::Tick;

/// Whose verdicts a breaker weighs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Each instance its own.
    #[default]
    Instance,
    /// Besides, the sum of all instances' figures.
    Fleet,
}

/// How long figures are evidence that are over the last calls and not over a time.
pub(super) const MEMORY: Duration = Duration::from_secs(60);

/// The same for results of probes: longer than a stay in half-open usually is.
const PROBES_MEMORY: Duration = Duration::from_secs(3_600);

/// The most other instances that a transition names as having seen failures.
const NAMED: usize = 16;

/// What one instance has to say of a breaker in one generation.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Testimony {
    /// The life it is of.
    pub generation: Generation,
    /// Whether the breaker has opened alone, and has not closed since.
    pub alone: bool,
    /// What weighs the figures: they are added to those of the same kind only, for a window of calls and one of seconds are not one.
    pub kind: u64,
    /// The figures of its policy, of each one in turn if it has several; half-open those of the probes.
    pub figures: Vec<Counts>,
    /// Half-open, the longest `Retry-After` among the failures.
    pub retry_after: Option<Duration>,
}

impl Testimony {
    /// Whether it sees failures: by its figures, or because it has opened alone.
    pub fn sees_failures(&self) -> bool {
        self.alone || self.figures.iter().any(|counts| counts.failures > 0 || counts.slow > 0)
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        !self.alone && self.figures.iter().all(|counts| *counts == Counts::default())
    }
}

/// Another instance's testimony.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Told {
    /// Whose.
    pub instance: String,
    /// What it said.
    pub testimony: Testimony,
}

/// What the whole fleet, this instance included, has to say of a breaker's life.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct FleetCounts {
    /// Instances that have something to say.
    pub instances: u32,
    /// Of these, those that see failures.
    pub failing: u32,
    /// Of these, those that have opened alone.
    pub alone: u32,
    /// The sum of the figures that are weighed together, of the first policy if there are several.
    pub counts: Counts,
    /// Some of those that see failures, by name.
    pub failing_instances: BTreeSet<String>,
}

/// A breaker's part in its fleet.
#[derive(Debug)]
pub(super) struct Membership {
    /// This instance's name.
    name: Arc<str>,
    /// Alone: since when the fleet's breaker is closed.
    pub alone: Option<Tick>,
    /// What the others have said of this life.
    others: Option<Others>,
}

/// What others have said, added up.
#[derive(Debug, Default, Clone)]
struct Others {
    /// Of them all, but for the sum of their figures.
    counts: FleetCounts,
    /// The sums of those figures that are of our kind.
    figures: Vec<Counts>,
    /// The longest `Retry-After` that they name.
    retry_after: Option<Duration>,
}

impl Membership {
    /// Another life begins.
    pub fn begin(&mut self) {
        (self.alone, self.others) = (None, None);
    }

    /// What the others say, and this instance.
    fn fleet_counts(&self, ours: &Testimony) -> Option<FleetCounts> {
        let Others { counts: others, figures, .. } = self.others.as_ref()?;
        let mut failing_instances = others.failing_instances.clone();
        if ours.sees_failures() {
            failing_instances.insert(self.name.to_string());
        }
        Some(FleetCounts {
            instances: others.instances + 1,
            failing: others.failing + u32::from(ours.sees_failures()),
            alone: others.alone + u32::from(ours.alone),
            counts: first(figures).plus(first(&ours.figures)),
            failing_instances,
        })
    }
}

impl Breaker {
    /// Makes it one of a fleet, whose instances tell each other of it; this one by a name of its own.
    pub fn join_fleet(&mut self, name: Arc<str>) {
        self.membership = Some(Box::new(Membership { name, alone: None, others: None }));
    }

    /// Whether it has opened alone, and not closed since: the fleet's breaker is closed.
    pub fn is_alone(&self) -> bool {
        self.membership.as_ref().is_some_and(|membership| membership.alone.is_some())
    }

    /// Whether there is anything that the others should know of this life ([`Breaker::testimony`]).
    pub fn tells(&self) -> bool {
        self.membership.as_ref().is_some_and(|membership| {
            membership.alone.is_some()
                || match &self.state {
                    State::Closed { .. } => self.settings.shares_evidence(),
                    State::HalfOpen(_) => self.settings.probes_that_decide() > 1,
                    State::Open { .. } | State::Locked(_) => false,
                }
        })
    }

    /// What the others should know of this life, and for how long that is of use; `None` if nothing that is told or heard would change it.
    pub fn testimony(&self, now: Tick) -> Option<(Testimony, Duration)> {
        if !self.tells() {
            return None;
        }
        let alone = self.membership.as_ref()?.alone.is_some();
        let of = |figures, kind| Testimony { generation: self.life.generation, alone, kind, figures, retry_after: None };
        let policys = || Some((of(self.policy.figures(now), kind_of(&self.settings.policy)), self.settings.policy.memory()));
        match &self.state {
            State::HalfOpen(half_open) if !alone => {
                let results = of(vec![half_open.results()], kind_of(&"half-open"));
                Some((Testimony { retry_after: half_open.retry_after(), ..results }, PROBES_MEMORY))
            }
            State::Closed { .. } | State::Open { .. } | State::HalfOpen(_) | State::Locked(_) => policys(),
        }
    }

    /// Hears what all others have said of the life `generation`, in place of what was heard before. Nothing is weighed with it if what is known
    /// here is not `current`: figures that have not changed for longer than they are evidence. `roll` as in [`Breaker::settle`].
    pub fn hear(
        &mut self,
        generation: Generation,
        told: &[Told],
        current: bool,
        now: Tick,
        roll: impl FnOnce() -> f64,
    ) -> Option<Transition> {
        if generation != self.life.generation {
            return None;
        }
        let (ours, _) = self.testimony(now)?;
        let others = added_up(told, &ours);
        let (counts, retry_after) = (first(&others.figures), others.retry_after);
        self.membership.as_mut()?.others = Some(others);
        if let State::HalfOpen(half_open) = &mut self.state
            && !ours.alone
        {
            half_open.hear(counts, retry_after);
            let decision = half_open.decide(&self.settings);
            let fleet = self.fleet_counts(now);
            return self.act_on(decision, now, roll).map(|transition| transition.of_fleet(fleet));
        }
        if current { self.weigh_fleet(&ours, now, roll) } else { None }
    }

    /// What the fleet, this instance included, has said of this life; `None` if it is not told of it, or has not heard yet.
    pub fn fleet_counts(&self, now: Tick) -> Option<FleetCounts> {
        let (ours, _) = self.testimony(now)?;
        self.membership.as_ref()?.fleet_counts(&ours)
    }

    /// How many instances must see failures before the fleet opens; 1 where there is no fleet.
    pub(super) fn quorum(&self) -> u32 {
        if self.membership.is_some() { self.settings.quorum.max(1) } else { 1 }
    }

    /// Whether a change for this cause is this instance's alone.
    pub(super) fn goes_alone(&self, cause: Cause) -> bool {
        match cause {
            Cause::Policy => self.quorum() > 1,
            Cause::Timer | Cause::ProbeFailed | Cause::ProbesTooLong | Cause::Recovered => self.is_alone(),
            _ => false,
        }
    }

    /// Since when it is closed for the fleet, if it is.
    pub(super) fn closed_since(&self) -> Option<Tick> {
        match &self.state {
            State::Closed { .. } => Some(self.since),
            _ => self.membership.as_ref()?.alone,
        }
    }

    /// The leases that its probes go by: alone it has none.
    pub(super) fn fleets_leases(&self) -> Option<&Leases> {
        self.leases.as_deref().filter(|_| !self.is_alone())
    }

    /// Before something ends its being alone that is for the whole fleet: for that it has been closed, and has not tripped.
    pub(super) fn forget_own_trips(&mut self) {
        if self.is_alone() {
            self.trips = 0;
        }
    }

    /// Opens the fleet's breaker, if what everybody says is enough.
    fn weigh_fleet(&mut self, ours: &Testimony, now: Tick, roll: impl FnOnce() -> f64) -> Option<Transition> {
        let membership = self.membership.as_ref()?;
        let (fleet, others) = (membership.fleet_counts(ours)?, membership.others.as_ref()?);
        let quorum = self.quorum();
        let sum: Vec<Counts> =
            (0..ours.figures.len()).map(|place| ours.figures[place].plus(others.figures.get(place).copied().unwrap_or_default())).collect();
        let too_much = self.settings.evidence == Scope::Fleet && self.policy.exceeded_by(&sum);
        if fleet.failing < quorum || (fleet.alone < quorum && !too_much) {
            return None;
        }
        self.forget_own_trips();
        Some(self.trip(Cause::Fleet, None, now, roll).of_fleet(Some(fleet)))
    }
}

/// What others say, added up; figures only of the kind of `ours`.
fn added_up(told: &[Told], ours: &Testimony) -> Others {
    let mut others = Others { figures: vec![Counts::default(); ours.figures.len()], ..Others::default() };
    for Told { instance, testimony } in told {
        if testimony.generation != ours.generation {
            continue;
        }
        let counts = &mut others.counts;
        counts.instances += 1;
        counts.alone += u32::from(testimony.alone);
        if testimony.sees_failures() {
            counts.failing += 1;
            if counts.failing_instances.len() < NAMED {
                counts.failing_instances.insert(instance.clone());
            }
        }
        if testimony.kind == ours.kind && testimony.figures.len() == ours.figures.len() {
            for (sum, figures) in others.figures.iter_mut().zip(&testimony.figures) {
                *sum = sum.plus(*figures);
            }
            others.retry_after = others.retry_after.max(testimony.retry_after);
        }
    }
    others
}

/// The figures that stand for all: of the first policy, or of the probes.
fn first(figures: &[Counts]) -> Counts {
    figures.first().copied().unwrap_or_default()
}

/// A number for what weighs figures. Instances of one build agree on it; those of two builds may not, and then weigh apart until all are of one.
fn kind_of(what: &impl std::fmt::Debug) -> u64 {
    let mut hasher = DefaultHasher::new();
    format!("{what:?}").hash(&mut hasher);
    // What a store keeps exactly.
    hasher.finish() >> 16
}

impl PolicySettings {
    /// How long a verdict is evidence.
    fn memory(&self) -> Duration {
        match self {
            Self::Time { window, .. } | Self::Expression { over: Over::Time(window), .. } => *window,
            Self::Adaptive(settings) => settings.window,
            Self::Consecutive { .. } | Self::Count { .. } | Self::Expression { over: Over::Calls(_), .. } => MEMORY,
            Self::Any(policies) => policies.iter().map(Self::memory).max().unwrap_or(MEMORY),
        }
    }
}

impl Settings {
    /// Whether figures are told to the others while it is closed.
    fn shares_evidence(&self) -> bool {
        self.evidence == Scope::Fleet || self.quorum > 1
    }
}
