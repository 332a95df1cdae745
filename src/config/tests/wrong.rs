//! What is wrong, and how it is said.

use super::World;
use crate::config::Guarantee;

/// A file, and every line that is said of it.
const WRONG: &[(&str, &[&str])] = &[
    // Unknown keys.
    ("[kafka]\nbroker = 'k:9092'", &["a.toml:2: kafka.broker: there is no such key; did you mean `brokers`?"]),
    ("brokers = 'k:9092'", &["a.toml:1: brokers: there is no such key; did you mean `kafka.brokers`?"]),
    (
        "[services.rag.breaker]\nrecovery_time = '1s'\ntimeout = '5s'",
        &[
            "a.toml:2: services.rag.breaker.recovery_time: there is no such key; did you mean `recovery_timeout`?",
            "a.toml:3: services.rag.breaker.timeout: there is no such key; did you mean `services.rag.timeout`?",
        ],
    ),
    ("[[pipeline]]\nservice = 'rag'\nwhe = 'true'", &["a.toml:3: pipeline[0].whe: there is no such key; did you mean `when`?"]),
    ("[shutdown]\nxyzzy = 1", &["a.toml:2: shutdown.xyzzy: there is no such key; known here: timeout"]),
    ("[kafa]\nbrokers = 'k:9092'", &["a.toml:1: kafa: there is no such key; did you mean `kafka`?"]),
    // Types and tables.
    ("kafka = 3", &["a.toml:1: kafka: should be a table, and is an integer"]),
    ("pipeline = 3", &["a.toml:1: pipeline: should be an array of tables, and is an integer"]),
    ("pipeline = [3]", &["a.toml:1: pipeline[0]: should be a table, and is an integer"]),
    ("services.rag = []", &["a.toml:1: services.rag: should be a table, and is an array"]),
    ("[kafka]\ngroup = 5", &["a.toml:2: kafka.group: should be a string, and is an integer"]),
    ("[processing]\nconcurrency = '12'", &["a.toml:2: processing.concurrency: should be a whole number, and is a string"]),
    ("[processing]\nconcurrency = 1.5", &["a.toml:2: processing.concurrency: should be a whole number, and is a number"]),
    ("[services.rag.fallback]\ndefault = [{a = 1}]", &["a.toml:2: services.rag.fallback.default: should be a table, and is an array"]),
    // Ranges.
    (
        "[processing]\nconcurrency = 0\nmax_in_flight = 99999999999999999999",
        &[
            "a.toml:2: processing.concurrency: 0 is out of range: 1 to 100000",
            "a.toml:3: processing.max_in_flight: 99999999999999999999 is out of range: 1 to 10000000",
        ],
    ),
    ("[services.rag.breaker]\njitter = 1.5", &["a.toml:2: services.rag.breaker.jitter: 1.5 is out of range: 0 to 1"]),
    (
        "[services.rag.breaker]\nbackoff_multiplier = nan",
        &["a.toml:2: services.rag.breaker.backoff_multiplier: NaN is out of range: 1 to 100"],
    ),
    ("[shutdown]\ntimeout = '2h'", &["a.toml:2: shutdown.timeout: \"2h\" is out of range: 100ms to 1h"]),
    ("[processing]\nmax_event_bytes = 0", &["a.toml:2: processing.max_event_bytes: 0 is out of range: 1 B to 2.0 GiB"]),
    // Durations and sizes.
    (
        "[shutdown]\ntimeout = '10 parsecs'",
        &[
            "a.toml:2: shutdown.timeout: \"10 parsecs\" is no duration; write a number and its unit (ms, s, m, h, d): \"250ms\", \"30s\", \"24h\"",
        ],
    ),
    ("[shutdown]\ntimeout = 25", &["a.toml:2: shutdown.timeout: should be a duration with its unit, such as \"30s\", and is an integer"]),
    (
        "[processing]\nmax_event_bytes = 'much'",
        &["a.toml:2: processing.max_event_bytes: \"much\" is no size; write a number of bytes, or one with a unit: \"64KiB\", \"1MiB\""],
    ),
    // Words.
    (
        "[processing]\nordering = 'keys'",
        &["a.toml:2: processing.ordering: there is no \"keys\"; did you mean \"key\"? Known: key, partition, unordered"],
    ),
    (
        "[services.rag.breaker]\npolicy = 'counts'",
        &[
            "a.toml:2: services.rag.breaker.policy: there is no \"counts\"; did you mean \"count\"? Known: consecutive, count, time, expression, adaptive",
        ],
    ),
    (
        "[services.rag.breaker]\npolicy = 'count'\nfail_max = 3",
        &["a.toml:3: services.rag.breaker.fail_max: has no effect: the policy is \"count\", and this is a key of consecutive"],
    ),
    ("[services.rag.breaker]\npolicy = 'expression'", &["services.rag.breaker.trip: is missing: the expression that opens it"]),
    (
        "[services.rag.breaker]\npolicy = 'expression'\ntrip = 'failrate > 1'",
        &[
            "a.toml:3: services.rag.breaker.trip: does not compile: line 1, column 1: `failrate` is not known; the variables here are `calls`, `failures`, `slow`, `successes`, `consecutive`, `failure_rate`, `slow_call_rate`",
        ],
    ),
    ("[services.rag.breaker]\npolicy = 'time'\nwindow = '1500ms'", &["a.toml:3: services.rag.breaker.window: must be whole seconds"]),
    (
        "[services.rag.breaker]\npolicy = 'expression'\ntrip = 'calls > 1'\nsize = 5\nwindow = '10s'",
        &["a.toml:4: services.rag.breaker.size: `size` and `window` are two windows: an expression is over one"],
    ),
    ("[services.rag.breaker]\nany = []", &["a.toml:2: services.rag.breaker.any: has no policy in it"]),
    (
        "[services.rag.breaker]\npolicy = 'count'\nany = [{ policy = 'time' }]",
        &["a.toml:2: services.rag.breaker.policy: has no effect besides `any`: each of its tables has a policy of its own"],
    ),
    (
        "[services.rag.breaker]\nany = [{ policy = 'time', size = 3 }]",
        &["a.toml:2: services.rag.breaker.any[0].size: has no effect: the policy is \"time\", and this is a key of count, expression"],
    ),
    ("[http]\nanonymous = 'admin'", &["a.toml:2: http.anonymous: there is no \"admin\"; known: viewer, none"]),
    // Adaptive concurrency.
    (
        "[services.rag]\nadaptive.minimum = 2",
        &[
            "a.toml:2: services.rag.adaptive.minimum: has no effect: `algorithm` is \"fixed\", and only \"aimd\" and \"gradient\" look for a number",
        ],
    ),
    (
        "[services.rag.adaptive]\nalgorithm = 'vegas'\nminimum = 0",
        &["a.toml:2: services.rag.adaptive.algorithm: there is no \"vegas\"; known: fixed, aimd, gradient"],
    ),
    (
        "[services.rag]\ntimeout = '2s'\nconcurrency = 10\n[services.rag.adaptive]\nalgorithm = 'aimd'\nminimum = 11\ninitial = 3\nlatency = '3s'\nbackoff_ratio = 1\nqueue = 4",
        &[
            "a.toml:10: services.rag.adaptive.queue: has no effect: \"aimd\" takes minimum, initial, latency, backoff_ratio",
            "a.toml:6: services.rag.adaptive.minimum: 11 is more than the service's `concurrency`, 10",
            "a.toml:7: services.rag.adaptive.initial: `initial`, 3, must not be less than `minimum`, 10",
            "a.toml:9: services.rag.adaptive.backoff_ratio: 1 is out of range: 0.5 to 0.99",
            "a.toml:8: services.rag.adaptive.latency: 3s is longer than the service's `timeout`, 2s: no call takes that long",
        ],
    ),
    (
        "[services.rag.adaptive]\nalgorithm = 'gradient'\nbackoff_ratio = 0.8\ntolerance = 0.5",
        &[
            "a.toml:3: services.rag.adaptive.backoff_ratio: has no effect: \"gradient\" takes minimum, initial, tolerance, smoothing, queue",
            "a.toml:4: services.rag.adaptive.tolerance: 0.5 is out of range: 1 to 10",
        ],
    ),
    // Health.
    (
        "[services.rag.health]\ninterval = '1s'\nprobe = false",
        &[
            "a.toml:2: services.rag.health.interval: has no effect without `path`: the service is not asked",
            "a.toml:3: services.rag.health.probe: has no effect without `path`: the service is not asked",
        ],
    ),
    (
        "[services.rag]\ntimeout = '1s'\n[services.rag.health]\npath = 'health'\ninterval = '1ms'\ntimeout = '2s'\nprobe = 'no'",
        &[
            "a.toml:4: services.rag.health.path: \"health\" is no path; it begins with `/`",
            "a.toml:5: services.rag.health.interval: \"1ms\" is out of range: 10ms to 1h",
            "a.toml:7: services.rag.health.probe: should be `true` or `false`, and is a string",
            "a.toml:6: services.rag.health.timeout: 2s is longer than the service's own `timeout`, 1s",
        ],
    ),
    // Kafka.
    (
        "[kafka]\nproperties = { 'bootstrap.servers' = 'x', group.id = 'y', acks = 1 }",
        &[
            "a.toml:2: kafka.properties.acks: cannot be set: a record counts as written when all in-sync replicas have it",
            "a.toml:2: kafka.properties.\"bootstrap.servers\": set `kafka.brokers` instead",
            "a.toml:2: kafka.properties.\"group.id\": set `kafka.group` instead",
        ],
    ),
    (
        "[kafka.properties]\nenable.auto.commit = true\nauto.offset.reset = 'latest'",
        &[
            "a.toml:3: kafka.properties.\"auto.offset.reset\": cannot be set: a group without a commit starts at the earliest record, or it would lose what was there before it",
            "a.toml:2: kafka.properties.\"enable.auto.commit\": cannot be set: an offset is committed when everything below it has finished, and not before",
        ],
    ),
    (
        "[kafka.properties]\ngroup.protocol = 'consumer'\nsession.timeout.ms = 6000",
        &[
            "a.toml:3: kafka.properties.\"session.timeout.ms\": the broker decides this when `group.protocol` is \"consumer\"; remove one of the two",
        ],
    ),
    (
        "[kafka.properties]\ntransactional.id = 'mine'",
        &[
            "a.toml:2: kafka.properties.\"transactional.id\": cannot be set: each loop's producer has one of its own; set `processing.transactional_id` instead, with `guarantee = \"exactly_once\"`",
        ],
    ),
    (
        "[processing]\nguarantee = 'exactly_once'\n[kafka.properties]\nisolation.level = 'read_uncommitted'",
        &[
            "a.toml:4: kafka.properties.\"isolation.level\": must be \"read_committed\" where `processing.guarantee` is \"exactly_once\": what is committed would be taken for settled while a transaction could still change it",
        ],
    ),
    (
        "[processing]\nguarantee = 'exactly-once'",
        &[
            "a.toml:2: processing.guarantee: there is no \"exactly-once\"; did you mean \"exactly_once\"? Known: at_least_once, exactly_once",
        ],
    ),
    (
        "[kafka]\nbrokers = 'k:9092,'",
        &["a.toml:2: kafka.brokers: \"\" is no broker; write \"host:port\", several with commas between them"],
    ),
    (
        "[kafka]\nbrokers = 'k:port'",
        &["a.toml:2: kafka.brokers: \"k:port\" is no broker; write \"host:port\", several with commas between them"],
    ),
    // Topics.
    (
        "[topics]\noutcomes = 'surveillance.events'",
        &["a.toml:2: topics.outcomes: \"surveillance.events\" is the topic of `topics.events` already; each needs its own"],
    ),
    (
        "[topics]\nevents = 'surveillance.outcomes'",
        &["a.toml:2: topics.events: \"surveillance.outcomes\" is the topic of `topics.outcomes` already; each needs its own"],
    ),
    (
        "[services.rag]\nfallback.kind = 'park'\nretry.topic = 'surveillance.notifications.retry'\ntimeout = 'x'",
        &[
            "a.toml:4: services.rag.timeout: \"x\" is no duration; write a number and its unit (ms, s, m, h, d): \"250ms\", \"30s\", \"24h\"",
            "a.toml:3: services.rag.retry.topic: \"surveillance.notifications.retry\" is the topic of `services.notifier.retry.topic` already; each needs its own",
        ],
    ),
    (
        "[topics]\nevents = 'a b'",
        &["a.toml:2: topics.events: \"a b\" is no name that Kafka takes: 1 to 249 of letters, digits, `.`, `_` and `-`"],
    ),
    // Redis.
    (
        "[redis]\nurl = 'http://x:p4ss@y'",
        &[
            "a.toml:2: redis.url: is no Redis URL; write \"redis://host:port/database\", \"redis+sentinel://host,host/master\" or \"redis+cluster://host,host\", with \"rediss\" for TLS",
        ],
    ),
    ("[redis]\npassword = 'p4ss'", &["a.toml:2: redis.password: is given without `url`"]),
    (
        "[redis]\nurl = 'redis://u:p4ss@h'\npassword = 'p4ss'",
        &["a.toml:3: redis.password: is given besides the one in `url`; keep one of the two"],
    ),
    ("[redis]\nsentinel_password = 'p4ss'", &["a.toml:2: redis.sentinel_password: is given without `url`"]),
    (
        "[redis]\nurl = 'redis+sentinel://h/m'\nsentinel_user = 'ann'",
        &["a.toml:3: redis.sentinel_user: needs `sentinel_password` besides it"],
    ),
    (
        "[redis]\nurl = 'redis+cluster://h'\nsentinel_password = 'p4ss'",
        &["a.toml:3: redis.sentinel_password: is of use with a `redis+sentinel://` URL only; change `url`, or leave it out"],
    ),
    ("[redis]\nprefix = 'a{b'", &["a.toml:2: redis.prefix: \"a{b\" is no prefix: 1 to 100 characters, no spaces, no braces"]),
    ("[redis]\nca = '/nowhere/ca.pem'", &["a.toml:2: redis.ca: /nowhere/ca.pem cannot be read: No such file or directory (os error 2)"]),
    ("[redis]\ncertificate = 'DIR/a.toml'", &["a.toml:2: redis.certificate: needs `key` besides it"]),
    (
        "[redis]\nurl = 'redis://h'\nca = 'DIR/a.toml'",
        &["a.toml:3: redis.ca: `ca` is of use with a `rediss://` URL only; change `url`, or leave it out"],
    ),
    (
        "[redis]\nurl = 'rediss://h#insecure'",
        &["a.toml:2: redis.url: `#insecure` would trust anybody; name the server's CA certificate in `redis.ca` instead"],
    ),
    (
        "[redis]\nurl = 'redis+cluster://u:p4ss@h'\nca = 'DIR/a.toml'",
        &["a.toml:3: redis.ca: `ca` is of use with a `rediss://` URL only; change `url`, or leave it out"],
    ),
    // HTTP.
    (
        "[http]\nlisten = 'localhost'",
        &[
            "a.toml:2: http.listen: \"localhost\" is no address to listen on; write an IP address and a port: \"127.0.0.1:8080\", \"0.0.0.0:8080\", \"[::]:8080\"",
        ],
    ),
    (
        "[[http.tokens]]\nname = 'a'\nrole = 'root'\nsha256 = 'my-very-own-token'\n[[http.tokens]]\nrole = 'admin'",
        &[
            "a.toml:3: http.tokens[0].role: there is no \"root\"; known: viewer, operator, admin",
            "a.toml:4: http.tokens[0].sha256: is no SHA-256 digest of 64 hexadecimal digits; `fusebox token new` prints one",
            "a.toml:6: http.tokens[1].name: is missing: it must be a string",
            "a.toml:6: http.tokens[1].sha256: is missing: it must be 64 hexadecimal digits",
        ],
    ),
    (
        "[http]\ntokens = [\n{ name = 'a', role = 'admin', sha256 = '0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef' },\n{ name = 'a', role = 'admin', sha256 = '0123456789ABCDEF0123456789abcdef0123456789abcdef0123456789abcdef' } ]",
        &[
            "a.toml:4: http.tokens[1].name: \"a\" is the name of tokens[0] already; the audit tells actors apart by name",
            "a.toml:4: http.tokens[1].sha256: is the digest of tokens[0] already; each holder needs a token of their own",
        ],
    ),
    // Processing.
    (
        "[processing]\nconcurrency = 50\nmax_in_flight = 40\nmax_event_bytes = '2MiB'\nmax_in_flight_bytes = '1MiB'",
        &[
            "a.toml:2: processing.concurrency: `concurrency`, 50, must not be more than `max_in_flight`, 40",
            "a.toml:4: processing.max_event_bytes: `max_event_bytes`, 2.0 MiB, must not be more than `max_in_flight_bytes`, 1.0 MiB",
        ],
    ),
    (
        "[processing]\nmax_in_flight = 40",
        &["a.toml:2: processing.max_in_flight: `concurrency`, 256, must not be more than `max_in_flight`, 40"],
    ),
    (
        "[topics]\nretention = '5h'",
        &[
            "a.toml:2: topics.retention: `services.notifier.retry.max_age`, 1day, must be shorter than `topics.retention`, 5h: Kafka would delete calls that are still parked",
        ],
    ),
    // Services.
    (
        "[services.extra]\npath = 'x'",
        &[
            "a.toml:2: services.extra.url: is missing: it must be a URL such as \"http://127.0.0.1:8001\"",
            "a.toml:2: services.extra.path: \"x\" is no path; it begins with `/`",
            "services.extra.fallback.kind: is missing: it must be one of cached, default, park, skip, fail",
        ],
    ),
    ("[services.rag]\nurl = 'ftp://h'", &["a.toml:2: services.rag.url: must begin with \"http://\" or \"https://\" and name a host"]),
    ("[services.rag]\nurl = '127.0.0.1:80'", &["a.toml:2: services.rag.url: must begin with \"http://\" or \"https://\" and name a host"]),
    (
        "[services.rag]\nurl = 'http://u:p4ss@h'",
        &["a.toml:2: services.rag.url: holds credentials; put them into `headers`, where they are kept out of every output"],
    ),
    ("[services.rag]\nurl = 'http://h?p4ss'", &["a.toml:2: services.rag.url: ends before the query; put that into `path`"]),
    (
        "[services.rag.headers]\n'a b' = 'p4ss'\nhost = 'x'\nx-key = \"p4ss\\n\"",
        &[
            "a.toml:2: services.rag.headers.\"a b\": is no header's name",
            "a.toml:3: services.rag.headers.host: cannot be set: each call sets it itself",
            "a.toml:4: services.rag.headers.x-key: holds characters that a header's value cannot have, such as a line break",
        ],
    ),
    (
        "[services.'a.b']\nurl = 'http://h'\nfallback.kind = 'skip'",
        &["a.toml:1: services.\"a.b\": \"a.b\" is no service's name: 1 to 63 of letters, digits, `_` and `-`, the first a letter"],
    ),
    (
        "[services.rag]\nslow = '30s'",
        &["a.toml:2: services.rag.slow: `slow`, 30s, must be shorter than `timeout`, 30s: no call that long succeeds"],
    ),
    (
        "[services.rag.breaker]\nrecovery_timeout = '10s'\nrecovery_timeout_max = '5s'",
        &[
            "a.toml:3: services.rag.breaker.recovery_timeout_max: `recovery_timeout`, 10s, must not be longer than `recovery_timeout_max`, 5s",
        ],
    ),
    // Fallbacks and retries.
    (
        "[services.rag.fallback]\nkind = 'skip'\nttl = '1m'",
        &["a.toml:3: services.rag.fallback.ttl: has no effect: a fallback of kind \"skip\" takes nothing else"],
    ),
    (
        "[services.vms]\nretry.max_attempts = 3",
        &[
            "a.toml:2: services.vms.retry: has no effect: `fallback.kind` is \"default\", and only \"park\" parks calls to try again; remove one of the two",
        ],
    ),
    ("[services.rag]\nfallback.kind = 'default'", &["a.toml:2: services.rag.fallback.body: is missing: it must be a table"]),
    (
        "[services.notifier.retry]\nmax_age = '7d'\ninitial = '1h'\ndrain_concurrency = 65",
        &[
            "a.toml:3: services.notifier.retry.initial: `initial`, 1h, must not be longer than `max`, 5m",
            "a.toml:4: services.notifier.retry.drain_concurrency: 65 is more than the service's `concurrency`, 64",
            "a.toml:2: services.notifier.retry.max_age: `services.notifier.retry.max_age`, 7days, must be shorter than `topics.retention`, 7days: Kafka would delete calls that are still parked",
        ],
    ),
    (
        "processing.ordering = 'unordered'\nservices.notifier.retry.order = 'key'",
        &[
            "a.toml:2: services.notifier.retry.order: events of one key run in any order where `processing.ordering` is \"unordered\": parked calls have none to keep",
        ],
    ),
    (
        "services.notifier.retry.order = 'keys'",
        &["a.toml:1: services.notifier.retry.order: there is no \"keys\"; did you mean \"key\"? Known: none, key"],
    ),
    // The pipeline.
    (
        "pipeline = [{ service = 'notifer' }]",
        &["a.toml:1: pipeline[0].service: there is no service \"notifer\"; did you mean \"notifier\"?"],
    ),
    (
        "pipeline = [{ service = 'elsewhere' }]",
        &["a.toml:1: pipeline[0].service: there is no service \"elsewhere\"; configured: notifier, rag, rulegen, vms"],
    ),
    (
        "pipeline = [{ service = 'rag' }, { service = 'rag' }]",
        &["a.toml:1: pipeline[1].service: \"rag\" is called by pipeline[0] already; an event's results are told apart by service"],
    ),
    ("pipeline = []", &["a.toml:1: pipeline: has no stage; give it at least one `[[pipeline]]` with a `service`"]),
    // Telemetry.
    (
        "[telemetry]\nlog = 'inof'",
        &["a.toml:2: telemetry.log: \"inof\" is no level; did you mean \"info\"? A target needs one: \"inof=debug\""],
    ),
    (
        "[telemetry]\nlog = 'a=b=c'",
        &[
            "a.toml:2: telemetry.log: \"a=b=c\" is no log filter: error parsing level filter: expected one of \"off\", \"error\", \"warn\", \"info\", \"debug\", \"trace\", or a number 0-5",
        ],
    ),
    ("[telemetry]\nrecord_calls = '/'", &["a.toml:2: telemetry.record_calls: / is a directory, not a file"]),
    ("[telemetry]\nrecord_calls = true", &["a.toml:2: telemetry.record_calls: should be a file's path, and is a boolean"]),
];

