//! What librdkafka's statistics say: whether a broker is connected, whether the client is in its group, how many partitions a topic has, and how
//! far each is read.
//!
//! The fields are those of librdkafka's STATISTICS.md; whatever else is in them is left aside.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::event::{Offset, TopicPartition};

/// One report.
#[derive(Debug, Deserialize)]
pub(super) struct Statistics<'a> {
    #[serde(borrow)]
    brokers: BTreeMap<String, Broker<'a>>,
    #[serde(default)]
    topics: BTreeMap<String, Topic>,
    cgrp: Option<Group<'a>>,
}

#[derive(Debug, Deserialize)]
struct Group<'a> {
    join_state: &'a str,
}

#[derive(Debug, Deserialize)]
struct Broker<'a> {
    state: &'a str,
}

#[derive(Debug, Deserialize)]
struct Topic {
    #[serde(default)]
    partitions: BTreeMap<String, Partition>,
}

/// One partition. Offsets below zero are none.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(default)]
pub(super) struct Partition {
    /// What is fetched next.
    pub next_offset: i64,
    /// Behind the last record handed on.
    pub app_offset: i64,
    /// Records fetched and not handed on.
    pub fetchq_cnt: i64,
    /// It is asked for, and the topic is not known to have it.
    unknown: bool,
}

impl Default for Partition {
    fn default() -> Self {
        Self { next_offset: -1, app_offset: -1, fetchq_cnt: 0, unknown: false }
    }
}

impl<'a> Statistics<'a> {
    /// `None` if it cannot be read.
    pub fn read(json: &'a [u8]) -> Option<Self> {
        serde_json::from_slice(json).ok()
    }

    pub fn any_broker_up(&self) -> bool {
        self.brokers.values().any(|broker| matches!(broker.state, "UP" | "UPDATE"))
    }

    /// Whether the client is neither in its group nor about to be.
    pub fn is_outside(&self) -> bool {
        self.cgrp.as_ref().is_some_and(|group| group.join_state == "init")
    }

    /// How many partitions a topic is known to have.
    pub fn size(&self, topic: &str) -> Option<usize> {
        let known = self.topics.get(topic)?.partitions.iter().filter(|(number, partition)| !number.starts_with('-') && !partition.unknown);
        Some(known.count()).filter(|size| *size > 0)
    }

    pub fn partition(&self, partition: &TopicPartition) -> Option<Partition> {
        self.topics.get(partition.topic.as_str())?.partitions.get(&partition.partition.to_string()).copied()
    }
}

/// An offset, if it is one: below zero librdkafka means that there is none yet.
pub(super) fn offset(number: i64) -> Option<Offset> {
    (number >= 0).then_some(Offset(number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Topic as Name;

    #[test]
    fn partitions_are_found_by_name_and_number() {
        let json = br#"{"brokers":{},"topics":{"t":{"topic":"t","partitions":{
            "0":{"partition":0,"next_offset":12,"app_offset":9,"fetchq_cnt":3,"fetch_state":"active"},
            "-1":{"partition":-1,"fetchq_cnt":0}}}}}"#;
        let statistics = Statistics::read(json).expect("valid");
        let of =
            |partition| statistics.partition(&TopicPartition { topic: Name::from("t"), partition: crate::event::Partition(partition) });
        let found = of(0).map(|found| (offset(found.next_offset), offset(found.app_offset), found.fetchq_cnt));
        assert_eq!(found, Some((Some(Offset(12)), Some(Offset(9)), 3)));
        assert_eq!(of(-1).map(|found| offset(found.next_offset)), Some(None));
        assert!(of(1).is_none());
    }

    #[test]
    fn a_client_is_outside_its_group_before_it_joins_and_once_it_has_left() {
        for (group, expected) in [
            (r#","cgrp":{"state":"up","join_state":"init","rebalance_cnt":2}"#, true),
            (r#","cgrp":{"state":"up","join_state":"wait-join"}"#, false),
            (r#","cgrp":{"state":"up","join_state":"steady"}"#, false),
            ("", false),
        ] {
            let json = format!(r#"{{"brokers":{{}}{group}}}"#);
            assert_eq!(Statistics::read(json.as_bytes()).map(|statistics| statistics.is_outside()), Some(expected), "{group}");
        }
    }

    #[test]
    fn a_topic_has_the_partitions_that_are_known() {
        let json = br#"{"brokers":{},"topics":{
            "t":{"partitions":{"0":{"unknown":false},"1":{"desired":true},"2":{"desired":true,"unknown":true},"-1":{}}},
            "u":{"partitions":{"4":{"desired":true,"unknown":true},"-1":{}}}}}"#;
        let statistics = Statistics::read(json).expect("valid");
        for (topic, expected) in [("t", Some(2)), ("u", None), ("v", None)] {
            assert_eq!(statistics.size(topic), expected, "{topic}");
        }
    }
}
