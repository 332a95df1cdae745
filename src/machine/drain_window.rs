//! How many drained calls are at a service at once: fewer than there are places for, where it has no room for more.
//!
//! As TCP's slow start and congestion avoidance do (RFC 5681). A window that was begun anew, after the service's breaker refused, lets one call go, and one more
//! for each that is served, so twice as many with each round. When the service has no room for a call, a live one or a drained one, the window is halved, once for
//! all calls that were out by then, down to a quarter of the places and to two: some refusals now and then, of one tenant's calls perhaps, must not stop
//! the backlog. From there it widens by one a round at most, and no faster than by half of the places in [`WIDENS_IN`]: live calls come in bursts, and a
//! window that is back within moments leaves no room for the next one.

use std::time::Duration;

use super::limit::Sign;

/// Down to which it is narrowed: one by one a fleet of small shares would take minutes to widen.
const LEAST: f64 = 2.0;

/// How long it takes from half of the places to all of them.
const WIDENS_IN: Duration = Duration::from_secs(30);

/// See the module's words.
#[derive(Debug, Clone)]
pub struct DrainWindow {
    /// The places that there are; at least one.
    most: usize,
    /// Calls at once; at least one.
    width: f64,
    /// From here on it grows slowly.
    careful: f64,
    /// When it was narrowed last: calls that had begun before say nothing more, microseconds.
    narrowed_at: u64,
    /// Since when it grows slowly, microseconds.
    careful_since: u64,
}

impl DrainWindow {
    /// As wide as there are places.
    pub fn new(most: usize) -> Self {
        Self { most: most.max(1), width: f64::MAX, careful: f64::MAX, narrowed_at: 0, careful_since: 0 }
    }

    /// There are so many places from now on.
    pub fn allow(&mut self, most: usize) {
        self.most = most.max(1);
    }

    /// Calls at once; at least one.
    pub fn places(&self) -> usize {
        let width = self.width.min(self.most as f64);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole places, between one and all of them")]
        let whole = width.floor() as usize;
        whole.clamp(1, self.most)
    }

    /// Begins anew with one call: the service was away, which says little of what it has room for when it is back.
    pub fn restart(&mut self) {
        self.width = 1.0;
        self.careful = f64::MAX;
    }

