//! Thousands of services: what is asked of Redis for them, and how it is answered.

use super::*;
use futures_util::future::join_all;

const SERVICES: usize = 5_000;

fn services() -> Vec<String> {
    (0..SERVICES).map(|number| format!("service-{number}")).collect()
}

/// How often a Redis has run each command.
fn commands(raw: &mut redis::Connection) -> std::collections::BTreeMap<String, u64> {
    let info: String = redis::cmd("INFO").arg("commandstats").query(raw).expect("INFO");
    let read = |line: &str| {
        let (name, figures) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        Some((name.to_owned(), figures.split(',').next()?.parse().ok()?))
    };
    info.lines().filter_map(read).collect()
}

#[tokio::test]
async fn what_is_stored_of_thousands_is_read_by_one_script_in_the_order_asked() {
    let server = Server::start(&[]);
    // A busy machine is not what is looked at.
    let config = fusebox::config::Redis { timeout: Duration::from_secs(5), ..config(&server.url(), "many") };
    let store = store_at(&config, "a", Tick(1_000_000));
    let services = services();
    // A state, a change of settings, both, or nothing.
    for services in services.chunks(64) {
        let saves = services.iter().map(|service| {
            let (store, number) = (&store, service[8..].parse::<u64>().expect("a number"));
            async move {
                if number % 2 == 1 {
                    let saved = store.save(service, &snapshot(1 + number, Held::HalfOpen), Some(&transition(1 + number))).await;
                    assert_eq!(saved, Ok(Saved::Stored));
                }
                if number % 4 > 1 {
                    assert_eq!(store.save_tuning(service, &tuning(1 + number, 7, "a"), 0).await, Ok(SavedTuning::Stored));
                }
            }
        });
        join_all(saves).await;
    }
    let mut raw = raw(&server.url());
    // It is in the server's memory from now on, and the connection stands.
    let _ = load(&store, &services[..1]).await.expect("loaded");
    let before = commands(&mut raw);
    let kept = load(&store, &services).await.expect("within one time limit");
    let after = commands(&mut raw);
    let ran = |name: &str| after.get(name).unwrap_or(&0) - before.get(name).unwrap_or(&0);
    assert_eq!((ran("evalsha"), ran("eval"), ran("time")), (1, 0, 1));
    assert!(ran("type") + ran("hmget") + ran("exists") <= 7 * SERVICES as u64, "{after:?}");
    for (number, kept) in (0_u64..).zip(kept) {
        let state = kept.state.map(|state| state.generation.0);
        let revision = kept.tuning.map(|tuning| tuning.revision);
        assert_eq!(state, (number % 2 == 1).then_some(1 + number));
        assert_eq!(revision, (number % 4 > 1).then_some(1 + number));
    }
}

/// Where no script may read several services' keys, each has a script of its own.
#[tokio::test]
async fn services_of_different_slots_are_read_one_by_one() {
    let directory = tempfile::TempDir::new().expect("a directory");
    let server = Server::start(&["--cluster-enabled", "yes", "--dir", directory.path().to_str().expect("UTF-8")]);
    let mut raw = raw(&server.url());
    let () = redis::cmd("CLUSTER").arg("ADDSLOTSRANGE").arg(0).arg(16_383).query(&mut raw).expect("all slots");
    let store = store_at(&config(&server.url(), "many"), "a", Tick(1_000_000));
    let services = &services()[..256];
    eventually("the cluster takes writes", || async { store.save(&services[7], &snapshot(3, Held::HalfOpen), None).await.ok() }).await;
    let mut ran = Vec::new();
    for _ in 0..2 {
        let before = commands(&mut raw);
        let kept = load(&store, services).await.expect("loaded");
        let stored: Vec<_> = (0..).zip(&kept).filter_map(|(number, kept)| Some((number, kept.state.as_ref()?.generation.0))).collect();
        assert_eq!((kept.len(), stored), (256, vec![(7, 3)]));
        ran.push(commands(&mut raw)["evalsha"] - before["evalsha"]);
    }
    assert_eq!(ran[1], 256, "nothing is tried that cannot be; at first: {}", ran[0]);
}
