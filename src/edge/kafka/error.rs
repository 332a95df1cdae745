//! Why something could not be had of Kafka, in words that name no address and no property's value.

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::types::RDKafkaConfRes;

/// Why something could not be had of Kafka.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KafkaEdgeError {
    /// A property's name or value is not one that librdkafka takes.
    #[error("kafka.properties: `{key}` {problem}")]
    Property {
        /// The property.
        key: String,
        /// What is wrong with it; never its value.
        problem: &'static str,
    },
    /// The client could not be made of these properties: some contradict each other, or a file they name cannot be read.
    #[error("the Kafka client could not be made: {0}")]
    Client(String),
    /// No broker answered in time.
    #[error("Kafka cannot be reached: {0}")]
    Unreachable(String),
    /// A broker answered, with a refusal.
    #[error("Kafka refused: {0}")]
    Refused(String),
}

impl KafkaEdgeError {
    /// Whether it is for want of an answer, so that trying again later may help.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable(_))
    }
}

/// Whether a code means that no broker can be talked to, as against one that answered with a refusal.
pub(super) fn is_unreachable(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::BrokerTransportFailure
            | RDKafkaErrorCode::AllBrokersDown
            | RDKafkaErrorCode::Resolve
            | RDKafkaErrorCode::OperationTimedOut
            | RDKafkaErrorCode::RequestTimedOut
            | RDKafkaErrorCode::TimedOutQueue
            | RDKafkaErrorCode::NodeUpdate
    )
}

/// Whether a code says that a topic, or a partition of it, is not there.
pub(super) fn is_unknown_topic(code: RDKafkaErrorCode) -> bool {
    matches!(code, RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic | RDKafkaErrorCode::UnknownPartition)
}

/// Whether a code says that Kafka refuses something to who asks, which no later try changes.
pub(super) fn is_for_want_of_a_right(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::GroupAuthorizationFailed
            | RDKafkaErrorCode::TopicAuthorizationFailed
            | RDKafkaErrorCode::ClusterAuthorizationFailed
    )
}

impl From<KafkaError> for KafkaEdgeError {
    fn from(error: KafkaError) -> Self {
        match error {
            // The second and the fourth field hold the value, which may be a password.
            KafkaError::ClientConfig(result, _, key, _) => Self::Property { key, problem: problem(result) },
            KafkaError::ClientCreation(problem) => Self::Client(problem),
            KafkaError::Canceled => Self::Client("it was closed before the answer came".into()),
            other => match other.rdkafka_error_code() {
                Some(code) => code.into(),
                None => Self::Client(other.to_string()),
            },
        }
    }
}

fn problem(result: RDKafkaConfRes) -> &'static str {
    match result {
        RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN => "is no property that librdkafka knows",
        RDKafkaConfRes::RD_KAFKA_CONF_INVALID | RDKafkaConfRes::RD_KAFKA_CONF_OK => "has a value that librdkafka does not take",
    }
}

impl From<RDKafkaErrorCode> for KafkaEdgeError {
    fn from(code: RDKafkaErrorCode) -> Self {
        if is_unreachable(code) { Self::Unreachable(code.to_string()) } else { Self::Refused(code.to_string()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rdkafka::ClientConfig;
    use rdkafka::consumer::BaseConsumer;

    fn refused(key: &str, value: &str) -> KafkaEdgeError {
        match ClientConfig::new().set(key, value).create::<BaseConsumer>() {
            Ok(_) => panic!("`{key}` was taken"),
            Err(error) => error.into(),
        }
    }

    #[test]
    fn a_property_that_is_not_taken_is_named_and_its_value_is_not() {
        for (key, value) in [("no.such.property", "hunter2"), ("security.protocol", "hunter2"), ("fetch.wait.max.ms", "hunter2")] {
            let error = refused(key, value);
            assert!(matches!(&error, KafkaEdgeError::Property { key: named, .. } if named == key), "{error:?}");
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn no_answer_and_a_refusal_are_told_apart() {
        assert!(KafkaEdgeError::from(RDKafkaErrorCode::AllBrokersDown).is_unreachable());
        assert!(!KafkaEdgeError::from(RDKafkaErrorCode::TopicAuthorizationFailed).is_unreachable());
    }
}
