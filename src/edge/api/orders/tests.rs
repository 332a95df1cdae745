use std::sync::Mutex;

use serde_json::{Value, json};
use tokio::sync::Notify;

use super::*;
use crate::config::LogFormat;
use crate::machine::orders::MOST_IN_FORCE;
use crate::pipeline::breakers::Breakers;
use crate::pipeline::fakes::{Always, MemoryStore, PausedClock, Small};
use crate::telemetry::capture::logged;

type Answer<T> = Result<T, Problem>;

/// A topic of orders that takes a change and is slow to say so.
#[derive(Default)]
struct Log {
    written: Mutex<Vec<Change>>,
    asked: Notify,
    answer: Notify,
}

fn api(log: &Arc<Log>) -> Arc<Api<Small, MemoryStore>> {
    let (clock, log) = (PausedClock::new(), Arc::clone(log));
    let (breakers, _) =
        Breakers::new(Vec::<(String, crate::machine::breaker::Settings)>::new(), clock, Always(0.0), Arc::default(), "here".to_owned());
    let hours = |hours: u64| Duration::from_secs(hours * 3_600);
    let number = std::sync::atomic::AtomicU64::new(0);
    Arc::new(Api {
        orders: Ordering {
            book: OrderBook::closed("g"),
            group: "g".to_owned(),
            services: [("quick".to_owned(), hours(1)), ("slow".to_owned(), hours(20))].into(),
            new_id: Box::new(move || Uuid::from_u128(number.fetch_add(1, std::sync::atomic::Ordering::Relaxed).into())),
            count: Box::new(|_| Box::pin(async { Ok(Counted { calls: 3, all: true, ends: BTreeMap::new() }) })),
            write: Box::new(move |change| {
                let log = Arc::clone(&log);
                Box::pin(async move {
                    log.written.lock().expect("unpoisoned").push(change);
                    log.asked.notify_one();
                    log.answer.notified().await;
                    Ok(())
                })
            }),
        },
        ..Api::of(breakers, None, clock)
    })
}

/// What is answered at once, before anything is written; `None` if it would be.
async fn refused<T>(asking: impl Future<Output = Answer<T>>) -> Option<(u64, String)> {
    tokio::select! {
        biased;
        answer = asking => {
            let problem = serde_json::to_value(answer.err()?).expect("a problem");
            Some((problem["status"].as_u64().expect("a status"), problem["detail"].as_str().expect("a sentence").to_owned()))
        }
        () = async { for _ in 0..10 { tokio::task::yield_now().await } } => None,
    }
}

fn wanted(body: Value) -> Json<Wanted> {
    Json(serde_json::from_value(body).expect("a wish"))
}

fn ann() -> Extension<Actor> {
    Extension(Actor("ann".into()))
}

#[tokio::test]
async fn a_delay_is_shorter_than_the_chosen_services_max_age() {
    for (body, refusal) in [
        (json!({ "filter": { "service": "quick" }, "for": "2h" }), Some("1h")),
        (json!({ "filter": { "service": "slow" }, "for": "2h" }), None),
        (json!({ "filter": { "service": "slow" }, "for": "20h" }), Some("20h")),
        // They may be of any service.
        (json!({ "filter": { "camera": "c" }, "for": "2h" }), Some("1h")),
        (json!({ "filter": { "camera": "c" }, "for": "59m" }), None),
    ] {
        let answer = refused(delay(State(api(&Arc::default())), ann(), Ok(wanted(body.clone())))).await;
        assert_eq!(answer.is_some(), refusal.is_some(), "{body}: {answer:?}");
        assert!(refusal.is_none_or(|word| answer.is_some_and(|(status, why)| status == 400 && why.contains(word))), "{body}");
    }
}

#[tokio::test]
async fn an_order_counts_before_one_that_was_given_by_a_clock_that_is_ahead() {
    let log = Arc::<Log>::default();
    let api = api(&log);
    log.answer.notify_one();
    assert!(discard(State(Arc::clone(&api)), ann(), Ok(wanted(json!({ "filter": {} })))).await.is_ok());
    let Change::Order(first) = log.written.lock().expect("unpoisoned")[0].clone() else { panic!("an order") };
    let ahead = Order { id: Uuid::from_u128(77), at: first.at.plus(Duration::from_secs(60)), ..*first };
    api.orders.book.hear(ahead.into());
    log.answer.notify_one();
    assert!(release(State(Arc::clone(&api)), ann(), Ok(wanted(json!({ "filter": {} })))).await.is_ok());
    let acts: Vec<_> = api.orders.book.orders().list().map(|(order, _)| order.act.as_str()).collect();
    assert_eq!(acts, ["release", "discard", "discard"], "the last one first");
}

#[tokio::test]
async fn more_orders_than_may_be_in_force_are_refused() {
    let log = Arc::<Log>::default();
    let api = api(&log);
    for _ in 0..MOST_IN_FORCE {
        log.answer.notify_one();
        assert!(release(State(Arc::clone(&api)), ann(), Ok(wanted(json!({ "filter": {} })))).await.is_ok());
    }
    let (status, why) = refused(release(State(Arc::clone(&api)), ann(), Ok(wanted(json!({ "filter": {} }))))).await.expect("a refusal");
    assert!(status == 409 && why.contains("256 orders") && why.contains("fusebox retry cancel"), "{status} {why}");
    let counted = release(State(Arc::clone(&api)), ann(), Ok(wanted(json!({ "filter": {}, "dry_run": true })))).await;
    assert!(counted.is_ok(), "counting is no order");
    log.answer.notify_one();
    assert!(cancel(State(Arc::clone(&api)), Path(Uuid::nil()), ann()).await.is_ok());
    log.answer.notify_one();
    assert!(release(State(api), ann(), Ok(wanted(json!({ "filter": {} })))).await.is_ok());
}

#[test]
fn what_is_written_is_audited_though_the_one_who_asked_is_gone_and_what_a_record_says_is_not_told() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
    let shown = Mutex::new(Value::Null);
    let lines = logged(LogFormat::Json, "info", || {
        runtime.block_on(async {
            let log = Arc::<Log>::default();
            let api = api(&log);
            let body = json!({ "filter": { "text": "jane@example.org", "camera": "cam-7" }, "reason": "she asked" });
            // Of the two the question is dropped here, after the topic has taken the order.
            tokio::select! {
                _ = discard(State(Arc::clone(&api)), ann(), Ok(wanted(body))) => panic!("Kafka has not answered"),
                () = log.asked.notified() => {}
            }
            let Change::Order(written) = log.written.lock().expect("unpoisoned")[0].clone() else { panic!("an order") };
            assert_eq!(written.selection.text.as_deref(), Some("jane@example.org"), "who drains must know");
            log.answer.notify_one();
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
            *shown.lock().expect("unpoisoned") = serde_json::to_value(list(State(api)).await.0).expect("JSON");
        });
    });
    let audited: Vec<_> = lines.iter().filter(|line| line.contains("parked calls were ordered about")).collect();
    assert!(matches!(&audited[..], [line] if line.contains("she asked") && line.contains("cam-7") && !line.contains("jane")), "{lines:?}");
    let shown = shown.into_inner().expect("unpoisoned");
    assert_eq!(shown["orders"][0]["selection"], json!({ "cameras": ["cam-7"], "text_length": 16 }));
}
