//! The command line: one file a subcommand.
//!
//! Results go to standard output, everything else to standard error. Exit codes: 0 done, 1 failed, 2 wrong usage or config, 3 a
//! needed server cannot be reached.

mod breakers;
mod client;
mod completions;
mod config;
mod dead_letters;
mod dev;
mod filter;
mod flags;
mod migrate;
mod orders;
mod parked;
mod partitions;
mod publish;
mod retry;
mod run;
mod simulate;
mod stub;
mod table;
mod token;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};

use crate::config::{Faults, Loaded, Override, Sources, Telemetry, load};
use crate::telemetry::calls::Recorder;
use crate::telemetry::pipe::Flusher;

/// Circuit-breaker-guarded Kafka event processor: what cannot be delivered is parked, and drained when the service is back.
#[derive(Debug, Parser)]
#[command(name = "fusebox", version, propagate_version = true, arg_required_else_help = true)]
pub struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Args)]
struct Common {
    /// A config file (TOML); may be given several times, later ones over earlier ones
    #[arg(long = "config", short = 'c', value_name = "FILE", global = true, env = "FUSEBOX_CONFIG", value_delimiter = ',')]
    files: Vec<PathBuf>,
    /// Overrides one key of the config: `--set kafka.group=mine`
    #[arg(long = "set", value_name = "KEY=VALUE", global = true)]
    set: Vec<String>,
    /// How results are written
    #[arg(long, value_enum, default_value_t = Output::Table, global = true)]
    output: Output,
}

/// How results are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people
    Table,
    /// For programs
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Processes events and drains what is parked, until told to stop
    Run(run::Args),
    /// Everything in one process: an embedded Kafka, stub services that can be made to fail, a generator of events, the API
    Dev(dev::Args),
    /// Creates what must exist before `run`: topics, and the layout in Redis
    Migrate(migrate::Args),
    /// Checks, shows and describes the config
    Config(config::Args),
    /// Publishes events to the input topic
    Publish(publish::Args),
    /// Lists, shows and forces circuit breakers
    Breakers(breakers::Args),
    /// Shows the backlog of parked calls, and orders about it
    Retry(retry::Args),
    /// Lists dead letters, and sends them back to where they came from
    DeadLetters(dead_letters::Args),
    /// Lists partitions, and lets those go on that are stopped for their bad records
    Partitions(partitions::Args),
    /// Says what breakers would have done with recorded calls
    Simulate(simulate::Args),
    /// Makes a token for the API
    Token(token::Args),
    /// Answers like a service, for trying things out
    Stub(stub::Args),
    /// Prints a completion script for a shell
    Completions(completions::Args),
}

/// Why a command did not do what it was asked to.
#[derive(Debug)]
enum Failure {
    /// It failed: exit code 1.
    Failed(anyhow::Error),
    /// The usage or the config is wrong: exit code 2.
    Wrong(String),
    /// A needed server cannot be reached: exit code 3.
    Unreachable(String),
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

impl From<Faults> for Failure {
    fn from(faults: Faults) -> Self {
        Self::Wrong(faults.to_string())
    }
}

type Done = Result<ExitCode, Failure>;

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = match flags::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are results; the rest is wrong usage, for which clap's own code is 2 as well.
            drop(error.print());
            return if error.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS };
        }
    };
    let Cli { common, command } = cli;
    let done = match command {
        Command::Run(args) => run::run(&common, args),
        Command::Dev(args) => dev::run(&common, args),
        Command::Migrate(args) => migrate::run(&common, args),
        Command::Config(args) => config::run(&common, args),
        Command::Publish(args) => publish::run(&common, args),
        Command::Breakers(args) => breakers::run(&common, args),
        Command::Retry(args) => retry::run(&common, args),
        Command::DeadLetters(args) => dead_letters::run(&common, args),
        Command::Partitions(args) => partitions::run(&common, args),
        Command::Simulate(args) => simulate::run(&common, args),
        Command::Token(args) => token::run(&common, args),
        Command::Stub(args) => stub::run(args),
        Command::Completions(args) => completions::run(args),
    };
    match done {
        Ok(code) => code,
        Err(Failure::Failed(error)) => fail(1, &format!("{error:#}")),
        Err(Failure::Wrong(message)) => fail(2, &message),
        Err(Failure::Unreachable(message)) => fail(3, &message),
    }
}

fn fail(code: u8, message: &str) -> ExitCode {
    say(message);
    ExitCode::from(code)
}

/// Writes a line for people to standard error; nobody may be listening, and that is no reason to die.
fn say(message: &str) {
    use std::io::Write as _;
    drop(writeln!(std::io::stderr(), "fusebox: {message}"));
}

/// Writes a result to standard output.
fn print(text: &str) -> Result<(), Failure> {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // `fusebox … | head` closes the pipe when it has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => result.map_err(|error| Failure::Failed(anyhow::anyhow!("cannot write to standard output: {error}"))),
    }
}

/// Writes a result as JSON, indented.
fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Failure::Failed(error.into()))?;
    print(&format!("{text}\n"))
}

impl Common {
    /// Reads the config from its files, the environment and the flags.
    fn load(&self) -> Result<Loaded, Failure> {
        self.load_with(Vec::new())
    }

    /// Reads the config; `beneath` are overrides that `--set` wins over.
    fn load_with(&self, beneath: Vec<Override>) -> Result<Loaded, Failure> {
        let mut overrides = beneath;
        for set in &self.set {
            let Some((key, value)) = set.split_once('=') else {
                return Err(Failure::Wrong(format!("--set {set}: write KEY=VALUE, such as kafka.group=mine")));
            };
            overrides.push(set_to(key, &format!("--set {key}"), value));
        }
        // An environment variable that is not UTF-8 cannot be one of ours.
        let env = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        Ok(load(Sources { files: self.files.clone(), env, overrides })?)
    }
}

/// Refuses a config that cannot be used, with everything that is wrong with it.
fn usable(config: &crate::config::Config) -> Result<(), Failure> {
    let faults = crate::app::unusable(config);
    if faults.is_empty() { Ok(()) } else { Err(Failure::Wrong(faults.join("\n"))) }
}

/// Opens the file that calls are recorded in, if they are; its flusher is to be kept until nothing is called any more.
fn recorder(telemetry: &Telemetry) -> Result<Option<(Recorder, Flusher)>, Failure> {
    let open = |path: &PathBuf| {
        let cannot = |error| Failure::Wrong(format!("telemetry.record_calls: {} cannot be opened for appending: {error}", path.display()));
        Recorder::open(path).map_err(cannot)
    };
    telemetry.record_calls.as_ref().map(open).transpose()
}

/// An override as a flag writes it: TOML if it is that, else text.
fn set_to(key: &str, flag: &str, value: &str) -> Override {
    Override { key: key.to_owned(), flag: flag.to_owned(), value: read_as_toml(value) }
}

/// A value as a flag writes it: TOML if it is that, else text.
fn read_as_toml(value: &str) -> toml::Value {
    let written = toml::from_str::<toml::Table>(&format!("value = {value}")).ok().and_then(|mut table| table.remove("value"));
    written.unwrap_or_else(|| value.into())
}

/// A runtime for commands that ask a question and end.
fn ask<T>(question: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| Failure::Failed(error.into()))?;
    runtime.block_on(question)
}
