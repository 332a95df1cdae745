//! Leases on probes: how many there are, whose they are, and when they end, by Redis' own word.

use fusebox::pipeline::ports::{LeaseStore, LeaseWish, Leasing};

use super::*;

const LONG: Duration = Duration::from_secs(60);

fn wish(lease: u64, permits: u32) -> LeaseWish {
    LeaseWish { lease, generation: Generation(7), permits, duration: LONG, urgent: false }
}

async fn half_open(fixture: &Fixture) {
    let saved = fixture.store("keeper").save("rag", &snapshot(7, Held::HalfOpen), None).await;
    assert_eq!(saved, Ok(Saved::Stored));
}

async fn granted(store: &RedisStore<Still>, wish: LeaseWish) -> bool {
    match store.lease("rag", wish).await.expect("Redis is there") {
        Leasing::Granted => true,
        Leasing::Full { .. } => false,
        Leasing::Stale => panic!("the breaker is half-open"),
    }
}

#[tokio::test]
async fn of_twenty_who_ask_at_once_as_many_hold_one_as_may() {
    let fixture = Fixture::new();
    half_open(&fixture).await;
    let stores: Vec<_> = (0..20).map(|number| fixture.store(&format!("i{number}"))).collect();
    for permits in [1, 3, 19] {
        for round in 0..20 {
            let asked = futures_util::future::join_all(stores.iter().map(|store| granted(store, wish(round, permits)))).await;
            assert_eq!(asked.iter().filter(|granted| **granted).count(), permits as usize);
            let held: usize = fixture.raw().zcard(fixture.key("rag", "probes")).expect("a sorted set");
            assert_eq!(held, permits as usize);
            for store in &stores {
                store.give_back("rag", &[round]).await.expect("given back");
            }
            assert!(!fixture.raw().exists::<_, bool>(fixture.key("rag", "probes")).expect("asked"), "the last one takes the key with it");
        }
    }
}

#[tokio::test]
async fn only_the_half_open_life_that_is_stored_has_leases() {
    let fixture = Fixture::new();
    let store = fixture.store("a");
    let asked = async |generation| store.lease("rag", LeaseWish { generation: Generation(generation), ..wish(1, 1) }).await;
    assert_eq!(asked(0).await, Ok(Leasing::Stale), "nothing is stored");
    for (generation, held, asks, expect) in [
        (7, Held::HalfOpen, 7, Leasing::Granted),
        (8, Held::HalfOpen, 7, Leasing::Stale),
        (9, Held::HalfOpen, 10, Leasing::Stale),
        (11, Held::Open { until: Tick(2_000_000) }, 11, Leasing::Stale),
        (12, Held::Closed, 12, Leasing::Stale),
        (13, lock(LockKind::ForcedOpen, None), 13, Leasing::Stale),
    ] {
        assert_eq!(store.save("rag", &snapshot(generation, held), None).await, Ok(Saved::Stored));
        assert_eq!(asked(asks).await, Ok(expect), "{generation}");
    }
    let () = fixture.raw().del(fixture.key("rag", "breaker")).expect("deleted");
    let () = fixture.raw().set(fixture.key("rag", "breaker"), "no hash").expect("set");
    assert_eq!(asked(13).await, Ok(Leasing::Stale));
}

#[tokio::test]
async fn a_lease_ends_at_its_deadline_by_redis_clock() {
    let fixture = Fixture::new();
    half_open(&fixture).await;
    // Their own clocks stand still, and differ.
    let (a, b) = (store_at(&fixture.config(), "a", Tick(5)), store_at(&fixture.config(), "b", Tick(9_000_000)));
    let began = Instant::now();
    assert!(granted(&a, LeaseWish { duration: Duration::from_millis(700), ..wish(1, 1) }).await);
    let Ok(Leasing::Full { free_in: Some(free_in) }) = b.lease("rag", wish(1, 1)).await else { panic!("one at a time") };
    assert!(free_in <= Duration::from_millis(700), "{free_in:?}");
    let b = &b;
    eventually("the deadline", || async move { granted(b, wish(1, 1)).await.then_some(()) }).await;
    assert!(began.elapsed() >= Duration::from_millis(699), "{:?}", began.elapsed());
    // The key goes with its last deadline though nobody asks.
    let left: i64 = fixture.raw().pttl(fixture.key("rag", "probes")).expect("asked");
    assert!((1..=60_000).contains(&left), "{left}");
}

