use std::collections::VecDeque;
use std::sync::Mutex;

use futures_util::FutureExt;
use http::StatusCode;
use tokio::task::JoinHandle;

use super::*;
use crate::event::Headers;
use crate::machine::breaker::{Automatic, Lease, PolicySettings, Settings, Verdict};
use crate::machine::time::Tick;
use crate::pipeline::breakers::{Order, Probes, Subject};
use crate::pipeline::fakes::{Always, Notes, PausedClock, Small};
use crate::pipeline::keeper::run_timers;
use crate::pipeline::ports::{Body, CallError, Reply};

const OPEN: Duration = Duration::from_secs(12);
const INTERVAL: Duration = Duration::from_secs(5);
const TIMEOUT: Duration = Duration::from_secs(2);
const SECOND: Duration = Duration::from_secs(1);

/// What the service says next; after the last, nothing for ever. With when it was asked.
struct Service {
    answers: Mutex<VecDeque<Result<Reply, CallError>>>,
    asked: Mutex<Vec<Tick>>,
    clock: PausedClock,
}

impl HealthCheck for Service {
    async fn check(&self, _service: usize) -> Result<Reply, CallError> {
        self.asked.lock().expect("unpoisoned").push(self.clock.now());
        let answer = self.answers.lock().expect("unpoisoned").pop_front();
        match answer {
            Some(answer) => answer,
            None => std::future::pending().await,
        }
    }
}

fn says(status: StatusCode) -> Reply {
    Reply { status: status.as_u16(), retry_after: None, headers: Headers::new(), body: Body::Whole("OK".into()) }
}

struct Fixture {
    breakers: Arc<Breakers<Small>>,
    service: Arc<Service>,
    notes: Arc<Notes>,
    clock: PausedClock,
    asking: JoinHandle<()>,
}

impl Fixture {
    fn new(probes: bool, answers: impl IntoIterator<Item = Result<Reply, CallError>>) -> Self {
        let (clock, notes) = (PausedClock::new(), Arc::new(Notes::default()));
        let settings = Settings {
            recovery_timeout_max: OPEN,
            success_threshold: 2,
            ..Settings::new(PolicySettings::Consecutive { fail_max: 1.try_into().expect("not zero") }, OPEN, TIMEOUT + SECOND)
        };
        let subject = Subject { service: "rag".to_owned(), settings, probes: if probes { Probes::Checks } else { Probes::Calls } };
        let (breakers, _) = Breakers::new([subject], clock, Always(0.0), Arc::clone(&notes), "here".to_owned());
        let answers = Mutex::new(answers.into_iter().collect());
        let service = Arc::new(Service { answers, asked: Mutex::default(), clock });
        let manner = Manner { service: 0, interval: INTERVAL, timeout: TIMEOUT, probes };
        tokio::spawn(run_timers(Arc::clone(&breakers), clock));
        let asking = tokio::spawn(run(vec![manner], Arc::clone(&breakers), Arc::clone(&service), clock, Arc::clone(&notes)));
        Self { breakers, service, notes, clock, asking }
    }

    /// Fails a call, which opens the breaker.
    fn trip(&self) {
        let failure = Verdict::Failure { retry_after: None };
        let admission = self.breakers.admit(0, self.clock.now()).expect("closed");
        assert!(admission.settle(failure, SECOND, self.clock.now()));
        assert_eq!(self.breakers.state(0), StateName::Open);
    }

    fn asked(&self) -> Vec<u64> {
        self.service.asked.lock().expect("unpoisoned").iter().map(|tick| tick.0 / 1_000).collect()
    }

