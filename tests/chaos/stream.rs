//! A steady stream of events with keys, published by a thread of its own while faults go on.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use crate::chance::Chance;
use crate::harness::{Event, World};

/// How often some are published.
const EVERY: Duration = Duration::from_millis(100);

/// Keys whose events run at once.
const CAMERAS: usize = 60;

/// Keys whose events have a stage more, of a service that is slow: they hold up themselves, and what is bounded by records in flight.
const SLOW_CAMERAS: usize = 4;

/// What a slow camera's name begins with; the pipeline of [`crate::trial`] asks for it.
pub const SLOW: &str = "slow-";

/// An event that Kafka has.
#[derive(Debug, Clone)]
pub struct Published {
    /// Its id.
    pub id: String,
    /// Its key.
    pub key: String,
    /// Its partition and offset.
    pub place: (i32, i64),
    /// Whether somebody is to be notified.
    pub notifies: bool,
}

/// A stream that runs. Dropped, it ends, so that a scenario that fails does not wait for it.
pub struct Stream<'scope> {
    stop: &'scope AtomicBool,
    thread: Option<ScopedJoinHandle<'scope, Vec<Published>>>,
}

impl<'scope> Stream<'scope> {
    /// Publishes so many a second until it is stopped.
    pub fn start<'env>(
        scope: &'scope Scope<'scope, 'env>,
        world: &'env World,
        chance: Chance,
        rate: usize,
        stop: &'env AtomicBool,
    ) -> Self {
        let thread = scope.spawn(move || publish(world, chance, rate, stop));
        Self { stop, thread: Some(thread) }
    }

    /// Ends it, and gives what it has published, in order.
    pub fn stop(mut self) -> Vec<Published> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("stopped once");
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Drop for Stream<'_> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// An event like the others, with its key, and whether it notifies.
pub fn event(chance: &mut Chance) -> (Event, String, bool) {
    let key = if chance.percent(1) { format!("{SLOW}{}", chance.below(SLOW_CAMERAS)) } else { format!("cam-{}", chance.below(CAMERAS)) };
    let notifies = chance.percent(20);
    let event = Event::of(&key);
    (if notifies { event.notifying() } else { event }, key, notifies)
}

fn publish(world: &World, mut chance: Chance, rate: usize, stop: &AtomicBool) -> Vec<Published> {
    let mut published = Vec::new();
    let from = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        // As many as are due by now, however long Kafka took for the last.
        let due = usize::try_from(from.elapsed().as_millis()).expect("hours") * rate / 1_000;
        let events: Vec<_> = (published.len()..due).map(|_| event(&mut chance)).collect();
        let records: Vec<Event> = events.iter().map(|(event, _, _)| event.clone()).collect();
        let places = world.publish(&records);
        let made = events.into_iter().zip(places);
        published.extend(made.map(|((event, key, notifies), place)| Published { id: event.id, key, place, notifies }));
        thread::sleep(EVERY);
    }
    published
}
