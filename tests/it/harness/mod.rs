//! Worlds to run the binary in.
//!
//! ```ignore
//! let world = World::new("a_name").partitions(2).config("[services.rag.breaker]\nfail_max = 2").start();
//! let instance = world.run();                                // `fusebox run`, ready
//! world.stub("rag").set(Act::fail(StatusCode::BAD_GATEWAY)); // services are stubs in this process
//! let events = [Event::of("cam-1").notifying()];
//! world.publish(&events);
//! let outcomes = world.outcomes(1);                          // waits for one, reads the topic to its end
//! assert_eq!(outcomes[0].json()["status"], "partial_success");
//! assert_eq!(instance.stop(), 0);                            // SIGTERM, exit code
//! ```
//!
//! Each world has topics, a consumer group, a Redis prefix, stubs and config files of its own, so tests run side by side. It is cleared
//! away when it is dropped, and every process that it started is killed by its id. When a test fails, what its instances logged is shown.
//!
//! Nothing here sleeps to be right: [`eventually`] looks until it sees, up to a deadline that only a failure reaches.

pub mod calls;
mod event;
mod http;
mod instance;
mod kafka;
mod redis;
mod world;

use std::sync::{Condvar, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;

pub use event::Event;
pub use instance::Instance;
pub use kafka::Message;
pub use redis::RedisServer;
pub use world::{World, free_port, fusebox};

/// Longer than anything here takes on a loaded machine; only a failure waits for it.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Worlds at once, whatever the number of test threads: each has an instance, and Kafka works for all of them. A test that needs a second
/// world drops the first before: two that wait for each other's would wait for ever.
const WORLDS: usize = 4;

/// The runtime that stubs and clients of this process run on.
pub static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime"));

/// A variable that `make test` sets.
pub fn server(variable: &str) -> String {
    match std::env::var(variable) {
        Ok(value) if !value.is_empty() => value,
        _ => panic!("{variable} is not set: these tests need a Kafka and a Redis; `make test` starts both"),
    }
}

/// Looks until there is something to see, and gives it.
#[track_caller]
pub fn eventually<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    within(DEADLINE, what, look)
}

/// As [`eventually`], with a deadline of its own: one that is part of what the test says.
#[track_caller]
pub fn within<T>(deadline: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let from = Instant::now();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(from.elapsed() < deadline, "within {deadline:?} there was never this: {what}");
        std::thread::sleep(Duration::from_millis(25));
    }
}

/// Waits until something holds.
#[track_caller]
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    eventually(what, || holds().then_some(()));
}

/// The right to have a world.
pub struct Permit(());

static FREE: (Mutex<usize>, Condvar) = (Mutex::new(WORLDS), Condvar::new());

impl Permit {
    fn take() -> Self {
        let (free, given_back) = &FREE;
        let mut left = free.lock().unwrap_or_else(PoisonError::into_inner);
        while *left == 0 {
            left = given_back.wait(left).unwrap_or_else(PoisonError::into_inner);
        }
        *left -= 1;
        Self(())
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let (free, given_back) = &FREE;
        *free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        given_back.notify_one();
    }
}
