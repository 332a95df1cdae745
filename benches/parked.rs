//! Parked calls at a depth of a million.
//!
//! Listing them, over HTTP, from an instance that drains nothing: a first page, page after page, pages from the middle of the backlog, filters, one
//! call by its place, and the backlog's figures. Every time is from before the connection is made until the answer has come, in milliseconds.
//!
//! Then the memory of an instance that has them to drain: while the breaker is open, and while a part of them is delivered.
//!
//! ```sh
//! scripts/services exec -- cargo bench --bench parked              # about three minutes
//! BENCH_DEPTH=100000 scripts/services exec -- cargo bench --bench parked
//! ```

#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fusebox::edge::embedded::stub::{Act, Options, Stub};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use serde_json::Value;

const PARTITIONS: u64 = 6;
const TOKEN: &str = "fbx_bench";
const REASONS: [&str; 5] = ["circuit_open", "circuit_open", "circuit_open", "timeout", "http_5xx"];

struct Instance {
    child: Child,
    addr: SocketAddr,
}

impl Drop for Instance {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn main() {
    let brokers = std::env::var("KAFKA_BROKERS").expect("KAFKA_BROKERS is not set: run this under `scripts/services exec --`");
    let depth: u64 = std::env::var("BENCH_DEPTH").ok().map_or(1_000_000, |depth| depth.parse().expect("BENCH_DEPTH is a number"));
    let group = format!("bench-parked-{}", uuid::Uuid::new_v4().simple());
    let names = ["events", "outcomes", "dead-letters", "orders", "retry"].map(|name| format!("{group}.{name}"));
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &brokers).set("allow.auto.create.topics", "false");
    let admin: AdminClient<DefaultClientContext> = config.create().expect("an admin client");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let topics: Vec<_> =
        names.iter().map(|name| NewTopic::new(name, i32::try_from(PARTITIONS).expect("few"), TopicReplication::Fixed(1))).collect();
    for created in runtime.block_on(admin.create_topics(&topics, &AdminOptions::new())).expect("Kafka answers") {
        created.expect("a new topic");
    }
    let began = Instant::now();
    publish(&config, &names[4], depth);
    println!("{depth} parked calls on {PARTITIONS} partitions, published in {:.0} s", began.elapsed().as_secs_f64());

    let instance = start(&brokers, &group, &names, &["--role", "processor"]);
    until_depth(&instance, depth);
    let first = timed(&instance, "/api/v1/retry/messages");
    println!("first page of a process: {:.0} ms", first.0);
    for limit in [50, 200] {
        let mut times = Vec::new();
        let mut cursor = String::new();
        for _ in 0..200 {
            let (took, page) = timed(&instance, &format!("/api/v1/retry/messages?limit={limit}{cursor}"));
            assert_eq!(page["messages"].as_array().map(Vec::len), Some(limit), "{page}");
            cursor = format!("&cursor={}", page["next"].as_str().expect("more"));
            times.push(took);
        }
        told(&format!("page after page, {limit} each"), times);
    }
    told("the oldest 50, again and again", (0..200).map(|_| timed(&instance, "/api/v1/retry/messages").0).collect());
    let deep = |share: u64| {
        let place = |partition| format!("\"{partition}\":[{},{}]", depth / PARTITIONS * share / 100, depth / PARTITIONS);
        let places: Vec<String> = (0..PARTITIONS).map(place).collect();
        use base64::Engine as _;
        base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(format!("{{\"{}\":{{{}}}}}", names[4], places.join(",")))
    };
    let places: Vec<String> = (0..100).map(|share| format!("/api/v1/retry/messages?cursor={}", deep(share))).collect();
    told("50 from anywhere", places.iter().map(|path| timed(&instance, path).0).collect());
    for (what, query) in
        [("one of 5 (reason=timeout)", "reason=timeout"), ("one of 1,000 (camera)", "camera=cam-7"), ("none (text)", "text=nowhere")]
    {
        let mut times = Vec::new();
        let mut scanned = 0;
        for _ in 0..5 {
            let (took, page) = timed(&instance, &format!("/api/v1/retry/messages?{query}"));
            scanned = page["scanned"].as_u64().unwrap_or(0);
            times.push(took);
        }
        told(&format!("50 of those that a filter means, {what}, {scanned} looked at"), times);
    }
    let one = format!("/api/v1/retry/messages/{}/3/{}", names[4], depth / PARTITIONS / 2);
    told("one call by its place", (0..100).map(|_| timed(&instance, &one).0).collect());
    let mut figures = Vec::new();
    for _ in 0..5 {
        // What was looked at stands for two seconds.
        std::thread::sleep(Duration::from_millis(2_100));
        figures.push(timed(&instance, "/api/v1/retry").0);
    }
    told("the backlog's figures, from a sample", figures);
    println!("resident: {} MiB", resident(&instance, "VmRSS:"));
    drop(instance);
    memory(&brokers, &group, &names, depth);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    drop(runtime.block_on(admin.delete_topics(&names, &AdminOptions::new())));
}

