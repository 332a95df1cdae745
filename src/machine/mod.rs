//! The decisions. Time and chance are arguments: nothing here reads a clock, rolls dice, waits, or talks to anyone.
//!
//! A machine takes what happened and says what follows; its caller, in [`crate::pipeline`], acts on it. That is why each is
//! tested with tables, properties and seeded worlds, and why a gap of fifty days is one call.

pub mod brake;
pub mod breaker;
pub mod disposition;
pub mod drain_window;
pub mod due_queue;
pub mod expression;
pub mod fallback;
pub mod health;
pub mod judgement;
pub mod key_gate;
pub mod lanes;
pub mod limit;
pub mod orders;
pub mod outlook;
pub mod pace;
pub mod paging;
pub mod parked_keys;
pub mod progress;
pub mod redriven;
pub mod schedule;
pub mod selection;
pub mod share;
pub mod shelf;
pub mod simulation;
pub mod standstill;
pub mod tally;
pub mod time;
pub mod verdict;
pub mod watermark;
