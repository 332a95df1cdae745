//! `[kafka]`: where Kafka is, and which of librdkafka's properties are the user's to set.

use std::collections::BTreeMap;

use secrecy::SecretString;
use serde_json::{Value as Json, json};

use crate::config::checked::Kafka;
use crate::config::reader::{Section, Shown};
use crate::config::shape::{Problem, Scalar, Shape, Text, wrong};
use crate::config::tree::Written;

/// What `[kafka]` holds.
pub(super) fn read(section: &Section<'_>) -> Option<Kafka> {
    let brokers = section.required("brokers", Brokers, "Brokers to start from: `host:port`, comma-separated.");
    let group = section.required(
        "group",
        Text,
        "The consumer group; draining uses this with `.retry` behind it. A group without a commit starts at the earliest record.",
    );
    let properties = section.open(
        "properties",
        "Properties of librdkafka, for every client; a value may stand in a file that `<property>_file` names.",
        property,
    );
    let properties: BTreeMap<String, SecretString> = properties?.into_iter().collect();
    refused_by_librdkafka(section, &properties);
    Some(Kafka { brokers: brokers?, group: group?, properties })
}

/// One property, unless the program owns it.
fn property(name: &str, properties: &Section<'_>) -> Option<(String, SecretString)> {
    let value = properties.entry(name, Scalar, if is_secret(name) { Shown::Hidden } else { Shown::Plain });
    if let Some((_, why)) = OWNED.iter().find(|(owned, _)| *owned == name) {
        return properties.report(name, *why);
    }
    Some((name.to_owned(), value?.into()))
}

/// Whether a property's value is kept out of every output.
fn is_secret(name: &str) -> bool {
    ["password", "secret", "passphrase", "key.pem", "oauthbearer.config", "jaas"].iter().any(|part| name.contains(part))
}

/// What the new group protocol decides on the broker: librdkafka refuses to start with them.
fn refused_by_librdkafka(section: &Section<'_>, properties: &BTreeMap<String, SecretString>) {
    use secrecy::ExposeSecret;
    if properties.get("group.protocol").is_none_or(|protocol| !protocol.expose_secret().eq_ignore_ascii_case("consumer")) {
        return;
    }
    section.within("properties", |section| {
        for name in ["session.timeout.ms", "heartbeat.interval.ms", "partition.assignment.strategy"] {
            if properties.contains_key(name) {
                section.fault(name, "the broker decides this when `group.protocol` is \"consumer\"; remove one of the two");
            }
        }
    });
}

/// Properties that a guarantee rests on, each with the reason and what to do instead.
const OWNED: [(&str, &str); 20] = [
    ("bootstrap.servers", "set `kafka.brokers` instead"),
    ("metadata.broker.list", "set `kafka.brokers` instead"),
    ("group.id", "set `kafka.group` instead"),
    ("enable.auto.commit", NO_LOSS),
    ("auto.commit.enable", NO_LOSS),
    ("auto.commit.interval.ms", "commits are Fusebox's own; set `processing.commit_interval` instead"),
    ("enable.auto.offset.store", NO_LOSS),
    (
        "auto.offset.reset",
        "cannot be set: a group without a commit starts at the earliest record, or it would lose what was there before it",
    ),
    ("enable.idempotence", NO_DOUBLE),
    ("acks", ALL_REPLICAS),
    ("request.required.acks", ALL_REPLICAS),
    (
        "transactional.id",
        "cannot be set: each loop's producer has one of its own; set `processing.transactional_id` instead, with `guarantee = \"exactly_once\"`",
    ),
    ("delivery.report.only.error", "cannot be set: an event finishes when its records are acknowledged, and this hides acknowledgements"),
    ("enable.partition.eof", "cannot be set: a partition's end is nothing that happened to a record"),
    (
        "allow.auto.create.topics",
        "cannot be set: topics are created by `fusebox migrate`, with the partitions and the retention of `topics`",
    ),
    ("enable.gapless.guarantee", "cannot be set: a record that failed is published again, and this would stop the producer instead"),
    ("offset.store.method", "cannot be set: commits are kept in Kafka, where every instance of the group finds them"),
    ("test.mock.num.brokers", "cannot be set: `fusebox dev` has a Kafka in it"),
    ("queuing.strategy", "cannot be set: events of one key keep their order"),
    ("produce.offset.report", "cannot be set: offsets are always reported"),
];

const NO_LOSS: &str = "cannot be set: an offset is committed when everything below it has finished, and not before";
const NO_DOUBLE: &str = "cannot be set: the producer is idempotent, so that its retries neither repeat nor reorder records";
const ALL_REPLICAS: &str = "cannot be set: a record counts as written when all in-sync replicas have it";

/// Brokers: `host:port`, comma-separated.
struct Brokers;

impl Shape for Brokers {
    type Value = String;
    fn expected(&self) -> String {
        "brokers as \"host:port\", comma-separated".to_owned()
    }
    fn schema(&self) -> Json {
        json!({ "type": "string", "minLength": 1 })
    }
    fn read(&self, written: &Written<'_>) -> Result<String, Problem> {
        let text = written.text().ok_or(Problem::Type)?;
        for broker in text.split(',').map(str::trim) {
            // Inside brackets the colons are an IPv6 address's.
            let after_host = broker.rsplit_once(']').map_or(broker, |(_, rest)| rest);
            let port_is_wrong = after_host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().map_or(true, |port| port == 0));
            if broker.is_empty() || broker.starts_with(':') || port_is_wrong {
                return wrong(format!("{broker:?} is no broker; write \"host:port\", several with commas between them"));
            }
        }
        Ok(text.to_owned())
    }
}
