//! The floors: what a program costs that does the least with the same client crates, in one loop without order, breakers, metrics,
//! watermark or a second try. They read the fields that an outcome needs and write the same outcome, or there would be nothing to compare.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt::Write as _;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, Message as _, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, ThreadedProducer};
use serde::Deserialize;
use tokio::sync::Notify;

use super::kafka;

/// The same clients as the engine's: an idempotent producer, the same batches and queues.
fn consumer(group: &str, topic: &str) -> BaseConsumer {
    let mut config: ClientConfig = kafka::client();
    config.set("group.id", group).set("auto.offset.reset", "earliest").set("enable.auto.commit", "false");
    config.set("enable.auto.offset.store", "false").set("fetch.queue.backoff.ms", "10").set("isolation.level", "read_committed");
    config.set("queued.max.messages.kbytes", "16384").set("queued.min.messages", "2500");
    let consumer: BaseConsumer = config.create().expect("a consumer");
    consumer.subscribe(&[topic]).expect("a topic");
    consumer
}

type Producer = ThreadedProducer<DefaultProducerContext>;

fn producer() -> Producer {
    let mut config = kafka::client();
    config.set("enable.idempotence", "true").set("acks", "all").set("compression.type", "lz4").set("linger.ms", "5");
    config.set("batch.size", "131072").set("partitioner", "murmur2_random");
    config.create().expect("a producer")
}

/// What the loop reads of an event.
#[derive(Deserialize)]
struct Event<'a> {
    id: &'a str,
    camera_id: &'a str,
}

fn send(producer: &Producer, topic: &str, key: &[u8], value: &[u8]) {
    hand_over(
        producer,
        BaseRecord::to(topic).key(key).payload(value).timestamp(i64::try_from(kafka::micros_now() / 1_000).expect("a time")),
    );
}

