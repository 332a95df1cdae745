//! Fusebox under faults: the binary, three of it, a real Kafka, stub services; processes are killed, groups rebalance, brokers die, the
//! network goes, topics refuse, Redis comes and goes. What must hold is judged by [`oracle`] from topics, committed offsets and the stubs' journals alone.
//!
//! Each scenario has a short form, which `make test` runs, or a long one, which is ignored there and run by `make chaos`; `make soak` runs
//! [`soak`]. A run's chance comes from `CHAOS_SEED`, which is printed; `CHAOS_SECONDS` is how long faults go on in a long form. The same
//! seed makes the same faults in the same order; how they meet what the processes are doing is the machine's affair. docs/testing.md says
//! how to run one.

#![expect(clippy::disallowed_methods, reason = "these tests watch real processes, whose time is the wall's")]
#![expect(clippy::panic, reason = "a harness says what it did not see by panicking; only the tests themselves are exempt by default")]

mod backlog;
mod brokers;
mod chance;
mod cluster;
mod draining;
mod fleet;
mod killed;
mod network;
mod oracle;
mod rebalances;
mod redis;
mod refused;
mod soak;
mod stream;
mod trial;

#[path = "../it/harness/mod.rs"]
#[expect(dead_code, unused_imports, reason = "shared with tests/it, which uses what is not used here")]
mod harness;
