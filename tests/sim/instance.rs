//! One life of the program: its loops, and what a world does to them.

use std::sync::Arc;
use std::time::Duration;

use fusebox::pipeline::ports::Budget;
use fusebox::pipeline::stop::{Ended, Stop};
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::kafka::{Shove, below};
use crate::oracle::Oracle;
use crate::world::{EVENTS, Plan, RETRY, STOP_TIMEOUT};

/// The parts of one life of the program.
pub struct Instance {
    pub loops: Vec<JoinHandle<Ended>>,
    pub others: Vec<JoinHandle<()>>,
    pub stop: Stop,
    /// What each loop has read and not finished, as it counts it itself.
    pub budgets: Vec<Arc<Budget>>,
    pub live: mpsc::UnboundedSender<Shove>,
    pub drain: mpsc::UnboundedSender<Shove>,
}

impl Instance {
    pub fn assign_all(&self, plan: &Plan) {
        drop(self.live.send(Shove::Assign(plan.partitions_of(EVENTS))));
        drop(self.drain.send(Shove::Assign(plan.partitions_of(RETRY))));
    }

    /// Nothing of it ends by itself. A check that failed in one of its tasks is heard here.
    pub async fn look(&mut self, oracle: &Oracle) {
        if self.loops.iter().any(JoinHandle::is_finished) || self.others.iter().any(JoinHandle::is_finished) {
            self.crash().await;
            panic!("a loop has ended, and nobody has asked it to");
        }
        assert!(!oracle.has_failed(), "a check has failed");
    }

    /// When everything has an end, nothing is in flight any more, but for what comes of acknowledgements that are slow.
    pub async fn let_settle(&mut self, oracle: &Oracle) {
        let held = |budget: &Arc<Budget>| budget.held() != (0, 0);
        for _ in 0..20 {
            if !self.budgets.iter().any(held) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
            self.look(oracle).await;
        }
        let held: Vec<(usize, usize)> = self.budgets.iter().map(|budget| budget.held()).collect();
        panic!("G4: everything has an end, and records and bytes of {held:?} are in flight for ever");
    }

    /// Ends it where it stands.
    pub async fn crash(&mut self) {
        for task in &self.loops {
            task.abort();
        }
        for task in self.loops.drain(..) {
            heard(task.await.map(|_| ()));
        }
        self.end_others().await;
    }

    /// Asks it to stop, and waits for it: whether it has left nothing that must be run again.
    pub async fn stop(&mut self) -> bool {
        self.stop.request();
        let mut clean = true;
        for task in self.loops.drain(..) {
            // Its time, and a second to leave the group.
            let ended = tokio::time::timeout(STOP_TIMEOUT + Duration::from_millis(1_100), task).await;
            let ended = ended.unwrap_or_else(|_| panic!("G12: a stop takes longer than {STOP_TIMEOUT:?} and a second"));
            clean &= heard(ended) == Some(Ended::Clean);
        }
        self.end_others().await;
        clean
    }

    async fn end_others(&mut self) {
        for task in &self.others {
            task.abort();
        }
        for task in self.others.drain(..) {
            heard(task.await);
        }
    }

    /// Takes some partitions away, with warning or without, and gives them back after a while.
    pub async fn shove(&self, plan: &Plan, dice: &mut StdRng, oracle: &Oracle, lose: bool) {
        oracle.count(if lose { "lost partitions" } else { "rebalances" });
        if lose {
            oracle.lost();
        }
        let (consumer, topic) = if dice.random_bool(0.6) { (&self.live, EVENTS) } else { (&self.drain, RETRY) };
        let some: Vec<_> = plan.partitions_of(topic).into_iter().filter(|_| dice.random_bool(0.7)).collect();
        drop(consumer.send(if lose { Shove::Lose(some.clone()) } else { Shove::Revoke(some.clone()) }));
        tokio::time::sleep(Duration::from_millis(below(dice, 3_000))).await;
        drop(consumer.send(Shove::Assign(some)));
    }
}

/// What a task has given; its panic is everybody's.
fn heard<T>(ended: Result<T, tokio::task::JoinError>) -> Option<T> {
    match ended {
        Ok(given) => Some(given),
        Err(error) if error.is_cancelled() => None,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
