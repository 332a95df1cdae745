//! What instances say of a service: who hears whom, and for how long, by Redis' own word.

use std::collections::HashMap;

use fusebox::machine::breaker::{Testimony, Told};
use fusebox::pipeline::ports::{EvidenceStore, HistoryEntry, Telling};

use super::*;

fn says(generation: u64, failures: u64, lasts_ms: u64) -> Telling {
    let figures = vec![Counts { calls: failures, failures, slow: 0, consecutive_failures: failures }];
    let testimony = Testimony { generation: Generation(generation), alone: false, kind: 4, figures, retry_after: None };
    Telling { service: "rag".to_owned(), testimony, lasts: Duration::from_millis(lasts_ms) }
}

/// Tells, and who was heard with how many failures.
async fn tell(store: &RedisStore<Still>, telling: Telling) -> Vec<(String, u64)> {
    let heard = store.tell(&[telling]).await.remove(0).expect("Redis is there");
    let mut heard: Vec<_> = heard.into_iter().map(|Told { instance, testimony }| (instance, testimony.figures[0].failures)).collect();
    heard.sort();
    heard
}

fn written(fixture: &Fixture) -> HashMap<String, String> {
    fixture.raw().hgetall(fixture.key("rag", "window")).expect("a hash")
}

fn named(heard: &[(&str, u64)]) -> Vec<(String, u64)> {
    heard.iter().map(|(instance, failures)| ((*instance).to_owned(), *failures)).collect()
}

#[tokio::test]
async fn whoever_tells_hears_all_others_of_that_life() {
    let fixture = Fixture::new();
    let [a, b, c] = ["a", "b", "c"].map(|name| fixture.store(name));
    assert_eq!(tell(&a, says(7, 1, 60_000)).await, named(&[]));
    assert_eq!(tell(&b, says(7, 2, 60_000)).await, named(&[("a", 1)]));
    assert_eq!(tell(&c, says(8, 4, 60_000)).await, named(&[]), "another life");
    assert_eq!(tell(&a, says(7, 3, 60_000)).await, named(&[]), "who has heard of the next life has forgotten the last one");
    assert_eq!(tell(&a, says(8, 5, 60_000)).await, named(&[("c", 4)]));
    assert_eq!(tell(&c, says(8, 6, 60_000)).await, named(&[("a", 5)]), "the last word of each");
    // Who has nothing to say hears all the same, and is not heard.
    assert_eq!(tell(&b, says(8, 0, 60_000)).await, named(&[("a", 5), ("c", 6)]));
    assert_eq!(tell(&a, says(8, 5, 60_000)).await, named(&[("c", 6)]));
}

#[tokio::test]
async fn of_two_who_tell_at_once_one_hears_the_other() {
    let fixture = Fixture::new();
    let stores: Vec<_> = (0..10).map(|number| fixture.store(&format!("i{number}"))).collect();
    for generation in 1..20 {
        let heard = futures_util::future::join_all(stores.iter().map(|store| tell(store, says(generation, 1, 60_000)))).await;
        let mut numbers: Vec<_> = heard.iter().map(Vec::len).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (0..10).collect::<Vec<_>>(), "each hears those who told before it");
    }
}

#[tokio::test]
async fn what_is_over_by_redis_clock_is_gone() {
    let fixture = Fixture::new();
    let [a, b] = ["a", "b"].map(|name| fixture.store(name));
    tell(&a, says(7, 1, 80)).await;
    tokio::time::sleep(Duration::from_millis(120)).await;
    assert!(!fixture.raw().exists::<_, bool>(fixture.key("rag", "window")).expect("asked"), "the key ends with the last of them");
    tell(&a, says(7, 1, 80)).await;
    assert_eq!(tell(&b, says(7, 2, 60_000)).await, named(&[("a", 1)]));
    tokio::time::sleep(Duration::from_millis(120)).await;
    assert_eq!(tell(&b, says(7, 2, 60_000)).await, named(&[]));
    assert_eq!(written(&fixture).into_keys().collect::<Vec<_>>(), ["b"], "and its field with the next who tells");
    // Taken back.
    assert_eq!(tell(&b, says(7, 2, 0)).await, named(&[]));
    assert!(written(&fixture).is_empty());
}

#[tokio::test]
async fn many_services_are_told_of_together() {
    let fixture = Fixture::new();
    let [a, b] = ["a", "b"].map(|name| fixture.store(name));
    let all = |failures| {
        (0..250u64).map(|number| Telling { service: format!("s{number}"), ..says(7, failures + number, 60_000) }).collect::<Vec<_>>()
    };
    a.tell(&all(1)).await.into_iter().collect::<Result<Vec<_>, _>>().expect("Redis is there");
    let heard: Vec<_> = b.tell(&all(0)).await.into_iter().collect::<Result<_, _>>().expect("Redis is there");
    let failures: Vec<_> = heard.iter().map(|told| told[0].testimony.figures[0].failures).collect();
    assert_eq!(failures, (1..251).collect::<Vec<_>>(), "in the order told");
}

#[tokio::test]
async fn what_cannot_be_read_is_left_out_or_replaced() {
    let fixture = Fixture::new();
    let a = fixture.store("a");
    let key = fixture.key("rag", "window");
    () = fixture.raw().set(&key, "not a hash").expect("set");
    tell(&a, says(7, 1, 60_000)).await;
    assert_eq!(written(&fixture).len(), 1);
    for (instance, said) in [("x", ""), ("y", "7 99999999999999 9 nonsense"), ("z", "7 0x10 0 4 1/1/1/1"), ("n", "nan 1e400 0 4 1/1/1/1")] {
        () = fixture.raw().hset(&key, instance, said).expect("set");
    }
    assert_eq!(tell(&fixture.store("b"), says(7, 2, 60_000)).await, named(&[("a", 1)]));
    assert_eq!(written(&fixture).into_keys().filter(|name| name.len() == 1 && "xzn".contains(name.as_str())).count(), 0);
}