/// Parked calls, as the notifier's are, with an event of some hundred bytes.
fn publish(config: &ClientConfig, topic: &str, depth: u64) {
    let mut config = config.clone();
    config.set("linger.ms", "20").set("batch.size", "262144").set("compression.type", "lz4").set("queue.buffering.max.messages", "500000");
    let producer: BaseProducer = config.create().expect("a producer");
    let now = fusebox::edge::clock::wall_of(std::time::SystemTime::now()).0;
    for number in 0..depth {
        let camera = number / 7 % 1_000;
        let id = format!("{:08x}-0000-4000-8000-{:012x}", number >> 32, number & 0xffff_ffff_ffff);
        let value = format!(
            r#"{{"version":1,"service":"notifier","event_id":"{id}","camera_id":"cam-{camera}","request":{{"method":"POST","path":"/notify","idempotency_key":"{id}/notifier","body":{{"event_id":"{id}","channels":["email"],"recipients":["guard@site.example"],"label":"person"}}}},"results":{{"rag":{{"analysis":"a person at the gate","score":0.{number}}}}}}}"#
        );
        let key = format!("cam-{camera}");
        let mut headers = OwnedHeaders::new();
        for (name, value) in [
            ("fusebox-service", "notifier".to_owned()),
            ("fusebox-event-id", id),
            ("fusebox-reason", REASONS[usize::try_from(number % 5).expect("small")].to_owned()),
            ("fusebox-attempt", (number % 5 / 3).to_string()),
            ("fusebox-parks", "1".to_owned()),
            ("fusebox-not-before", now.to_string()),
            ("fusebox-first-parked-at", now.to_string()),
        ] {
            headers = headers.insert(Header { key: name, value: Some(&value) });
        }
        let mut record = BaseRecord::to(topic)
            .partition(i32::try_from(number % PARTITIONS).expect("small"))
            .key(&key)
            .payload(&value)
            .timestamp(now + i64::try_from(number / 1_000).expect("small"))
            .headers(headers);
        while let Err((error, back)) = producer.send(record) {
            assert_eq!(error, KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), "Kafka takes it");
            producer.poll(Duration::from_millis(5));
            record = back;
        }
    }
    producer.flush(Duration::from_secs(120)).expect("Kafka has them");
}

