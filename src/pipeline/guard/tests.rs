use std::collections::VecDeque;
use std::sync::Mutex;

use futures_util::FutureExt;
use tokio::sync::oneshot;

use super::*;
use crate::machine::breaker::{PolicySettings, Settings};
use crate::machine::limit::{Law, aimd};
use crate::pipeline::fakes::{Always, Notes, Nowhere, PausedClock};
use crate::pipeline::ports::CallError;

mod verdicts;

struct Answering;

impl World for Answering {
    type Clock = PausedClock;
    type Chance = Always;
    type Caller = Answers;
    type Publisher = Nowhere;
    type Witness = Notes;
}

/// Each call gets the next answer, when it is there.
#[derive(Default)]
struct Answers(Mutex<VecDeque<oneshot::Receiver<Result<Reply, CallError>>>>);

impl Caller for Answers {
    async fn call(&self, _call: Call<'_>) -> Result<Reply, CallError> {
        let answer = self.0.lock().expect("unpoisoned").pop_front().expect("an answer is due");
        answer.await.expect("an answer")
    }
}

impl Answers {
    fn due(&self) -> oneshot::Sender<Result<Reply, CallError>> {
        let (answer, due) = oneshot::channel();
        self.0.lock().expect("unpoisoned").push_back(due);
        answer
    }
}

fn guard(fail_max: u32) -> (Arc<Answers>, Guard<Answering>) {
    guard_by(fail_max, verdict::Rules::default())
}

fn guard_by(fail_max: u32, rules: verdict::Rules) -> (Arc<Answers>, Guard<Answering>) {
    let (clock, witness, caller) = (PausedClock::new(), Arc::new(Notes::default()), Arc::new(Answers::default()));
    let timeout = Duration::from_secs(10);
    let settings = Settings {
        recovery_timeout_max: timeout * 3,
        ..Settings::new(PolicySettings::Consecutive { fail_max: fail_max.try_into().expect("not zero") }, timeout, timeout)
    };
    let (breakers, _) = Breakers::new([("rag".to_owned(), settings)], clock, Always(0.0), Arc::clone(&witness), "here".to_owned());
    let law = Law::Aimd(aimd::Settings { latency: timeout, backoff_ratio: 0.5 });
    let adaptive = Some(limit::Settings { law, minimum: 1, initial: 8 });
    let manner = Manner { timeout, slow: None, concurrency: 16, drain_concurrency: 4, adaptive, rules };
    (Arc::clone(&caller), Guard::new(0, manner, breakers, caller, clock, witness, Stop::new()))
}

const BODY: Bytes = Bytes::from_static(b"{}");

async fn call(guard: &Guard<Answering>, class: Class) -> Guarded {
    guard.call(class, Request { body: &BODY, idempotency_key: "k", trace: &[] }, 1).await
}

fn replied(status: u16) -> Reply {
    Reply { status, retry_after: None, headers: Headers::new(), body: Body::Whole(BODY) }
}

#[tokio::test(start_paused = true)]
async fn only_calls_that_ran_to_their_end_and_count_move_the_number_of_places() {
    let (answers, guard) = guard(1_000);
    for (answer, class, places) in [
        (Ok(replied(500)), Class::Live, 8),
        (Err(CallError::Connect), Class::Live, 8),
        (Ok(replied(503)), Class::Live, 4),
        (Ok(replied(429)), Class::Drain, 2),
    ] {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let what = format!("{answer:?}");
        drop(answers.due().send(answer));
        call(&guard, class).await;
        assert_eq!(guard.places(), places, "{what}");
    }
    let cancelled = answers.due();
    assert!(call(&guard, Class::Live).now_or_never().is_none());
    assert!(cancelled.is_closed() && guard.places() == 2, "cut off: it says nothing");
    tokio::time::sleep(Duration::from_secs(1)).await;
    let _never = answers.due();
    let timed_out = call(&guard, Class::Live).await;
    assert!(matches!(timed_out.end, End::Failed { .. }) && guard.places() == 1, "{timed_out:?}");
}

#[tokio::test(start_paused = true)]
async fn a_late_verdict_and_a_refusal_say_nothing() {
    let (answers, guard) = guard(1);
    let (trips, late) = (answers.due(), answers.due());
    let (mut first, mut second) = (Box::pin(call(&guard, Class::Live)), Box::pin(call(&guard, Class::Live)));
    assert!((&mut first).now_or_never().is_none() && (&mut second).now_or_never().is_none());
    drop(trips.send(Ok(replied(500))));
    assert!(first.await.state == StateName::Open && guard.places() == 8);
    drop(late.send(Ok(replied(503))));
    assert!(matches!(second.await.end, End::Failed { .. }) && guard.places() == 8);
    assert!(call(&guard, Class::Live).await.end == End::CircuitOpen && guard.places() == 8);
}
