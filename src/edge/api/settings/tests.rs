use std::time::Duration;

use axum::http::HeaderValue;
use tokio::sync::Notify;

use super::*;
use crate::config::LogFormat;
use crate::machine::breaker::{PolicySettings, Snapshot, Transition};
use crate::pipeline::breakers::Breakers;
use crate::pipeline::fakes::{Always, MemoryStore, PausedClock, Small};
use crate::pipeline::ports::{Heard, HistoryPage, Kept, Saved, SavedTuning, StoreError};
use crate::telemetry::capture::logged;

#[test]
fn the_tags_that_if_match_names() {
    let any = Some(None);
    let these = |tags: &[&str]| Some(Some(tags.iter().map(|tag| (*tag).to_owned()).collect::<Vec<_>>()));
    for (values, expect) in [
        (&[][..], any.clone()),
        (&["*"], any.clone()),
        (&["\"1\"", "*"], any),
        (&["\"0\""], these(&["0"])),
        (&["\"3-a\", \"4\"", "\"5-b\""], these(&["3-a", "4", "5-b"])),
        (&["W/\"3\""], these(&[])),
        (&["3"], None),
        (&["\"three\""], these(&["three"])),
        (&["\"3\"4\""], None),
        (&["\""], None),
        (&["\"3"], None),
        (&[""], None),
    ] {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::IF_MATCH, HeaderValue::from_static(value));
        }
        assert_eq!(tags(&headers).ok(), expect, "{values:?}");
    }
}

/// A store that takes a change and is slow to say so.
struct Slow {
    inner: Arc<MemoryStore>,
    stored: Notify,
    answer: Notify,
}

impl Store for Slow {
    async fn load(&self, services: &[String]) -> Vec<Result<Kept, StoreError>> {
        self.inner.load(services).await
    }
    async fn save(&self, service: &str, snapshot: &Snapshot, transition: Option<&Transition>) -> Result<Saved, StoreError> {
        self.inner.save(service, snapshot, transition).await
    }
    async fn note(&self, service: &str, transition: &Transition) -> Result<(), StoreError> {
        self.inner.note(service, transition).await
    }
    async fn save_tuning(&self, service: &str, tuning: &Tuning, over: u64) -> Result<SavedTuning, StoreError> {
        let saved = self.inner.save_tuning(service, tuning, over).await;
        self.stored.notify_one();
        self.answer.notified().await;
        saved
    }
    async fn history(&self, service: &str, cursor: Option<&str>, limit: usize) -> Result<HistoryPage, StoreError> {
        Store::history(&*self.inner, service, cursor, limit).await
    }
    fn watch(&self) -> tokio::sync::mpsc::Receiver<Heard> {
        self.inner.watch()
    }
}

fn api(store: Slow) -> Arc<Api<Small, Slow>> {
    let clock = PausedClock::new();
    let fail_max = 5.try_into().expect("not zero");
    let settings = Settings::new(PolicySettings::Consecutive { fail_max }, Duration::from_secs(30), Duration::from_secs(2));
    let (breakers, _) = Breakers::new([("rag".to_owned(), settings)], clock, Always(0.0), Arc::default(), "here".to_owned());
    Arc::new(Api::of(breakers, Some(Arc::new(store)), clock))
}

#[test]
fn what_the_store_has_taken_is_audited_though_the_one_who_asked_is_gone() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
    let lines = logged(LogFormat::Json, "info", || {
        runtime.block_on(async {
            let api = api(Slow { inner: MemoryStore::new(), stored: Notify::new(), answer: Notify::new() });
            let store = Arc::clone(api.store.as_ref().expect("one"));
            let headers = HeaderMap::new();
            let changes = Map::from_iter([("fail_max".to_owned(), 2.into())]);
            let decide = move |in_force: &Settings| changed_breaker(in_force, &changes).map(|settings| Chosen::Given(Arc::new(settings)));
            let asking = make(Arc::clone(&api), "rag".to_owned(), ("ops".to_owned(), "noisy".to_owned()), &headers, decide);
            // Of the two the question is dropped here, after the store has taken the change.
            tokio::select! {
                _ = asking => panic!("the store has not answered"),
                () = store.stored.notified() => {}
            }
            assert_eq!(store.inner.tuning("rag").map(|stored| stored.revision), Some(1));
            store.answer.notify_one();
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
            assert_eq!(api.breakers.standing(0).0.revision(), 1);
        });
    });
    let audited: Vec<_> = lines.iter().filter(|line| line.contains("a breaker's settings were changed")).collect();
    assert!(matches!(&audited[..], [line] if line.contains("noisy")), "{lines:?}");
}

#[test]
fn what_counts_first_verdicts_comes_too_late() {
    let policy = PolicySettings::Consecutive { fail_max: 3.try_into().expect("is not zero") };
    let in_force = Settings::new(policy, Duration::from_secs(1), Duration::from_secs(2));
    let said = |changes: &[(&str, Value)]| {
        let changes = changes.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
        changed(&in_force, &changes).map_err(|Faults(faults)| faults.into_iter().filter_map(|fault| fault.key).collect::<Vec<_>>())
    };
    assert_eq!(said(&[("ignore_first", 0.into())]), Ok(in_force.clone()), "a whole table may be handed back");
    assert_eq!(said(&[("ignore_first", 5.into())]), Err(vec!["ignore_first".to_owned()]));
    assert_eq!(said(&[("ignore_first", 5.into()), ("permits", 0.into())]), Err(vec!["ignore_first".to_owned(), "permits".to_owned()]));
}
