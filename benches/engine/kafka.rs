//! Topics, events to publish, and how far the outcomes have come.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::{Offset, TopicPartitionList};

const PATIENCE: Duration = Duration::from_secs(30);

/// Where Kafka is.
pub fn brokers() -> String {
    std::env::var("KAFKA_BROKERS").expect("KAFKA_BROKERS is not set: run this under `scripts/services exec --`")
}

pub fn client() -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers()).set("allow.auto.create.topics", "false");
    config
}

/// Creates topics, by name and partitions.
pub fn create(topics: &[(&str, i32)]) {
    let admin: AdminClient<DefaultClientContext> = client().create().expect("an admin client");
    let new: Vec<_> = topics.iter().map(|(name, partitions)| NewTopic::new(name, *partitions, TopicReplication::Fixed(1))).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    for created in runtime.block_on(admin.create_topics(&new, &AdminOptions::new())).expect("Kafka answers") {
        created.expect("a new topic");
    }
    for (name, partitions) in topics {
        while ends(name, *partitions).is_none() {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Deletes topics; what is left behind disturbs no later figure but by its place on the disk.
pub fn delete(topics: &[&str]) {
    let admin: AdminClient<DefaultClientContext> = client().create().expect("an admin client");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    drop(runtime.block_on(admin.delete_topics(topics, &AdminOptions::new())));
}

fn ends(topic: &str, partitions: i32) -> Option<u64> {
    let onlooker: BaseConsumer = client().create().expect("a consumer");
    let mut all = 0;
    for partition in 0..partitions {
        all += u64::try_from(onlooker.fetch_watermarks(topic, partition, PATIENCE).ok()?.1).ok()?;
    }
    Some(all)
}

pub fn micros_now() -> u64 {
    #[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
    let now = SystemTime::now();
    u64::try_from(now.duration_since(UNIX_EPOCH).expect("after 1970").as_micros()).expect("in this age")
}

/// What events are like.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    pub events: u64,
    pub keys: u64,
    /// Events a second; `None`: as fast as Kafka takes them.
    pub rate: Option<u64>,
    /// Bytes of free text in each; the rest is about 600.
    pub text: usize,
}

/// One event, as a camera writes it.
fn event(number: u64, camera: u64, text: usize) -> String {
    format!(
        concat!(
            r#"{{"id":"{:08x}-0000-4000-8000-{:012x}","timestamp":"2026-11-03T16:24:05.678Z","camera_id":"cam-{}","event_type":"detection","#,
            r#""label":"person","detections":[{{"label":"person","confidence":0.93,"bounding_box":{{"x_min":120.5,"y_min":88.0,"x_max":342.25,"y_max":471.0}}}},"#,
            r#"{{"label":"backpack","confidence":0.71,"bounding_box":{{"x_min":180.0,"y_min":140.5,"x_max":260.0,"y_max":300.0}}}}],"#,
            r#""metadata":{{"site":"north-yard","zone":"gate-4","firmware":"5.2.1","note":"{}"}},"recipients":["guard@site.example"],"notification_channels":["email"],"published_us":{}}}"#
        ),
        number >> 32,
        number & 0xffff_ffff_ffff,
        camera,
        note(number, text),
        micros_now(),
    )
}

/// Text that compresses about as little as what cameras write does.
fn note(number: u64, length: usize) -> String {
    let mut dice = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let letter = |_| {
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        char::from(b"abcdefghijklmnopqrstuvwxyz     ABCD0123456789"[usize::try_from(dice % 45).expect("small")])
    };
    (0..length).map(letter).collect()
}

/// Publishes events, keyed by their cameras, at their rate.
pub fn publish(topic: &str, partitions: i32, load: Load) {
    let mut config = client();
    config.set("linger.ms", "5").set("batch.size", "262144").set("compression.type", "lz4").set("partitioner", "murmur2_random");
    let producer: BaseProducer = config.create().expect("a producer");
    let began = micros_now();
    for number in 0..load.events {
        if let Some(rate) = load.rate {
            let due = began + number * 1_000_000 / rate;
            while micros_now() < due {
                producer.poll(Duration::from_millis(1));
            }
        }
        let camera = number % load.keys;
        let (key, value) = (format!("cam-{camera}"), event(number, camera, load.text));
        // Spread by number: with few keys their hashes would load the partitions unevenly, and the curves would show that.
        let partition = i32::try_from(camera % u64::try_from(partitions).expect("positive")).expect("small");
        let mut record = BaseRecord::to(topic).key(&key).payload(&value).partition(partition);
        loop {
            match producer.send(record) {
                Ok(()) => break,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), again)) => {
                    record = again;
                    producer.poll(Duration::from_millis(5));
                }
                Err((error, _)) => panic!("Kafka does not take an event: {error}"),
            }
        }
        if number % 64 == 0 {
            producer.poll(Duration::ZERO);
        }
    }
    producer.flush(PATIENCE).expect("Kafka takes the events");
}

/// Reads a topic of outcomes from its beginning.
pub struct Outcomes {
    consumer: BaseConsumer,
    pub read: u64,
}

impl Outcomes {
    pub fn of(topic: &str, partitions: i32) -> Self {
        let mut config = client();
        config.set("group.id", "reads").set("enable.auto.commit", "false").set("fetch.wait.max.ms", "20").set("check.crcs", "false");
        config.set("fetch.queue.backoff.ms", "5");
        let consumer: BaseConsumer = config.create().expect("a consumer");
        let mut list = TopicPartitionList::new();
        for partition in 0..partitions {
            list.add_partition_offset(topic, partition, Offset::Beginning).expect("an offset");
        }
        consumer.assign(&list).expect("assigned");
        Self { consumer, read: 0 }
    }

    /// Reads on until so many have come in all; each is given with the moment at which the broker wrote it down or the reader had it.
    pub fn until(&mut self, count: u64, mut each: impl FnMut(&[u8])) {
        let mut silent = 0;
        while self.read < count {
            match self.consumer.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => {
                    silent = 0;
                    self.read += 1;
                    each(message.payload().unwrap_or_default());
                }
                Some(Err(error)) => panic!("outcomes cannot be read: {error}"),
                None => {
                    silent += 1;
                    assert!(silent < 600, "no outcome for a minute; {} of {count} have come", self.read);
                }
            }
        }
    }
}
