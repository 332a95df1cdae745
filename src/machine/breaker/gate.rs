//! The gate: one word that answers for a breaker where the answer is known without asking it.
//!
//! ```text
//!   bits 63..16        15..4     3         2..0
//!   generation         branch    at rest   1: closed
//!   refuses until (tick, bits 63..3)       2: open · 3: half-open, every place taken · 4: forced open
//!   -                                      0: the breaker must be asked
//! ```
//!
//! Everything that a caller needs is in the one word: two words could be read from two different states. What does not fit (a tick or a
//! generation beyond any real one) is not abridged, it makes the gate say "ask".

use super::life::Life;
use super::{Breaker, Generation, LockKind, Permit, Refusal, Slack, State, StateName, Verdict};
use crate::machine::time::Tick;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gate(u64);

const TAG_BITS: u32 = 3;
const CLOSED: u64 = 1;
const OPEN: u64 = 2;
const HALF_OPEN: u64 = 3;
const FORCED_OPEN: u64 = 4;

const AT_REST: u64 = 1 << TAG_BITS;
const BRANCH_SHIFT: u32 = TAG_BITS + 1;
const BRANCH_BITS: u32 = 12;
const GENERATION_SHIFT: u32 = BRANCH_SHIFT + BRANCH_BITS;

/// The largest tick that the word has room for; as a refusal's end it stands for none.
const FOREVER: u64 = u64::MAX >> TAG_BITS;

impl Gate {
    pub(super) const ASK: Self = Self(0);

    /// What can be said of `breaker` from now on until it changes.
    pub(super) fn of(breaker: &Breaker) -> Self {
        match &breaker.state {
            State::Closed { .. } if breaker.admits_all() => Self::closed(breaker.life, breaker.slack() == Slack::Endless),
            State::Open { .. } => Self::refusing(OPEN, breaker.refuses_until()),
            State::HalfOpen(_) => Self::refusing(HALF_OPEN, breaker.refuses_until()),
            State::Locked(lock) if lock.kind == LockKind::ForcedOpen => match lock.expires_at {
                None => Self(FOREVER << TAG_BITS | FORCED_OPEN),
                Some(_) => Self::refusing(FORCED_OPEN, breaker.refuses_until()),
            },
            State::Closed { .. } | State::Locked(_) => Self::ASK,
        }
    }

    pub(super) fn from_word(word: u64) -> Self {
        Self(word)
    }

    pub(super) fn word(self) -> u64 {
        self.0
    }

    fn closed(life: Life, at_rest: bool) -> Self {
        let Life { generation: Generation(generation), branch } = life;
        if generation >> (u64::BITS - GENERATION_SHIFT) != 0 || branch >> BRANCH_BITS != 0 {
            return Self::ASK;
        }
        let rest = if at_rest { AT_REST } else { 0 };
        Self(generation << GENERATION_SHIFT | u64::from(branch) << BRANCH_SHIFT | rest | CLOSED)
    }

    fn refusing(tag: u64, until: Tick) -> Self {
        if until == Tick(0) || until.0 >= FOREVER { Self::ASK } else { Self(until.0 << TAG_BITS | tag) }
    }

    fn tag(self) -> u64 {
        self.0 & ((1 << TAG_BITS) - 1)
    }

    /// The permit that the breaker would give at `now`; `None`: ask it, or it refuses.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "the mask leaves the branch's own bits, which are fewer than 32")]
    pub(super) fn admits(self, now: Tick) -> Option<Permit> {
        if self.tag() != CLOSED {
            return None;
        }
        let branch = (self.0 >> BRANCH_SHIFT) as u32 & ((1 << BRANCH_BITS) - 1);
        Some(Permit { life: Life { generation: Generation(self.0 >> GENERATION_SHIFT), branch }, probe: None, began: now })
    }

    /// The refusal that the breaker would give at `now`; `None`: ask it, or it admits.
    #[inline]
    pub(super) fn refuses(self, now: Tick) -> Option<Refusal> {
        let end = self.0 >> TAG_BITS;
        let state = match self.tag() {
            OPEN => StateName::Open,
            HALF_OPEN => StateName::HalfOpen,
            FORCED_OPEN => StateName::ForcedOpen,
            _ => return None,
        };
        let until = if end == FOREVER { None } else { Some(Tick(end)) };
        (until.is_none() || now.0 < end).then_some(Refusal { state, until })
    }

    /// Whether settling `permit` with `verdict` is known to change nothing and not to be late.
    #[inline]
    pub(super) fn makes_nothing_of(self, permit: &Permit, verdict: Verdict) -> bool {
        permit.probe.is_none()
            && matches!(verdict, Verdict::Success | Verdict::Ignored)
            && self != Self::ASK
            && self == Self::closed(permit.life, true)
    }

    /// Whether the breaker is closed, admits every call, and is in this life.
    #[inline]
    pub(super) fn is_open_house_of(self, life: Life) -> bool {
        self != Self::ASK && (self.0 & !AT_REST) == Self::closed(life, false).0
    }

    /// The state's name, where the word has it.
    #[inline]
    pub(super) fn state_name(self) -> Option<StateName> {
        match self.tag() {
            CLOSED => Some(StateName::Closed),
            OPEN => Some(StateName::Open),
            HALF_OPEN => Some(StateName::HalfOpen),
            FORCED_OPEN => Some(StateName::ForcedOpen),
            _ => None,
        }
    }
}
