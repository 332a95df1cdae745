//! One run: topics of its own, events on them, a process that is measured, its outcomes.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use super::kafka::{self, Load, Outcomes};
use super::measured::Measured;

/// Who does the work.
#[derive(Debug, Clone, PartialEq)]
pub enum Worker {
    /// A floor: consume → publish.
    FloorPublish,
    /// A floor: consume → three calls, or one → publish.
    FloorHttp {
        /// 1 or 3.
        calls: u8,
    },
    /// `fusebox run` with these stages.
    Engine {
        /// Services to call, in order, of the shipped ones.
        stages: &'static [&'static str],
        /// `processing.ordering`.
        ordering: &'static str,
        /// More of the config.
        config: String,
    },
}

/// What is run.
#[derive(Debug, Clone)]
pub struct Scene {
    pub worker: Worker,
    pub load: Load,
    pub partitions: i32,
    pub concurrency: usize,
    pub service_concurrency: usize,
    pub stub: SocketAddr,
}

/// What was seen.
#[derive(Debug, Clone, Copy)]
pub struct Figures {
    pub events_per_second: f64,
    pub cpu_us_per_event: f64,
    pub peak_resident: u64,
    /// From the first outcome's arrival to the last's.
    pub wall: Duration,
}

pub const MIB: u64 = 1 << 20;

impl Scene {
    /// All events are there before the process starts: the most that it can do.
    pub fn throughput(&self) -> Figures {
        let stage = Stage::set(self);
        kafka::publish(&stage.events, self.partitions, self.load);
        let figures = self.measure(&stage, &self.start(&stage));
        stage.strike();
        figures
    }

    /// The process at work, between the outcome of the first tenth and that of the last event.
    pub fn measure(&self, stage: &Stage, process: &Measured) -> Figures {
        let mut outcomes = Outcomes::of(&stage.outcomes, OUTCOME_PARTITIONS);
        let warm = (self.load.events / 10).max(1);
        outcomes.until(warm, |_| ());
        let (from, cpu) = (kafka::micros_now(), process.cpu());
        outcomes.until(self.load.events, |_| ());
        let (wall, cpu) = (Duration::from_micros(kafka::micros_now() - from), process.cpu() - cpu);
        let measured = (self.load.events - warm).max(1) as f64;
        Figures {
            events_per_second: measured / wall.as_secs_f64(),
            cpu_us_per_event: cpu.as_secs_f64() * 1e6 / measured,
            peak_resident: process.peak_resident(),
            wall,
        }
    }

    /// Events come at their rate: how long each takes from its publishing to its outcome's arrival, microseconds, in order of size.
    pub fn latencies(&self) -> Vec<u64> {
        let stage = Stage::set(self);
        let process = self.start(&stage);
        let mut outcomes = Outcomes::of(&stage.outcomes, OUTCOME_PARTITIONS);
        // The first ones wait for the group to form.
        kafka::publish(&stage.events, self.partitions, Load { events: 500, rate: None, ..self.load });
        outcomes.until(500, |_| ());
        let (events, partitions, load) = (stage.events.clone(), self.partitions, self.load);
        let published_at = std::thread::spawn(move || {
            let began = kafka::micros_now();
            kafka::publish(&events, partitions, load);
            began
        });
        let mut arrived = Vec::new();
        outcomes.until(500 + self.load.events, |value| arrived.push((number(value), kafka::micros_now())));
        let began = published_at.join().expect("published");
        let rate = self.load.rate.expect("a rate");
        // Not those of the first second, in which the publishing client gets to know the brokers.
        let mut all: Vec<u64> = arrived
            .iter()
            .filter(|(number, _)| *number >= rate)
            .map(|(number, at)| at.saturating_sub(began + number * 1_000_000 / rate))
            .collect();
        all.sort_unstable();
        drop(process);
        stage.strike();
        all
    }

    fn start(&self, stage: &Stage) -> Measured {
        Measured::start(match &self.worker {
            Worker::FloorPublish => floor(&["publish", &stage.group, &stage.events, &stage.outcomes]),
            Worker::FloorHttp { calls } => {
                let numbers = [self.concurrency.to_string(), calls.to_string()];
                floor(&["http", &stage.group, &stage.events, &stage.outcomes, &self.stub.to_string(), &numbers[0], &numbers[1]])
            }
            Worker::Engine { stages, ordering, config } => {
                let mut command = engine(self, stage, stages, ordering, config);
                command.args(["--role", "processor"]);
                command
            }
        })
    }
}

