//! The newest records of a topic, page by page, outside any group.
//!
//! A page looks through so many offsets of each partition, from the place where the one before ended, towards the oldest. It is ordered by time;
//! a partition's own order is never turned about. What is chosen sparsely may leave a page short, or empty, and there is more all the same: the
//! place to go on from says so. No more is kept than a page of each partition.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::tail::{self, Start};
use super::{KafkaEdgeError, LagSampler, topics};
use crate::config;
use crate::event::{Incoming, Offset, Partition, Topic, UnixMillis};

/// Where a page ends, by partition: the next begins below.
pub type Place = BTreeMap<Partition, Offset>;

/// What a page holds.
#[derive(Debug)]
pub struct Page<T> {
    /// What was made of the records, newest first.
    pub records: Vec<T>,
    /// Where to go on; `None`: there is nothing more.
    pub next: Option<Place>,
}

/// How a page is read.
#[derive(Debug, Clone, Copy)]
pub struct Extent {
    /// Records that it holds, at most.
    pub limit: usize,
    /// Offsets that it looks through, at most, in each partition.
    pub window: u64,
    /// How long Kafka may take for a question.
    pub patience: Duration,
}

/// Reads a page. `make` says what to keep of a record, if it is chosen, and `at` its time.
///
/// # Errors
/// No broker answers, or one refuses.
pub async fn newest<T: Send + 'static>(
    settings: &config::Kafka,
    topic: &Topic,
    from: Option<Place>,
    extent: Extent,
    make: impl Fn(&Incoming) -> Option<(UnixMillis, T)> + Send + 'static,
) -> Result<Page<T>, KafkaEdgeError> {
    let asked = (settings.clone(), topic.clone());
    // The client polls when it is dropped, too, which must not hold up the runtime.
    let partitions = topics::blocking(move || {
        let (settings, topic) = asked;
        LagSampler::connect(&settings, &settings.group, &[topic])?.ask(extent.patience)
    });
    let mut spans: Vec<Span> = partitions
        .await?
        .iter()
        .filter_map(|known| {
            let partition = known.partition.partition;
            // What came after the first page is not part of the later ones.
            let upper = match &from {
                Some(place) => place.get(&partition).copied()?.min(known.end),
                None => known.end,
            };
            Some(Span::below(partition, known.low, upper, extent.window))
        })
        .collect();
    let bounds = spans.iter().map(|span| (span.partition, (span.from, span.upper))).collect();
    let mut records = tail::read(settings, topic, Start::Spans(bounds), extent.patience, |_| true)?;
    let mut found = Found::new();
    while let Some(record) = records.recv().await {
        let record = record?;
        if let Some((at, made)) = make(&record) {
            let kept = found.entry(record.source.partition).or_default();
            kept.push_back((record.source.offset, at, made));
            let_go(kept, extent.limit, spans.iter_mut().find(|span| span.partition == record.source.partition));
        }
    }
    Ok(merge(spans, found, extent.limit))
}

/// What was made of the records of each partition, in its order.
type Found<T> = BTreeMap<Partition, VecDeque<(Offset, UnixMillis, T)>>;

/// Lets the oldest go that cannot be on the page: the next one looks at it again.
fn let_go<T>(kept: &mut VecDeque<(Offset, UnixMillis, T)>, limit: usize, span: Option<&mut Span>) {
    if kept.len() > limit
        && let (Some((offset, ..)), Some(span)) = (kept.pop_front(), span)
    {
        span.from = Offset(offset.0 + 1);
    }
}

/// What a page looks through in one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    partition: Partition,
    /// The oldest record that is there.
    low: Offset,
    from: Offset,
    /// The first that is not looked at.
    upper: Offset,
}

impl Span {
    fn below(partition: Partition, low: Offset, upper: Offset, window: u64) -> Self {
        let upper = upper.max(low);
        Self { partition, low, from: Offset(upper.0.saturating_sub_unsigned(window)).max(low), upper }
    }
}

/// Puts partitions together, the newest first; `found` is in each partition's order.
fn merge<T>(spans: Vec<Span>, mut found: Found<T>, limit: usize) -> Page<T> {
    let mut records = Vec::new();
    while records.len() < limit {
        let newest = found.iter().filter_map(|(partition, left)| left.back().map(|(_, at, _)| (*at, *partition))).max();
        let Some((_, partition)) = newest else { break };
        records.extend(found.get_mut(&partition).and_then(VecDeque::pop_back).map(|(_, _, made)| made));
    }
    let next: Place = spans
        .into_iter()
        .map(|span| {
            let left = found.get(&span.partition).and_then(|left| left.back());
            (span, left.map_or(span.from, |(offset, ..)| Offset(offset.0 + 1)))
        })
        .filter(|(span, place)| *place > span.low)
        .map(|(span, place)| (span.partition, place))
        .collect();
    Page { records, next: (!next.is_empty()).then_some(next) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Reads a topic as it is given: of each partition the times of its records, and whether they are chosen.
    fn pages(topic: &[Vec<(i64, bool)>], limit: usize, window: u64) -> Vec<Vec<(i32, i64)>> {
        let mut pages = Vec::new();
        let mut from: Option<Place> = None;
        loop {
            let mut spans: Vec<Span> = (0..)
                .zip(topic)
                .filter_map(|(partition, records)| {
                    let end = Offset(i64::try_from(records.len()).expect("few"));
                    let upper = from.as_ref().map_or(Some(end), |place| place.get(&Partition(partition)).copied())?;
                    Some(Span::below(Partition(partition), Offset(0), upper, window))
                })
                .collect();
            let mut found = BTreeMap::new();
            for span in &mut spans {
                let records = &topic[usize::try_from(span.partition.0).expect("small")];
                let mut kept = VecDeque::new();
                for offset in span.from.0..span.upper.0 {
                    let (at, chosen) = records[usize::try_from(offset).expect("small")];
                    if chosen {
                        kept.push_back((Offset(offset), UnixMillis(at), (span.partition.0, offset)));
                        let_go(&mut kept, limit, Some(span));
                        assert!(kept.len() <= limit);
                    }
                }
                found.insert(span.partition, kept);
            }
            let page = merge(spans, found, limit);
            pages.push(page.records);
            match page.next {
                Some(next) => from = Some(next),
                None => return pages,
            }
        }
    }

    #[test]
    fn the_newest_come_first_over_all_partitions() {
        let topic = [vec![(1, true), (4, true), (6, true)], vec![(2, true), (3, true), (5, true)]];
        assert_eq!(pages(&topic, 4, 4), [vec![(0, 2), (1, 2), (0, 1), (1, 1)], vec![(1, 0), (0, 0)]]);
    }

    proptest! {
        #[test]
        fn every_chosen_record_is_on_one_page(
            topic in proptest::collection::vec(proptest::collection::vec((0_i64..50, any::<bool>()), 0..40), 1..4),
            limit in 1_usize..10,
            window in 1_u64..20,
        ) {
            let mut seen: Vec<(i32, i64)> = pages(&topic, limit, window).concat();
            // A partition's own order is kept.
            for partition in 0..4 {
                let offsets: Vec<i64> = seen.iter().filter(|(of, _)| *of == partition).map(|(_, offset)| *offset).collect();
                prop_assert!(offsets.is_sorted_by(|one, other| one > other));
            }
            seen.sort_unstable();
            let all: Vec<(i32, i64)> = (0..).zip(&topic).flat_map(|(partition, records)| {
                (0..).zip(records).filter(|(_, (_, chosen))| *chosen).map(move |(offset, _)| (partition, offset))
            }).collect();
            prop_assert_eq!(seen, all);
        }
    }
}
