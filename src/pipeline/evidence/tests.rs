use futures_util::FutureExt as _;
use proptest::prelude::*;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::machine::breaker::{Cause, PolicySettings, Rates, Scope, Settings, StateName, Verdict};
use crate::pipeline::fakes::{Always, MemoryStore, Notes, PausedClock, Small};
use crate::pipeline::keeper::{Keeper, run_timers};
use crate::pipeline::leases;

const POLL: Duration = Duration::from_secs(2);
const FAILURE: Verdict = Verdict::Failure { retry_after: None };

/// One instance of a fleet: its breakers, its keeper, and what tells for it.
struct Instance {
    breakers: Arc<Breakers<Small>>,
    ending: CancellationToken,
    clock: PausedClock,
}

impl Instance {
    async fn start(store: &Arc<MemoryStore>, clock: PausedClock, settings: &Settings, services: usize) -> Self {
        Self::rereading(store, clock, settings, services, POLL).await
    }

    async fn rereading(store: &Arc<MemoryStore>, clock: PausedClock, settings: &Settings, services: usize, reread: Duration) -> Self {
        let witness = Arc::new(Notes::default());
        let services = (0..services).map(|number| (format!("s{number}"), settings.clone()));
        let (breakers, announcements) = Breakers::<Small>::new(services, clock, Always(0.0), Arc::clone(&witness), "here".to_owned());
        breakers.join_fleet();
        let (mut keeper, health) = Keeper::new(Arc::clone(&breakers), announcements, Arc::clone(store), POLL, clock, witness);
        let ending = CancellationToken::new();
        keeper.restore().await;
        tokio::spawn(keeper.run(ending.clone().cancelled_owned()));
        tokio::spawn(run_timers(Arc::clone(&breakers), clock));
        let (seat, end) = (store.seat(), || ending.clone().cancelled_owned());
        tokio::spawn(leases::run(Arc::clone(&breakers), Arc::clone(&seat), Arc::clone(&health), clock, Always(0.5), end()));
        tokio::spawn(run(Arc::clone(&breakers), seat, health, clock, reread, end()));
        Self { breakers, ending, clock }
    }

    fn calls(&self, verdict: Verdict, times: usize) {
        for _ in 0..times {
            if let Ok(admission) = self.breakers.admit(0, self.clock.now()) {
                admission.settle(verdict, Duration::ZERO, self.clock.now());
            }
        }
    }

    fn state(&self) -> (StateName, bool) {
        let view = self.breakers.view(0);
        (view.snapshot.held.name(), view.alone)
    }
}

const CLOSED: (StateName, bool) = (StateName::Closed, false);
const OPEN: (StateName, bool) = (StateName::Open, false);
const OPEN_ALONE: (StateName, bool) = (StateName::Open, true);

/// A little longer than news is gathered for, ms.
const MOMENT: u64 = 50;

async fn wait(millis: u64) {
    tokio::time::sleep(Duration::from_millis(millis)).await;
    for _ in 0..80 {
        tokio::task::yield_now().await;
    }
}

fn by(policy: PolicySettings, evidence: Scope, quorum: u32) -> Settings {
    Settings { evidence, quorum, ..Settings::new(policy, Duration::from_secs(30), Duration::from_secs(6)) }
}

fn consecutive(evidence: Scope, quorum: u32) -> Settings {
    by(PolicySettings::Consecutive { fail_max: 3.try_into().expect("not zero") }, evidence, quorum)
}

fn count(evidence: Scope, quorum: u32) -> Settings {
    let rates = Rates { minimum_calls: 10, failure_rate: 0.5, slow_call_rate: 1.0, slow_call_duration: Duration::from_secs(1) };
    by(PolicySettings::Count { size: 100, rates }, evidence, quorum)
}

async fn fleet(settings: &Settings) -> (Arc<MemoryStore>, Vec<Instance>) {
    let (store, clock) = (MemoryStore::new(), PausedClock::new());
    let mut fleet = Vec::new();
    for _ in 0..3 {
        fleet.push(Instance::start(&store, clock, settings, 1).await);
    }
    wait(1).await;
    (store, fleet)
}

fn states(fleet: &[impl std::borrow::Borrow<Instance>]) -> Vec<(StateName, bool)> {
    fleet.iter().map(|one| one.borrow().state()).collect()
}

