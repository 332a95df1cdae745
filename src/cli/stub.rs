//! `fusebox stub`: one stub service as a process of its own, for compose files and for trying things out.

use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::Context as _;

use super::run::listen_for_signals;
use super::{Done, Failure, ask, say};
use crate::app::Signals;
use crate::edge::embedded::stub::Stub;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Which service it answers like: rag, rulegen, notifier, vms, or any other name
    #[arg(long)]
    service: String,
    /// Where it listens
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
}

pub(super) fn run(args: Args) -> Done {
    ask(async {
        let signals = Signals::default();
        listen_for_signals(&signals)?;
        let stub = Stub::start(args.listen, &args.service).await.context("the stub cannot start")?;
        say(&format!("a stub of {} answers at {}; POST {}/__stub/behaviour changes what it does", args.service, stub.url(), stub.url()));
        signals.stop.cancelled().await;
        stub.stop().await;
        Ok::<_, Failure>(ExitCode::SUCCESS)
    })
}
