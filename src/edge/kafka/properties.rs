//! librdkafka's properties: what Fusebox sets, over it what the user sets, over that what Fusebox owns.
//!
//! Each figure stands with its derivation. What is owned is what the promise of not losing and not repeating rests on.

use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::KafkaError;
use rdkafka::{ClientConfig, Statistics};
use secrecy::ExposeSecret;

use super::consumer::Ahead;
use crate::config;

/// How long librdkafka waits at most before it tries a broker again. Its own default of 10 s keeps a client away ten seconds
/// longer than the broker was.
const RECONNECT_MAX_MS: &str = "1000";
/// How soon a topic that was missing is noticed when it appears, for readers and writers. One small request a client.
const METADATA_REFRESH_MS: &str = "5000";
/// How often the consumer's broker connections are looked at: a broker that is back shows in readiness within this time.
const STATISTICS_MS: &str = "2000";
/// The session's timeout unless the user says otherwise. Below `shutdown.timeout`'s default, 25 s: with the classic protocols the commits of all
/// wait behind a rebalance that waits for a dead member's session to end, and with librdkafka's own default, 45 s, a stop in that time could
/// not make its last one.
const SESSION_TIMEOUT_MS: u64 = 20_000;
/// A broker's default for `group.protocol=consumer`, where it is the broker's affair (`group.consumer.session.timeout.ms`).
const BROKERS_SESSION_TIMEOUT_MS: u64 = 45_000;

/// How long a member of the group may be silent before it counts as dead.
pub fn session_timeout(settings: &config::Kafka) -> Duration {
    let of = |key: &str| settings.properties.get(key).map(|value| value.expose_secret().to_owned());
    let is_brokers_affair = of("group.protocol").is_some_and(|protocol| protocol.eq_ignore_ascii_case("consumer"));
    Duration::from_millis(if is_brokers_affair {
        BROKERS_SESSION_TIMEOUT_MS
    } else {
        of("session.timeout.ms").and_then(|ms| ms.parse().ok()).unwrap_or(SESSION_TIMEOUT_MS)
    })
}

/// How long a broker waits for the end of a transaction before it aborts it. What a killed instance leaves open holds up readers that long;
/// a transaction that ends in order takes some hundredths of a second, and must outlast a coordinator's move.
const TRANSACTION_TIMEOUT_MS: &str = "10000";

/// The smallest fetch that librdkafka can be asked for: its least `message.max.bytes`.
const LEAST_FETCH: usize = 1_000;

/// Refused by librdkafka together with `group.protocol=consumer`, where the broker decides them.
const CLASSIC_ONLY: [&str; 3] = ["session.timeout.ms", "heartbeat.interval.ms", "partition.assignment.strategy"];

fn layered(settings: &config::Kafka, ours: &[(&str, String)], owned: &[(&str, String)]) -> ClientConfig {
    let mut properties = ClientConfig::new();
    properties.set("client.id", "fusebox");
    properties.set("reconnect.backoff.max.ms", RECONNECT_MAX_MS);
    properties.set("topic.metadata.refresh.interval.ms", METADATA_REFRESH_MS);
    properties.set("socket.keepalive.enable", "true");
    for (key, value) in ours {
        properties.set(*key, value);
    }
    for (key, value) in &settings.properties {
        properties.set(key, value.expose_secret());
    }
    properties.set("bootstrap.servers", &settings.brokers);
    for (key, value) in owned {
        properties.set(*key, value);
    }
    // librdkafka's lines go to our log at `debug`; `debug = "…"` among the user's properties chooses them.
    properties.set_log_level(RDKafkaLogLevel::Debug);
    properties
}