fn hand_over(producer: &Producer, mut record: BaseRecord<'_, [u8], [u8]>) {
    while let Err((error, again)) = producer.send(record) {
        assert!(matches!(error, KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull)), "{error}");
        record = again;
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The parked call that the engine would write of an event, its body and headers included.
fn park(producer: &Producer, topic: &str, key: &[u8], event: &Event<'_>, (partition, offset): (i32, i64), text: &[u8]) {
    let now = i64::try_from(kafka::micros_now() / 1_000).expect("a time");
    let text = std::str::from_utf8(text).expect("text");
    let value = format!(
        r#"{{"version":1,"service":"notifier","event_id":"{id}","camera_id":"{camera}","request":{{"method":"POST","path":"/notify","idempotency_key":"{id}/notifier","body":{{"event_id":"{id}","event":{text},"rag_analysis":null,"rule_evaluation":null,"channels":["email"],"recipients":["guard@site.example"],"timestamp":"2026-11-03T16:24:05.678Z"}}}},"results":{{}}}}"#,
        id = event.id,
        camera = event.camera_id,
    );
    let (at, partition, offset) = (now.to_string(), partition.to_string(), offset.to_string());
    let mut headers = OwnedHeaders::new_with_capacity(10);
    for (key, value) in [
        ("fusebox-service", "notifier"),
        ("fusebox-event-id", event.id),
        ("fusebox-origin-topic", topic),
        ("fusebox-origin-partition", &partition),
        ("fusebox-origin-offset", &offset),
        ("fusebox-reason", "circuit_open"),
        ("fusebox-attempt", "0"),
        ("fusebox-parks", "1"),
        ("fusebox-not-before", &at),
        ("fusebox-first-parked-at", &at),
    ] {
        headers = headers.insert(Header { key, value: Some(value) });
    }
    hand_over(producer, BaseRecord::to(topic).key(key).payload(value.as_bytes()).timestamp(now).headers(headers));
}

fn outcome(event: &Event<'_>, (topic, partition, offset): (&str, i32, i64), stages: &[(&str, &[u8])]) -> String {
    let mut json = String::with_capacity(512 + stages.iter().map(|(_, data)| data.len() + 160).sum::<usize>());
    let _ = write!(json, r#"{{"event_id":"{}","camera_id":"{}","status":"ok","stages":{{"#, event.id, event.camera_id);
    for (index, (service, data)) in stages.iter().enumerate() {
        let data = std::str::from_utf8(data).expect("text");
        let comma = if index == 0 { "" } else { "," };
        let _ = write!(
            json,
            r#"{comma}"{service}":{{"success":true,"fallback_used":false,"parked":false,"data":{data},"error_type":null,"response_time_ms":1.234,"circuit_breaker_state":"closed"}}"#
        );
    }
    let _ = write!(
        json,
        r#"}},"source":{{"topic":"{topic}","partition":{partition},"offset":{offset}}},"processed_at":"2026-11-03T16:24:05.678Z","instance":"floor"}}"#
    );
    json
}

/// `floor publish GROUP EVENTS OUTCOMES`, `floor park GROUP EVENTS OUTCOMES RETRIES` or
/// `floor http GROUP EVENTS OUTCOMES ADDRESS CONCURRENCY CALLS`: runs until it is killed.
pub fn run(arguments: &[&str]) {
    match arguments {
        ["publish", group, events, outcomes] => publish(group, events, outcomes, None),
        ["park", group, events, outcomes, retries] => publish(group, events, outcomes, Some(retries)),
        ["http", group, events, outcomes, address, concurrency, calls] => {
            http(group, events, outcomes, address, concurrency.parse().expect("a number"), *calls == "3");
        }
        _ => panic!("no such floor: {arguments:?}"),
    }
}

/// Consume, read, publish; commit once a second. With a topic for parked calls, the notification is published there beside the outcome.
fn publish(group: &str, events: &str, outcomes: &str, retries: Option<&str>) {
    let (consumer, producer) = (consumer(group, events), producer());
    let (mut last_commit, mut count) = (kafka::micros_now(), 0_u64);
    loop {
        let Some(message) = consumer.poll(Duration::from_millis(100)) else { continue };
        let message = message.expect("a record");
        let event: Event<'_> = serde_json::from_slice(message.payload().expect("a value")).expect("an event");
        let key = message.key().unwrap_or_default();
        if let Some(retries) = retries {
            park(&producer, retries, key, &event, (message.partition(), message.offset()), message.payload().expect("a value"));
        }
        let value = outcome(&event, (message.topic(), message.partition(), message.offset()), &[]);
        send(&producer, outcomes, key, value.as_bytes());
        consumer.store_offset_from_message(&message).expect("ours");
        count += 1;
        if count % 256 == 0 && kafka::micros_now() - last_commit > 1_000_000 {
            drop(consumer.commit_consumer_state(CommitMode::Async));
            last_commit = kafka::micros_now();
        }
    }
}

struct Taken {
    source: (i32, i64),
    key: Vec<u8>,
    value: Vec<u8>,
}

/// Consume, make three calls (or one) one after the other on connections held by hand, publish. One thread, as many tasks as calls may run at once.
fn http(group: &str, events: &str, outcomes: &str, address: &str, concurrency: usize, three: bool) {
    let (consumer, producer) = (Arc::new(consumer(group, events)), producer());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let queue: Rc<RefCell<VecDeque<Taken>>> = Rc::default();
    let (filled, wanted) = (Rc::new(Notify::new()), Arc::new(Notify::new()));
    let local = tokio::task::LocalSet::new();
    // The client is polled by a thread of its own, as it blocks; what it brings is handed over in batches.
    let (hand_over, mut handed) = tokio::sync::mpsc::channel::<Vec<Taken>>(4);
    let ended = Arc::new(AtomicBool::new(false));
    let (polled, polling_ended) = (Arc::clone(&consumer), Arc::clone(&ended));
    std::thread::spawn(move || {
        let mut last_commit = kafka::micros_now();
        while !polling_ended.load(Ordering::Relaxed) {
            let mut batch = Vec::new();
            let mut next = polled.poll(Duration::from_millis(100));
            while let Some(message) = next {
                let message = message.expect("a record");
                batch.push(Taken {
                    source: (message.partition(), message.offset()),
                    key: message.key().unwrap_or_default().to_vec(),
                    value: message.payload().unwrap_or_default().to_vec(),
                });
                polled.store_offset_from_message(&message).expect("ours");
                if batch.len() == 256 {
                    break;
                }
                next = polled.poll(Duration::ZERO);
            }
            if !batch.is_empty() && hand_over.blocking_send(batch).is_err() {
                return;
            }
            if kafka::micros_now() - last_commit > 1_000_000 {
                drop(polled.commit_consumer_state(CommitMode::Async));
                last_commit = kafka::micros_now();
            }
        }
    });
    local.block_on(&runtime, async {
        let producer = Rc::new(producer);
        for _ in 0..concurrency {
            let (queue, filled, wanted, producer) = (Rc::clone(&queue), Rc::clone(&filled), Arc::clone(&wanted), Rc::clone(&producer));
            let (events, outcomes, address) = (events.to_owned(), outcomes.to_owned(), address.to_owned());
            tokio::task::spawn_local(async move {
                let mut connections = vec![connect(&address).await];
                if three {
                    connections.extend([connect(&address).await, connect(&address).await]);
                }
                loop {
                    let taken = queue.borrow_mut().pop_front();
                    let Some(taken) = taken else {
                        wanted.notify_one();
                        filled.notified().await;
                        continue;
                    };
                    let event: Event<'_> = serde_json::from_slice(&taken.value).expect("an event");
                    let text = std::str::from_utf8(&taken.value).expect("text");
                    let rag = format!(r#"{{"query_event":{{"camera_id":"{}","timestamp":"2026-11-03T16:24:05.678Z","label":"person","bbox":null}},"k":10}}"#, event.camera_id);
                    let context = call(&mut connections[0], &address, "/rag/query", event.id, rag).await;
                    if !three {
                        let source = (events.as_str(), taken.source.0, taken.source.1);
                        send(&producer, &outcomes, &taken.key, outcome(&event, source, &[("rag", &context)]).as_bytes());
                        continue;
                    }
                    let context_text = std::str::from_utf8(&context).expect("text");
                    let rules = call(&mut connections[1], &address, "/evaluate", event.id, format!(r#"{{"event":{text},"context":{context_text}}}"#)).await;
                    let rules_text = std::str::from_utf8(&rules).expect("text");
                    let notify = format!(
                        r#"{{"event_id":"{}","event":{text},"rag_analysis":{context_text},"rule_evaluation":{rules_text},"channels":["email"],"recipients":["guard@site.example"],"timestamp":"2026-11-03T16:24:05.678Z"}}"#,
                        event.id
                    );
                    let notified = call(&mut connections[2], &address, "/notify", event.id, notify).await;
                    let value = outcome(
                        &event,
                        (&events, taken.source.0, taken.source.1),
                        &[("rag", &context), ("rulegen", &rules), ("notifier", &notified)],
                    );
                    send(&producer, &outcomes, &taken.key, value.as_bytes());
                }
            });
        }
        while let Some(batch) = handed.recv().await {
            queue.borrow_mut().extend(batch);
            filled.notify_waiters();
            while queue.borrow().len() > 2 * concurrency {
                wanted.notified().await;
            }
        }
    });
    ended.store(true, Ordering::Relaxed);
}

type Connection = SendRequest<Full<Bytes>>;

async fn connect(address: &str) -> Connection {
    let stream = tokio::net::TcpStream::connect(address).await.unwrap_or_else(|error| {
        eprintln!("the floor cannot connect: {error}");
        std::process::abort()
    });
    stream.set_nodelay(true).expect("a socket");
    let (sender, connection) = handshake(TokioIo::new(stream)).await.expect("a connection");
    tokio::task::spawn_local(connection);
    sender
}

async fn call(connection: &mut Connection, host: &str, path: &'static str, id: &str, body: String) -> Bytes {
    let request = Request::post(http::Uri::from_static(path))
        .header("host", host)
        .header("content-type", "application/json")
        .header("accept", "application/json")
        .header("user-agent", "floor")
        .header("idempotency-key", id)
        .body(Full::new(Bytes::from(body)))
        .expect("a request");
    connection.ready().await.expect("a connection");
    let response = connection.send_request(request).await.expect("a reply");
    response.into_body().collect().await.expect("a body").to_bytes()
}