#[tokio::test]
async fn what_is_one_instances_alone_is_kept_and_changes_nothing() {
    let fixture = Fixture::new();
    let store = fixture.store("a");
    store.save("rag", &snapshot(7, Held::Closed), Some(&transition(7))).await.expect("stored");
    let before: HashMap<String, String> = fixture.raw().hgetall(fixture.key("rag", "breaker")).expect("a hash");
    let alone = Transition { alone: true, ..transition(7) };
    tokio::time::sleep(Duration::from_millis(2)).await;
    assert_eq!(store.note("rag", &alone).await, Ok(()));
    let page = store.history("rag", None, 10).await.expect("a page");
    assert_eq!(page.entries.iter().map(|entry| entry.alone).collect::<Vec<_>>(), [true, false]);
    assert_eq!(fixture.raw().hgetall::<_, HashMap<String, String>>(fixture.key("rag", "breaker")).expect("a hash"), before);
}

/// A transition that is an instance's alone, so many ms before now.
fn noted(ago: u64) -> Transition {
    Transition { alone: true, at: Tick(1_000_000 - ago), ..transition(7) }
}

async fn whole_history(store: &RedisStore<Still>, page: usize) -> Vec<HistoryEntry> {
    let (mut cursor, mut entries) = (None, Vec::new());
    loop {
        let next = store.history("rag", cursor.as_deref(), page).await.expect("a page");
        assert!(next.entries.len() <= page + 1);
        entries.extend(next.entries);
        cursor = next.next;
        if cursor.is_none() {
            return entries;
        }
    }
}

#[tokio::test]
async fn what_is_noted_twice_is_kept_once() {
    let fixture = Fixture::new();
    let [a, b] = ["a", "b"].map(|name| fixture.store(name));
    // The first answer may have been lost; meanwhile others have noted something.
    for _ in 0..2 {
        for ago in [9, 7] {
            a.note("rag", &noted(ago)).await.expect("kept");
            b.note("rag", &noted(ago)).await.expect("kept");
        }
    }
    let kept = whole_history(&a, 10).await;
    let named: Vec<_> = kept.iter().map(|entry| entry.instance.as_str()).collect();
    assert_eq!(named, ["b", "a", "b", "a"]);
}

#[tokio::test]
async fn however_much_is_noted_every_change_stays_and_the_last_notes_are_in_their_places() {
    let fixture = Fixture::new();
    let store = fixture.store("a");
    for generation in 1..=100 {
        // Which of two streams had something first, is not known within a millisecond.
        tokio::time::sleep(Duration::from_millis(2)).await;
        assert_eq!(store.save("rag", &snapshot(generation, Held::HalfOpen), Some(&transition(generation))).await, Ok(Saved::Stored));
        tokio::time::sleep(Duration::from_millis(2)).await;
        for note in 0..5 {
            store.note("rag", &noted(1_000 * generation + note)).await.expect("kept");
        }
    }
    for page in [1, 7, 1_000] {
        let entries = whole_history(&store, page).await;
        let changes = entries.iter().filter(|entry| !entry.alone).map(|entry| entry.generation.0);
        assert_eq!(changes.collect::<Vec<_>>(), (1..=100).rev().collect::<Vec<_>>(), "pages of {page}");
        let order: Vec<_> = entries.iter().map(|entry| entry.alone).collect();
        assert_eq!(order.iter().filter(|alone| **alone).count(), 64, "pages of {page}");
        assert_eq!(order[..12], [true, true, true, true, true, false, true, true, true, true, true, false], "pages of {page}");
    }
    // What is of another type is nobody else's.
    let () = fixture.raw().set(fixture.key("rag", "alone"), "a string").expect("set");
    assert!(store.history("rag", None, 10).await.is_err());
    store.note("rag", &noted(1)).await.expect("kept");
    assert!(store.history("rag", None, 10).await.expect("a page").entries[0].alone);
}

#[tokio::test]
async fn the_user_of_the_handbook_may_tell_and_note() {
    let server = Server::start(&[]);
    let handbook = include_str!("../../docs/operations.md");
    let (_, rest) = handbook.split_once("ACL SETUSER fusebox on").expect("the handbook has a user");
    let (rules, _) = rest.split_once("```").expect("in a block");
    let rules = rules.replace('\\', " ").replace('\'', "").replace("PASSWORD", "pw");
    let mut user = redis::cmd("ACL");
    let () = user
        .arg("SETUSER")
        .arg("ann")
        .arg("on")
        .arg(rules.split_whitespace().collect::<Vec<_>>())
        .query(&mut raw(&server.url()))
        .expect("a user");
    let url = format!("redis://ann:pw@127.0.0.1:{}/0", server.port);
    let [a, b] = ["a", "b"].map(|name| store_at(&config(&url, "fusebox"), name, Tick(1_000_000)));
    tell(&a, says(7, 1, 60_000)).await;
    assert_eq!(tell(&b, says(7, 2, 60_000)).await, named(&[("a", 1)]));
    a.note("rag", &noted(1)).await.expect("kept");
    assert_eq!(whole_history(&b, 10).await.len(), 1);
}
