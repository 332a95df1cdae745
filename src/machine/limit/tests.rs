use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use proptest::prelude::*;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::*;

const AIMD: Law = Law::Aimd(aimd::Settings { latency: Duration::from_millis(75), backoff_ratio: 0.9 });
const GRADIENT: Law = Law::Gradient(gradient::Settings { tolerance: 1.5, smoothing: 0.2, queue: None });

fn limit(law: Law, initial: usize) -> Limit {
    Limit::new(Settings { law, minimum: 1, initial }, 200)
}

/// A service that serves so many calls at once, 50 ms each, give or take a fifth; the others wait inside it. Whoever calls it always has
/// more to do: it has as many in flight as the limit says.
struct Service {
    dice: StdRng,
    capacity: usize,
    base: f64,
    now: u64,
    /// Ends of the calls in service, with their beginnings.
    serving: BinaryHeap<Reverse<(u64, u64)>>,
    waiting: VecDeque<u64>,
    served: u32,
}

impl Service {
    fn new(seed: u64, capacity: usize) -> Self {
        let dice = StdRng::seed_from_u64(seed);
        Self { dice, capacity, base: 50_000.0, now: 0, serving: BinaryHeap::new(), waiting: VecDeque::new(), served: 0 }
    }

    fn in_flight(&self) -> usize {
        self.serving.len() + self.waiting.len()
    }

    fn serve(&mut self) {
        while self.serving.len() < self.capacity
            && let Some(began) = self.waiting.pop_front()
        {
            let takes = self.base * self.dice.random_range(0.8..1.2);
            self.serving.push(Reverse((self.now + takes as u64, began)));
        }
    }

    /// Keeps `demand` calls in flight, or as many as the limit lets, for so long; gives the limit's least, its mean and its most.
    fn run(&mut self, limit: &mut Limit, demand: usize, seconds: u64) -> (usize, f64, usize) {
        let until = self.now + seconds * 1_000_000;
        let (mut least, mut most, mut sum, mut looks) = (usize::MAX, 0, 0.0, 0_u32);
        self.served = 0;
        while self.now < until {
            while self.in_flight() < limit.places().min(demand) {
                self.waiting.push_back(self.now);
                self.serve();
            }
            let Some(Reverse((ends, began))) = self.serving.pop() else { break };
            let in_flight = self.in_flight() + 1;
            self.now = ends;
            self.served += 1;
            limit.hear(&Sample { began, ended: ends, in_flight, sign: Sign::Served });
            self.serve();
            (least, most) = (least.min(limit.places()), most.max(limit.places()));
            sum += count(limit.places());
            looks += 1;
        }
        (least, sum / f64::from(looks), most)
    }
}

const LAWS: [(&str, Law); 2] = [("aimd", AIMD), ("gradient", GRADIENT)];

#[test]
fn both_settle_near_what_the_service_can_do_and_follow_it() {
    for (name, law) in LAWS {
        for (seed, initial) in [(1, 1), (2, 20), (3, 200)] {
            let (mut service, mut limit) = (Service::new(seed, 20), limit(law, initial));
            for capacity in [20, 40, 10] {
                service.capacity = capacity;
                service.run(&mut limit, usize::MAX, 300);
                let (least, mean, most) = service.run(&mut limit, usize::MAX, 60);
                let what = format!("{name} from {initial}, {capacity} at once: {least}, {mean:.1}, {most}");
                let capacity = count(capacity);
                assert!((0.8 * capacity..=2.2 * capacity).contains(&mean), "{what}");
                assert!(f64::from(service.served) > 0.9 * 60.0 * capacity / 0.05, "{what}: {} served", service.served);
            }
        }
    }
}

#[test]
fn a_service_that_is_merely_steady_keeps_its_limit() {
    for (name, law) in LAWS {
        // Few calls beside what it can do: nothing is learnt of a limit that nobody touches.
        let (mut service, mut limit) = (Service::new(4, 200), limit(law, 20));
        let (least, ..) = service.run(&mut limit, 5, 300);
        assert_eq!((least, limit.places()), (20, 20), "{name}");
        // More calls than the limit, fewer than it can do: it grows to its maximum, and stays about there.
        service.run(&mut limit, usize::MAX, 60);
        let (least, mean, most) = service.run(&mut limit, usize::MAX, 60);
        assert!(least >= 45 && mean > 150.0 && most == 200, "{name}: {least}, {mean:.1}, {most}");
    }
}

