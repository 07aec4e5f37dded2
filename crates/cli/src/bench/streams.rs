//! `mortar bench streams URL`: many executions that wait, each on a stream of its own, and what the processes that carry
//! them need for it.
//!
//! The actions sleep for longer than anybody waits, so that on any server most of them wait for a worker. Nothing but the
//! server's word that it has them, and its signs of life, goes over the streams then. They end with this process's interest in them.

use super::{
    actions::sleeper,
    blobs::keep,
    content::Random,
    rows::cores,
    target::{Client, Target, describe},
};
use crate::units::Span;
use anyhow::{Context, Result, anyhow, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use mortar_model::{Digest, DigestFunction};
use mortar_wire::{digest_to_wire, longrunning::Operation, reapi};
use serde::Serialize;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::task::JoinSet;
use tonic::Streaming;

/// Streams that are being opened at the same time.
const OPENING: usize = 64;
/// Actions that are written at once.
const BATCH: usize = 500;
/// How long the processes are left alone before their memory is read, so that what they free is free.
const REST: Duration = Duration::from_secs(3);

/// Flags of `mortar bench streams`.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The server: grpc://HOST:PORT or unix:PATH. It must execute actions, and need not have a worker.
    url: String,
    /// Streams that are open at the same time.
    #[arg(long, value_name = "NUMBER", default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..))]
    streams: u32,
    /// Connections that they share.
    #[arg(long, value_name = "NUMBER", default_value_t = 200, value_parser = clap::value_parser!(u16).range(1..=4096))]
    connections: u16,
    /// All streams ask for one action instead of one each.
    #[arg(long)]
    same_action: bool,
    /// How long they are held once all are open.
    #[arg(long, value_name = "DURATION", default_value = "30s")]
    hold: Span,
    /// A process on this machine that carries them, such as the companion or the server behind it, whose memory is told;
    /// may be repeated.
    #[arg(long = "pid", value_name = "PID")]
    pids: Vec<u32>,
    /// A platform property of the actions, such as OSFamily=Linux; may be repeated.
    #[arg(long = "exec-property", value_name = "NAME=VALUE", value_parser = super::property)]
    exec_properties: Vec<(String, String)>,
    /// Print one JSON document instead of text.
    #[arg(long)]
    json: bool,
}

/// What is told at the end.
#[derive(Serialize)]
struct Report {
    mortar: &'static str,
    url: String,
    cores: usize,
    streams: u64,
    connections: u16,
    same_action: bool,
    /// Until all were open and answered.
    open_seconds: f64,
    held_seconds: f64,
    /// Streams that ended before they were let go.
    ended: u64,
    /// Of all streams, signs of life included.
    messages: u64,
    processes: Vec<Process>,
}

/// Resident bytes of one process.
#[derive(Serialize)]
struct Process {
    pid: u32,
    before: u64,
    connected: u64,
    with_streams: u64,
    bytes_per_connection: f64,
    bytes_per_stream: f64,
}

/// Opens the streams, holds them and prints what that took. Fails if one did not open or did not last.
pub(super) async fn run(args: Args) -> Result<()> {
    let resident = || args.pids.iter().map(|pid| resident(*pid)).collect::<Result<Vec<_>>>();
    let before = resident()?;
    let target = Target::reach(settings(&args)).await?;
    ensure!(target.executes, "the server at `{}` executes nothing", args.url);
    let requests = prepare(&target, &args).await?;
    tokio::time::sleep(REST).await;
    let connected = resident()?;

    let begun = Instant::now();
    let streams = open(&target, requests).await?;
    let open_seconds = begun.elapsed().as_secs_f64();
    let (messages, held) = (Arc::new(AtomicU64::new(0)), streams.len() as u64);
    let mut listening = JoinSet::new();
    for stream in streams {
        listening.spawn(listen(stream, messages.clone()));
    }
    let begun = Instant::now();
    tokio::time::sleep(args.hold.0.max(REST)).await;
    let (with_streams, held_seconds) = (resident()?, begun.elapsed().as_secs_f64());
    let (mut ended, mut first) = (0, None);
    while let Some(early) = listening.try_join_next() {
        ended += 1;
        first.get_or_insert(early?);
    }
    let processes = args.pids.iter().zip(before).zip(connected.into_iter().zip(with_streams));
    let report = Report {
        mortar: env!("CARGO_PKG_VERSION"),
        url: args.url.clone(),
        cores: cores(),
        streams: held,
        connections: args.connections,
        same_action: args.same_action,
        open_seconds,
        held_seconds,
        ended,
        messages: messages.load(Ordering::Relaxed),
        processes: processes
            .map(|((pid, before), (connected, with))| Process {
                pid: *pid,
                before,
                connected,
                with_streams: with,
                bytes_per_connection: growth(before, connected) / f64::from(args.connections),
                bytes_per_stream: growth(connected, with) / held as f64,
            })
            .collect(),
    };
    print!("{}", if args.json { serde_json::to_string_pretty(&report)? + "\n" } else { report.text() });
    let first = first.unwrap_or_default();
    ensure!(ended == 0, "{ended} of {held} streams ended early, the first with: {first}");
    Ok(())
}

