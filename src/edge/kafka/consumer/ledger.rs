//! What is assigned, what the loop wants committed, and what Kafka has taken.
//!
//! Guarantees:
//! - A point is committed only while its partition is this instance's: a late commit would set the next owner's back.
//! - A commit that failed is tried again until it is taken or its partition goes: an idle stream's last commit is not lost.
//! - Giving a partition up waits for the commit that is under way, so that no older point arrives behind the last one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::event::TopicPartition;
use crate::machine::schedule::Schedule;
use crate::pipeline::ports::CommitPoint;

/// How long after a failed commit it is tried again, at first and at last; it doubles in between. At first soon: a commit that came in the middle of a
/// rebalance is taken as soon as that is over, and whoever is killed until then has its records run again. At last long enough for a coordinator to
/// move, short beside anybody's patience with lag.
const AGAIN: Schedule = Schedule { initial: Duration::from_millis(50), max: Duration::from_secs(1) };

/// How long to wait after so many failures in a row.
fn again(failures: u32) -> Duration {
    AGAIN.delay(failures, None, 1.0)
}

/// See the module's words.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    state: Mutex<State>,
    changed: Condvar,
    committing: Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    assigned: BTreeSet<TopicPartition>,
    wanted: BTreeMap<TopicPartition, CommitPoint>,
    /// How often the loop was told that partitions came or go.
    told: u64,
    /// A transaction is under way.
    transacting: bool,
    stopped: bool,
}

impl Ledger {
    /// Partitions came.
    pub fn assign(&self, partitions: &[TopicPartition]) {
        self.state().assigned.extend(partitions.iter().cloned());
    }

    /// How many partitions are assigned.
    pub fn assigned(&self) -> usize {
        self.state().assigned.len()
    }

    /// Those assigned.
    pub fn partitions(&self) -> BTreeSet<TopicPartition> {
        self.state().assigned.clone()
    }