/// Properties of a member of the group. What it reads ahead is bounded: librdkafka's defaults, 64 MiB and 100,000 records, dwarf a budget.
pub(super) fn member(settings: &config::Kafka, group: &str, client_id: &str, ahead: Ahead, max_record_bytes: usize) -> ClientConfig {
    // It fetches until the queue has reached its bound, so a fetch may come on top of that: half each. librdkafka counts in KiB, at least
    // one, up to 2 GiB; more than 64 MiB in one fetch keeps no consumer busier.
    let queued_kib = (ahead.bytes / (2 << 10)).clamp(1, 1 << 20);
    let fetch = (ahead.bytes / 2).clamp(LEAST_FETCH, 64 << 20);
    // A record larger than this still comes through: brokers send at least one batch, whatever its size. It saves the round trips of
    // librdkafka's growing towards a size that is known to occur.
    let fetch_of_partition = max_record_bytes.clamp(1 << 20, 16 << 20).min(fetch);
    let ours = [
        ("client.id", client_id.to_owned()),
        ("queued.max.messages.kbytes", queued_kib.to_string()),
        // Of the whole queue, all partitions together: it is one for a member of a group.
        ("queued.min.messages", ahead.records.clamp(1, 100_000).to_string()),
        ("fetch.max.bytes", fetch.to_string()),
        ("fetch.message.max.bytes", fetch_of_partition.to_string()),
        // Only a cap on what a broker may answer: one batch above librdkafka's 100 MB would stop its partition for ever.
        ("receive.message.max.bytes", (1_u32 << 30).to_string()),
        // With a small queue librdkafka's default of 1 s between fetches makes a consumer crawl.
        ("fetch.queue.backoff.ms", "10".into()),
        ("auto.offset.reset", "earliest".into()),
        ("isolation.level", "read_committed".into()),
        ("partition.assignment.strategy", "cooperative-sticky".into()),
        // A member hears of a rebalance with its heartbeat: three of the default 3 s make a handover of up to ten seconds.
        ("heartbeat.interval.ms", "1000".into()),
        ("session.timeout.ms", SESSION_TIMEOUT_MS.to_string()),
        ("statistics.interval.ms", STATISTICS_MS.into()),
    ];
    let owned = [
        ("group.id", group.to_owned()),
        ("enable.auto.commit", "false".into()),
        ("enable.auto.offset.store", "false".into()),
        ("enable.partition.eof", "false".into()),
        ("allow.auto.create.topics", "false".into()),
        // A writer's bound, which a reader does not use; but librdkafka refuses fetches that are smaller.
        ("message.max.bytes", LEAST_FETCH.to_string()),
    ];
    without_classic(layered(settings, &ours, &owned))
}

/// Properties of a consumer that only asks: it never joins a group, never commits and creates no topic by asking for it.
pub(super) fn onlooker(settings: &config::Kafka, group: Option<&str>) -> ClientConfig {
    let ours = [
        ("auto.offset.reset", "earliest".to_owned()),
        ("isolation.level", "read_committed".into()),
        // Enough to keep a reader busy, little beside a budget.
        ("queued.max.messages.kbytes", "4096".into()),
        ("fetch.queue.backoff.ms", "10".into()),
        ("receive.message.max.bytes", (1_u32 << 30).to_string()),
    ];
    let mut owned = vec![
        ("enable.auto.commit", "false".to_owned()),
        ("enable.auto.offset.store", "false".into()),
        ("enable.partition.eof", "true".into()),
        ("allow.auto.create.topics", "false".into()),
    ];
    owned.extend(group.map(|group| ("group.id", group.to_owned())));
    let mut properties = without_classic(layered(settings, &ours, &owned));
    // A static member's id belongs to the one that joins.
    properties.remove("group.instance.id");
    // The end of a replica that is behind its leader is not the end.
    properties.remove("client.rack");
    properties
}

/// Properties of the one producer.
pub(super) fn producer(settings: &config::Kafka) -> ClientConfig {
    let mut properties = writer(settings, &[("enable.idempotence", "true".to_owned()), ("acks", "all".into())]);
    // It begins no transactions; librdkafka would only hold it against `message.timeout.ms`.
    properties.remove("transaction.timeout.ms");
    properties
}

/// Properties of a producer of transactions.
pub(super) fn transactions(settings: &config::Kafka, transactional_id: &str) -> ClientConfig {
    let owned = [("enable.idempotence", "true".to_owned()), ("acks", "all".into()), ("transactional.id", transactional_id.to_owned())];
    let mut properties = writer(settings, &owned);
    if properties.get("transaction.timeout.ms").is_none() {
        properties.set("transaction.timeout.ms", TRANSACTION_TIMEOUT_MS);
    }
    // librdkafka takes no record that could outlive its transaction, and sets this to the longest there may be.
    for name in ["message.timeout.ms", "delivery.timeout.ms"] {
        properties.remove(name);
    }
    properties
}

fn writer(settings: &config::Kafka, owned: &[(&str, String)]) -> ClientConfig {
    let ours = [
        ("compression.type", "lz4".to_owned()),
        // Long enough to fill a batch under load, short beside the calls an event makes.
        ("linger.ms", "5".into()),
        // A broker weighs whole batches against the topic's `max.message.bytes`, and refuses all of a batch. At 128 KiB a batch of
        // several records stays below every usual bound (Kafka's default is 1 MiB), so that `TooLarge` is about one record.
        ("batch.size", (128_u32 << 10).to_string()),
        // The topic decides what is too large, not the client: as much as a broker's default `socket.request.max.bytes`.
        ("message.max.bytes", (100_u32 << 20).to_string()),
        // No bound of memory: what lies in it is counted in the loops' budgets. It must only be more than the largest record, which could
        // otherwise meet a queue that is full for it for ever. Full is an answer (`QueueFull`), not an error.
        ("queue.buffering.max.kbytes", (128_u32 << 10).to_string()),
        ("queue.buffering.max.messages", "100000".into()),
        // Then the record's owner hears of it and publishes it again. Longer than a broker's restart hides the outage from
        // readiness; shorter makes repeats of what was only slow.
        ("message.timeout.ms", "30000".into()),
        // As Java's clients, so that a key is in the same partition whoever wrote it.
        ("partitioner", "murmur2_random".into()),
    ];
    let mut properties = layered(settings, &ours, owned);
    // Its meaning is the consumer's; librdkafka would only warn of it.
    properties.remove("group.instance.id");
    properties
}

