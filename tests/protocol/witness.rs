//! What an instance says of what it sees, and hears of the others, step by step, as `pipeline::evidence` does it: when something is due, and for how long
//! it lasts, the program itself decides. It looks at any time.

use std::time::Duration;

use fusebox::machine::breaker::Told;
use fusebox::machine::time::Tick;
use fusebox::pipeline::evidence::{Pace, Said};

use super::fleet::{Mutant, Rules, STEP};
use super::instance::{Around, Process, Reply};
use super::machine::Op;
use super::wire::{tell_of, told_of};

/// How often what the others say is read anew.
const REREAD: Duration = Duration::from_millis(2 * STEP);

/// For how long figures are of use: as little as the shortest window.
const OF_USE: Duration = Duration::from_millis(STEP);

/// A telling that is out.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Telling {
    pub said: Said,
    /// Whether what is said is of use yet.
    current: bool,
    pub reply: Reply<Vec<Told>>,
}

impl Process {
    /// What it is to tell, and for how long that lasts.
    fn due(&self, rules: &Rules, now: Tick) -> Option<(Said, Duration)> {
        let (testimony, _) = self.node.testimony.clone().filter(|_| self.up && self.telling.is_none())?;
        let said = self.said.as_ref();
        if rules.mutant == Mutant::SaysItOnce && said.is_some_and(|said| said.testimony == testimony) {
            return None;
        }
        let (said, lasts) = Pace::new(REREAD, Duration::from_millis(STEP)).due(said, testimony, OF_USE, now)?;
        let lasts = if rules.mutant == Mutant::LastsAsFiguresDo { lasts.min(OF_USE) } else { lasts };
        Some((said, lasts))
    }

    /// Whether it has something to tell.
    pub fn may_tell(&self, rules: &Rules, now: Tick) -> bool {
        self.due(rules, now).is_some()
    }

    pub fn tell(&mut self, around: &mut Around<'_>) {
        let Some((said, lasts)) = self.due(around.rules, around.now) else { return };
        let reply = if around.redis.away {
            Reply::Lost
        } else {
            let (now, tell) = (around.redis.now, tell_of(&said.testimony, lasts, self.name));
            let heard = around.redis.keys.change(|keys| keys.tell(now, &tell, around.rules.without()));
            Reply::Heard(told_of(heard, said.testimony.generation))
        };
        self.telling = Some(Telling { said, current: !lasts.is_zero(), reply });
    }

    /// Hears what came of it.
    pub fn hear_told(&mut self, around: &mut Around<'_>) {
        let Some(Telling { said, current, reply: Reply::Heard(mut told) }) = self.telling.take() else { return };
        let mut generation = said.testimony.generation;
        if around.rules.mutant == Mutant::WeighsAnyLife {
            generation = self.generation();
            told.iter_mut().for_each(|told| told.testimony.generation = generation);
        }
        self.apply(around, &Op::Hear(generation, told, current));
        self.said = Some(said);
    }

    pub fn lose_told(&mut self) {
        if let Some(telling) = &mut self.telling {
            telling.reply = Reply::Lost;
        }
    }
}
