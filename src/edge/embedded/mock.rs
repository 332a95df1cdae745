//! The embedded Kafka of `fusebox dev`: librdkafka's mock cluster behind a fixed port, for any client on this machine.
//!
//! It is for trying Fusebox out, and no more: it keeps everything in memory, at most 5 MiB or 100,000 batches a partition, and drops what
//! is older *without a word*; it has no admin interface (creating and describing topics time out), does not isolate transactions, and does
//! not understand that a member leaves a group: its partitions are another's only when its session has ended.

#![expect(unsafe_code, reason = "rust-rdkafka has no safe call for the advertised port and the rebalance delay of a mock cluster")]

use std::ffi::CStr;
use std::io;

use rdkafka::ClientConfig;
use rdkafka::bindings::{rd_kafka_handle_mock_cluster, rd_kafka_mock_broker_set_host_port, rd_kafka_mock_group_initial_rebalance_delay_ms};
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, Producer as _, ProducerContext};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use super::forward::forward;

const HOST: &CStr = c"127.0.0.1";

/// The embedded Kafka; it ends when this is dropped.
pub struct EmbeddedKafka {
    address: String,
    _forwarder: AbortOnDropHandle<()>,
    _owner: BaseProducer<Silent>,
}

/// Why there is no embedded Kafka.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// Something else listens there.
    #[error("port {port} of 127.0.0.1 is taken: end what listens there, or choose another port")]
    PortTaken {
        /// The port that was asked for.
        port: u16,
    },
    /// The port cannot be had for another reason.
    #[error("port {port} of 127.0.0.1 cannot be listened on")]
    Port {
        /// The port that was asked for.
        port: u16,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// librdkafka did not make it.
    #[error("the embedded Kafka could not be started")]
    Cluster(#[from] KafkaError),
}

impl EmbeddedKafka {
    /// Starts it on a port of 127.0.0.1 (0: any that is free) with these topics, each with its number of partitions. A topic that is not
    /// among them is created when a producer first asks for it. Must run within a tokio runtime.
    ///
    /// # Errors
    /// The port is taken, or librdkafka cannot make the cluster.
    pub async fn start(port: u16, topics: &[(&str, i32)]) -> Result<Self, EmbeddedError> {
        let listener = TcpListener::bind(("127.0.0.1", port)).await;
        let listener = listener.map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => EmbeddedError::PortTaken { port },
            _ => EmbeddedError::Port { port, source },
        })?;
        let bound = listener.local_addr().map_err(|source| EmbeddedError::Port { port, source })?;

        let owner: BaseProducer<Silent> =
            ClientConfig::new().set("test.mock.num.brokers", "1").set_log_level(RDKafkaLogLevel::Error).create_with_context(Silent)?;
        let behind = {
            let cluster = owner.client().mock_cluster().ok_or_else(|| KafkaError::ClientCreation("no mock cluster was made".into()))?;
            for (topic, partitions) in topics {
                cluster.create_topic(topic, *partitions, 1)?;
            }
            cluster.bootstrap_servers()
        };
        // SAFETY: the client was made with a mock cluster (checked above), which lives as long as the client does; `owner` is borrowed
        // until the calls are over. They take the cluster's own lock, and copy the host's name, which ends with NUL.
        unsafe {
            let cluster = rd_kafka_handle_mock_cluster(owner.client().native_ptr());
            rd_kafka_mock_broker_set_host_port(cluster, 1, HOST.as_ptr(), bound.port().into());
            // A group's first member would wait three seconds for others.
            rd_kafka_mock_group_initial_rebalance_delay_ms(cluster, 0);
        }
        Ok(Self { address: bound.to_string(), _forwarder: forward(listener, behind), _owner: owner })
    }

    /// Its address, for `bootstrap.servers`.
    pub fn brokers(&self) -> &str {
        &self.address
    }
}

/// The client that owns the cluster produces nothing, and has nothing to say.
struct Silent;

impl ClientContext for Silent {
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, line: &str) {
        tracing::debug!(facility, line, "the embedded Kafka");
    }

    fn error(&self, _error: KafkaError, _reason: &str) {}
}

impl ProducerContext for Silent {
    type DeliveryOpaque = ();

    fn delivery(&self, _result: &rdkafka::message::DeliveryResult<'_>, (): ()) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_that_is_taken_is_named() {
        let first = EmbeddedKafka::start(0, &[("t", 2)]).await.unwrap();
        let port: u16 = first.brokers().rsplit(':').next().unwrap().parse().unwrap();
        let Err(error) = EmbeddedKafka::start(port, &[]).await else { panic!("two on one port") };
        assert!(matches!(error, EmbeddedError::PortTaken { port: named } if named == port));
        assert!(error.to_string().contains(&port.to_string()));
    }
}
