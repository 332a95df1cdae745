//! Decoding an event of 1 kB: 2 to 3 µs is the aim, with and without fields to fill in.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fusebox::event::decode::decode;
use fusebox::event::{Headers, Incoming, Offset, Partition, Source, Topic, UnixMillis};

const ID: &str = r#""id":"67e55044-10b1-426f-9247-bb680e5fe0c8","timestamp":"2026-11-03T21:04:05.678Z","#;
const REST: &str = concat!(
    r#""camera_id":"cam-0017","event_type":"detection","#,
    r#""label":"person","detections":[{"label":"person","confidence":0.91,"bounding_box":{"x_min":102.5,"y_min":44.0,"x_max":310.25,"y_max":402.75}},"#,
    r#"{"label":"car","confidence":0.55,"bounding_box":{"x_min":12.5,"y_min":4.0,"x_max":30.25,"y_max":42.75}}],"metadata":{"site":"north gate","#,
    r#""firmware":"4.11.2","lens":"2.8mm","frame":1029384,"model":"yolo-v9","latency_ms":17.25,"zone":"perimeter-3","night":true,"tags":["fence","gate","lot"],"#,
    r#""note":"A person walks along the fence from west to east, stops at the gate for some seconds and goes on towards the parking lot."},"#,
    r#""activity":{"kind":"loitering","duration_s":42.5,"track":[[1,2],[3,4],[5,6],[7,8],[9,10]]},"query":"who was at the north gate after nine?""#
);
const WHOM: &str = r#","notification_channels":["email","sms"],"recipients":["guard@example.com","desk@example.com"]"#;

fn decoding(criterion: &mut Criterion) {
    let now = UnixMillis(1_800_000_000_000);
    let mut group = criterion.benchmark_group("decode");
    for (name, value) in [
        ("complete", format!("{{{ID}{REST}{WHOM}}}")),
        ("filled in", format!("{{{REST}}}")),
        ("null replaced", format!(r#"{{{ID}{REST},"recipients":null}}"#)),
        ("refused", format!(r#"{{{ID}{REST},"recipients":17}}"#)),
    ] {
        let record = Incoming {
            source: Source { topic: Topic::from("surveillance.events"), partition: Partition(3), offset: Offset(7) },
            key: Some("cam-0017".into()),
            value: Some(Bytes::from(value)),
            headers: Headers::new(),
            timestamp: Some(now),
        };
        group.throughput(Throughput::Bytes(record.value.as_ref().map_or(0, |value| value.len() as u64)));
        group.bench_function(name, |bencher| bencher.iter(|| decode(black_box(&record), 1024 * 1024, now)));
    }
    group.finish();
}

criterion_group!(benches, decoding);
criterion_main!(benches);
