use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::machine::breaker::{Automatic, PolicySettings, Settings, StateName, Verdict};
use crate::pipeline::breakers::{Admission, Order};
use crate::pipeline::fakes::{Always, MemoryStore, Notes, PausedClock, Small};
use crate::pipeline::keeper::{Keeper, run_timers};

const POLL: Duration = Duration::from_secs(2);
const TIMEOUT: Duration = Duration::from_secs(5);

/// One instance: its breaker of the service `notifier`, its keeper, and what takes leases for it.
struct Instance {
    breakers: Arc<Breakers<Small>>,
    ending: CancellationToken,
    leasing: JoinHandle<()>,
    clock: PausedClock,
}

impl Instance {
    async fn start(store: &Arc<MemoryStore>, clock: PausedClock, permits: u32) -> Self {
        Self::start_with(["notifier".to_owned()], store, clock, permits).await
    }

    async fn start_with(services: impl IntoIterator<Item = String>, store: &Arc<MemoryStore>, clock: PausedClock, permits: u32) -> Self {
        let fail_max = 1.try_into().expect("not zero");
        let settings = Settings {
            permits,
            success_threshold: permits,
            ..Settings::new(PolicySettings::Consecutive { fail_max }, Duration::from_secs(30), TIMEOUT + Duration::from_secs(1))
        };
        let witness = Arc::new(Notes::default());
        let services = services.into_iter().map(|service| (service, settings.clone()));
        let (breakers, announcements) = Breakers::<Small>::new(services, clock, Always(0.0), Arc::clone(&witness), "here".to_owned());
        let (mut keeper, health) = Keeper::new(Arc::clone(&breakers), announcements, Arc::clone(store), POLL, clock, witness);
        let ending = CancellationToken::new();
        keeper.restore().await;
        tokio::spawn(keeper.run(ending.clone().cancelled_owned()));
        tokio::spawn(run_timers(Arc::clone(&breakers), clock));
        let leasing = run(Arc::clone(&breakers), store.seat(), health, clock, Always(0.5), ending.clone().cancelled_owned());
        let leasing = tokio::spawn(leasing);
        settled().await;
        Self { breakers, ending, leasing, clock }
    }

    fn reset(&self, to: Automatic) {
        self.breakers.order(0, Order::Reset(to), "ops", "drill");
    }

    fn probe(&self) -> Option<Admission<'_, Small>> {
        self.breakers.admit(0, self.clock.now()).ok().inspect(|admission| assert!(admission.is_probe()))
    }

    fn may_probe(&self) -> bool {
        // Dropped, it gives its permit back, and its lease is used up.
        self.probe().is_some()
    }
}

/// Lets everything run that can, without time going on.
async fn settled() {
    for _ in 0..80 {
        tokio::task::yield_now().await;
    }
}

async fn wait(millis: u64) {
    tokio::time::sleep(Duration::from_millis(millis)).await;
    settled().await;
}

async fn fleet(permits: u32) -> (Arc<MemoryStore>, Vec<Instance>) {
    let (store, clock) = (MemoryStore::new(), PausedClock::new());
    let mut fleet = Vec::new();
    for _ in 0..3 {
        fleet.push(Instance::start(&store, clock, permits).await);
    }
    (store, fleet)
}

#[tokio::test(start_paused = true)]
async fn nothing_is_asked_while_nothing_is_half_open() {
    let (store, fleet) = fleet(1).await;
    wait(60_000).await;
    fleet[0].reset(Automatic::Open);
    wait(20_000).await;
    assert_eq!(store.questions(), 0);
}

