//! Reads along on the retry topic as [`fusebox::edge`] does, sooner or later, as the seed says.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fusebox::event::{Incoming, Offset, Partition, Source, Topic, TopicPartition};
use fusebox::machine::progress::Progress;
use fusebox::pipeline::behind::{Behind, Life};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::kafka::{Kafka, below};
use crate::world::{DRAIN, PARKING, RETRY};

struct Followed {
    life: Life,
    next: Offset,
    end: Offset,
    caught_up: bool,
}

/// Never ends.
pub async fn read_along(kafka: Arc<Kafka>, behind: Arc<Behind>, seed: u64) {
    let mut dice = StdRng::seed_from_u64(seed ^ 0xa1009);
    let at = |partition: Partition| TopicPartition { topic: Topic::from(RETRY), partition };
    let mut followed: BTreeMap<Partition, Followed> = BTreeMap::new();
    loop {
        // Now and then Kafka is away for longer than events wait.
        let rest = if dice.random_bool(0.02) { below(&mut dice, 15_000) } else { below(&mut dice, 300) };
        tokio::time::sleep(Duration::from_millis(rest)).await;
        let wanted = behind.wanted(PARKING);
        followed.retain(|_, followed| wanted.contains(&followed.life));
        for life in wanted {
            followed.entry(life.partition).or_insert_with(|| {
                let end = kafka.state().end(&(Topic::from(RETRY), life.partition));
                Followed { life, next: kafka.committed(DRAIN, &at(life.partition)), end, caught_up: false }
            });
        }
        for (partition, followed) in &mut followed {
            let most = dice.random_range(1..30);
            let records: Vec<Incoming> = {
                let state = kafka.state();
                let at = (Topic::from(RETRY), *partition);
                let logs = [state.logs.get(&at), state.undone.get(&at)].into_iter().flatten().flatten();
                let mut unread: Vec<_> = logs.filter(|(offset, _)| *offset >= followed.next).collect();
                unread.sort_by_key(|(offset, _)| *offset);
                let read = |(offset, record): &(Offset, fusebox::event::Record)| Incoming {
                    source: Source { topic: record.topic.clone(), partition: *partition, offset: *offset },
                    key: record.key.clone(),
                    value: record.value.clone(),
                    headers: record.headers.clone(),
                    timestamp: Some(record.timestamp),
                };
                unread.into_iter().take(most).map(read).collect()
            };
            for record in &records {
                behind.read(PARKING, followed.life, record);
                followed.next = Offset(record.source.offset.0 + 1);
            }
            let caught_up = followed.next >= followed.end;
            if (caught_up && !followed.caught_up) || dice.random_bool(0.3) {
                let point = kafka.last_commit(DRAIN, &at(*partition));
                if let Some(point) = point {
                    let ended = Progress::decode(point.next, &point.ahead).expect("its own");
                    behind.ended(PARKING, followed.life, |offset| offset < point.next || ended.has_finished(offset));
                }
            }
            if caught_up && !followed.caught_up {
                followed.caught_up = true;
                behind.caught_up(PARKING, followed.life);
            }
        }
    }
}
