//! `fusebox partitions list | release`.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::client::Instance;
use super::table::{cell, table};
use super::{Common, Done, Failure, Output, ask, print, print_json};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    instance: Instance,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// The partitions of the instance, and which of them are stopped
    List,
    /// Lets a partition go on that is stopped because too many of its records are bad
    #[command(
        after_help = "The bad records that are held become dead letters, and what comes behind them is weighed anew. With --through further \
                            bad records, up to that offset, become dead letters without being weighed."
    )]
    Release {
        /// The partition's number
        partition: u32,
        /// Why, for those who find it like this
        #[arg(long)]
        reason: Option<String>,
        /// Weigh nothing up to this offset; `end`: to the last record that there is now
        #[arg(long, value_name = "OFFSET|end")]
        through: Option<String>,
    },
}

pub(super) fn run(common: &Common, args: Args) -> Done {
    let client = args.instance.client(common)?;
    let base = "/api/v1/partitions";
    let (path, body) = match &args.action {
        Action::List => (base.to_owned(), None),
        Action::Release { partition, reason, through } => {
            let mut body = json!({ "reason": reason.as_deref().unwrap_or_default() });
            if let Some(through) = through {
                body["through"] = offset(through)?;
            }
            (format!("{base}/{partition}/release"), Some(body))
        }
    };
    let answer = ask(async {
        Ok(match &body {
            None => client.get(&path).await?,
            Some(body) => client.post(&path, body).await?,
        })
    })?;
    match (common.output, &args.action) {
        (Output::Json, _) => print_json(&answer)?,
        (Output::Table, Action::List) => print(&list(&answer))?,
        (Output::Table, Action::Release { .. }) => print(&format!(
            "partition {} goes on; bad records up to {} are given up\n",
            cell(&answer["partition"]),
            cell(&answer["through"])
        ))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn offset(through: &str) -> Result<Value, Failure> {
    match (through, through.parse::<i64>()) {
        ("end", _) => Ok(json!("end")),
        (_, Ok(offset)) if offset >= 0 => Ok(json!(offset)),
        _ => Err(Failure::Wrong(format!("--through {through}: write an offset, or end"))),
    }
}

fn list(answer: &Value) -> String {
    let partitions = answer["partitions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let rows: Vec<_> = partitions
        .iter()
        .map(|partition| {
            let braked = &partition["braked"];
            let stopped = if braked.is_null() {
                "-".to_owned()
            } else {
                format!(
                    "{} bad from {} to {} ({})",
                    cell(&braked["bad"]),
                    cell(&braked["first"]),
                    cell(&braked["at"]),
                    cell(&braked["code"])
                )
            };
            [
                cell(&partition["partition"]),
                cell(&partition["position"]),
                cell(&partition["committed"]),
                cell(&partition["end"]),
                cell(&partition["lag"]),
                cell(&braked["since"]),
                stopped,
            ]
        })
        .collect();
    table(["PARTITION", "POSITION", "COMMITTED", "END", "LAG", "STOPPED SINCE", "WHY"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_far_is_an_offset_or_the_end() {
        for (through, expect) in [("0", json!(0)), ("9000000000", json!(9_000_000_000_i64)), ("end", json!("end"))] {
            assert_eq!(offset(through).expect("readable"), expect);
        }
        for through in ["", "-1", "all", "1.5"] {
            assert!(matches!(offset(through), Err(Failure::Wrong(_))), "{through}");
        }
    }
}
