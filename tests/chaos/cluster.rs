//! The brokers of the cluster that `scripts/services --brokers 3` has started, one at a time.

use std::process::Command;
use std::sync::LazyLock;
use std::time::Duration;

use rdkafka::admin::AdminClient;
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;

use crate::harness::{server, until};

static ADMIN: LazyLock<AdminClient<DefaultClientContext>> =
    LazyLock::new(|| ClientConfig::new().set("bootstrap.servers", server("KAFKA_BROKERS")).create().expect("an admin client"));

/// How many there are.
pub const BROKERS: usize = 3;

/// Does something with a broker, and waits until it is done.
fn broker(what: &str, id: usize) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/services");
    let done = Command::new(script).args(["broker", what, &id.to_string(), "--dir", &server("SERVICES_DIR")]).status();
    assert!(done.expect("scripts/services runs").success(), "broker {id}: {what}");
}

/// SIGKILL.
pub fn kill(id: usize) {
    broker("kill", id);
}

/// SIGTERM.
pub fn stop(id: usize) {
    broker("stop", id);
}

/// Starts it again, and waits until every partition has all its replicas in step: only then may the next broker go.
pub fn start(id: usize, topics: &[&str]) {
    broker("start", id);
    until("every replica is in step", || topics.iter().all(|topic| in_step(topic)));
}

fn in_step(topic: &str) -> bool {
    let Ok(metadata) = ADMIN.inner().fetch_metadata(Some(topic), Duration::from_secs(5)) else { return false };
    metadata.topics().iter().flat_map(|topic| topic.partitions()).all(|partition| partition.isr().len() == BROKERS)
}

/// What leads to the brokers by way of a test: where clients come in, and where that must be forwarded to.
pub fn detours() -> Vec<(String, String)> {
    let detours = server("KAFKA_DETOURS");
    let detours = detours.split(',').map(|detour| detour.split_once('=').expect("two addresses"));
    detours.map(|(entrance, broker)| (entrance.to_owned(), broker.to_owned())).collect()
}
