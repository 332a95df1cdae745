//! The shipped bodies and conditions over an event of 1 kB: 1 to 3 µs each is the aim, a tree of the event would cost 50.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use fusebox::event::Headers;
use fusebox::machine::expression::{Condition, Document, Scope, Template};

const EVENT: &str = concat!(
    r#"{"id":"67e55044-10b1-426f-9247-bb680e5fe0c8","camera_id":"cam-0017","timestamp":"2026-11-03T21:04:05.678Z","event_type":"detection","#,
    r#""label":"person","detections":[{"label":"person","confidence":0.91,"bounding_box":{"x_min":102.5,"y_min":44.0,"x_max":310.25,"y_max":402.75}},"#,
    r#"{"label":"car","confidence":0.55,"bounding_box":{"x_min":12.5,"y_min":4.0,"x_max":30.25,"y_max":42.75}}],"metadata":{"site":"north gate","#,
    r#""firmware":"4.11.2","lens":"2.8mm","frame":1029384,"model":"yolo-v9","latency_ms":17.25,"zone":"perimeter-3","night":true,"tags":["fence","gate","lot"],"#,
    r#""note":"A person walks along the fence from west to east, stops at the gate for some seconds and goes on towards the parking lot."},"#,
    r#""activity":{"kind":"loitering","duration_s":42.5,"track":[[1,2],[3,4],[5,6],[7,8],[9,10]]},"query":"who was at the north gate after nine?","#,
    r#""notification_channels":["email","sms"],"recipients":["guard@example.com","desk@example.com"]}"#
);

const EXPRESSIONS: &[(&str, &str)] = &[
    (
        "rag",
        r#"{"query_event": {"camera_id": event.camera_id, "timestamp": event.timestamp, "label": has(event.label) ? event.label : null,
            "bbox": has(event.detections) && size(event.detections) > 0 && has(event.detections[0].bounding_box) ? event.detections[0].bounding_box : null},
            "k": 10}"#,
    ),
    ("rulegen", r#"{"event": event, "context": results.rag}"#),
    (
        "notifier",
        r#"{"event_id": event.id, "event": event, "rag_analysis": results.rag, "rule_evaluation": results.rulegen,
            "channels": event.notification_channels, "recipients": event.recipients, "timestamp": event.timestamp}"#,
    ),
    ("vms", r#"{"event_id": event.id, "camera_id": event.camera_id, "timestamp": event.timestamp}"#),
    ("key", r#"event.camera_id + "/" + (has(event.label) ? event.label : "")"#),
    ("cel", r#"event.detections.filter(d, d.confidence > 0.6).map(d, d.label)"#),
];

fn expressions(criterion: &mut Criterion) {
    let event = Bytes::from_static(EVENT.as_bytes());
    let analysis =
        Bytes::from_static(br#"{"answer":"seen twice this week","score":0.82,"matches":[{"id":"a","score":0.9},{"id":"b","score":0.7}]}"#);
    let results = [("rag", analysis.clone()), ("rulegen", analysis)];
    let headers = Headers::new();
    let scope = Scope { event: &Document::of(&event), results: &results, headers: &headers };

    let mut render = criterion.benchmark_group("render");
    for (name, source) in EXPRESSIONS {
        let template = Template::compile(source).expect("the sources above are CEL");
        template.render(&scope).expect("the event has every member");
        render.bench_function(*name, |bencher| bencher.iter(|| template.render(black_box(&scope))));
    }
    render.finish();

    let mut holds = criterion.benchmark_group("holds");
    for (name, source) in
        [("recipients", "size(event.recipients) > 0"), ("label", "event.label == 'person' && event.detections[0].confidence >= 0.5")]
    {
        let condition = Condition::compile(source).expect("the sources above are CEL");
        condition.holds(&scope).expect("the event has every member");
        holds.bench_function(name, |bencher| bencher.iter(|| condition.holds(black_box(&scope))));
    }
    holds.finish();
}

criterion_group!(benches, expressions);
criterion_main!(benches);