/// The number of the event that an outcome is of: its id begins and ends with it.
fn number(outcome: &[u8]) -> u64 {
    let text = std::str::from_utf8(outcome).unwrap_or_default();
    let id = text.split("\"event_id\":\"").nth(1).and_then(|rest| rest.get(..36)).expect("an id");
    u64::from_str_radix(&id[24..], 16).expect("a number")
}

pub fn floor(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.arg("floor").args(arguments);
    command
}

/// `fusebox run`, of any role.
pub fn engine(scene: &Scene, stage: &Stage, stages: &[&str], ordering: &str, config: &str) -> Command {
    let url = format!("http://{}", scene.stub);
    let mut toml = format!(
        "[kafka]\nbrokers = \"{}\"\ngroup = \"{}\"\n[topics]\nevents = \"{}\"\noutcomes = \"{}\"\ndead_letters = \"{}.dead\"\n[http]\nlisten = \"127.0.0.1:0\"\n\
         [telemetry]\nlog = \"error\"\n[processing]\nordering = \"{ordering}\"\nconcurrency = {}\nmax_in_flight = {}\n",
        kafka::brokers(),
        stage.group,
        stage.events,
        stage.outcomes,
        stage.events,
        scene.concurrency,
        // Or the bound, not the calls, is what is measured.
        (4 * scene.concurrency).max(10_000),
    );
    for service in ["rag", "rulegen", "notifier", "vms"] {
        toml += &format!("[services.{service}]\nurl = \"{url}\"\nconcurrency = {}\n", scene.service_concurrency);
    }
    toml += &format!("[services.notifier.retry]\ntopic = \"{}\"\n", stage.retries);
    if let Ok(redis) = std::env::var("REDIS_URL") {
        toml += &format!("[redis]\nurl = \"{redis}\"\nprefix = \"{}\"\n", stage.group);
    }
    // The shipped bodies, of the stages that are called.
    let shipped = include_str!("../../config/default.toml");
    let shipped = shipped.split_once("\n[[pipeline]]").map_or("", |(_, pipeline)| pipeline);
    let mut pipeline = String::new();
    for stage in shipped.split("\n[[pipeline]]") {
        let stage = stage.split("\n# -----").next().unwrap_or_default();
        if stages.iter().any(|name| stage.contains(&format!("service = \"{name}\""))) {
            pipeline += "\n[[pipeline]]";
            pipeline += stage;
        }
    }
    if pipeline.is_empty() {
        pipeline = "\n[[pipeline]]\nservice = \"vms\"\nwhen = \"false\"\n".to_owned();
    }
    toml += &pipeline;
    toml += config;
    let file = std::env::temp_dir().join(format!("{}.toml", stage.group));
    std::fs::write(&file, toml).expect("written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_fusebox"));
    command.args(["run", "--config"]).arg(file);
    command
}

pub const OUTCOME_PARTITIONS: i32 = 6;

/// Topics and a group of one run.
pub struct Stage {
    pub events: String,
    pub outcomes: String,
    /// The notifier's parked calls.
    pub retries: String,
    pub group: String,
}

impl Stage {
    pub fn set(scene: &Scene) -> Self {
        let id = format!("bench-{:x}", kafka::micros_now());
        let [events, outcomes, retries] = ["events", "outcomes", "retry"].map(|what| format!("{id}.{what}"));
        let stage = Self { events, outcomes, retries, group: id };
        kafka::create(&[
            (&stage.events, scene.partitions),
            (&stage.outcomes, OUTCOME_PARTITIONS),
            (&format!("{}.dead", stage.events), 1),
            (&stage.retries, OUTCOME_PARTITIONS),
        ]);
        stage
    }

    pub fn strike(&self) {
        kafka::delete(&[&self.events, &self.outcomes, &format!("{}.dead", self.events), &self.retries]);
        drop(std::fs::remove_file(std::env::temp_dir().join(format!("{}.toml", self.group))));
    }
}
