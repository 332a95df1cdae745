//! The loops: async, generic over the [`ports`], naming no client crate.
//!
//! - [`process`] reads events, runs their stages and publishes what they leave behind; [`drain`] does the same for parked calls.
//! - Both call services through the one [`guard`], keep their partitions' books in a [`ledger`], and publish through an [`outbox`].
//!   What could not be told of beside a commit waits in [`holds`]; what [`running`] holds of a life that has ended is cut off.
//! - [`brakes`] stops a partition that turns bad, instead of emptying it into the dead letters.
//! - [`breakers`] holds the breakers and tells who must know of a change; [`keeper`] runs their timers and shares them through a store, and
//!   [`leases`] the probes of half-open ones; [`evidence`] tells the fleet what is seen here of services; [`tuning`] changes their settings while they run.
//! - [`orders`] is what operators have ordered for parked calls, which the drains carry out.
//! - [`health`] asks services for their health while their breakers are not closed.
//! - Each loop shows a [`pulse`], and a record that has been [`running`] for too long is named.

pub mod acks;
pub mod behind;
pub mod brakes;
pub mod breakers;
pub mod drain;
pub mod evidence;
pub mod facts;
#[cfg(test)]
pub(crate) mod fakes;
pub mod finisher;
pub mod guard;
pub mod hand_over;
pub mod health;
pub mod holds;
pub mod keeper;
pub mod leases;
mod leave;
pub mod ledger;
pub mod orders;
pub mod outbox;
pub mod ports;
pub mod process;
pub mod pulse;
pub mod redrive;
pub mod running;
pub mod stages;
pub mod stop;
mod stragglers;
pub mod timers;
pub mod tuning;
pub mod turns;
