//! Fusebox consumes events from Kafka, runs each through circuit-breaker-guarded HTTP calls, answers with a fallback where a service is
//! down, parks notifications on a retry topic, and drains them when the service is back.
//!
//! ```text
//!  events ─▶ decode ─▶ lane of its key ─▶ stage ─▶ stage ─▶ … ─▶ outcome ─▶ finish ─▶ commit
//!     │ unreadable                          │ admitted: HTTP call, settle
//!     ▼                                     │ refused or failed: fallback, or park
//!  dead letters ◀── given up ── drain ◀── retry topic
//!                                 │ admitted by the same breaker, HTTP call, settle
//!                                 ▼ delivered
//! ```
//!
//! [`machine`] decides, [`pipeline`] drives, [`edge`] touches the world, [`app`] joins them; [`event`] has the nouns. Imports point one way:
//! `cli → app → edge → pipeline → machine → event`. [`config`] and [`telemetry`] are read by `app` and handed on as values.

// Lints for the library alone; those for every target stand in Cargo.toml.
#![warn(missing_docs)]
// What ships neither reads clocks, nor panics, nor cuts numbers short in passing, nor writes to where results go. `expect` is for what is
// impossible by construction, and says why it is. Tests fail where they cannot go on, and count to hundreds.
#![cfg_attr(
    not(test),
    warn(
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        clippy::cast_sign_loss,
        clippy::disallowed_methods,
        clippy::panic,
        clippy::print_stderr,
        clippy::print_stdout,
        clippy::unused_self,
        clippy::unwrap_used
    )
)]

pub mod app;
pub mod cli;
pub mod config;
pub mod edge;
pub mod event;
pub mod machine;
pub mod pipeline;
pub mod telemetry;
