//! `fusebox run`.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};

use super::{Common, Done, Failure, recorder, usable};
use crate::app::{self, Role, Setting, Signals};
use crate::config::Loaded;
use crate::edge::api;
use crate::pipeline::stop::Ended;
use crate::telemetry::subscriber;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Which loops this instance runs
    #[arg(long, value_enum, default_value_t = Role::All)]
    role: Role,
}

pub(super) fn run(common: &Common, args: Args) -> Done {
    let Loaded { config, warnings, .. } = common.load()?;
    if args.role == Role::Retry && config.parking().next().is_none() {
        let why = "--role retry: no service of this config parks its calls (fallback.kind = \"park\"), so there is nothing to drain";
        return Err(Failure::Wrong(why.to_owned()));
    }
    usable(&config)?;
    let instance = app::instance_name();
    let log = subscriber::init(&config.telemetry, &instance).map_err(|error| Failure::Wrong(error.to_string()))?;
    // Dropped before the log, which hears of what cannot be written.
    let calls = recorder(&config.telemetry)?;
    for warning in warnings {
        tracing::warn!(target: "fusebox", "{warning}");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
    let ended = runtime.block_on(async {
        let signals = Signals::default();
        listen_for_signals(&signals)?;
        let listener =
            api::listen(config.http.listen).await.with_context(|| format!("http.listen: cannot listen on {}", config.http.listen))?;
        let setting = Setting {
            role: args.role,
            instance,
            listener,
            signals,
            dropped: log.dropped(),
            recorder: calls.as_ref().map(|(recorder, _flusher)| recorder.clone()),
            extra: api::Extra::new(),
            inspects_topics: true,
            started: None,
        };
        app::run(Arc::new(config), setting).await
    })?;
    // What is left hangs in a client's thread, and nothing waits for its answer any more.
    runtime.shutdown_background();
    Ok(match ended {
        Ended::Clean => ExitCode::SUCCESS,
        Ended::Unfinished(_) | Ended::Uncommitted | Ended::ConsumerGone => ExitCode::FAILURE,
    })
}

/// SIGTERM or SIGINT stops; a second one stops at once.
pub(super) fn listen_for_signals(signals: &Signals) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("no handler for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("no handler for SIGINT")?;
    let signals = signals.clone();
    tokio::spawn(async move {
        for token in [&signals.stop, &signals.abort] {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            token.cancel();
        }
    });
    Ok(())
}
