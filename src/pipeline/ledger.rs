//! The books of the partitions that are ours: what began, what finished, how far to commit.
//!
//! Each assignment of a partition is a life of its own ([`Life`]): what was begun in an earlier one is nobody's any more, and its finish
//! changes nothing, also when the partition has come back since.
//!
//! Whatever begins, there is room beside the commit for what has finished: [`Ledger::has_room`] is asked first.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use super::ports::{Assignment, CommitPoint};
use crate::event::{Offset, Source, TopicPartition};
use crate::machine::progress::{self, Progress};
use crate::machine::watermark::{Received, Watermark};

/// One assignment of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life(u64);

/// Why a record must not be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotBegun {
    /// Its partition is not ours.
    NotOurs,
    /// It was read before.
    Again,
    /// It has finished in an earlier life.
    Finished,
}

#[derive(Debug)]
struct Held {
    life: Life,
    watermark: Watermark,
    /// There is something to commit that was not handed out yet.
    moved: bool,
    unfinished: usize,
}

/// The partitions that are ours.
#[derive(Debug)]
pub struct Ledger {
    held: HashMap<TopicPartition, Held, RandomState>,
    lives: u64,
    /// The longest text beside a commit.
    max_ahead_bytes: usize,
}

impl Ledger {
    /// No partitions. `max_ahead_bytes`: the longest text beside a commit.
    pub fn new(max_ahead_bytes: usize) -> Self {
        Self { held: HashMap::default(), lives: 0, max_ahead_bytes }
    }

    /// Partitions are ours from now on, each in a new life that knows what finished in the ones before.
    pub fn assign(&mut self, assignments: Vec<Assignment>) {
        for Assignment { partition, committed } in assignments {
            self.lives += 1;
            let before = committed.map_or_else(Progress::default, |committed| {
                Progress::decode(committed.next, &committed.ahead).unwrap_or_else(|error| {
                    tracing::warn!(target: "fusebox", %partition, %error, "the text beside the committed offset is left aside");
                    Progress::default()
                })
            });
            let held = Held { life: Life(self.lives), watermark: Watermark::resume(before), moved: false, unfinished: 0 };
            self.held.insert(partition, held);
        }
    }

    /// Whether a record may begin without a finish ever being left out of the text beside its partition's commit. Where nothing is
    /// unfinished there is room: something must begin for anything to finish.
    pub fn has_room(&self, source: &Source) -> bool {
        let Some(held) = self.held.get(&source.topic_partition()) else { return true };
        held.watermark.is_empty() || held.watermark.after(source.offset) <= progress::capacity(self.max_ahead_bytes)
    }

    /// Whether there is room for more than a few records of a partition: at most three quarters are in use.
    pub fn is_roomy(&self, partition: &TopicPartition) -> bool {
        let Some(held) = self.held.get(partition) else { return true };
        held.watermark.is_empty() || held.watermark.size() <= progress::capacity(self.max_ahead_bytes) / 4 * 3
    }

    /// Whether there is room for a few records more of a partition only: more than seven eighths are in use.
    pub fn is_nearly_full(&self, partition: &TopicPartition) -> bool {
        let Some(held) = self.held.get(partition) else { return false };
        !held.watermark.is_empty() && held.watermark.size() > progress::capacity(self.max_ahead_bytes) / 8 * 7
    }

    /// How many partitions are ours.
    pub fn how_many(&self) -> usize {
        self.held.len()
    }

    /// A record was read.
    ///
    /// # Errors
    /// It must not be run.
    pub fn begin(&mut self, source: &Source) -> Result<Life, NotBegun> {
        let held = self.held.get_mut(&source.topic_partition()).ok_or(NotBegun::NotOurs)?;
        match held.watermark.begin(source.offset) {
            Received::New => {
                held.unfinished += 1;
                Ok(held.life)
            }
            Received::Finished => {
                held.moved = true;
                Err(NotBegun::Finished)
            }
            Received::Again => Err(NotBegun::Again),
        }
    }

    /// A record has finished. False if its partition's life is over: then nothing may follow from it.
    pub fn finish(&mut self, source: &Source, life: Life) -> bool {
        let Some(held) = self.held.get_mut(&source.topic_partition()).filter(|held| held.life == life) else { return false };
        held.unfinished -= 1;
        held.watermark.finish(source.offset);
        // What has finished above the commit point is committed too, so each finish is something to commit.
        held.moved = true;
        true
    }

    /// A record is finished by the commit that comes next, and is said to be by its points; it counts as unfinished until that is made.
    pub fn mark(&mut self, source: &Source, life: Life) {
        if let Some(held) = self.held.get_mut(&source.topic_partition()).filter(|held| held.life == life) {
            held.watermark.finish(source.offset);
            held.moved = true;
        }
    }

