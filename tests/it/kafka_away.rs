//! Kafka, or a topic, is not there when an instance starts: it says so, waits, and begins when it is.

use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};

use crate::harness::{Event, RUNTIME, World, free_port, server, until};

/// Lets a port lead to the real broker, whose metadata then leads on to its own.
fn open_road(port: u16) {
    let broker = server("KAFKA_BROKERS").split(',').next().unwrap_or_default().to_owned();
    let listener = RUNTIME.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, port))).expect("a free port");
    RUNTIME.spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let broker = broker.clone();
            tokio::spawn(async move {
                if let Ok(mut far) = TcpStream::connect(broker).await {
                    drop(tokio::io::copy_bidirectional(&mut near, &mut far).await);
                }
            });
        }
    });
}

#[test]
fn kafka_is_waited_for() {
    let port = free_port();
    let world = World::new("kafka").brokers(&format!("127.0.0.1:{port}")).start();
    let mut instance = world.spawn(&[]);
    until("it says that Kafka is away", || {
        let answer = instance.get("/readyz");
        assert_eq!(answer.status, 503, "{answer:?}");
        let (state, detail) = instance.part("events");
        assert!(!detail.contains(&port.to_string()), "no inner address: {detail}");
        state == "down" && detail.contains("Kafka cannot be reached")
    });
    assert_eq!(instance.get("/livez").status, 200, "a restart would not help");
    // A stop needs no Kafka.
    instance.signal("TERM");
    assert_eq!(instance.wait_exit(Duration::from_secs(15)), 0, "{}", instance.log());

    let mut instance = world.spawn(&[]);
    until("it says that Kafka is away", || instance.part("events").0 == "down");
    open_road(port);
    world.cli(&["migrate"]).exits(0);
    instance.wait_ready();
    assert_eq!(world.outcome_of(&Event::of("cam-1"))["status"], "ok");
    assert_eq!(instance.stop(), 0);
}

#[test]
fn missing_topics_are_named_and_taken_up() {
    let world = World::new("topics").without_topics().start();
    let mut instance = world.spawn(&[]);
    until("it names them", || {
        let (state, detail) = instance.part("topics");
        state == "down" && detail.contains("fusebox migrate") && world.topics().iter().all(|topic| detail.contains(topic))
    });
    assert_eq!(instance.get("/readyz").status, 503);
    assert_eq!(instance.get("/livez").status, 200);
    world.cli(&["migrate"]).exits(0);
    instance.wait_ready();
    assert_eq!(world.outcome_of(&Event::of("cam-1"))["status"], "ok");
    assert_eq!(instance.stop(), 0);
}