/// How long a producer with these properties keeps a record at most; `None`: without end.
pub(super) fn message_timeout(producer: &ClientConfig) -> Option<Duration> {
    // Two names of one property; a value that cannot be read is refused when the client is made.
    let milliseconds = ["message.timeout.ms", "delivery.timeout.ms"].into_iter().filter_map(|name| producer.get(name)?.parse().ok());
    milliseconds.max().filter(|milliseconds| *milliseconds > 0).map(Duration::from_millis)
}

/// Properties of the client that creates and describes topics.
pub(super) fn admin(settings: &config::Kafka) -> ClientConfig {
    layered(settings, &[], &[])
}

fn without_classic(mut properties: ClientConfig) -> ClientConfig {
    if properties.get("group.protocol").is_some_and(|protocol| protocol.eq_ignore_ascii_case("consumer")) {
        for key in CLASSIC_ONLY {
            properties.remove(key);
        }
    }
    properties
}

/// The context of a client that has nothing to tell: its log lines go to `debug`, its errors are in its answers.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Quiet;

impl ClientContext for Quiet {
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, line: &str) {
        log_line(facility, line);
    }

    fn stats(&self, _statistics: Statistics) {}

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "librdkafka");
    }
}

impl ConsumerContext for Quiet {}

/// One line of librdkafka's, at `debug` whatever its own level: it names brokers' addresses, and comes again with every attempt.
pub(super) fn log_line(facility: &str, line: &str) {
    tracing::debug!(facility, line, "librdkafka");
}

#[cfg(test)]
mod tests {
    use super::*;
    use rdkafka::consumer::{BaseConsumer, Consumer as _};
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
    use rdkafka::{Offset, TopicPartitionList};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    use std::time::Duration;

    fn settings(properties: &[(&str, &str)]) -> config::Kafka {
        config::Kafka {
            brokers: "127.0.0.1:1".into(),
            group: "g".into(),
            properties: properties.iter().map(|(key, value)| ((*key).to_owned(), (*value).into())).collect(),
        }
    }

    #[test]
    fn the_user_overrides_ours_but_not_what_is_owned() {
        let settings = settings(&[
            ("fetch.queue.backoff.ms", "77"),
            ("partition.assignment.strategy", "range"),
            ("enable.auto.commit", "true"),
            ("acks", "0"),
            ("compression.type", "zstd"),
        ]);
        let member = member(&settings, "g", "c", Ahead { records: 10, bytes: 64 << 10 }, 10);
        assert_eq!(member.get("fetch.queue.backoff.ms"), Some("77"));
        assert_eq!(member.get("partition.assignment.strategy"), Some("range"));
        assert_eq!(member.get("enable.auto.commit"), Some("false"));
        let producer = producer(&settings);
        assert_eq!(producer.get("acks"), Some("all"));
        assert_eq!(producer.get("compression.type"), Some("zstd"));
    }

    #[test]
    fn what_belongs_to_the_members_of_a_group_is_no_onlookers() {
        let settings = settings(&[("client.rack", "a"), ("group.instance.id", "one"), ("fetch.queue.backoff.ms", "77")]);
        let onlooker = onlooker(&settings, Some("g"));
        assert_eq!((onlooker.get("client.rack"), onlooker.get("group.instance.id")), (None, None));
        assert_eq!(onlooker.get("fetch.queue.backoff.ms"), Some("77"));
        let member = member(&settings, "g", "c", Ahead { records: 10, bytes: 64 << 10 }, 10);
        assert_eq!(member.get("client.rack"), Some("a"));
    }

    /// Hears how much lies in the client's queue.
    struct Queued(Arc<AtomicUsize>);

    impl ClientContext for Queued {
        fn stats(&self, statistics: Statistics) {
            let partitions = statistics.topics.values().flat_map(|topic| topic.partitions.values());
            let queued: u64 = partitions.map(|partition| partition.fetchq_size).sum();
            self.0.fetch_max(usize::try_from(queued).unwrap_or(usize::MAX), Relaxed);
        }
    }