fn settings(args: &Args) -> super::Settings {
    super::Settings {
        url: args.url.clone(),
        fill: None,
        duration: args.hold.0,
        concurrency: 1,
        connections: args.connections.into(),
        instance: mortar_model::InstanceName::default(),
        function: DigestFunction::Sha256,
        large_size: 0,
        exec_properties: args.exec_properties.clone(),
        content: super::Content::Random,
        rounds: 1,
        server_pid: None,
    }
}

/// Writes the actions; one request for each stream.
async fn prepare(target: &Target, args: &Args) -> Result<Vec<reapi::ExecuteRequest>> {
    let count = if args.same_action { 1 } else { args.streams as usize };
    // Nobody else's actions, nor those of an earlier run, are these.
    let run = Random::new().next();
    let mut requests = Vec::with_capacity(args.streams as usize);
    for begin in (0..count).step_by(BATCH) {
        let mut blobs = Vec::new();
        for number in begin..count.min(begin + BATCH) {
            let (command, action) = sleeper(target, format!("{run} {number}"));
            requests.push(reapi::ExecuteRequest {
                instance_name: target.instance(),
                skip_cache_lookup: true,
                action_digest: Some(digest_to_wire(Digest::of(target.settings.function, &action))),
                digest_function: target.function(),
                ..Default::default()
            });
            blobs.extend([command, action]);
        }
        keep(target.client(0), target, blobs).await?;
    }
    let first = requests[0].clone();
    requests.resize(args.streams as usize, first);
    Ok(requests)
}

/// All streams, each with its first message read.
async fn open(target: &Target, requests: Vec<reapi::ExecuteRequest>) -> Result<Vec<Streaming<Operation>>> {
    let begin = |(number, request)| {
        let client = target.client(number);
        async move { begin(client, request).await.with_context(|| format!("stream {number}")) }
    };
    stream::iter(requests.into_iter().enumerate()).map(begin).buffer_unordered(OPENING).try_collect().await
}

async fn begin(mut client: Client, request: reapi::ExecuteRequest) -> Result<Streaming<Operation>> {
    let stream = client.execution.execute(request).await.map_err(|status| anyhow!(describe(&status)))?;
    let mut stream = stream.into_inner();
    match stream.message().await.map_err(|status| anyhow!(describe(&status)))? {
        Some(operation) if !operation.done => Ok(stream),
        Some(operation) => Err(anyhow!("the operation has ended already: {:?}", operation.result)),
        None => Err(anyhow!("the stream has ended already")),
    }
}

/// Counts messages; returns when the stream ends, with what it ended.
async fn listen(mut stream: Streaming<Operation>, messages: Arc<AtomicU64>) -> String {
    loop {
        match stream.message().await {
            Ok(Some(operation)) if operation.done => return format!("{:?}", operation.result),
            Ok(Some(_)) => messages.fetch_add(1, Ordering::Relaxed),
            Ok(None) => return "the end of the stream".into(),
            Err(status) => return describe(&status),
        };
    }
}

/// Bytes of a process that are in memory.
fn resident(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/statm");
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading `{path}`"))?;
    let pages = text.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok());
    let pages = pages.with_context(|| format!("`{path}` is not as expected"))?;
    Ok(pages * rustix::param::page_size() as u64)
}

fn growth(before: u64, after: u64) -> f64 {
    after as f64 - before as f64
}

impl Report {
    fn text(&self) -> String {
        let mut text = format!(
            "{} streams over {} connections to {}: open in {:.1} s, held for {:.0} s, {} messages, {} ended early\n",
            self.streams,
            self.connections,
            self.url,
            self.open_seconds,
            self.held_seconds,
            self.messages,
            self.ended,
        );
        for process in &self.processes {
            text += &format!(
                "process {}: {:.1} MB, with connections {:.1} MB ({:.1} KiB each), with streams {:.1} MB ({:.2} KiB each)\n",
                process.pid,
                process.before as f64 / 1e6,
                process.connected as f64 / 1e6,
                process.bytes_per_connection / 1024.0,
                process.with_streams as f64 / 1e6,
                process.bytes_per_stream / 1024.0,
            );
        }
        text
    }
}