    /// The loop wants these committed. Points of partitions that are not assigned are left out.
    pub fn want(&self, points: Vec<CommitPoint>) {
        let mut state = self.state();
        for point in points {
            if state.assigned.contains(&point.partition) {
                state.wanted.insert(point.partition.clone(), point);
            }
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Partitions go, with the last points the loop has for them. What is to be committed for them before they are gone: the last
    /// points, and for a partition without one what was wanted and not taken yet.
    pub fn release(&self, partitions: &[TopicPartition], points: Vec<CommitPoint>) -> Vec<CommitPoint> {
        let going: BTreeSet<_> = partitions.iter().collect();
        let mut last: BTreeMap<TopicPartition, CommitPoint> = BTreeMap::new();
        {
            let mut state = self.state();
            for partition in partitions {
                if let Some(point) = state.wanted.remove(partition) {
                    last.insert(partition.clone(), point);
                }
            }
            for point in points {
                if going.contains(&point.partition) && state.assigned.contains(&point.partition) {
                    last.insert(point.partition.clone(), point);
                }
            }
            for partition in partitions {
                state.assigned.remove(partition);
            }
        }
        drop(self.committing.lock().unwrap_or_else(PoisonError::into_inner));
        last.into_values().collect()
    }

    /// The loop is about to be told that partitions came or go.
    pub fn tell(&self) {
        self.state().told += 1;
    }

    /// Whether the loop has heard of all that came and went, and a partition is ours.
    pub fn is_known(&self, heard: u64, partition: &TopicPartition) -> bool {
        let state = self.state();
        state.told == heard && state.assigned.contains(partition)
    }

    /// A transaction begins, which commits these points. Not if one of their partitions is not ours, or if the loop that wants it has not
    /// heard of all that came and went: what it has done may belong to an assignment that is over.
    pub fn begin(&self, heard: u64, points: &[CommitPoint]) -> bool {
        let mut state = self.state();
        let begins = state.told == heard && points.iter().all(|point| state.assigned.contains(&point.partition));
        state.transacting = begins;
        begins
    }

    /// The transaction under way has ended.
    pub fn end(&self) {
        self.state().transacting = false;
        self.changed.notify_all();
    }

    /// Waits for the transaction under way, so long at most. One that is still not over then commits nothing of a partition that has gone:
    /// the group's next generation fences it.
    pub fn wait_for_transaction(&self, within: Duration) {
        let _ = self.changed.wait_timeout_while(self.state(), within, |state| state.transacting);
    }

    /// Commits what is wanted, whenever something is, until [`Ledger::stop`]. `commit` blocks until Kafka has answered; true: taken.
    pub fn serve(&self, mut commit: impl FnMut(&[CommitPoint]) -> bool) {
        let mut failures = 0_u32;
        while self.wait() {
            let taken = {
                let _committing = self.committing.lock().unwrap_or_else(PoisonError::into_inner);
                // Read after the lock: what has gone in between is no longer in it.
                let points = self.wanted();
                points.is_empty() || {
                    let taken = commit(&points);
                    if taken {
                        self.taken(&points);
                    }
                    taken
                }
            };
            if taken {
                failures = 0;
            } else {
                failures = failures.saturating_add(1);
                let _ = self.changed.wait_timeout_while(self.state(), again(failures), |state| !state.stopped);
            }
        }
    }

    /// Ends [`Ledger::serve`].
    pub fn stop(&self) {
        self.state().stopped = true;
        self.changed.notify_all();
    }

    fn wait(&self) -> bool {
        let state = self
            .changed
            .wait_while(self.state(), |state| !state.stopped && state.wanted.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        !state.stopped
    }

    fn wanted(&self) -> Vec<CommitPoint> {
        self.state().wanted.values().cloned().collect()
    }

    fn taken(&self, points: &[CommitPoint]) {
        let mut state = self.state();
        for point in points {
            if state.wanted.get(&point.partition) == Some(point) {
                state.wanted.remove(&point.partition);
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Offset;
    use crate::event::{Partition, Topic};
    use std::sync::mpsc;

    fn partition(number: i32) -> TopicPartition {
        TopicPartition { topic: Topic::from("t"), partition: Partition(number) }
    }

    fn point(number: i32, next: i64) -> CommitPoint {
        CommitPoint { partition: partition(number), next: Offset(next), ahead: String::new() }
    }

    #[test]
    fn only_what_is_assigned_is_committed() {
        let ledger = Ledger::default();
        ledger.assign(&[partition(0)]);
        ledger.want(vec![point(0, 5), point(1, 9)]);
        assert_eq!(ledger.wanted(), [point(0, 5)]);
    }

    #[test]
    fn a_release_takes_the_last_point_or_what_was_still_wanted() {
        let ledger = Ledger::default();
        ledger.assign(&[partition(0), partition(1), partition(2)]);
        ledger.want(vec![point(0, 5), point(1, 6), point(2, 7)]);
        let last = ledger.release(&[partition(0), partition(1)], vec![point(0, 8), point(2, 70), point(3, 1)]);
        assert_eq!(last, [point(0, 8), point(1, 6)]);
        assert_eq!(ledger.wanted(), [point(2, 7)]);
        ledger.want(vec![point(0, 9)]);
        assert_eq!(ledger.wanted(), [point(2, 7)], "a partition that has gone is not committed");
        assert!(ledger.release(&[partition(0)], vec![point(0, 9)]).is_empty());
    }

    #[test]
    fn what_failed_is_tried_again_with_the_newest_point() {
        let ledger = Ledger::default();
        ledger.assign(&[partition(0)]);
        let (tell, told) = mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut tries = 0;
                ledger.serve(|points| {
                    tries += 1;
                    // Newer points arrive while the first commit is under way.
                    if tries == 1 {
                        ledger.want(vec![point(0, 2)]);
                    }
                    let _ = tell.send((tries, points.to_vec()));
                    tries > 1
                });
            });
            ledger.want(vec![point(0, 1)]);
            assert_eq!(told.recv(), Ok((1, vec![point(0, 1)])));
            assert_eq!(told.recv(), Ok((2, vec![point(0, 2)])));
            ledger.stop();
        });
    }

    #[test]
    fn what_failed_is_tried_again_soon_and_then_less_and_less() {
        let waits = [1, 2, 3, 4, 5, 6, 7, u32::MAX].map(|failures| u64::try_from(again(failures).as_millis()).expect("short"));
        assert_eq!(waits, [50, 100, 200, 400, 800, 1_000, 1_000, 1_000]);
    }

    #[test]
    fn a_transaction_begins_for_what_is_ours_once_the_loop_has_heard_of_it() {
        let ledger = Ledger::default();
        ledger.assign(&[partition(0), partition(1)]);
        ledger.tell();
        assert!(!ledger.begin(0, &[point(0, 5)]), "the loop's batch may be of an earlier assignment");
        assert!(!ledger.begin(1, &[point(0, 5), point(2, 5)]), "not all of it is ours");
        assert!(ledger.begin(1, &[point(0, 5), point(1, 5)]));
        ledger.end();
        ledger.release(&[partition(1)], Vec::new());
        assert!(!ledger.begin(1, &[point(0, 5), point(1, 5)]) && ledger.begin(1, &[point(0, 5)]));
    }

    #[test]
    fn what_goes_waits_for_the_transaction_under_way_and_no_longer_than_it_may() {
        const LONG: Duration = Duration::from_secs(600);
        let ledger = Ledger::default();
        ledger.wait_for_transaction(LONG);
        ledger.assign(&[partition(0)]);
        assert!(ledger.begin(0, &[point(0, 1)]));
        ledger.wait_for_transaction(Duration::from_millis(1));
        let (go_on, goes_on) = mpsc::channel::<()>();
        std::thread::scope(|scope| {
            let ledger = &ledger;
            scope.spawn(move || {
                let _ = goes_on.recv();
                ledger.end();
            });
            assert!(go_on.send(()).is_ok());
            ledger.wait_for_transaction(LONG);
        });
    }

    #[test]
    fn a_release_waits_for_the_commit_under_way() {
        let ledger = Ledger::default();
        ledger.assign(&[partition(0)]);
        ledger.want(vec![point(0, 1)]);
        let (begun, begins) = mpsc::channel();
        let (go_on, goes_on) = mpsc::channel::<()>();
        let (order, ordered) = mpsc::channel();
        let committed = order.clone();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                ledger.serve(move |_| {
                    let _ = begun.send(());
                    let _ = goes_on.recv();
                    let _ = committed.send("committed");
                    true
                });
            });
            assert_eq!(begins.recv(), Ok(()));
            scope.spawn(|| {
                ledger.release(&[partition(0)], vec![]);
                let _ = order.send("released");
            });
            assert!(go_on.send(()).is_ok());
            assert_eq!((ordered.recv(), ordered.recv()), (Ok("committed"), Ok("released")));
            ledger.stop();
        });
    }
}