#[test]
fn every_fault_says_what_where_and_what_to_do() {
    let mut different = String::new();
    for (file, expect) in WRONG {
        let faults = World::file(file).faults();
        if faults.lines().collect::<Vec<_>>() != *expect {
            different += &format!("\n{file}\n  said\n{faults}\n  instead of\n{}\n", expect.join("\n"));
        }
    }
    assert_eq!(different, "");
    assert!(WRONG.iter().flat_map(|(_, expect)| *expect).all(|line| !line.contains("p4ss")), "p4ss stands for a secret");
}

#[test]
fn all_faults_of_all_sources_come_at_once() {
    let world = World::file("[kafka]\ngroop = 'x'\n[shutdown]\ntimeout = 'soon'")
        .and_file("b.toml", "[services.rag.breaker]\nfail_max = 0")
        .and_env("FUSEBOX_HTTP__LISTEN", "everywhere")
        .and_env("FUSEBOX_HTTP__", "x")
        .and_flag("telemetry.log", "loud");
    assert_eq!(
        world.faults().lines().map(|line| line.split(": ").take(2).collect::<Vec<_>>().join(": ")).collect::<Vec<_>>(),
        [
            "FUSEBOX_HTTP__: http.\"\"",
            "a.toml:2: kafka.groop",
            "FUSEBOX_HTTP__LISTEN: http.listen",
            "b.toml:2: services.rag.breaker.fail_max",
            "a.toml:4: shutdown.timeout",
            "--telemetry.log: telemetry.log",
        ]
    );
}

