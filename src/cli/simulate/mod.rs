//! `fusebox simulate`: what breakers would have done with recorded calls, and, with `--replay`, what they do with given operations.

mod candidates;
mod picture;
mod replay;
mod report;
mod sweep;
mod trace;

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::{Common, Done, Failure};
use crate::machine::breaker::Settings;
use crate::machine::simulation::run::{Cost, Run, run as run_calls};
use crate::machine::simulation::truth::{Call, Period, Rule, bad_periods};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "A service counts as bad while at least --bad-share of the calls that began in a slot of --bad-slot failed; one that is not, but in \
which no call went well either, is as the one before it. The cost is refused-while-healthy + bad-admitted, a point for each call, unless --cost weighs them otherwise.\n\n\
Examples:\n  fusebox simulate calls.jsonl --service rag --candidate strict='fail_max = 3' --candidate rates='policy = \"count\", size = 50' --timeline\n  \
fusebox simulate calls.jsonl --service rag --sweep 'fail_max = 2..10, recovery_timeout = 10s..60s/10s'\n  fusebox simulate --replay operations.jsonl"
)]
pub(super) struct Args {
    /// Recorded calls, JSON lines or CSV with a heading: `at`, `service`, `duration_ms`, `verdict`, optional `retry_after_ms`; with `--replay` operations;
    /// `-` is standard input
    #[arg(required = false, required_unless_present = "replay", default_value_if("replay", "true", "-"))]
    trace: PathBuf,
    /// Leads a breaker through operations, one JSON object a line, and prints each line with what came of them; of standard input unless
    /// a file is given
    #[arg(long, conflicts_with_all = ["service", "candidate", "sweep", "cost", "timeline", "svg"])]
    replay: bool,
    /// Only the calls of this service
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// Settings to try: keys of a `breaker` table as TOML writes them, separated by commas, over the service's configured ones
    #[arg(long, value_name = "NAME='KEY = VALUE, …'")]
    candidate: Vec<String>,
    /// Tries all combinations of values: `fail_max = 2..10, recovery_timeout = 10s..60s/10s, policy = count|time`
    #[arg(long, value_name = "KEY = RANGE, …", requires = "service", conflicts_with_all = ["timeline", "svg"])]
    sweep: Option<String>,
    /// What things cost, in points: `refused_while_healthy`, `bad_admitted`, `detect_second`, `recover_second`; what is not named costs nothing
    #[arg(long, value_name = "THING=POINTS,…", default_value = "refused_while_healthy=1,bad_admitted=1")]
    cost: String,
    /// The length of the slots in which calls are judged
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = humantime::parse_duration)]
    bad_slot: Duration,
    /// The share of failed calls that makes a slot bad
    #[arg(long, value_name = "SHARE", default_value_t = 0.3)]
    bad_share: f64,
    /// Draws what each candidate would have done, a line each
    #[arg(long)]
    timeline: bool,
    /// Writes the same as a picture
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// What chance begins with
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// Settings under a name.
struct Candidate {
    name: String,
    settings: Arc<Settings>,
}

/// One service's calls, and what each candidate would have done with them.
struct Tried {
    service: String,
    calls: Vec<Call>,
    bad: Vec<Period>,
    candidates: Vec<(Candidate, Run)>,
}

pub(super) fn run(common: &Common, args: Args) -> Done {
    if args.replay {
        return replay::run(open(&args.trace)?, &place(&args.trace), args.seed);
    }
    let cost = parse_cost(&args.cost)?;
    if !(args.bad_share > 0.0 && args.bad_share <= 1.0) || args.bad_slot.is_zero() {
        return Err(Failure::Wrong("--bad-share must be above 0 and at most 1, and --bad-slot longer than nothing".to_owned()));
    }
    let config = common.load()?.config;
    let traces = trace::read(open(&args.trace)?, &place(&args.trace))?;
    let traces: Vec<_> = traces.into_iter().filter(|(name, _)| args.service.as_ref().is_none_or(|wanted| wanted == name)).collect();
    if traces.is_empty() {
        let of = args.service.as_ref().map(|name| format!(" of service {name:?}")).unwrap_or_default();
        return Err(Failure::Wrong(format!("{}: there is no call{of} in it", place(&args.trace))));
    }
    let rule = Rule { slot: args.bad_slot, share: args.bad_share };
    if let Some(ranges) = &args.sweep {
        let Some((service, calls)) = traces.into_iter().next() else { return Ok(ExitCode::SUCCESS) };
        let base = candidates::base(&config, &service, &args.candidate)?;
        let bad = bad_periods(&calls, rule);
        return sweep::run(common, &base, ranges, cost, |settings| run_calls(settings, &calls, &bad, rule.slot, chance(args.seed)).score);
    }
    let mut tried = Vec::new();
    for (service, calls) in traces {
        let bad = bad_periods(&calls, rule);
        let mut candidates = Vec::new();
        for candidate in candidates::of(&config, &service, &args.candidate)? {
            let run = run_calls(&candidate.settings, &calls, &bad, rule.slot, chance(args.seed));
            candidates.push((candidate, run));
        }
        tried.push(Tried { service, calls, bad, candidates });
    }
    if let Some(file) = &args.svg {
        std::fs::write(file, picture::svg(&tried)).map_err(|error| anyhow::anyhow!("{}: cannot be written: {error}", file.display()))?;
    }
    report::print(common, &tried, cost, args.timeline)?;
    Ok(ExitCode::SUCCESS)
}

/// Numbers in `[0, 1)`, the same for the same seed.
fn chance(seed: u64) -> impl FnMut() -> f64 {
    let mut random = StdRng::seed_from_u64(seed);
    move || random.random()
}

fn place(path: &Path) -> String {
    if path.as_os_str() == "-" { "standard input".to_owned() } else { path.display().to_string() }
}

/// What stands there, without a byte-order mark: spreadsheets and some shells begin a file with it.
fn open(path: &Path) -> Result<Box<dyn BufRead>, Failure> {
    let unreadable = |error: io::Error| Failure::Wrong(format!("{}: cannot be read: {error}", place(path)));
    let mut text: Box<dyn BufRead> = if path.as_os_str() == "-" {
        Box::new(io::stdin().lock())
    } else {
        Box::new(BufReader::new(File::open(path).map_err(unreadable)?))
    };
    if text.fill_buf().map_err(unreadable)?.starts_with(b"\xef\xbb\xbf") {
        text.consume(3);
    }
    Ok(text)
}

fn parse_cost(text: &str) -> Result<Cost, Failure> {
    let mut cost = Cost { refused_while_healthy: 0.0, bad_admitted: 0.0, detect_second: 0.0, recover_second: 0.0 };
    for part in text.split(',').filter(|part| !part.trim().is_empty()) {
        let wrong = || Failure::Wrong(format!("--cost {part:?}: write THING=POINTS, such as recover_second=10"));
        let (name, points) = part.split_once('=').ok_or_else(wrong)?;
        let points: f64 = points.trim().parse().ok().filter(|points: &f64| points.is_finite()).ok_or_else(wrong)?;
        match name.trim() {
            "refused_while_healthy" => cost.refused_while_healthy = points,
            "bad_admitted" => cost.bad_admitted = points,
            "detect_second" => cost.detect_second = points,
            "recover_second" => cost.recover_second = points,
            other => {
                return Err(Failure::Wrong(format!(
                    "--cost: there is no {other:?}; known: refused_while_healthy, bad_admitted, detect_second, recover_second"
                )));
            }
        }
    }
    Ok(cost)
}
