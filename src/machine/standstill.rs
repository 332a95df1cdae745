//! Something that ought to move and does not. A single look cannot tell it from a moment's pause; the same sight for long enough can.

use std::time::Duration;

use super::time::Tick;

/// How often at least it must have been looked at.
const LOOKS: u32 = 4;

/// The longest gap between two looks, as a share of the bound: after a longer one, as after a pause of the whole machine, it begins anew.
const GAP: u32 = 2;

/// What is watched, by where it stands.
#[derive(Debug)]
pub struct Standstill<T> {
    seen: Option<Seen<T>>,
}

#[derive(Debug)]
struct Seen<T> {
    at: T,
    since: Tick,
    last_look: Tick,
    looks: u32,
}

impl<T> Default for Standstill<T> {
    fn default() -> Self {
        Self { seen: None }
    }
}

impl<T: PartialEq> Standstill<T> {
    /// It stands at `at`, and ought to move; `None`: it has no reason to, or cannot be seen. For how long it has stood there, if that is `bound`
    /// or longer.
    pub fn look(&mut self, at: Option<T>, now: Tick, bound: Duration) -> Option<Duration> {
        let Some(at) = at else {
            self.seen = None;
            return None;
        };
        match &mut self.seen {
            Some(seen) if seen.at == at && now.since(seen.last_look) <= bound / GAP => {
                seen.last_look = now;
                seen.looks = seen.looks.saturating_add(1);
                let stood = now.since(seen.since);
                (stood >= bound && seen.looks >= LOOKS).then_some(stood)
            }
            _ => {
                self.seen = Some(Seen { at, since: now, last_look: now, looks: 1 });
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUND: Duration = Duration::from_secs(60);

    #[test]
    fn only_what_stands_all_the_while_is_found() {
        let look = |sights: &[(u64, Option<i64>)]| {
            let mut watch = Standstill::default();
            let found = sights.iter().map(|(second, at)| watch.look(*at, Tick(second * 1_000), BOUND));
            found.map(|stood| stood.map(|stood| stood.as_secs())).collect::<Vec<_>>()
        };
        let stands = [(0, Some(7)), (20, Some(7)), (40, Some(7)), (59, Some(7)), (60, Some(7)), (80, Some(7))];
        assert_eq!(look(&stands), [None, None, None, None, Some(60), Some(80)]);
        let moves = [(0, Some(7)), (25, Some(7)), (50, Some(8)), (75, Some(8)), (100, Some(8)), (110, Some(8)), (120, Some(8))];
        assert_eq!(look(&moves), [None, None, None, None, None, Some(60), Some(70)]);
        let pauses = [(0, Some(7)), (30, Some(7)), (50, None), (60, Some(7)), (90, Some(7)), (100, Some(7))];
        assert_eq!(look(&pauses), [None; 6]);
        assert_eq!(look(&[(0, Some(7)), (500, Some(7)), (501, Some(7))]), [None; 3], "a gap is no standstill");
        let late_gap = [(0, Some(7)), (1, Some(7)), (2, Some(7)), (3, Some(7)), (4, Some(7)), (500, Some(7)), (501, Some(7))];
        assert_eq!(look(&late_gap), [None; 7], "nor is one after many looks");
    }
}
