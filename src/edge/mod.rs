//! The world: what answers the [`ports`](crate::pipeline::ports). Each file translates between one outside thing and the ports' words, and
//! decides nothing. Only here are client crates named, the clock read and dice rolled.

pub mod api;
pub mod backoff;
pub mod chance;
pub mod clock;
pub mod embedded;
pub mod http;
pub mod kafka;
pub mod migrations;
pub mod redis;
pub mod tls;