    /// What a call says of the service's load that lasted from `began` to `ended`, in microseconds.
    pub fn hear(&mut self, sign: Sign, drained: bool, began: u64, ended: u64) {
        let most = self.most as f64;
        match sign {
            Sign::Overloaded if began >= self.narrowed_at => {
                // One call at a time is a probe: if it fails the service is away still.
                if self.width > 1.0 {
                    self.careful = (self.width.min(most) / 2.0).max(most / 4.0).max(LEAST).min(most);
                    self.width = self.width.min(self.careful);
                }
                (self.narrowed_at, self.careful_since) = (ended, ended);
            }
            Sign::Served if drained && self.width < most => {
                let wider = if self.width < self.careful {
                    self.careful_since = ended;
                    (self.width + 1.0).min(self.careful)
                } else {
                    let since = Duration::from_micros(ended.saturating_sub(self.careful_since)).as_secs_f64();
                    let by_now = self.careful + most / 2.0 * since / WIDENS_IN.as_secs_f64();
                    (self.width + 1.0 / self.width).min(by_now.max(self.width))
                };
                self.width = wider.min(most);
            }
            Sign::Overloaded | Sign::Served => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000;

    fn served(window: &mut DrainWindow, calls: usize) {
        served_at(window, calls, 1_000 * SECOND);
    }

    fn served_at(window: &mut DrainWindow, calls: usize, ended: u64) {
        (0..calls).for_each(|_| window.hear(Sign::Served, true, ended - 10, ended));
    }

    #[test]
    fn it_begins_anew_with_one_and_doubles_with_each_round() {
        let mut window = DrainWindow::new(16);
        assert_eq!((window.places(), DrainWindow::new(0).places()), (16, 1), "at first as wide as it may be");
        window.restart();
        let mut widths = Vec::new();
        for _ in 0..6 {
            widths.push(window.places());
            let calls = window.places();
            served(&mut window, calls);
        }
        assert_eq!(widths, [1, 2, 4, 8, 16, 16]);
        window.allow(20);
        served(&mut window, 4);
        assert_eq!(window.places(), 20);
        window.allow(3);
        assert_eq!(window.places(), 3);
    }

    #[test]
    fn it_is_halved_once_a_round_and_widens_by_one_a_round_from_there() {
        let mut window = DrainWindow::new(16);
        // Five calls that were out together find no room.
        for began in [1, 2, 3, 4, 5] {
            window.hear(Sign::Overloaded, true, began, 10 + began);
        }
        assert_eq!(window.places(), 8);
        for more in 1..=3 {
            let calls = window.places() + 1;
            served(&mut window, calls);
            assert_eq!(window.places(), 8 + more);
        }
        window.hear(Sign::Overloaded, true, 2_000 * SECOND, 2_000 * SECOND);
        assert_eq!(window.places(), 5);
        // Begun anew it doubles. Probes that fail meanwhile change nothing.
        window.restart();
        window.hear(Sign::Overloaded, true, 3_000 * SECOND, 3_000 * SECOND);
        assert_eq!(window.places(), 1);
        served_at(&mut window, 15, 9_000 * SECOND);
        assert_eq!(window.places(), 16);
    }

    #[test]
    fn it_takes_its_time_back_to_all_places() {
        let mut window = DrainWindow::new(16);
        window.hear(Sign::Overloaded, true, 1, 1);
        let mut widths = Vec::new();
        for second in [0, 1, 4, 8, 15, 29, 30, 31] {
            served_at(&mut window, 1_000, second * SECOND + 11);
            widths.push(window.places());
        }
        assert_eq!(widths, [8, 8, 9, 10, 12, 15, 16, 16]);
    }

    #[test]
    fn a_small_share_is_whole_again_at_once() {
        for most in [1, 2] {
            let mut window = DrainWindow::new(most);
            window.hear(Sign::Overloaded, false, 1, 1);
            window.restart();
            window.hear(Sign::Overloaded, true, 2, 2);
            assert_eq!(window.places(), 1);
            served_at(&mut window, 1, 12);
            assert_eq!(window.places(), most);
        }
    }

    #[test]
    fn a_trickle_of_refusals_leaves_a_quarter() {
        let mut window = DrainWindow::new(16);
        for second in 1..1_000 {
            window.hear(Sign::Overloaded, false, second * SECOND, second * SECOND);
            served_at(&mut window, 16, second * SECOND + SECOND / 2);
        }
        assert_eq!(window.places(), 4);
    }

    #[test]
    fn live_calls_narrow_it_and_do_not_widen_it() {
        let mut window = DrainWindow::new(16);
        window.hear(Sign::Overloaded, false, 1, 2);
        assert_eq!(window.places(), 8);
        (0..100).for_each(|_| window.hear(Sign::Served, false, 3, 4));
        assert_eq!(window.places(), 8);
        served(&mut window, 100);
        assert!(window.places() > 8);
    }

    proptest! {
        /// Against a service with room for so many: it uses half of the room, and finds none at most once in as many rounds as that takes.
        #[test]
        fn it_finds_the_room_that_there_is(room in 1usize..64, most in 1usize..64) {
            let mut window = DrainWindow::new(most);
            let (mut full, mut calls) = (0, 0);
            for round in 0..400u64 {
                let (began, width) = (1 + round * SECOND, window.places());
                for call in 0..width {
                    window.hear(if call < room { Sign::Served } else { Sign::Overloaded }, true, began, began + SECOND / 2);
                }
                if round >= 20 {
                    full += usize::from(width > room);
                    calls += width.min(room);
                    prop_assert!(width <= (room + 2).max(most / 4 + 2), "{} calls where there is room for {}", width, room);
                }
            }
            prop_assert!(calls >= 380 * room.min(most) / 2, "{} calls in 380 rounds", calls);
            prop_assert!(room < most / 2 + 1 || full <= 380 / (room / 2).max(1) + 1, "{} of 380 rounds found no room for {} of {}", full, room, most);
        }
    }
}
