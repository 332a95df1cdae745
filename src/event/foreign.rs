//! Dead letters in other tools' words: Kafka Connect's error headers, and Spring's, so that consoles and scripts that know those can read
//! ours.
//!
//! Names and forms are those of Connect's `DeadLetterQueueReporter` (text throughout) and of spring-kafka's
//! `DeadLetterPublishingRecoverer` (numbers big-endian, as `ByteBuffer` writes them). Each header is replaced, so that none piles up over
//! hops. Neither carries a stack: Fusebox shows none. They say where the record *itself* was read, or would have gone; the event that a call
//! belongs to is in Fusebox's own headers.

use bytes::Bytes;

use super::dead_letter::Code;
use super::{Headers, Offset, Partition, Topic, UnixMillis};

/// Whose headers are added to a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Style {
    /// Kafka Connect's `__connect.errors.*`.
    Connect,
    /// Spring's `kafka_dlt-*`.
    Spring,
}

/// What is said of a dead letter.
#[derive(Debug, Clone, Copy)]
pub struct About<'a> {
    /// Why.
    pub code: Code,
    /// Why, in a sentence.
    pub error: &'a str,
    /// The topic of the record that it was made of.
    pub topic: &'a Topic,
    /// Where in it, if the record was read there.
    pub place: Option<(Partition, Offset)>,
    /// The record's timestamp, if it had one.
    pub timestamp: Option<UnixMillis>,
    /// The group that read it.
    pub group: &'a str,
}

mod connect {
    pub(super) const TOPIC: &str = "__connect.errors.topic";
    pub(super) const PARTITION: &str = "__connect.errors.partition";
    pub(super) const OFFSET: &str = "__connect.errors.offset";
    pub(super) const CONNECTOR: &str = "__connect.errors.connector.name";
    pub(super) const TASK: &str = "__connect.errors.task.id";
    pub(super) const STAGE: &str = "__connect.errors.stage";
    pub(super) const CLASS: &str = "__connect.errors.class.name";
    pub(super) const EXCEPTION: &str = "__connect.errors.exception.class.name";
    pub(super) const MESSAGE: &str = "__connect.errors.exception.message";
    pub(super) const ALL: [&str; 9] = [TOPIC, PARTITION, OFFSET, CONNECTOR, TASK, STAGE, CLASS, EXCEPTION, MESSAGE];
}

mod spring {
    pub(super) const TOPIC: &str = "kafka_dlt-original-topic";
    pub(super) const PARTITION: &str = "kafka_dlt-original-partition";
    pub(super) const OFFSET: &str = "kafka_dlt-original-offset";
    pub(super) const TIMESTAMP: &str = "kafka_dlt-original-timestamp";
    pub(super) const TIMESTAMP_TYPE: &str = "kafka_dlt-original-timestamp-type";
    pub(super) const GROUP: &str = "kafka_dlt-original-consumer-group";
    pub(super) const EXCEPTION: &str = "kafka_dlt-exception-fqcn";
    pub(super) const MESSAGE: &str = "kafka_dlt-exception-message";
    pub(super) const ALL: [&str; 8] = [TOPIC, PARTITION, OFFSET, TIMESTAMP, TIMESTAMP_TYPE, GROUP, EXCEPTION, MESSAGE];
}

/// What stands where others name a class: how our own are told from those that a record came with.
const CLASS: &str = "fusebox";

/// Writes a style's headers.
pub fn write(style: Style, about: &About<'_>, headers: &mut Headers) {
    let exception = format!("{CLASS}.{}", camel(about.code));
    let number = |number: Option<i64>| number.unwrap_or(-1).to_string();
    match style {
        Style::Connect => {
            let place = about.place.map(|(partition, offset)| (i64::from(partition.0), offset.0));
            headers.set(connect::TOPIC, about.topic.as_str().to_owned());
            headers.set(connect::PARTITION, number(place.map(|(partition, _)| partition)));
            headers.set(connect::OFFSET, number(place.map(|(_, offset)| offset)));
            headers.set(connect::CONNECTOR, about.group.to_owned());
            headers.set(connect::TASK, "0");
            headers.set(connect::STAGE, stage(about.code));
            headers.set(connect::CLASS, CLASS);
            headers.set(connect::EXCEPTION, exception);
            headers.set(connect::MESSAGE, about.error.to_owned());
        }
        Style::Spring => {
            headers.set(spring::TOPIC, about.topic.as_str().to_owned());
            // Its readers take them for a place to write to: one that is not known is not said.
            for header in [spring::PARTITION, spring::OFFSET] {
                headers.remove(header);
            }
            if let Some((partition, offset)) = about.place {
                headers.set(spring::PARTITION, big_endian(&partition.0.to_be_bytes()));
                headers.set(spring::OFFSET, big_endian(&offset.0.to_be_bytes()));
            }
            headers.set(spring::TIMESTAMP, big_endian(&about.timestamp.map_or(-1, |at| at.0).to_be_bytes()));
            headers.set(spring::TIMESTAMP_TYPE, if about.timestamp.is_some() { "CreateTime" } else { "NoTimestampType" });
            headers.set(spring::GROUP, about.group.to_owned());
            headers.set(spring::EXCEPTION, exception);
            headers.set(spring::MESSAGE, about.error.to_owned());
        }
    }
}