    /// A marked record is committed. False if its partition's life is over: then nothing may follow from it.
    pub fn settle(&mut self, source: &Source, life: Life) -> bool {
        let Some(held) = self.held.get_mut(&source.topic_partition()).filter(|held| held.life == life) else { return false };
        held.unfinished -= 1;
        true
    }

    /// A record that was read but never begun is let go: it will be read again by whoever has the partition next.
    pub fn forget(&mut self, source: &Source, life: Life) {
        if let Some(held) = self.held.get_mut(&source.topic_partition()).filter(|held| held.life == life) {
            held.unfinished -= 1;
        }
    }

    /// Whether the partition's life that a record was begun in goes on.
    pub fn is_current(&self, source: &Source, life: Life) -> bool {
        self.held.get(&source.topic_partition()).is_some_and(|held| held.life == life)
    }

    /// The lives that partitions have now; those that are not ours are left out.
    pub fn lives(&self, partitions: &[TopicPartition]) -> Vec<(TopicPartition, Life)> {
        partitions.iter().filter_map(|partition| Some((partition.clone(), self.held.get(partition)?.life))).collect()
    }

    /// Records of these lives that have begun and neither finished nor been let go.
    pub fn unfinished(&self, lives: &[(TopicPartition, Life)]) -> usize {
        lives
            .iter()
            .filter_map(|(partition, life)| self.held.get(partition).filter(|held| held.life == *life))
            .map(|held| held.unfinished)
            .sum()
    }

    /// Ends lives, and says how far each partition is to be committed. A partition that has another life by now is left alone: it has
    /// come back, and what is asked of its old life must not end the new one.
    pub fn release(&mut self, lives: &[(TopicPartition, Life)]) -> Vec<CommitPoint> {
        lives
            .iter()
            .filter_map(|(partition, life)| {
                self.held.get(partition).filter(|held| held.life == *life)?;
                let held = self.held.remove(partition)?;
                point(partition, &held.watermark, self.max_ahead_bytes)
            })
            .collect()
    }

    /// What a life would have to know that begins where this one of the partition stands: how far it is finished, and what has finished above
    /// that. `None` if nothing was read of it, or it is not ours.
    pub fn standing(&self, partition: &TopicPartition) -> Option<CommitPoint> {
        let watermark = &self.held.get(partition)?.watermark;
        let next = watermark.commit_point().or_else(|| watermark.unfinished().next())?;
        Some(point_at(partition, watermark, next, self.max_ahead_bytes))
    }

    /// The commit points that have moved since they were last asked for.
    pub fn moved(&mut self) -> Vec<CommitPoint> {
        self.held
            .iter_mut()
            .filter_map(|(partition, held)| {
                if !std::mem::take(&mut held.moved) {
                    return None;
                }
                point(partition, &held.watermark, self.max_ahead_bytes)
            })
            .collect()
    }

    /// Whether a commit point has moved since they were last asked for.
    pub fn has_moved(&self) -> bool {
        self.held.values().any(|held| held.moved)
    }

    /// Commit points that were handed out were not committed: they have moved still.
    pub fn move_again(&mut self, partitions: &[TopicPartition]) {
        for partition in partitions {
            if let Some(held) = self.held.get_mut(partition) {
                held.moved = true;
            }
        }
    }

    /// The partitions that are ours, sorted.
    pub fn partitions(&self) -> Vec<TopicPartition> {
        let mut partitions: Vec<_> = self.held.keys().cloned().collect();
        partitions.sort_unstable();
        partitions
    }
}

fn point(partition: &TopicPartition, watermark: &Watermark, max_ahead_bytes: usize) -> Option<CommitPoint> {
    Some(point_at(partition, watermark, watermark.commit_point()?, max_ahead_bytes))
}

