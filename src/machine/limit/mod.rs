//! How many calls a service takes at once, found out from how it answers them.
//!
//! Two laws, one file each: [`aimd`] and [`gradient`]. Both walk in steps. A step is taken after a round: as many served calls as there are
//! places, all of which began after the step before. A call that began earlier was made under another limit and says nothing of this one;
//! without that rule sixty calls that time out together would cut the limit sixty times.
//!
//! Guarantees: the limit never leaves its bounds; only a call that ran to its end moves it; it falls at most once a round trip; with fewer
//! calls in flight than half of it, it does not rise: nobody has tried the places that are there.
//!
//! Time is an argument, in microseconds of the process's monotonic clock. What it leaves to others: whose turn it is, and to tell it only of
//! calls that count.

pub mod aimd;
pub mod gradient;

use super::judgement::{Answer, BodyKind};

/// How a service's limit is found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// By which law.
    pub law: Law,
    /// Never fewer places than this; at least one.
    pub minimum: usize,
    /// Places to begin with.
    pub initial: usize,
}

/// A law, and what it goes by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Law {
    /// Up by one, down by a share.
    Aimd(aimd::Settings),
    /// By how the time a call takes now compares with what it usually takes.
    Gradient(gradient::Settings),
}

/// What a law decides. Limits are fractions inside, so that small steps add up.
trait Step {
    /// Whether a call that was served took so long that it counts as a sign of overload.
    fn is_overload(&self, took_micros: u64) -> bool;
    /// The limit after a sign of overload.
    fn down(&mut self, limit: f64) -> f64;
    /// The limit after a round.
    fn round(&mut self, limit: f64, round: &Round) -> f64;
}

/// What a call that ran to its end says of its service's load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    /// It was served: the time that it took tells how busy the service is.
    Served,
    /// The service, or something before it, had no room for it: no answer in time, 408, 429, 503 or 504.
    Overloaded,
}

impl Sign {
    /// `None`: the answer says nothing of load. A broken connection, a 500 or a page in place of data is for the breaker to weigh, and how
    /// soon it came is no measure of anything.
    pub fn of(answer: Answer) -> Option<Self> {
        match answer {
            Answer::TimedOut | Answer::Replied { status: 408 | 429 | 503 | 504, .. } => Some(Self::Overloaded),
            Answer::Replied { status: 200..=499, body: BodyKind::Json | BodyKind::Empty, .. }
            | Answer::Replied { status: 300..=499, body: BodyKind::Unreadable, .. } => Some(Self::Served),
            Answer::Replied { .. } | Answer::NoReply => None,
        }
    }
}

/// One call that ran to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// When it began.
    pub began: u64,
    /// When it ended.
    pub ended: u64,
    /// Calls in flight when it ended, itself included.
    pub in_flight: usize,
    /// What it says.
    pub sign: Sign,
}

/// Served calls since the last step.
#[derive(Debug, Clone, Copy, Default)]
struct Round {
    calls: u32,
    micros: f64,
    in_flight: f64,
    most_in_flight: usize,
}

impl Round {
    fn add(&mut self, sample: &Sample) {
        self.calls += 1;
        self.micros += micros(sample.ended.saturating_sub(sample.began));
        self.in_flight += count(sample.in_flight);
        self.most_in_flight = self.most_in_flight.max(sample.in_flight);
    }

    /// The time that a call took, on average. Never zero: times are divided by it.
    fn took(&self) -> f64 {
        (self.micros / f64::from(self.calls.max(1))).max(1.0)
    }

    /// Calls in flight, on average.
    fn crowd(&self) -> f64 {
        self.in_flight / f64::from(self.calls.max(1))
    }

    /// Whether the places that are there were tried: at least half of them at once.
    fn is_crowded(&self, limit: f64) -> bool {
        count(self.most_in_flight) * 2.0 >= limit.floor()
    }
}

/// The limit of one service.
#[derive(Debug)]
pub struct Limit {
    law: Laws,
    minimum: f64,
    maximum: f64,
    limit: f64,
    round: Round,
    /// When it last moved, or was looked at and left.
    stepped: u64,
    /// When it last fell for a sign of overload.
    fell: u64,
}

#[derive(Debug)]
enum Laws {
    Aimd(aimd::Aimd),
    Gradient(gradient::Gradient),
}

impl Limit {
    /// A limit between the settings' minimum and `maximum`.
    pub fn new(settings: Settings, maximum: usize) -> Self {
        let maximum = maximum.max(1);
        let minimum = settings.minimum.clamp(1, maximum);
        let law = match settings.law {
            Law::Aimd(settings) => Laws::Aimd(aimd::Aimd::new(settings)),
            Law::Gradient(settings) => Laws::Gradient(gradient::Gradient::new(settings)),
        };
        let (minimum, maximum) = (count(minimum), count(maximum));
        Self { law, minimum, maximum, limit: count(settings.initial).clamp(minimum, maximum), round: Round::default(), stepped: 0, fell: 0 }
    }

    /// How many calls may be in flight.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between one and a number of places that is a `usize`")]
    pub fn places(&self) -> usize {
        self.limit as usize
    }

    /// Takes a call in.
    pub fn hear(&mut self, sample: &Sample) {
        let law: &mut dyn Step = match &mut self.law {
            Laws::Aimd(law) => law,
            Laws::Gradient(law) => law,
        };
        if sample.sign == Sign::Overloaded || law.is_overload(sample.ended.saturating_sub(sample.began)) {
            // One that began before the last fall tells what that fall has answered already.
            if sample.began < self.fell {
                return;
            }
            self.limit = law.down(self.limit).clamp(self.minimum, self.maximum);
            (self.fell, self.stepped, self.round) = (sample.ended, sample.ended, Round::default());
            return;
        }
        if sample.began < self.stepped {
            return;
        }
        self.round.add(sample);
        if f64::from(self.round.calls) >= self.limit.floor() {
            self.limit = law.round(self.limit, &self.round).clamp(self.minimum, self.maximum);
            (self.stepped, self.round) = (sample.ended, Round::default());
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "places are few beside 2^52")]
fn count(places: usize) -> f64 {
    places as f64
}

#[expect(clippy::cast_precision_loss, reason = "2^52 microseconds are 142 years")]
fn micros(micros: u64) -> f64 {
    micros as f64
}

#[cfg(test)]
mod tests;