/// Takes off what [`write()`] wrote, and leaves what others did.
pub fn take_off(headers: &mut Headers) {
    if headers.text(connect::CLASS) == Some(CLASS) {
        connect::ALL.into_iter().for_each(|header| headers.remove(header));
    }
    if headers.text(spring::EXCEPTION).and_then(|class| class.strip_prefix(CLASS)).is_some_and(|rest| rest.starts_with('.')) {
        spring::ALL.into_iter().for_each(|header| headers.remove(header));
    }
}

fn big_endian(bytes: &[u8]) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

/// The part of a connector that would have failed like this.
fn stage(code: Code) -> &'static str {
    match code {
        Code::InvalidJson | Code::NotAnObject | Code::MissingField | Code::InvalidField => "VALUE_CONVERTER",
        Code::TooLarge | Code::NotTaken => "KAFKA_PRODUCE",
        Code::AttemptsExhausted | Code::Expired | Code::RejectedByService | Code::StageFailed | Code::Discarded => "TASK_PUT",
    }
}

/// `invalid_json` as `InvalidJson`.
fn camel(code: Code) -> String {
    let capital = |word: &str| word.get(..1).unwrap_or_default().to_uppercase() + word.get(1..).unwrap_or_default();
    code.as_str().split('_').map(capital).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about<'a>(topic: &'a Topic, error: &'a str) -> About<'a> {
        let place = Some((Partition(3), Offset(258)));
        About { code: Code::InvalidJson, error, topic, place, timestamp: Some(UnixMillis(1_000)), group: "fusebox" }
    }

    fn all(headers: &Headers) -> Vec<(String, Vec<u8>)> {
        headers.iter().map(|(name, value)| (name.to_owned(), value.map(|value| value.to_vec()).unwrap_or_default())).collect()
    }

    #[test]
    fn connects_are_text() {
        let topic = Topic::from("surveillance.events");
        let mut headers = Headers::new();
        write(Style::Connect, &about(&topic, "no JSON"), &mut headers);
        let text: Vec<(String, String)> =
            all(&headers).into_iter().map(|(name, value)| (name, String::from_utf8(value).expect("text"))).collect();
        let text: Vec<(&str, &str)> = text.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(
            text,
            [
                ("__connect.errors.topic", "surveillance.events"),
                ("__connect.errors.partition", "3"),
                ("__connect.errors.offset", "258"),
                ("__connect.errors.connector.name", "fusebox"),
                ("__connect.errors.task.id", "0"),
                ("__connect.errors.stage", "VALUE_CONVERTER"),
                ("__connect.errors.class.name", "fusebox"),
                ("__connect.errors.exception.class.name", "fusebox.InvalidJson"),
                ("__connect.errors.exception.message", "no JSON"),
            ]
        );
    }

    #[test]
    fn springs_have_their_numbers_in_big_endian() {
        let topic = Topic::from("surveillance.events");
        let mut headers = Headers::new();
        write(Style::Spring, &about(&topic, "no JSON"), &mut headers);
        let expected: [(&str, &[u8]); 8] = [
            ("kafka_dlt-original-topic", b"surveillance.events"),
            ("kafka_dlt-original-partition", &[0, 0, 0, 3]),
            ("kafka_dlt-original-offset", &[0, 0, 0, 0, 0, 0, 1, 2]),
            ("kafka_dlt-original-timestamp", &[0, 0, 0, 0, 0, 0, 3, 232]),
            ("kafka_dlt-original-timestamp-type", b"CreateTime"),
            ("kafka_dlt-original-consumer-group", b"fusebox"),
            ("kafka_dlt-exception-fqcn", b"fusebox.InvalidJson"),
            ("kafka_dlt-exception-message", b"no JSON"),
        ];
        assert_eq!(all(&headers), expected.map(|(name, value)| (name.to_owned(), value.to_vec())));
        // What has no place and no time says so as Kafka does, or is silent.
        write(Style::Spring, &About { place: None, timestamp: None, ..about(&topic, "no JSON") }, &mut headers);
        assert_eq!(headers.get(spring::PARTITION), None);
        assert_eq!(headers.get(spring::TIMESTAMP).map(|value| value.to_vec()), Some(vec![0xff; 8]));
        assert_eq!(headers.text(spring::TIMESTAMP_TYPE), Some("NoTimestampType"));
    }

    #[test]
    fn they_are_replaced_and_taken_off_but_for_what_others_wrote() {
        let topic = Topic::from("t");
        for style in [Style::Connect, Style::Spring] {
            let mut headers = Headers::new();
            headers.append("x-theirs", Some("kept".into()));
            write(style, &about(&topic, "first"), &mut headers);
            let once = headers.iter().len();
            write(style, &about(&topic, "second"), &mut headers);
            assert_eq!(headers.iter().len(), once, "{style:?} piles up");
            take_off(&mut headers);
            assert_eq!(all(&headers), [("x-theirs".to_owned(), b"kept".to_vec())], "{style:?}");
        }
        let mut theirs = Headers::new();
        theirs.append(connect::CLASS, Some("org.apache.kafka.connect.json.JsonConverter".into()));
        theirs.append(spring::EXCEPTION, Some("fuseboxed.Exception".into()));
        let before = theirs.clone();
        take_off(&mut theirs);
        assert_eq!(theirs, before);
    }

    #[test]
    fn classes_are_named_as_classes_are() {
        assert_eq!(camel(Code::RejectedByService), "RejectedByService");
        assert_eq!(camel(Code::Expired), "Expired");
    }
}
