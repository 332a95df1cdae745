//! Fusebox as it is run: the binary, a real Kafka, a real Redis, stub services over HTTP, signals.
//!
//! What became of events is checked by what the outside sees: topics, committed offsets, what the stubs were asked, Redis, exit codes and
//! the HTTP API. The program's own counters are believed nowhere here.
//!
//! `make test` starts both servers and runs this with everything else; `ARGS="--test it"` runs this alone. How to write a test: see
//! [`harness`].

#![expect(clippy::disallowed_methods, reason = "these tests watch real processes, whose time is the wall's")]
#![expect(clippy::panic, reason = "a harness says what it did not see by panicking; only the tests themselves are exempt by default")]

mod bad_input;
mod bounds;
mod brake;
mod commands;
mod drained;
mod elsewhere;
mod evidence;
mod exactly_once;
mod fallbacks;
mod fleet;
mod forced;
mod harness;
mod health;
mod held;
mod kafka_away;
mod main_job;
mod order;
mod orders;
mod outage;
mod parked;
mod probes;
mod ramp;
mod recorded;
mod redis_away;
mod redis_failures;
mod redis_several;
mod redrive;
mod replies;
mod restart;
mod retention;
mod settings;
mod shelf;
mod static_member;
mod stop;
mod two_parked;
mod unparkable;