#[tokio::test(start_paused = true)]
async fn where_nobody_shares_evidence_nothing_is_asked() {
    let (store, fleet) = fleet(&consecutive(Scope::Instance, 1)).await;
    for _ in 0..100 {
        fleet[0].calls(FAILURE, 2);
        fleet[0].calls(Verdict::Success, 2);
        wait(100).await;
    }
    assert_eq!(store.questions(), 0);
}

/// Whoever fails often where nobody shares must not keep the teller awake.
#[tokio::test(start_paused = true)]
async fn a_failure_wakes_nobody_where_there_is_nothing_to_tell() {
    for (settings, wakes) in
        [(consecutive(Scope::Instance, 1), false), (consecutive(Scope::Instance, 2), true), (count(Scope::Fleet, 1), true)]
    {
        let clock = PausedClock::new();
        let (breakers, _announcements) =
            Breakers::<Small>::new([("s".to_owned(), settings)], clock, Always(0.0), Arc::new(Notes::default()), "here".to_owned());
        breakers.join_fleet();
        let instance = Instance { breakers, ending: CancellationToken::new(), clock };
        instance.calls(FAILURE, 2);
        assert_eq!(instance.breakers.news().now_or_never().is_some(), wakes);
    }
}

#[tokio::test(start_paused = true)]
async fn a_quorum_opens_the_fleet_within_moments_and_less_opens_who_sees_it() {
    let (store, fleet) = fleet(&consecutive(Scope::Instance, 2)).await;
    fleet[0].calls(FAILURE, 3);
    wait(10_000).await;
    assert_eq!(states(&fleet), [OPEN_ALONE, CLOSED, CLOSED]);
    assert_eq!(store.snapshot("s0"), None, "no state is shared");
    let seen = fleet[2].breakers.view(0).fleet.expect("whoever has nothing to tell hears all the same");
    assert_eq!((seen.failing, seen.alone), (1, 1));
    let history = store.history();
    assert_eq!(history.iter().map(|entry| (entry.to, entry.alone)).collect::<Vec<_>>(), [(StateName::Open, true)], "but it is told");

    fleet[1].calls(FAILURE, 3);
    wait(MOMENT).await;
    assert_eq!(states(&fleet), [OPEN; 3]);
    let history = store.history();
    let last = history.last().expect("three entries");
    assert_eq!((last.cause, last.fleet.as_ref().map(|fleet| fleet.alone)), (Cause::Fleet, Some(2)));
}

#[tokio::test(start_paused = true)]
async fn the_sum_opens_the_fleet_and_a_new_instance_knows_of_it() {
    let settings = count(Scope::Fleet, 1);
    let (store, mut fleet) = fleet(&settings).await;
    for one in &fleet {
        one.calls(Verdict::Success, 1);
        one.calls(FAILURE, 2);
    }
    wait(MOMENT).await;
    assert_eq!(states(&fleet), [CLOSED; 3], "nine in all");
    // One of them ends, and what it has seen stays; the next one is told of all of it with its own first call.
    let gone = fleet.remove(0);
    gone.ending.cancel();
    let new = Instance::start(&store, gone.clock, &settings, 1).await;
    wait(1_000).await;
    new.calls(FAILURE, 1);
    wait(MOMENT).await;
    assert_eq!(new.state(), OPEN);
    assert_eq!(states(&fleet), [OPEN; 2]);
}

#[tokio::test(start_paused = true)]
async fn what_nobody_has_added_to_is_over_after_its_time() {
    let (_store, fleet) = fleet(&count(Scope::Fleet, 1)).await;
    fleet[0].calls(FAILURE, 9);
    wait(59_000).await;
    let view = fleet[1].breakers.view(0);
    assert_eq!(view.fleet.map(|fleet| fleet.failing), Some(1));
    wait(5_000).await;
    fleet[1].calls(FAILURE, 1);
    wait(1_000).await;
    assert_eq!(states(&fleet), [CLOSED; 3]);
}

#[tokio::test(start_paused = true)]
async fn who_is_alone_says_so_for_as_long_as_it_is() {
    let settings = Settings { recovery_timeout: Duration::from_secs(300), ..consecutive(Scope::Instance, 2) };
    let (_store, fleet) = fleet(&settings).await;
    fleet[0].calls(FAILURE, 3);
    wait(290_000).await;
    fleet[1].calls(FAILURE, 3);
    wait(MOMENT).await;
    assert_eq!(states(&fleet), [OPEN; 3]);
}

