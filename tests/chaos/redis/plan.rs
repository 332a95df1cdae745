//! What happens when: three strands of faults, each drawn to its end before anything begins, and laid into one line of time.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::chance::Chance;

/// How long instances may take to go on as before once Redis is back: up to two seconds until they ask again, another for what the attempt
/// takes, one for a call that went by an instance's own permits, and one for a machine with much to do.
pub const SETTLED_IN: Duration = Duration::from_secs(5);

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL for Redis.
    RedisKilled,
    /// It is started again; `empty`: it knows nothing.
    RedisStarted { empty: bool },
    /// SIGSTOP for Redis: it takes connections, and never answers.
    RedisFrozen,
    /// It goes on.
    RedisThawed,
    /// The notifier fails, or does not answer.
    Down { hangs: bool },
    /// The notifier is well.
    Well,
    /// SIGKILL for the instance in this place, which is started again at once.
    Killed(usize),
}

/// Faults for so long, in order, each with its time. At their end Redis runs and the notifier is well.
pub fn draw(chance: &mut Chance, length: Duration, places: usize) -> Vec<(Duration, Fault)> {
    let mut faults = Vec::new();
    let mut away = Vec::new();
    let mut at = chance.between(1_000, 4_000);
    while at < length {
        let until = (at + chance.between(300, 8_000)).min(length);
        let empty = chance.percent(40);
        let (begins, ends) =
            if chance.percent(35) { (Fault::RedisFrozen, Fault::RedisThawed) } else { (Fault::RedisKilled, Fault::RedisStarted { empty }) };
        faults.extend([(at, begins), (until, ends)]);
        away.push((at, until + SETTLED_IN));
        // Now and then it is back for long enough that everything is as before.
        at = until + if chance.percent(50) { chance.between(500, 4_000) } else { chance.between(10_000, 18_000) };
    }
    let mut at = chance.between(500, 2_000);
    while at < length {
        let until = (at + chance.between(5_000, 18_000)).min(length);
        let hangs = chance.percent(70);
        faults.extend([(at, Fault::Down { hangs }), (until, Fault::Well)]);
        at = until + chance.between(2_000, 8_000);
    }
    let mut at = chance.between(2_000, 6_000);
    let mut killed: Vec<(Duration, usize)> = Vec::new();
    while at < length {
        let place = chance.below(places);
        // What only instances know, since Redis is away, is lost with the last of them: one that knows it is left.
        let ignorant: BTreeSet<usize> = away
            .iter()
            .filter(|(from, to)| (*from..=*to).contains(&at))
            .flat_map(|(from, _)| killed.iter().filter(move |(then, _)| *then + SETTLED_IN >= *from).map(|(_, place)| *place))
            .chain([place])
            .collect();
        if ignorant.len() < places {
            faults.push((at, Fault::Killed(place)));
            killed.push((at, place));
        }
        at += chance.between(3_000, 9_000);
    }
    faults.sort_by_key(|(at, _)| *at);
    faults
}