#[test]
fn an_expression_that_does_not_compile_is_named_with_its_place() {
    let world = World::file(
        "[services.rag.fallback]\nkey = '1 +'\n[[pipeline]]\nservice = 'rag'\nwhen = '(('\nbody = '{'
[services.rag.breaker]\nfailure = 'status >'\nignore = 'event.id == 1'",
    );
    let faults = world.faults();
    let starts = [
        "a.toml:8: services.rag.breaker.failure: does not compile: line 1, column ",
        "a.toml:9: services.rag.breaker.ignore: does not compile: line 1, column 1: `event` is not known; the variables here are `status`",
        "a.toml:2: services.rag.fallback.key: does not compile: line 1, column ",
        "a.toml:5: pipeline[0].when: does not compile: line 1, column ",
        "a.toml:6: pipeline[0].body: does not compile: line 1, column ",
    ];
    assert_eq!(faults.lines().count(), starts.len(), "{faults}");
    for (line, start) in faults.lines().zip(starts) {
        assert!(line.starts_with(start), "{line}");
    }
}

#[test]
fn what_is_no_toml_is_named_with_line_and_column() {
    for (text, expect) in [
        ("[kafka]\nbrokers = p4ss word", "a.toml:2:11: not TOML: "),
        ("[kafka]\ngroup = 'a'\ngroup = 'b'", "a.toml:3:1: not TOML: duplicate key"),
        ("a = [1,", "a.toml:1:8: not TOML: "),
    ] {
        let faults = World::file(text).faults();
        assert!(faults.starts_with(expect), "{faults}");
        assert!(!faults.contains("p4ss") && !faults.contains('\n'), "{faults}");
    }
}

