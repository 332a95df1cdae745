//! `fusebox dev`: everything in one process, with a short outage for a start, so that within a minute one has seen a breaker trip,
//! calls park, probes go, the breaker recover, and the backlog drain.

mod cameras;
mod screen;
mod script;

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;

use super::run::listen_for_signals;
use super::token::generate;
use super::{Common, Done, Failure, recorder, say};
use crate::app::{self, Role, Setting, Signals};
use crate::config::{Config, Guarantee, Loaded, Override};
use crate::edge::api;
use crate::edge::embedded::stub::{Behaviour, Options, Stubs, USUAL};
use crate::edge::embedded::{EmbeddedKafka, control};
use crate::pipeline::stop::Ended;
use crate::telemetry::subscriber;
use screen::Screen;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "While it runs:\n  curl -d '{\"kind\":\"fail\"}' -H 'content-type: application/json' 127.0.0.1:8080/dev/services/notifier\n\
                        \u{20} kcat -b 127.0.0.1:9092 -t surveillance.outcomes -C"
)]
pub(super) struct Args {
    /// A service whose stub fails from the start; may be given several times. There is no scripted outage then
    #[arg(long, value_name = "SERVICE")]
    fail: Vec<String>,
    /// Events a second
    #[arg(long, value_name = "EVENTS", default_value = "20")]
    rate: NonZeroU32,
    /// The embedded Kafka's port
    #[arg(long, value_name = "PORT", default_value_t = 9092)]
    kafka_port: u16,
    /// The API's port
    #[arg(long, value_name = "PORT", default_value_t = 8080)]
    http_port: u16,
    /// Ends after so many seconds, instead of going on until Ctrl-C
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<u64>,
}

/// Parts of what `dev` starts that the rest of it needs.
struct World {
    kafka: EmbeddedKafka,
    stubs: Arc<Stubs>,
    token: String,
}

pub(super) fn run(common: &Common, args: Args) -> Done {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("fusebox").build().context("no runtime")?;
    let ended = runtime.block_on(start(common, args))?;
    runtime.shutdown_background();
    Ok(if ended == Ended::Clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn start(common: &Common, args: Args) -> Result<Ended, Failure> {
    // The topics' names are the user's; what is served here overrides where things are, and nothing else.
    let topics = common.load()?.config;
    if topics.processing.guarantee != Guarantee::AtLeastOnce {
        say("warning: processing.guarantee: `fusebox dev` runs with \"at_least_once\": its embedded Kafka does not isolate transactions");
    }
    let kafka = EmbeddedKafka::start(args.kafka_port, &names(&topics)).await.context("the embedded Kafka")?;
    let any_port = |service: &'static str| (service, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    let stubs = match Stubs::usual().await {
        Ok(stubs) => stubs,
        Err(_) => Stubs::start(USUAL.map(|(service, _)| any_port(service)), &Options::default()).await.context("the stub services")?,
    };
    let world = World { kafka, stubs: Arc::new(stubs), token: generate() };
    for service in &args.fail {
        let known = || world.stubs.iter().map(|stub| stub.service().to_owned()).collect::<Vec<_>>().join(", ");
        let Some(stub) = world.stubs.get(service) else {
            return Err(Failure::Wrong(format!("--fail {service}: there is no such stub service; there are {}", known())));
        };
        stub.set(Behaviour::from(script::failure()));
    }
    let Loaded { config, .. } = common.load_with(overrides(&world, &args))?;

    let mut screen = Screen::new();
    let instance = app::instance_name();
    let telemetry = screen.telemetry(&config.telemetry);
    let log = subscriber::init(&telemetry, &instance).map_err(|error| Failure::Wrong(error.to_string()))?;
    let calls = recorder(&telemetry)?;
    let listener = api::listen(config.http.listen)
        .await
        .with_context(|| format!("cannot listen on {}; --http-port chooses another port", config.http.listen))?;
    let signals = Signals::default();
    listen_for_signals(&signals)?;
    let (started, running) = tokio::sync::oneshot::channel();
    let setting = Setting {
        role: Role::All,
        instance,
        listener,
        signals: signals.clone(),
        dropped: log.dropped(),
        recorder: calls.as_ref().map(|(recorder, _flusher)| recorder.clone()),
        extra: control::routes(Arc::clone(&world.stubs)),
        inspects_topics: false,
        started: Some(started),
    };
    let config = Arc::new(config);
    let show = tokio::spawn({
        let (config, signals, world) = (Arc::clone(&config), signals.clone(), world);
        async move {
            if let Ok(running) = running.await {
                script::play(&config, &args, &world, &mut screen, running, &signals).await;
            }
            // The embedded Kafka and the stubs end with this: not before the instance has left them.
            (world, screen)
        }
    });
    let ended = app::run(config, setting).await?;
    signals.stop.cancel();
    drop(show.await);
    Ok(ended)
}

fn names(config: &Config) -> Vec<(&str, i32)> {
    let partitions = i32::try_from(config.topics.partitions.get()).unwrap_or(i32::MAX);
    let fixed = [&config.topics.events, &config.topics.outcomes, &config.topics.dead_letters, &config.topics.orders];
    let parked = config.parking().map(|(_, retry)| &retry.topic);
    fixed.into_iter().chain(&config.topics.deliveries).chain(parked).map(|topic| (topic.as_str(), partitions)).collect()
}

/// Where things are, and waits that are short enough to be watched.
fn overrides(world: &World, args: &Args) -> Vec<Override> {
    let flag = |key: &str, value: toml::Value| Override { key: key.to_owned(), flag: "fusebox dev".to_owned(), value };
    let digest = api::digest(&world.token).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let token = toml::Table::from_iter([
        ("name".to_owned(), "dev".into()),
        ("role".to_owned(), "admin".into()),
        ("sha256".to_owned(), digest.into()),
    ]);
    let mut overrides = vec![
        flag("kafka.brokers", world.kafka.brokers().into()),
        flag("http.listen", format!("127.0.0.1:{}", args.http_port).into()),
        flag("http.tokens", toml::Value::Array(vec![token.into()])),
        flag("services.notifier.timeout", "2s".into()),
        flag("services.notifier.breaker.recovery_timeout", "5s".into()),
        flag("services.notifier.retry.initial", "500ms".into()),
        flag("services.notifier.retry.max", "5s".into()),
        flag("shutdown.timeout", "5s".into()),
        // The embedded Kafka does not isolate transactions.
        flag("processing.guarantee", "at_least_once".into()),
    ];
    overrides.extend(world.stubs.iter().map(|stub| flag(&format!("services.{}.url", stub.service()), stub.url().into())));
    overrides
}