    /// What was told of checks and of changes, in short.
    fn told(&self) -> Vec<String> {
        let notes = self.notes.0.lock().expect("unpoisoned");
        let word = |note: &str, before: &str| {
            note.split_once(before).map(|(_, rest)| rest.split([',', ' ', '}']).next().unwrap_or(rest).to_owned())
        };
        notes.iter().filter_map(|note| word(note, "health: ").or_else(|| word(note, " to: "))).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_without_traffic_recovers() {
    use StatusCode as S;
    let (unwell, well) = (|| Ok(says(S::SERVICE_UNAVAILABLE)), || Ok(says(S::OK)));
    let answers = [unwell(), Err(CallError::Connect), unwell(), well(), well(), Ok(says(S::NO_CONTENT)), well()];
    let world = Fixture::new(true, answers);
    tokio::time::sleep(SECOND * 100).await;
    assert_eq!(world.asked(), [0; 0], "closed, nobody asks");
    world.trip();
    tokio::time::sleep(SECOND * 100).await;
    // Open at 100: asked at 105 and 110. Half-open at 112: at once, and no. Open: 117, 122. Half-open at 124: at once, and after an interval.
    assert_eq!(world.asked(), [105, 110, 112, 117, 122, 124, 129]);
    let expect =
        ["Open", "Unhealthy", "Connect", "HalfOpen", "Unhealthy", "Open", "Healthy", "Healthy", "HalfOpen", "Healthy", "Healthy", "Closed"];
    assert_eq!(world.told(), expect);
    assert_eq!(world.breakers.state(0), StateName::Closed);
}

#[tokio::test(start_paused = true)]
async fn calls_are_no_probes_where_checks_are() {
    let world = Fixture::new(true, []);
    world.trip();
    tokio::time::sleep(OPEN - SECOND).await;
    // Timers are late by chance: a call that comes just then must not be the one that leaves the open state.
    let over = world.clock.now().plus(SECOND);
    assert!(world.breakers.refuses_at(0, over));
    let refused = world.breakers.admit(0, over).err().map(|refusal| refusal.state);
    assert_eq!((refused, world.breakers.state(0)), (Some(StateName::HalfOpen), StateName::Open));
    // And a moment for the timers, which are due at the same time.
    tokio::time::sleep(SECOND + Duration::from_millis(1)).await;
    assert_eq!(world.breakers.state(0), StateName::HalfOpen);
    for _ in 0..2 {
        assert!(world.breakers.refuses(0));
        let refused = world.breakers.admit(0, world.clock.now()).err().map(|refusal| refusal.state);
        assert_eq!(refused, Some(StateName::HalfOpen), "while the check is out, and while it is not");
        world.asking.abort();
        tokio::time::sleep(SECOND).await;
    }
    assert_eq!(world.breakers.view(0).probes, 0, "a check that is cut short gives its place back, and settles nothing");
    assert_eq!(world.breakers.state(0), StateName::HalfOpen);
    world.breakers.order(0, Order::Reset(Automatic::Closed), "ops", "it is well");
    assert!(world.breakers.admit(0, world.clock.now()).is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_check_waits_for_a_lease_on_a_probe_and_goes_as_soon_as_it_has_one() {
    let world = Fixture::new(true, (0..4).map(|_| Ok(says(StatusCode::OK))));
    world.breakers.share_probes(|_| true);
    world.trip();
    for moment in [14, 16, 18] {
        tokio::time::sleep_until(world.clock.instant(Tick(moment * 1_000 - 500)).expect("it comes")).await;
        assert_eq!(world.asked(), [5, 10], "those of the open time");
        world.breakers.keep_to_leases(0, world.breakers.snapshot(0).generation);
    }
    assert!(world.breakers.wants_probe(0));
    let lease = Lease { id: 1, use_by: world.clock.now().plus(SECOND) };
    assert!(world.breakers.grant(0, world.breakers.snapshot(0).generation, lease));
    tokio::time::sleep(SECOND).await;
    assert_eq!(world.asked(), [5, 10, 17], "not at the next interval's end");
}

#[tokio::test(start_paused = true)]
async fn no_answer_in_time_is_a_failure() {
    let world = Fixture::new(true, [Ok(says(StatusCode::OK)), Ok(says(StatusCode::OK))]);
    world.trip();
    tokio::time::sleep(OPEN + TIMEOUT + SECOND).await;
    assert_eq!(world.asked(), [5, 10, 12]);
    assert_eq!(world.told(), ["Open", "Healthy", "Healthy", "HalfOpen", "Timeout", "Open"]);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_comes_after_somebody_s_word_changes_nothing() {
    let world = Fixture::new(true, []);
    world.trip();
    tokio::time::sleep(OPEN + SECOND).await;
    world.breakers.order(0, Order::Reset(Automatic::Closed), "ops", "it is well");
    tokio::time::sleep(SECOND * 60).await;
    assert_eq!(world.breakers.state(0), StateName::Closed);
    assert_eq!(world.asked(), [5, 10, 12], "and nobody asks any more");
}

#[tokio::test(start_paused = true)]
async fn without_being_probes_checks_are_only_shown() {
    let world = Fixture::new(false, (0..8).map(|_| Ok(says(StatusCode::OK))));
    world.trip();
    tokio::time::sleep(SECOND * 20).await;
    assert_eq!(world.asked(), [5, 10, 12, 17]);
    assert_eq!(world.told(), ["Open", "Healthy", "Healthy", "HalfOpen", "Healthy", "Healthy"]);
    let admission = world.breakers.admit(0, world.clock.now()).expect("calls are the probes");
    assert!(admission.is_probe());
    assert!(world.asking.now_or_never().is_none());
}