#[test]
fn a_missing_file_hides_only_what_it_may_put_right() {
    let mut world = World::file("[kafka]\ngroop = 'x'\n[services.extra]\npath = '/x'\n[[pipeline]]\nservice = 'elsewhere'");
    world.files.push("/nowhere/b.toml".into());
    assert_eq!(
        world.faults().lines().collect::<Vec<_>>(),
        [
            "/nowhere/b.toml: cannot be read: No such file or directory (os error 2)",
            "a.toml:2: kafka.groop: there is no such key; did you mean `group`?",
        ]
    );
}

#[test]
fn what_deserves_a_look_is_a_warning() {
    let world = World::file("[services.extra]\nurl = 'http://h'\nca = 'DIR/a.toml'\nfallback.kind = 'skip'");
    assert_eq!(
        world.warnings(),
        [
            "a.toml:3: services.extra.ca: has no effect: the URL is not `https://`",
            "a.toml:1: services.extra: no stage of the pipeline calls this service",
        ]
    );
    let transactions = "[processing]\ntransactional_id = 'pod-0'\n[kafka.properties]\ntransaction.timeout.ms = 5000";
    assert_eq!(
        World::file(transactions).warnings(),
        [
            "a.toml:2: processing.transactional_id: has no effect: `guarantee` is not \"exactly_once\"",
            "a.toml:4: kafka.properties.\"transaction.timeout.ms\": has no effect: `processing.guarantee` is not \"exactly_once\"",
        ]
    );
    let exactly_once = World::file(&transactions.replacen("[processing]", "[processing]\nguarantee = 'exactly_once'", 1)).loaded();
    assert!(exactly_once.warnings.is_empty());
    let transactional_id = Some("pod-0".to_owned());
    assert_eq!(exactly_once.config.processing.guarantee, Guarantee::ExactlyOnce { transactional_id });
    assert_eq!(World::file("[[pipeline]]\nservice = 'rag'").warnings(), [""; 0], "shipped services need not be used");
}