#[tokio::test]
async fn a_lease_that_is_held_is_prolonged_and_only_its_holder_gives_it_back() {
    let fixture = Fixture::new();
    half_open(&fixture).await;
    let (a, b) = (fixture.store("a"), fixture.store("b"));
    assert!(granted(&a, LeaseWish { duration: Duration::from_secs(5), ..wish(1, 1) }).await);
    assert!(granted(&a, wish(1, 1)).await, "the same one again");
    assert!(!granted(&a, wish(2, 1)).await, "and no second one");
    let Ok(Leasing::Full { free_in: Some(free_in) }) = b.lease("rag", wish(1, 1)).await else { panic!("one at a time") };
    assert!(free_in > Duration::from_secs(30), "{free_in:?}");
    b.give_back("rag", &[1]).await.expect("asked");
    a.give_back("rag", &[]).await.expect("asked");
    assert!(!granted(&b, wish(1, 1)).await);
    a.give_back("rag", &[1, 2]).await.expect("given back");
    assert!(granted(&b, wish(1, 1)).await);
}

#[tokio::test]
async fn whoever_holds_one_without_a_use_lets_it_go_for_one_who_waits() {
    let fixture = Fixture::new();
    half_open(&fixture).await;
    let (a, b, c) = (fixture.store("a"), fixture.store("b"), fixture.store("c"));
    assert!(granted(&a, wish(1, 1)).await);
    assert!(!granted(&c, wish(1, 1)).await);
    assert!(granted(&a, wish(1, 1)).await, "nobody waits");
    assert!(!granted(&b, LeaseWish { urgent: true, ..wish(1, 1) }).await);
    assert!(!granted(&a, wish(1, 1)).await, "somebody waits");
    a.give_back("rag", &[1]).await.expect("given back");
    assert!(!granted(&c, wish(1, 1)).await, "it is not for who does not wait");
    assert!(granted(&b, wish(2, 1)).await, "but for who did");
    b.give_back("rag", &[2]).await.expect("given back");
    assert!(granted(&c, wish(1, 1)).await, "who has one waits no more");
}

#[tokio::test]
async fn damage_is_written_over() {
    let fixture = Fixture::new();
    half_open(&fixture).await;
    for what in ["probes", "waiting"] {
        let () = fixture.raw().del(fixture.key("rag", what)).expect("deleted");
        let () = fixture.raw().rpush(fixture.key("rag", what), "a list").expect("pushed");
    }
    assert!(granted(&fixture.store("a"), wish(1, 1)).await);
}

#[tokio::test]
async fn the_user_of_the_handbook_may_lease() {
    let server = Server::start(&[]);
    add_user(&mut raw(&server.url()), &[]);
    let store = store_at(&config(&format!("redis://ann:pw@127.0.0.1:{}/0", server.port), "fusebox"), "a", Tick(1_000_000));
    assert_eq!(store.save("rag", &snapshot(7, Held::HalfOpen), Some(&transition(7))).await, Ok(Saved::Stored));
    assert!(granted(&store, wish(1, 1)).await);
    assert!(!granted(&store, LeaseWish { urgent: true, ..wish(2, 1) }).await);
    store.give_back("rag", &[1]).await.expect("given back");
    assert!(granted(&store, LeaseWish { urgent: true, ..wish(2, 1) }).await);
}

#[tokio::test]
async fn every_key_is_the_services() {
    let server = Server::start(&[]);
    let store = store_at(&config(&server.url(), "p"), "a", Tick(1_000_000));
    assert_eq!(store.save("rag", &snapshot(7, Held::HalfOpen), None).await, Ok(Saved::Stored));
    for lease in 0..2 {
        granted(&store, LeaseWish { urgent: true, ..wish(lease, 1) }).await;
    }
    let keys: BTreeSet<String> = raw(&server.url()).keys("*").expect("listed");
    assert_eq!(keys, ["p:{rag}:breaker", "p:{rag}:probes", "p:{rag}:waiting"].map(str::to_owned).into());
}
