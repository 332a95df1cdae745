//! What it costs to tell a fact, as each event pays it: counters and histogram, with the log at `info`, so that no line is written.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use fusebox::event::envelope::Reason;
use fusebox::event::outcome::Status;
use fusebox::event::{Topic, UnixMillis};
use fusebox::machine::breaker::Verdict;
use fusebox::machine::disposition::FallbackKind;
use fusebox::machine::judgement::CallOutcome;
use fusebox::machine::time::Tick;
use fusebox::pipeline::facts::Fact;
use fusebox::pipeline::ports::{Clock, Witness};
use fusebox::telemetry::facts::Teller;
use fusebox::telemetry::metrics::{Metrics, Series, ServiceLabels};
use fusebox::telemetry::pipe::DroppedLines;
use fusebox::telemetry::subscriber::filter;
use tracing_subscriber::layer::SubscriberExt;

#[derive(Debug, Clone)]
struct Stopped;

impl Clock for Stopped {
    fn now(&self) -> Tick {
        Tick(0)
    }

    fn wall(&self) -> UnixMillis {
        UnixMillis(0)
    }

    fn instant(&self, _: Tick) -> Option<tokio::time::Instant> {
        None
    }
}

fn metrics() -> Arc<Metrics> {
    let service = |name: &str| ServiceLabels { name: name.to_owned(), parks: true, checked: false, fallback_kind: FallbackKind::Park };
    let services = ["rag", "rulegen", "notifier", "vms"].map(service).into();
    Arc::new(Metrics::new(&Series { services, topics: vec![Topic::from("outcomes")], store: true }, DroppedLines::default(), None))
}

fn telemetry(c: &mut Criterion) {
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::sink);
    let filter = filter("info").expect("a level is a filter");
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(lines).with(filter)).expect("the first one");

    let metrics = metrics();
    let teller = Teller::new(Arc::clone(&metrics), Stopped);
    let took = Duration::from_millis(12);
    c.bench_function("tell called", |b| {
        b.iter(|| teller.tell(black_box(Fact::Called { service: 2, outcome: CallOutcome::Ok, verdict: Some(Verdict::Success), took })));
    });
    c.bench_function("tell finished", |b| {
        b.iter(|| teller.tell(black_box(Fact::Finished { status: Some(Status::Ok), took })));
    });
    c.bench_function("tell refused", |b| b.iter(|| teller.tell(black_box(Fact::Refused { service: 2 }))));
    c.bench_function("tell parked", |b| {
        b.iter(|| teller.tell(black_box(Fact::Parked { service: 2, reason: Reason::CircuitOpen })));
    });
    c.bench_function("render four services", |b| b.iter(|| metrics.render().len()));
}

criterion_group!(benches, telemetry);
criterion_main!(benches);
