//! The engine on a real Kafka, beside two loops written by hand on the same client crates, in one run.
//!
//! Everything that is measured is a process of its own: `fusebox run`, or this program again as a floor. This process holds the topics, the
//! stub service and the figures; what it spends is nobody's. CPU is what the kernel has counted for the measured process, user and system,
//! between the outcome of the first tenth and that of the last event; it is no time on a clock.
//!
//! ```sh
//! scripts/services exec -- cargo bench --bench engine                       # all of them, about seven minutes
//! scripts/services exec -- cargo bench --bench engine -- ratios calls
//! scripts/services exec -- cargo bench --bench engine -- parking     # what parking an event costs
//! scripts/services exec -- cargo bench --bench engine -- draining    # what is parked against as many live calls
//! scripts/services exec -- cargo bench --bench engine -- curves      # cost by keys, partitions and events in flight
//! scripts/services exec -- cargo bench --bench engine -- table       # 10,000 events of 0 to 5 ms in three orders
//! ```

mod floor;
mod kafka;
mod measured;
mod parking;
mod report;
mod scene;
mod stub;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.split_first() {
        Some((&"floor", rest)) => floor::run(rest),
        Some((&"curves", _)) => report::curves(),
        Some((&"table", _)) => report::table(),
        Some((&"ratios", rest)) => report::ratios(rest.first().copied()),
        Some((&"parking", _)) => parking::parking(),
        Some((&"draining", _)) => parking::draining(),
        Some((&"latencies", _)) => report::latencies(),
        Some((&"memory", _)) => report::memory(),
        None => {
            report::ratios(None);
            parking::parking();
            parking::draining();
            report::latencies();
            report::memory();
            report::table();
            report::curves();
        }
        Some((word, _)) => {
            eprintln!(
                "no such figure: {word}; there are ratios (plain, calls), parking, draining, latencies, memory, curves, table; all of them without a word"
            );
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}
