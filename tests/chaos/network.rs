//! The network between instances and brokers is cut, goes silent or becomes slow, and instances are frozen, while events flow.
//!
//! Instances reach each broker through a forwarder of this process, which is what the broker advertises to them. What looks on (the stream,
//! the oracle) goes to the brokers directly. A freeze (SIGSTOP) longer than a session is the network's worst as one instance sees it: it
//! goes on later as if nothing had been, while others have its partitions.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::chance::length;
use crate::cluster;
use crate::harness::RUNTIME;
use crate::trial::{self, Plan, Trial};

/// What a road does with what comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Road {
    Open,
    /// Each piece is held up for so long.
    Slow(Duration),
    /// Nothing goes through, and nobody is told.
    Silent,
    /// Every connection ends, and new ones are refused.
    Cut,
}

/// A forwarder to one broker.
struct Detour {
    road: watch::Sender<Road>,
}

impl Detour {
    fn open((entrance, broker): (String, String)) -> Self {
        let (road, seen) = watch::channel(Road::Open);
        let listener = RUNTIME.block_on(TcpListener::bind(&entrance)).expect("nobody listens at a detour's entrance");
        RUNTIME.spawn(forward(listener, broker.into(), seen));
        Self { road }
    }
}

async fn forward(listener: TcpListener, broker: Arc<str>, mut road: watch::Receiver<Road>) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            // Its sender is gone: so is the scenario.
            changed = road.changed() => if changed.is_err() { return } else { continue },
        };
        let Ok((near, _)) = accepted else { continue };
        if *road.borrow() == Road::Cut {
            continue;
        }
        let (broker, road) = (Arc::clone(&broker), road.clone());
        tokio::spawn(async move {
            let Ok(far) = TcpStream::connect(&*broker).await else { return };
            let ((from_near, to_near), (from_far, to_far)) = (near.into_split(), far.into_split());
            // Either direction's end is the connection's.
            tokio::select! {
                () = carry(from_near, to_far, road.clone()) => {}
                () = carry(from_far, to_near, road) => {}
            }
        });
    }
}

async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut road: watch::Receiver<Road>) {
    let mut piece = vec![0; 64 << 10];
    loop {
        let state = *road.borrow_and_update();
        let read = tokio::select! {
            changed = road.changed() => if changed.is_err() { return } else { continue },
            read = from.read(&mut piece), if !matches!(state, Road::Silent | Road::Cut) => read,
            () = std::future::ready(()), if state == Road::Cut => return,
        };
        if let Road::Slow(time) = state {
            tokio::time::sleep(time).await;
        }
        let length = read.unwrap_or(0);
        if length == 0 || to.write_all(&piece[..length]).await.is_err() {
            return;
        }
    }
}

/// One fault, to its end.
fn disturb(trial: &mut Trial<'_>, detours: &[Detour]) {
    let one = trial.chance.below(detours.len());
    let mut hit: Vec<usize> = if trial.chance.percent(40) { (0..detours.len()).collect() } else { vec![one] };
    let (road, least_ms, most_ms) = match trial.chance.below(5) {
        0 => (Road::Cut, 200, 3_000),
        1 => (Road::Silent, 1_000, 5_000),
        // Longer than a session: every instance loses everything.
        2 => (Road::Silent, 9_000, 14_000),
        3 => (Road::Slow(trial.chance.between(20, 400)), 2_000, 6_000),
        _ => {
            let place = trial.chance.pick(&trial.fleet.running());
            trial.fleet.say(&format!("{place} is frozen"));
            trial.fleet.instance(place).signal("STOP");
            trial.wait(500, 12_000);
            trial.fleet.instance(place).signal("CONT");
            trial.fleet.say(&format!("{place} goes on"));
            trial.allowed.losses += 1;
            return;
        }
    };
    if road == Road::Cut && trial.chance.percent(50) {
        hit = (0..detours.len()).collect();
    }
    trial.fleet.say(&format!("the roads to {hit:?} are {road:?}"));
    for index in &hit {
        detours[*index].road.send_replace(road);
    }
    trial.wait(least_ms, most_ms);
    for index in &hit {
        detours[*index].road.send_replace(Road::Open);
    }
    // Each instance may have been given up by its group.
    trial.allowed.losses += trial.fleet.running().len();
    trial.fleet.say("the roads are open");
}

#[test]
#[ignore = "minutes: make chaos"]
fn the_network_is_cut_and_slowed() {
    let addresses = cluster::detours();
    let brokers: Vec<&str> = addresses.iter().map(|(entrance, _)| entrance.as_str()).collect();
    let config = format!("[kafka]\nbrokers = \"{}\"\nproperties = {{ \"session.timeout.ms\" = \"6000\" }}", brokers.join(","));
    let detours: Vec<Detour> = addresses.iter().cloned().map(Detour::open).collect();
    let plan = Plan { name: "network", config, ..Plan::default() };
    trial::run(&plan, |trial| {
        let from = Instant::now();
        while from.elapsed() < length(Duration::from_secs(90)) {
            trial.wait(500, 4_000);
            disturb(trial, &detours);
            if trial.chance.percent(30) {
                trial.audit();
            }
        }
    });
}