#[tokio::test(start_paused = true)]
async fn no_more_probes_are_out_than_the_fleet_may_have() {
    for permits in [1, 2] {
        let (store, fleet) = fleet(permits).await;
        fleet[0].reset(Automatic::HalfOpen);
        assert!(fleet[..1].iter().all(|one| one.probe().is_none()), "at once there is no lease, and so no probe");
        let mut out = Vec::new();
        for _ in 0..40 {
            wait(100).await;
            out.extend(fleet.iter().filter_map(Instance::probe));
            assert!(out.len() <= permits as usize && store.leases() <= permits as usize);
        }
        assert_eq!(out.len(), permits as usize, "all that may are out");
        assert!(fleet.iter().all(|one| one.breakers.state(0) == StateName::HalfOpen));
    }
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_is_back_makes_room_for_another_ones() {
    let (_store, fleet) = fleet(1).await;
    fleet[0].reset(Automatic::HalfOpen);
    for round in 0..5 {
        let mut out = None;
        for _ in 0..40 {
            wait(25).await;
            out = fleet.iter().find_map(Instance::probe);
            if out.is_some() {
                break;
            }
        }
        let out = out.unwrap_or_else(|| panic!("round {round}: a second is enough"));
        out.settle(Verdict::Ignored, Duration::ZERO, fleet[0].clock.now());
    }
}

#[tokio::test(start_paused = true)]
async fn a_lone_instance_holds_on_to_its_lease_until_a_call_comes() {
    let (store, clock) = (MemoryStore::new(), PausedClock::new());
    let one = Instance::start(&store, clock, 1).await;
    one.reset(Automatic::HalfOpen);
    wait(100).await;
    for _ in 0..100 {
        wait(97).await;
        assert_eq!(one.breakers.tenure(0).unused.len(), 1, "whenever a call comes it goes");
    }
    assert!(store.questions() < 40, "{}", store.questions());
    assert!(one.may_probe());
}

#[tokio::test(start_paused = true)]
async fn one_without_calls_lets_its_lease_go_for_one_that_has_some() {
    let (_store, fleet) = fleet(1).await;
    fleet[0].reset(Automatic::HalfOpen);
    wait(200).await;
    for round in 0..3 {
        let holder = fleet.iter().position(|one| one.breakers.tenure(0).unused.len() == 1).expect("one has it");
        let other = &fleet[(holder + 1) % fleet.len()];
        assert!(other.probe().is_none(), "a call that waits");
        wait(2_000).await;
        assert_eq!(other.breakers.tenure(0).unused.len(), 1, "round {round}");
        wait(5_000).await;
        assert_eq!(other.breakers.tenure(0).unused.len(), 1, "nobody else has calls");
    }
}

#[tokio::test(start_paused = true)]
async fn while_the_state_is_not_stored_it_is_asked_less_and_less() {
    let (store, clock) = (MemoryStore::new(), PausedClock::new());
    let one = Instance::start(&store, clock, 1).await;
    one.reset(Automatic::HalfOpen);
    settled().await;
    assert_eq!(one.breakers.tenure(0).unused.len(), 1, "stored and leased without a pause");
    store.empty();
    let before = store.questions();
    wait(1_900).await;
    assert!(store.questions() - before < 12, "{}", store.questions() - before);
}

#[tokio::test(start_paused = true)]
async fn without_the_store_each_goes_by_its_own_places_and_with_it_by_leases_again() {
    let (store, fleet) = fleet(1).await;
    fleet[0].reset(Automatic::HalfOpen);
    wait(500).await;
    store.set_away(true);
    wait(2_500).await;
    let out: Vec<_> = fleet.iter().filter_map(Instance::probe).collect();
    assert_eq!(out.len(), 3, "one each");
    drop(out);
    let before = store.questions();
    wait(10_000).await;
    assert_eq!(store.questions(), before);
    store.set_away(false);
    wait(5_000).await;
    let out: Vec<_> = fleet.iter().filter_map(Instance::probe).collect();
    assert_eq!(out.len(), 1, "one of all");
}

#[tokio::test(start_paused = true)]
async fn at_the_end_what_is_unused_is_given_back() {
    let (store, clock) = (MemoryStore::new(), PausedClock::new());
    let one = Instance::start(&store, clock, 1).await;
    one.reset(Automatic::HalfOpen);
    wait(100).await;
    assert_eq!(store.leases(), 1);
    one.ending.cancel();
    one.leasing.await.expect("ended");
    assert_eq!(store.leases(), 0);
}

/// Each life of each breaker anew, whichever of a thousand it is.
#[tokio::test(start_paused = true)]
async fn of_many_services_those_that_are_half_open_have_leases() {
    let (store, clock) = (MemoryStore::new(), PausedClock::new());
    let services = (0..1_000).map(|number| format!("service-{number}"));
    let one = Instance::start_with(services, &store, clock, 1).await;
    let reset = |service, to| drop(one.breakers.order(service, Order::Reset(to), "ops", "drill"));
    for life in 0..3 {
        for services in [&[0, 500][..], &[999], &[0, 7]] {
            services.iter().for_each(|service| reset(*service, Automatic::HalfOpen));
            wait(100).await;
            assert_eq!(store.leases(), services.len(), "life {life} of {services:?}");
            services.iter().for_each(|service| reset(*service, Automatic::Closed));
            wait(100).await;
            assert_eq!(store.leases(), 0, "life {life} of {services:?}");
        }
    }
    let questions = store.questions();
    wait(10_000).await;
    assert_eq!(store.questions(), questions, "nothing is half-open");
    [3, 4].iter().for_each(|service| reset(*service, Automatic::HalfOpen));
    wait(100).await;
    assert_eq!(store.leases(), 2);
    one.ending.cancel();
    one.leasing.await.expect("ended");
    assert_eq!(store.leases(), 0, "given back at the end");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_outlives_its_breakers_life_keeps_its_lease() {
    let (store, fleet) = fleet(1).await;
    fleet[0].reset(Automatic::HalfOpen);
    let mut out = None;
    while out.is_none() {
        wait(50).await;
        out = fleet.iter().find_map(Instance::probe);
    }
    fleet[0].reset(Automatic::Open);
    fleet[0].reset(Automatic::HalfOpen);
    for _ in 0..20 {
        wait(100).await;
        assert!(fleet.iter().all(|one| one.probe().is_none()), "the call of the life before is at the service");
    }
    drop(out);
    wait(1_000).await;
    assert_eq!(store.leases(), 1);
    assert_eq!(fleet.iter().filter(|one| one.may_probe()).count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_is_lost_holds_its_lease_to_the_deadline() {
    let (_store, fleet) = fleet(1).await;
    fleet[0].reset(Automatic::HalfOpen);
    let mut out = None;
    while out.is_none() {
        wait(50).await;
        out = fleet.iter().find_map(Instance::probe);
    }
    let _lost = out;
    wait(5_500).await;
    assert!(fleet.iter().all(|one| one.probe().is_none()), "timeout and a second are not over");
    wait(2_000).await;
    assert_eq!(fleet.iter().filter(|one| one.may_probe()).count(), 1);
}