#[test]
fn an_empty_entry_of_a_table_of_secrets_is_a_fault_and_not_a_riddle() {
    let faults = World::file("services.rag.headers = { a = \"\" }").load().expect_err("refused");
    assert!(faults.to_string().contains("services.rag.headers.a: is empty"), "{faults}");
}

#[test]
fn a_stay_in_half_open_that_is_too_short_is_worth_a_look() {
    let said = |text: &str| World::file(text).warnings();
    let none: [&str; 0] = [];
    assert_eq!(said("[services.rag.breaker]\nhalf_open_timeout = '30s'"), none, "as long as a probe may take");
    assert_eq!(
        said("[services.rag.breaker]\nhalf_open_timeout = '31s'\nsuccess_threshold = 2"),
        [
            "a.toml:2: services.rag.breaker.half_open_timeout: 31s is shorter than probes as long as `timeout` may take to decide, 1m: the breaker of a slow service may never close"
        ]
    );
    assert_eq!(said("[services.rag.breaker]\nhalf_open_timeout = '31s'\nsuccess_threshold = 2\npermits = 2"), none);
    assert_eq!(
        said("[services.rag.breaker]\nhalf_open_timeout = '11s'\nsuccess_threshold = 3\n[services.rag.health]\npath = '/health'"),
        [
            "a.toml:2: services.rag.breaker.half_open_timeout: 11s is shorter than health checks at their interval may take to decide, 12s: the breaker of a slow service may never close"
        ]
    );
}
