//! Breakers of others, each by the road that its users take.
//!
//! `failsafe` is asked and told directly. `tower-resilience-circuitbreaker` has no such door: its state is private to its Tower service,
//! so a call is `poll_ready`, `call` and polling the future, around a service that is ready and answers at once. Both read the clock
//! themselves. What tower-resilience calls a count-based window does not slide: it counts from the last change of state.

use std::future::{Ready, ready};
use std::hint::spin_loop;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use failsafe::failure_policy::{self, FailurePolicy};
use failsafe::{StateMachine, backoff};
use tower_resilience_circuitbreaker::{CircuitBreaker, CircuitBreakerLayer, DefaultClassifier, SlidingWindowType};
use tower_service::Service;

use super::{Start, Subject};

const OPEN_FOR: Duration = Duration::from_secs(3_600);

/// `failsafe`, by its state machine.
pub struct Failsafe<P>(StateMachine<P, ()>);

impl<P> Clone for Failsafe<P> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// A streak of failures.
pub fn failsafe_consecutive(start: Start) -> Failsafe<impl FailurePolicy> {
    let fail_max = if start == Start::Open { 1 } else { u32::MAX };
    failsafe(failure_policy::consecutive_failures(fail_max, backoff::constant(OPEN_FOR)), start)
}

/// A moving average of successes over ten seconds.
pub fn failsafe_rate(start: Start) -> Failsafe<impl FailurePolicy> {
    // Its window must have passed before it trips.
    let (rate, window) = if start == Start::Open { (1.0, Duration::from_secs(1)) } else { (0.0, Duration::from_secs(10)) };
    failsafe(failure_policy::success_rate_over_time_window(rate, 0, window, backoff::constant(OPEN_FOR)), start)
}

fn failsafe<P: FailurePolicy + Send>(policy: P, start: Start) -> Failsafe<P> {
    let mut subject = Failsafe(failsafe::Config::new().failure_policy(policy).build());
    while start == Start::Open && subject.call(false) {}
    subject
}

impl<P: FailurePolicy + Send> Subject for Failsafe<P> {
    #[inline]
    fn call(&mut self, succeeds: bool) -> bool {
        if !self.0.is_call_permitted() {
            return false;
        }
        if succeeds {
            self.0.on_success()
        } else {
            self.0.on_error()
        }
        true
    }
}

/// `tower-resilience-circuitbreaker`, around [`AtOnce`].
#[derive(Clone)]
pub struct Tower(CircuitBreaker<AtOnce, DefaultClassifier>);

/// A streak of failures.
pub fn tower_consecutive(start: Start) -> Tower {
    let fail_max = if start == Start::Open { 1 } else { usize::MAX };
    tower(CircuitBreakerLayer::builder().consecutive_failures(fail_max), start)
}

/// A count from the last change of state.
pub fn tower_count(start: Start) -> Tower {
    let size = if start == Start::Open { 1 } else { usize::MAX };
    tower(CircuitBreakerLayer::builder().sliding_window_size(size).minimum_number_of_calls(size), start)
}

/// The calls of a tenth of a second, every one kept and gone through at every call: with a longer window the figure would be of how
/// many calls the bench had made.
pub fn tower_time(start: Start) -> Tower {
    let minimum = if start == Start::Open { 1 } else { usize::MAX };
    let window = CircuitBreakerLayer::builder().sliding_window_type(SlidingWindowType::TimeBased);
    tower(window.sliding_window_duration(Duration::from_millis(100)).minimum_number_of_calls(minimum), start)
}

fn tower(builder: tower_resilience_circuitbreaker::CircuitBreakerConfigBuilder<DefaultClassifier>, start: Start) -> Tower {
    let layer = builder.failure_rate_threshold(1.0).wait_duration_in_open(OPEN_FOR).build().expect("settings that are in range");
    let mut subject = Tower(layer.layer_fn(AtOnce));
    while start == Start::Open && subject.call(false) {}
    subject
}

impl Subject for Tower {
    #[inline]
    fn call(&mut self, succeeds: bool) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        while self.0.poll_ready(&mut context).is_pending() {
            spin_loop();
        }
        let mut answer = pin!(self.0.call(succeeds));
        loop {
            match answer.as_mut().poll(&mut context) {
                Poll::Ready(answer) => return !matches!(answer, Err(error) if error.is_circuit_open()),
                Poll::Pending => spin_loop(),
            }
        }
    }
}

/// A service that is always ready, and does at once what it is asked for: succeed or fail.
#[derive(Clone)]
pub struct AtOnce;

impl Service<bool> for AtOnce {
    type Response = ();
    type Error = ();
    type Future = Ready<Result<(), ()>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, succeeds: bool) -> Self::Future {
        ready(if succeeds { Ok(()) } else { Err(()) })
    }
}
