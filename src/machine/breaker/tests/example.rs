//! The policy that `docs/guide/breakers.md` shows to whoever adds one, and that it is what it is said to be.

use super::*;

/// Opens when failures outweigh successes by `most`: each failure adds one, each success takes one off.
#[derive(Debug)]
struct Balance {
    most: u64,
    balance: u64,
    streak: u64,
}

impl Policy for Balance {
    fn record(&mut self, verdict: Verdict, _took: Duration, now: Tick) -> bool {
        match verdict {
            Verdict::Success | Verdict::Slow => self.absorb(1),
            Verdict::Failure { .. } => {
                self.balance += 1;
                self.streak += 1;
            }
            Verdict::Ignored => {}
        }
        self.weigh(now)
    }

    fn weigh(&mut self, _now: Tick) -> bool {
        self.balance >= self.most
    }

    fn slack(&self) -> Slack {
        // At 0 a success changes nothing, ever. Above it none can open the breaker, so it is enough to hear of them before the next failure.
        if self.balance == 0 { Slack::Endless } else { Slack::Some { successes: u32::MAX, second: None } }
    }

    fn absorb(&mut self, successes: u32) {
        self.balance = self.balance.saturating_sub(u64::from(successes));
        self.streak = if successes > 0 { 0 } else { self.streak };
    }

    fn reset(&mut self, _now: Tick) {
        (self.balance, self.streak) = (0, 0);
    }

    fn counts(&self, _now: Tick) -> Counts {
        Counts { calls: self.balance, failures: self.balance, slow: 0, consecutive_failures: self.streak }
    }

    fn retune(&mut self, _settings: &PolicySettings, _now: Tick) -> bool {
        // Then it is built anew and inherits the figures, which are all that it has.
        false
    }

    fn inherit(&mut self, counts: Counts, _now: Tick) {
        self.balance = counts.failures.saturating_sub(counts.calls - counts.failures.min(counts.calls));
        self.streak = counts.consecutive_failures;
    }
}

#[test]
fn the_guides_example_opens_when_failures_outweigh_successes() {
    let mut breaker = Breaker::new(settings(), Tick(0));
    breaker.policy = Box::new(Balance { most: 3, balance: 0, streak: 0 });
    let mut states = Vec::new();
    for sign in "FFSFF".chars() {
        let permit = admitted(&mut breaker, 0);
        settle(&mut breaker, permit, if sign == 'F' { FAILURE } else { Verdict::Success }, 0);
        states.push(breaker.state_name());
    }
    assert_eq!(states, [[StateName::Closed; 4].as_slice(), &[StateName::Open]].concat());
    assert_eq!(breaker.counts(Tick(0)).consecutive_failures, 2);
}

#[test]
fn the_guides_example_decides_the_same_when_it_hears_of_its_slack_later() {
    for successes in 0..6 {
        let mut told = Balance { most: 9, balance: 4, streak: 4 };
        let mut absorbed = Balance { most: 9, balance: 4, streak: 4 };
        for _ in 0..successes {
            assert!(!told.record(Verdict::Success, Duration::ZERO, Tick(0)));
        }
        absorbed.absorb(successes);
        assert_eq!(told.counts(Tick(0)), absorbed.counts(Tick(0)), "{successes}");
    }
}