    impl ConsumerContext for Queued {}

    #[test]
    fn what_is_read_ahead_stays_within_its_bound() {
        const AHEAD: Ahead = Ahead { records: 100_000, bytes: 256 << 10 };
        // What a broker sends at least, whatever it is asked for.
        const BATCH: usize = 16 << 10;
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("t", 1, 1).unwrap();
        let mut settings = settings(&[("statistics.interval.ms", "20")]);
        settings.brokers = cluster.bootstrap_servers();
        let mut writer = producer(&settings);
        writer.set("compression.type", "none").set("batch.size", BATCH.to_string());
        let writer: BaseProducer = writer.create().unwrap();
        for _ in 0..2_000 {
            writer.send(BaseRecord::<(), [u8]>::to("t").payload(&[7; 1_000])).unwrap();
        }
        writer.flush(Duration::from_secs(30)).unwrap();

        let most = Arc::new(AtomicUsize::new(0));
        let reader = member(&settings, "g", "c", AHEAD, 1 << 20);
        let reader: BaseConsumer<Queued> = reader.create_with_context(Queued(Arc::clone(&most))).unwrap();
        let mut from = TopicPartitionList::new();
        from.add_partition_offset("t", 0, Offset::Beginning).unwrap();
        reader.assign(&from).unwrap();
        // Slower than it fetches, so that its queue fills.
        let mut read = 0;
        while read < 100 {
            read += usize::from(reader.poll(Duration::from_millis(500)).is_some_and(|message| message.is_ok()));
            std::thread::sleep(Duration::from_millis(5));
        }
        let most = most.load(Relaxed);
        assert!((AHEAD.bytes / 4..=AHEAD.bytes + BATCH).contains(&most), "{most} bytes were queued");
    }

    #[test]
    fn how_long_a_record_is_kept_is_the_users_to_say() {
        let longest = |properties: &[(&str, &str)]| message_timeout(&producer(&settings(properties)));
        assert_eq!(longest(&[]), Some(Duration::from_secs(30)));
        assert_eq!(longest(&[("message.timeout.ms", "90000")]), Some(Duration::from_secs(90)));
        assert_eq!(longest(&[("delivery.timeout.ms", "90000")]), Some(Duration::from_secs(90)));
        assert_eq!(longest(&[("message.timeout.ms", "0")]), None);
    }

    #[test]
    fn a_transaction_has_its_own_timeout_and_is_known_by_its_own_name() {
        let of = |properties: &[(&str, &str)]| transactions(&settings(properties), "mine");
        let shipped = of(&[("acks", "0")]);
        for (name, value) in
            [("transaction.timeout.ms", "10000"), ("transactional.id", "mine"), ("acks", "all"), ("enable.idempotence", "true")]
        {
            assert_eq!(shipped.get(name), Some(value), "{name}");
        }
        assert_eq!(of(&[("transaction.timeout.ms", "5000")]).get("transaction.timeout.ms"), Some("5000"));
        assert_eq!(producer(&settings(&[("transaction.timeout.ms", "5000")])).get("transaction.timeout.ms"), None);
    }

    #[test]
    fn whose_affair_the_session_is() {
        for (properties, seconds) in [
            (&[][..], 20),
            (&[("session.timeout.ms", "9000")], 9),
            (&[("group.protocol", "classic")], 20),
            (&[("group.protocol", "consumer"), ("session.timeout.ms", "9000")], 45),
        ] {
            assert_eq!(session_timeout(&settings(properties)), Duration::from_secs(seconds), "{properties:?}");
        }
    }

    #[test]
    fn librdkafka_takes_every_set_for_any_budget() {
        for properties in [
            &[][..],
            &[("message.max.bytes", "50000000")],
            &[("transaction.timeout.ms", "5000"), ("message.timeout.ms", "90000")],
            &[("group.protocol", "consumer"), ("session.timeout.ms", "9000"), ("group.instance.id", "a")],
        ] {
            let settings = settings(properties);
            for (records, bytes) in [(0, 0), (1, 1), (10_000, 64 << 20), (usize::MAX, usize::MAX)] {
                let member = member(&settings, "g", "c", Ahead { records, bytes }, bytes).create::<BaseConsumer>();
                assert!(member.is_ok(), "{records}, {bytes}: {:?}", member.err());
            }
            assert!(onlooker(&settings, None).create::<BaseConsumer>().is_ok());
            assert!(onlooker(&settings, Some("g")).create::<BaseConsumer>().is_ok());
            assert!(producer(&settings).create::<BaseProducer>().is_ok());
            assert!(transactions(&settings, "id").create::<BaseProducer>().is_ok());
            assert!(admin(&settings).create::<BaseProducer>().is_ok());
        }
    }
}