#[tokio::test(start_paused = true)]
async fn successes_are_told_once_a_second_and_what_has_not_changed_with_the_poll_alone() {
    let (store, fleet) = fleet(&count(Scope::Fleet, 1)).await;
    wait(5_000).await;
    let before = store.questions();
    for _ in 0..1_000 {
        fleet[0].calls(Verdict::Success, 100);
        wait(10).await;
    }
    let asked = store.questions() - before;
    // One is full after the first second; the others ask every two seconds.
    assert!((15..=20).contains(&asked), "{asked} for 100,000 calls in ten seconds");
}

#[tokio::test(start_paused = true)]
async fn with_the_store_away_each_decides_by_itself_and_tells_on_return() {
    let (store, fleet) = fleet(&consecutive(Scope::Instance, 2)).await;
    store.set_away(true);
    wait(5_000).await;
    fleet[0].calls(FAILURE, 3);
    fleet[1].calls(FAILURE, 3);
    wait(5_000).await;
    assert_eq!(states(&fleet), [OPEN_ALONE, OPEN_ALONE, CLOSED]);
    store.set_away(false);
    wait(3_100).await;
    assert_eq!(states(&fleet), [OPEN; 3]);
}

#[tokio::test(start_paused = true)]
async fn probes_of_several_instances_close_it_together() {
    let settings = Settings { permits: 2, success_threshold: 4, ..consecutive(Scope::Instance, 1) };
    let (_store, fleet) = fleet(&settings).await;
    fleet[0].calls(FAILURE, 3);
    wait(31_000).await;
    let mut successes = 0;
    while states(&fleet)[0].0 == StateName::HalfOpen {
        wait(100).await;
        for one in &fleet {
            if let Ok(admission) = one.breakers.admit(0, one.clock.now()) {
                successes += usize::from(admission.is_probe());
                admission.settle(Verdict::Success, Duration::ZERO, one.clock.now());
                wait(MOMENT).await;
            }
        }
        assert!(successes <= 4, "four are enough, whoever sends them");
    }
    assert_eq!((successes, states(&fleet)), (4, vec![CLOSED; 3]));
}

#[tokio::test(start_paused = true)]
async fn many_services_are_told_of_in_turn() {
    let (store, clock) = (MemoryStore::new(), PausedClock::new());
    let settings = count(Scope::Fleet, 1);
    let one = Instance::start(&store, clock, &settings, 10_000).await;
    wait(1).await;
    let before = store.questions();
    wait(1_000).await;
    let asked = store.questions() - before;
    assert!((2_000..=2_750).contains(&asked), "{asked} in a second");
    drop(one);
}

/// Two of a fleet whose calls fail, the second `later` than the first, and a third whose calls work: when the fleet has opened after that.
async fn find_each_other(window: u64, reread: Duration, later: Duration, recovery: Duration, services: usize) -> Option<Duration> {
    let rates = Rates { minimum_calls: 2, failure_rate: 0.5, slow_call_rate: 1.0, slow_call_duration: Duration::from_secs(1) };
    let policy = PolicySettings::Time { window: Duration::from_secs(window), rates };
    let settings = Settings { recovery_timeout: recovery, ..by(policy, Scope::Instance, 2) };
    let (store, clock) = (MemoryStore::new(), PausedClock::new());
    let [one, other] = [
        Instance::rereading(&store, clock, &settings, services, reread).await,
        Instance::rereading(&store, clock, &settings, services, reread).await,
    ];
    wait(1).await;
    let second = clock.now().plus(later);
    let steps = (later + 2 * reread.max(Duration::from_secs(window))).as_millis() / 100 + 20;
    for _ in 0..steps {
        one.calls(FAILURE, 2);
        if second <= clock.now() {
            other.calls(FAILURE, 2);
        }
        wait(100).await;
        if states(&[&one, &other]) == [OPEN; 2] {
            return Some(clock.now().since(second));
        }
    }
    None
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Whatever the window, and however seldom the others are heard anew.
    #[test]
    fn two_that_are_alone_find_each_other(
        window in 1_u64..5,
        reread in prop_oneof![100_u64..20_000, 60_000_u64..200_000],
        later in 0_u64..300_000,
        recovery in prop_oneof![Just(1_000_u64), 1_000_u64..600_000],
        services in prop_oneof![4 => Just(1_usize), 1 => Just(3_000)],
    ) {
        let of = Duration::from_millis;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
        let found = runtime.block_on(find_each_other(window, of(reread), of(later), of(recovery), services));
        prop_assert!(found.is_some_and(|found| found < Duration::from_secs(1)), "{found:?}");
    }
}