fn point_at(partition: &TopicPartition, watermark: &Watermark, next: Offset, max_ahead_bytes: usize) -> CommitPoint {
    CommitPoint { partition: partition.clone(), next, ahead: watermark.progress().encode(next, max_ahead_bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Partition, Topic};
    use crate::machine::progress::MAX_BYTES;

    fn at(offset: i64) -> Source {
        Source { topic: Topic::from("t"), partition: Partition(0), offset: Offset(offset) }
    }

    fn fresh() -> Vec<Assignment> {
        vec![Assignment::fresh(at(0).topic_partition())]
    }

    #[test]
    fn a_new_life_owes_nothing_to_the_old_one() {
        let partitions = [at(0).topic_partition()];
        let committed = |next: i64| CommitPoint { partition: partitions[0].clone(), next: Offset(next), ahead: String::new() };
        let mut ledger = Ledger::new(MAX_BYTES);
        assert_eq!(ledger.begin(&at(0)), Err(NotBegun::NotOurs), "not ours yet");
        ledger.assign(fresh());
        let old = ledger.begin(&at(0)).expect("begins");
        let other = ledger.begin(&at(1)).expect("begins");
        assert!(ledger.finish(&at(0), old));
        let lives = ledger.lives(&partitions);
        assert_eq!(ledger.release(&lives), [committed(1)]);
        ledger.assign(fresh());
        assert_eq!((ledger.release(&lives), ledger.unfinished(&lives)), (Vec::new(), 0), "a late word about the old life ends nothing");
        assert!(!ledger.finish(&at(1), other), "its life is over");
        let new = ledger.begin(&at(1)).expect("begins anew");
        assert!(!ledger.is_current(&at(1), other));
        assert!(ledger.is_current(&at(1), new));
        assert_eq!(ledger.unfinished(&ledger.lives(&partitions)), 1);
        assert!(ledger.moved().is_empty());
        assert!(ledger.finish(&at(1), new));
        assert_eq!(ledger.moved(), [committed(2)]);
        assert!(ledger.moved().is_empty(), "handed out once");
    }

    #[test]
    fn what_finished_above_the_commit_is_not_run_by_the_next_owner() {
        let partitions = [at(0).topic_partition()];
        let mut ledger = Ledger::new(MAX_BYTES);
        ledger.assign(fresh());
        let lives: Vec<_> = (0..6).map(|offset| ledger.begin(&at(offset)).expect("begins")).collect();
        for offset in [0, 2, 3, 5] {
            assert!(ledger.finish(&at(offset), lives[0]));
        }
        let committed = ledger.release(&ledger.lives(&partitions));
        assert_eq!(committed[0].next, Offset(1));
        let next_owner = |committed: &CommitPoint| {
            let mut ledger = Ledger::new(MAX_BYTES);
            ledger.assign(vec![Assignment { partition: partitions[0].clone(), committed: Some(committed.clone()) }]);
            ledger
        };
        let mut ledger = next_owner(&committed[0]);
        let ran: Vec<i64> = (1..8).filter(|offset| ledger.begin(&at(*offset)).is_ok()).collect();
        assert_eq!(ran, [1, 4, 6, 7]);
        // One that has read only the first again knows of the others all the same when it goes.
        let mut ledger = next_owner(&committed[0]);
        ledger.begin(&at(1)).expect("begins");
        let mut ledger = next_owner(&ledger.release(&ledger.lives(&partitions)).first().cloned().unwrap_or_else(|| committed[0].clone()));
        let ran: Vec<i64> = (1..8).filter(|offset| ledger.begin(&at(*offset)).is_ok()).collect();
        assert_eq!(ran, [1, 4, 6, 7]);
    }

    #[test]
    fn there_is_room_until_a_finish_could_be_left_out() {
        let partition = at(0).topic_partition();
        // 13 characters behind version and form: 9 bytes.
        let mut ledger = Ledger::new(22);
        assert!(ledger.has_room(&at(0)) && ledger.is_roomy(&partition), "not ours: whether it begins is said elsewhere");
        ledger.assign(fresh());
        let life = ledger.begin(&at(0)).expect("begins");
        let mut offset = 1;
        // Far apart, so that a bit for each would be more.
        while ledger.has_room(&at(offset)) {
            assert!(ledger.begin(&at(offset)).is_ok());
            offset += 12;
        }
        assert_eq!((offset, ledger.is_roomy(&partition)), (85, false));
        assert!(ledger.finish(&at(25), life) && ledger.finish(&at(49), life));
        assert!(ledger.has_room(&at(offset)) && !ledger.is_roomy(&partition), "for one or two");
        assert!(ledger.finish(&at(37), life) && ledger.finish(&at(61), life));
        assert!(ledger.is_roomy(&partition));
        let committed = ledger.moved().remove(0);
        let known = Progress::decode(committed.next, &committed.ahead).expect("its own");
        let finished: Vec<i64> = (1..85).step_by(12).filter(|at| known.has_finished(Offset(*at))).collect();
        assert_eq!(finished, [25, 37, 49, 61], "all of it is told");
    }

    #[test]
    fn where_nothing_is_unfinished_there_is_room() {
        let mut ledger = Ledger::new(0);
        ledger.assign(fresh());
        for offset in [0, 1 << 40] {
            assert!(ledger.has_room(&at(offset)) && ledger.is_roomy(&at(0).topic_partition()));
            let life = ledger.begin(&at(offset)).expect("begins");
            assert!(!ledger.has_room(&at(offset + 1)));
            assert!(ledger.finish(&at(offset), life));
        }
    }

    #[test]
    fn somebody_elses_text_is_left_aside() {
        let partition = at(0).topic_partition();
        let committed = CommitPoint { partition: partition.clone(), next: Offset(3), ahead: "theirs".to_owned() };
        let mut ledger = Ledger::new(MAX_BYTES);
        ledger.assign(vec![Assignment { partition, committed: Some(committed) }]);
        assert!(ledger.begin(&at(3)).is_ok());
    }
}
