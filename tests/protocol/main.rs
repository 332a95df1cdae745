//! The protocol by which instances share breakers (docs/protocol.md), checked: a twin of the Lua scripts, held against the scripts in a real
//! Redis; and models of a fleet on that twin, every state of which is looked at.

mod against_redis;
mod chance;
mod fleet;
mod instance;
mod machine;
mod pipeline;
mod scenes;
mod settings;
mod settle;
mod shared;
mod store;
mod wire;