#[test]
fn the_gradient_gets_used_to_a_service_that_is_slower_for_good() {
    let (mut service, mut limit) = (Service::new(5, 20), limit(GRADIENT, 20));
    service.run(&mut limit, usize::MAX, 100);
    service.base *= 3.0;
    service.run(&mut limit, usize::MAX, 300);
    let (least, mean, most) = service.run(&mut limit, usize::MAX, 60);
    assert!((16.0..=44.0).contains(&mean), "{least}, {mean:.1}, {most}");
}

fn at(began: u64, ended: u64, in_flight: usize, sign: Sign) -> Sample {
    Sample { began, ended, in_flight, sign }
}

#[test]
fn calls_that_fail_together_cut_it_once() {
    for (name, law) in LAWS {
        let mut limit = limit(law, 50);
        for call in 0..50 {
            limit.hear(&at(call, 1_000 + call, 50, Sign::Overloaded));
        }
        assert_eq!(limit.places(), 45, "{name}");
        limit.hear(&at(1_000, 1_100, 45, Sign::Overloaded));
        assert_eq!(limit.places(), 40, "{name}: the next round trip's is another");
    }
}

#[test]
fn aimd_step_by_step() {
    let mut limit = limit(AIMD, 4);
    let round = |limit: &mut Limit, began, in_flight, calls: u64| {
        for call in 0..calls {
            limit.hear(&at(began, began + 10 + call, in_flight, Sign::Served));
        }
        limit.places()
    };
    assert_eq!(round(&mut limit, 100, 4, 3), 4, "a round is as many calls as there are places");
    assert_eq!(round(&mut limit, 100, 4, 1), 5);
    assert_eq!(round(&mut limit, 101, 4, 50), 5, "all of them began under the limit before");
    assert_eq!(round(&mut limit, 200, 3, 5), 6);
    assert_eq!(round(&mut limit, 300, 2, 6), 6, "fewer than half in flight");
    limit.hear(&at(400, 400 + 75_000, 6, Sign::Served));
    assert_eq!(limit.places(), 6, "at the bound is not over it");
    limit.hear(&at(400, 400 + 75_001, 6, Sign::Served));
    assert_eq!(limit.places(), 5, "over the bound");
}

#[test]
fn what_says_something_of_load() {
    let replied = |status, body| Answer::Replied { status, body, retry_after: None };
    let table = [
        (Answer::TimedOut, Some(Sign::Overloaded)),
        (Answer::NoReply, None),
        (replied(429, BodyKind::Empty), Some(Sign::Overloaded)),
        (replied(503, BodyKind::Unreadable), Some(Sign::Overloaded)),
        (replied(504, BodyKind::CutOff), Some(Sign::Overloaded)),
        (replied(408, BodyKind::Empty), Some(Sign::Overloaded)),
        (replied(200, BodyKind::Json), Some(Sign::Served)),
        (replied(204, BodyKind::Empty), Some(Sign::Served)),
        (replied(200, BodyKind::Unreadable), None),
        (replied(200, BodyKind::CutOff), None),
        (replied(404, BodyKind::Unreadable), Some(Sign::Served)),
        (replied(500, BodyKind::Json), None),
        (replied(502, BodyKind::Unreadable), None),
        (replied(101, BodyKind::Empty), None),
    ];
    for (answer, sign) in table {
        assert_eq!(Sign::of(answer), sign, "{answer:?}");
    }
}

proptest! {
    /// Whatever calls say, and in whatever order their times come, the limit stays between its bounds.
    #[test]
    fn it_never_leaves_its_bounds(
        gradient in any::<bool>(),
        minimum in 0_usize..10,
        maximum in 0_usize..40,
        initial in 0_usize..1_000,
        queue in prop::option::of(0_u32..1_000),
        calls in prop::collection::vec((any::<u32>(), any::<u32>(), 0_usize..80, any::<bool>()), 0..400),
    ) {
        let law = if gradient { Law::Gradient(gradient::Settings { tolerance: 1.5, smoothing: 1.0, queue }) } else { AIMD };
        let mut limit = Limit::new(Settings { law, minimum, initial }, maximum);
        let (least, most) = (minimum.clamp(1, maximum.max(1)), maximum.max(1));
        for (began, ended, in_flight, served) in calls {
            prop_assert!((least..=most).contains(&limit.places()), "{}", limit.places());
            let sign = if served { Sign::Served } else { Sign::Overloaded };
            limit.hear(&at(began.into(), ended.into(), in_flight, sign));
        }
        prop_assert!((least..=most).contains(&limit.places()), "{}", limit.places());
    }
}
