use std::sync::Mutex;

use super::*;

/// A cluster: its topics, and the one whose creation it refuses.
#[derive(Default)]
struct Cluster {
    topics: Mutex<BTreeMap<String, TopicDescription>>,
    refuses: Option<&'static str>,
}

impl Topics for Cluster {
    async fn describe(&self, names: &[String]) -> Result<Vec<Option<TopicDescription>>, TopicError> {
        let topics = self.topics.lock().expect("not poisoned");
        Ok(names.iter().map(|name| topics.get(name).cloned()).collect())
    }

    async fn create(&self, topic: &NewTopic) -> Result<(), TopicError> {
        if self.refuses == Some(topic.name.as_str()) {
            return Err(TopicError { message: "not authorized".into(), unreachable: false });
        }
        let description =
            TopicDescription { partitions: topic.partitions, replication: topic.replication.unwrap_or(1), configs: topic.configs.clone() };
        self.topics.lock().expect("not poisoned").insert(topic.name.clone(), description);
        Ok(())
    }
}

/// A Redis with a version in it, or none.
struct Redis(Mutex<Option<&'static str>>);

impl Layout for Redis {
    async fn look(&self, _script: &str) -> Result<Found, LayoutError> {
        Ok(match *self.0.lock().expect("not poisoned") {
            None => Found::Absent,
            Some("1") => Found::Same,
            Some(other) => Found::Other { wanted: "1".into(), found: other.into() },
        })
    }

    async fn apply(&self, script: &str) -> Result<Found, LayoutError> {
        let before = self.look(script).await?;
        self.0.lock().expect("not poisoned").get_or_insert("1");
        Ok(before)
    }
}

fn figures() -> topics::Figures {
    topics::Figures {
        names: BTreeMap::from([
            ("topics.events", vec!["events".to_owned()]),
            ("topics.outcomes", vec!["outcomes".to_owned()]),
            ("topics.dead_letters", vec!["dead".to_owned()]),
            ("topics.deliveries", vec![]),
            ("topics.orders", vec![]),
            ("services.*.retry.topic", vec!["retry-a".to_owned(), "retry-b".to_owned(), "retry-a".to_owned()]),
        ]),
        partitions: 6,
        replication: Some(3),
        retention_ms: 1_000,
        event_bytes: 2_000_000,
        envelope_bytes: 3_000_000,
    }
}

fn migrations<'a>(cluster: &'a Cluster, redis: Option<&'a Redis>) -> Migrations<'a, Cluster, Redis> {
    Migrations::of(topics::wanted(TOPICS, &figures()), cluster, redis).expect("the shipped files")
}

fn statuses(steps: &[Step]) -> Vec<(&str, String)> {
    steps.iter().map(|step| (step.title.split(' ').nth(1).unwrap_or_default(), step.status.to_string())).collect()
}

#[tokio::test]
async fn looking_changes_nothing_and_applying_twice_is_applying_once() {
    let (cluster, redis) = (Cluster::default(), Redis(Mutex::new(None)));
    let migrations = migrations(&cluster, Some(&redis));
    let all = |status: &str| ["events", "outcomes", "dead", "retry-a", "retry-b", "of"].map(|name| (name, status.to_owned())).to_vec();

    assert_eq!(statuses(&migrations.plan().await.expect("a plan")), all("pending"));
    assert!(cluster.topics.lock().expect("not poisoned").is_empty() && redis.0.lock().expect("not poisoned").is_none());

    for round_done in [6, 0] {
        let mut done = 0;
        let after = migrations.apply(|_| done += 1).await.expect("applied");
        assert_eq!(statuses(&after), all("applied"));
        assert_eq!(done, round_done);
    }
    assert_eq!(statuses(&migrations.plan().await.expect("a plan")), all("applied"));
    let topics = cluster.topics.lock().expect("not poisoned");
    assert_eq!((topics["retry-a"].partitions, topics["retry-a"].replication), (6, 3));
    assert_eq!(topics["retry-a"].configs["max.message.bytes"], "3000000");
    assert_eq!(topics["events"].configs["max.message.bytes"], "2000000");
    assert_eq!(topics["events"].configs["retention.ms"], "1000");
}

#[tokio::test]
async fn without_redis_there_is_no_step_for_it() {
    let cluster = Cluster::default();
    let steps = migrations(&cluster, None).apply(|_| ()).await.expect("applied");
    assert!(steps.iter().all(|step| step.id == TOPICS_ID && step.status == Status::Applied));
}

#[tokio::test]
async fn a_refused_topic_stops_there_and_what_was_done_stays() {
    let (cluster, redis) = (Cluster { refuses: Some("dead"), ..Cluster::default() }, Redis(Mutex::new(None)));
    let mut done = Vec::new();
    let error = migrations(&cluster, Some(&redis)).apply(|step| done.push(step.title.clone())).await.expect_err("refused");
    assert_eq!(error.to_string(), "creating topic dead: not authorized");
    assert_eq!(done, ["topic events (6 partitions)", "topic outcomes (6 partitions)"]);
    assert_eq!(*redis.0.lock().expect("not poisoned"), None);
}

#[tokio::test]
async fn drift_is_told_and_left_alone() {
    let good = || TopicDescription {
        partitions: 6,
        replication: 3,
        configs: BTreeMap::from([
            ("cleanup.policy".to_owned(), "delete".to_owned()),
            ("retention.ms".to_owned(), "1000".to_owned()),
            ("max.message.bytes".to_owned(), "2000000".to_owned()),
        ]),
    };
    let with = |key: &str, value: &str| {
        let mut topic = good();
        topic.configs.insert(key.to_owned(), value.to_owned());
        topic
    };
    let alter = |setting: &str| format!("kafka-configs.sh --alter --topic events --add-config {setting}");
    for (topic, expect) in [
        (good(), "applied".to_owned()),
        (TopicDescription { partitions: 12, replication: 5, ..good() }, "applied".to_owned()),
        (with("retention.ms", "-1"), "applied".to_owned()),
        (with("retention.ms", "1001"), "applied".to_owned()),
        (TopicDescription { configs: BTreeMap::new(), ..good() }, "applied".to_owned()),
        (with("retention.ms", "999"), format!("drifted: retention.ms is 999, not 1000: {}", alter("retention.ms=1000"))),
        (with("max.message.bytes", "-1"), format!("drifted: max.message.bytes is -1, not 2000000: {}", alter("max.message.bytes=2000000"))),
        (with("cleanup.policy", "compact"), format!("drifted: cleanup.policy is compact, not delete: {}", alter("cleanup.policy=delete"))),
        (
            TopicDescription { replication: 1, ..good() },
            "drifted: 1 replicas, not 3: kafka-reassign-partitions.sh, or lower topics.replication_factor".to_owned(),
        ),
        (
            TopicDescription { partitions: 3, ..good() },
            "drifted: 3 partitions, not 6: kafka-topics.sh --alter --topic events --partitions 6 (keys move to other partitions: do it while \
             nothing is produced), or lower topics.partitions"
                .to_owned(),
        ),
    ] {
        let cluster = Cluster { topics: Mutex::new(BTreeMap::from([("events".to_owned(), topic.clone())])), ..Cluster::default() };
        let redis = Redis(Mutex::new(Some("9")));
        let steps = migrations(&cluster, Some(&redis)).apply(|_| ()).await.expect("applied");
        assert_eq!(steps[0].status.to_string(), expect);
        assert_eq!(cluster.topics.lock().expect("not poisoned")["events"], topic, "it is left as it was");
        assert_eq!(
            steps.last().map(|step| step.status.to_string()).as_deref(),
            Some(
                "drifted: the keys are of layout 9, this release writes 1: run the release that wrote them, or give this one a redis.prefix of its own"
            )
        );
        assert_eq!(*redis.0.lock().expect("not poisoned"), Some("9"));
    }
}

#[test]
fn a_file_that_names_what_there_is_not_is_refused() {
    for (file, expect) in [
        ("[[topics]]\ntopic = \"topics.event\"\nconfigs = {}", "topics.event is no key of a topic"),
        ("[[topics]]\ntopic = \"topics.events\"\nconfigs = { a = \"{b}\" }", "{b} stands for nothing"),
    ] {
        assert_eq!(topics::wanted(file, &figures()), Err(expect.to_owned()));
    }
}
