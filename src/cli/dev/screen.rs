//! What `fusebox dev` shows: on a terminal a few lines that change in place, with a story above them; else lines of the log.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::config::Telemetry;
use crate::machine::breaker::StateName;

pub(super) struct Screen {
    lines: Option<Lines>,
}

struct Lines {
    all: MultiProgress,
    events: ProgressBar,
    services: Vec<ProgressBar>,
}

/// One service's line.
pub(super) struct ServiceLine {
    pub(super) service: String,
    pub(super) state: StateName,
    /// Until it probes.
    pub(super) probes_in: Option<Duration>,
    /// Calls parked, drained and waiting, of a service that parks.
    pub(super) parking: Option<(u64, u64, usize)>,
}

impl Screen {
    pub(super) fn new() -> Self {
        let terminal = std::io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        let lines = terminal.then(|| {
            let all = MultiProgress::new();
            let events = all.add(line());
            Lines { all, events, services: Vec::new() }
        });
        Self { lines }
    }

    /// The log beside the screen: lines in between would tear it apart, so a terminal shows errors only.
    pub(super) fn telemetry(&self, wanted: &Telemetry) -> Telemetry {
        let log = if self.lines.is_some() { "error".to_owned() } else { wanted.log.clone() };
        Telemetry { log, format: crate::config::LogFormat::Text, record_calls: wanted.record_calls.clone() }
    }

    /// A sentence of the story.
    pub(super) fn say(&self, text: &str) {
        match &self.lines {
            // A terminal that is gone shows nothing any more, and that is no reason to stop.
            Some(lines) => drop(lines.all.println(text)),
            None => {
                for line in text.lines().filter(|line| !line.trim().is_empty()) {
                    tracing::info!(target: "fusebox::dev", "{line}");
                }
            }
        }
    }

    /// What the log says anyway, for a terminal.
    pub(super) fn aside(&self, text: &str) {
        if self.lines.is_some() {
            self.say(text);
        }
    }

    /// Shows how things are.
    pub(super) fn show(&mut self, events: &str, services: &[ServiceLine]) {
        let Some(lines) = &mut self.lines else {
            let states: Vec<String> = services.iter().map(plain).collect();
            tracing::info!(target: "fusebox::dev", "{events}; {}", states.join("; "));
            return;
        };
        lines.events.set_message(events.to_owned());
        while lines.services.len() < services.len() {
            lines.services.push(lines.all.add(line()));
        }
        for (bar, service) in lines.services.iter().zip(services) {
            bar.set_message(coloured(service));
        }
    }

    /// How often it is worth showing: a terminal lives, a log is read later.
    pub(super) fn interval(&self) -> Duration {
        if self.lines.is_some() { Duration::from_millis(200) } else { Duration::from_secs(5) }
    }

    /// Leaves the last state standing.
    pub(super) fn end(&self) {
        if let Some(lines) = &self.lines {
            lines.events.abandon();
            for service in &lines.services {
                service.abandon();
            }
        }
    }
}

fn line() -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    match ProgressStyle::with_template("{msg}") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

fn details(service: &ServiceLine) -> String {
    let mut text = String::new();
    if let Some(probes_in) = service.probes_in {
        text.push_str(&format!("  probes in {:.1} s", probes_in.as_secs_f64()));
    }
    if let Some((parked, drained, waiting)) = service.parking {
        text.push_str(&format!("  parked {parked}, drained {drained}, waiting {waiting}"));
    }
    text
}

fn plain(service: &ServiceLine) -> String {
    format!("{} {}{}", service.service, service.state.as_str(), details(service))
}

fn coloured(service: &ServiceLine) -> String {
    let state = console::style(format!("{:<14}", service.state.as_str()));
    let state = match service.state {
        StateName::Closed => state.green(),
        StateName::Open | StateName::ForcedOpen => state.red(),
        StateName::HalfOpen | StateName::ForcedClosed | StateName::MetricsOnly => state.yellow(),
    };
    format!("  {:<10} {state}{}", service.service, details(service))
}