/// What an instance has resident that has all of them to drain, and drains some.
fn memory(brokers: &str, group: &str, names: &[String; 5], depth: u64) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let options = Options { journal_entries: 1, ..Options::default() };
    let stub = runtime.block_on(Stub::start_with((Ipv4Addr::LOCALHOST, 0).into(), "notifier", &options)).expect("a free port");
    stub.set(Act::fail(http::StatusCode::SERVICE_UNAVAILABLE));
    let url = format!("services.notifier.url={}", stub.url());
    let retry = ["fail_max=1", "recovery_timeout=1d"].map(|setting| format!("services.notifier.breaker.{setting}"));
    let arguments = ["--role", "retry", "--set", &url, "--set", &retry[0], "--set", &retry[1]];
    let instance = start(brokers, group, names, &arguments);
    until_depth(&instance, depth);
    while stub.counts().answered.is_empty() || stub.counts().in_flight > 0 {
        std::thread::sleep(Duration::from_millis(50));
    }
    for _ in 0..3 {
        std::thread::sleep(Duration::from_secs(5));
        let held = ask(&instance, "/api/v1/retry").map_or(Value::Null, |answer| answer["services"][0]["held"].clone());
        println!(
            "breaker open: {} MiB resident, {} at most; {held} calls held",
            resident(&instance, "VmRSS:"),
            resident(&instance, "VmHWM:")
        );
    }
    stub.set(Act::Ok);
    let body = r#"{"state":"closed","reason":"a benchmark"}"#;
    exchange(&instance, "POST", "/api/v1/circuit-breakers/notifier/force-state", body).expect("the API answers");
    let (began, part) = (Instant::now(), depth / 5);
    while stub.counts().answered.get(&200).is_none_or(|delivered| *delivered < part) {
        assert!(began.elapsed() < Duration::from_secs(600), "{part} calls are not delivered in ten minutes: {:?}", stub.counts());
        std::thread::sleep(Duration::from_millis(200));
    }
    println!(
        "draining {part} of them, {:.0} a second: {} MiB resident, {} at most",
        part as f64 / began.elapsed().as_secs_f64(),
        resident(&instance, "VmRSS:"),
        resident(&instance, "VmHWM:")
    );
}

fn start(brokers: &str, group: &str, names: &[String; 5], arguments: &[&str]) -> Instance {
    let addr = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port");
    let digest: String = fusebox::edge::api::digest(TOKEN).iter().map(|byte| format!("{byte:02x}")).collect();
    let settings = [
        format!("kafka.brokers={brokers}"),
        format!("kafka.group={group}"),
        format!("topics.events={}", names[0]),
        format!("topics.outcomes={}", names[1]),
        format!("topics.dead_letters={}", names[2]),
        format!("topics.orders={}", names[3]),
        format!("services.notifier.retry.topic={}", names[4]),
        "redis.url=".to_owned(),
        format!("http.listen={addr}"),
        format!("http.tokens=[{{name=\"bench\",role=\"operator\",sha256=\"{digest}\"}}]"),
        "telemetry.log=error".to_owned(),
    ];
    let mut command = Command::new(env!("CARGO_BIN_EXE_fusebox"));
    command.arg("run").args(arguments).args(settings.iter().flat_map(|setting| ["--set", setting]));
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("the binary starts");
    Instance { child, addr }
}

/// Waits until the instance has heard from Kafka how much is parked.
fn until_depth(instance: &Instance, depth: u64) {
    for _ in 0..300 {
        if let Some(answer) = ask(instance, "/api/v1/retry")
            && answer["services"][0]["depth"] == depth
        {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("the instance does not say that {depth} calls are parked: {:?}", ask(instance, "/api/v1/retry"));
}

fn timed(instance: &Instance, path: &str) -> (f64, Value) {
    let began = Instant::now();
    let answer = ask(instance, path).expect("the API answers");
    (began.elapsed().as_secs_f64() * 1_000.0, answer)
}

fn ask(instance: &Instance, path: &str) -> Option<Value> {
    exchange(instance, "GET", path, "")
}

fn exchange(instance: &Instance, method: &str, path: &str, body: &str) -> Option<Value> {
    let mut stream = TcpStream::connect(instance.addr).ok()?;
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.0\r\nhost: bench\r\nauthorization: Bearer {TOKEN}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n"
    );
    write!(stream, "{head}\r\n{body}").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    assert!(answer.starts_with("HTTP/1.0 200") || answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
    serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()
}

fn told(what: &str, mut times: Vec<f64>) {
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize];
    println!("{what}: p50 {:.0} ms, p99 {:.0} ms, most {:.0} ms ({} answers)", at(0.5), at(0.99), at(1.0), times.len());
}

/// MiB: what is resident now (`VmRSS:`), or was at most (`VmHWM:`).
fn resident(instance: &Instance, which: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", instance.child.id())).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(which)).unwrap_or_default();
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) / 1_024
}
