//! `mortar up`: a server and a worker in one process. The worker's stores are the server's own, so nothing is copied.

use crate::{
    server::Opened,
    settings::{ServeFlags, WorkFlags},
    signals,
    usable::UsableFlags,
    worker::{Isolation, platform},
};
use mortar_model::{
    Platform, image,
    session::{FromWorker, ToWorker},
};
use mortar_server::{Scheduler, live_logs::LiveLogs};
use mortar_worker::{CacheLimits, SessionEnd, Shutdown, Stores, Worker, WorkerConfig};
use std::time::Duration;
use tokio::sync::mpsc;

/// Flags of `mortar up`.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    serve: ServeFlags,
    #[command(flatten)]
    work: WorkFlags,
    /// How actions are kept apart from this machine.
    #[arg(long, value_enum, default_value_t = Isolation::Namespaces)]
    isolation: Isolation,
    #[command(flatten)]
    usable: UsableFlags,
}

/// Serves until a signal comes.
pub async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let settings = arguments.serve.settle(arguments.work)?;
    // Whoever does not match images has them run on the host.
    let ignores_images = settings.server.scheduler.ignored_properties.contains(image::PROPERTY);
    let offered: Vec<_> =
        ignores_images.then(|| format!("{}={}", image::PROPERTY, Platform::ANY)).into_iter().collect();
    let (defaults, roots) = (WorkerConfig::new("local", settings.work_directory()), CacheLimits::default());
    let config = WorkerConfig {
        slots: settings.slots,
        capacity: settings.capacity,
        platform: platform(&offered)?,
        images: settings.images_directory(),
        default_timeout: settings.server.scheduler.default_timeout,
        maximum_timeout: settings.server.scheduler.max_timeout,
        sandbox: arguments.isolation.sandbox(),
        usable: arguments.usable.settle(defaults.usable.clone())?,
        cache: Some(CacheLimits { bytes: roots.bytes.min(settings.server.max_size / 4), ..roots }),
        ..defaults
    };
    let opened = Opened::new(settings).await?;
    let stores = Stores {
        blobs: opened.server.blobs.clone(),
        near: None,
        local: Some(opened.server.files.clone()),
        actions: opened.server.actions.clone(),
    };
    let worker = Worker::open(config, stores).await?;
    let (handle, shutdown) = mortar_worker::shutdown();
    let (scheduler, logs) = (opened.server.scheduler.clone(), opened.server.logs.clone());
    let mut working = tokio::spawn(work(worker, scheduler, logs, shutdown));
    let served = opened.serve(signals::stop_token()?).await;
    // The scheduler has drained, so nothing runs any more, unless serving failed.
    handle.abort();
    if tokio::time::timeout(ENDING, &mut working).await.is_err() {
        tracing::warn!("the local worker does not end; it is left behind");
        working.abort();
    }
    served
}

/// How long the worker may take to end what was stopped, and to remove its directories.
const ENDING: Duration = Duration::from_secs(10);

/// Keeps the worker attached to the scheduler of this process.
async fn work(worker: Worker, scheduler: Scheduler, logs: LiveLogs, shutdown: Shutdown) {
    loop {
        let (to_server, from_us) = mpsc::channel(IN_FLIGHT);
        let (to_us, from_server) = mpsc::channel(IN_FLIGHT);
        let serving = mortar_worker::serve(worker.clone(), to_server, from_server, shutdown.clone());
        let (end, ()) = tokio::join!(Box::pin(serving), attach(&scheduler, &logs, from_us, to_us));
        let goes_on = matches!(end, SessionEnd::Lost | SessionEnd::Outdated);
        if !goes_on || scheduler.status().await.closing {
            return;
        }
        tracing::info!(?end, "the session of the local worker ended; attaching again");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Messages that wait between the worker and the scheduler.
const IN_FLIGHT: usize = 64;

/// Joins the worker's channels to a link of the scheduler, until either side ends.
async fn attach(
    scheduler: &Scheduler,
    logs: &LiveLogs,
    mut from_us: mpsc::Receiver<FromWorker>,
    to_us: mpsc::Sender<ToWorker>,
) {
    let Some(FromWorker::Hello(hello)) = from_us.recv().await else { return };
    let mut link = match logs.attach(scheduler, hello).await {
        Ok(link) => link,
        Err(error) => return tracing::error!("the local worker was refused: {error}"),
    };
    loop {
        tokio::select! {
            command = link.command() => {
                let Some(command) = command else { return };
                if to_us.send(command).await.is_err() {
                    return;
                }
            }
            report = from_us.recv() => {
                let Some(report) = report else { return };
                if !link.report(report).await {
                    return;
                }
            }
        }
    }
}
