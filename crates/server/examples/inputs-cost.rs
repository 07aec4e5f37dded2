//! What it costs to know, before an action is queued, whether its inputs are there: the time from Execute to its place in
//! the queue of a server without workers, for an input root of 10,000 files in 1,000 directories.
//!
//! `cargo run --release -p mortar-server --example inputs-cost`

use bytes::Bytes;
use mortar_model::{
    Action, BlobStoreExt, Command, Context, Digest, DigestFunction::Sha256, Directory, DirectoryNode,
    FileNode,
};
use mortar_server::{LeaseTerms, SchedulerConfig, Server, Settings};
use mortar_services::listener::{self, Listener};
use mortar_wire::{
    digest_to_wire, encode_action, encode_command, encode_directory,
    reapi::{self, execution_client::ExecutionClient},
};
use std::time::{Duration, Instant};
use tonic::transport::{Channel, Endpoint};

const DIRECTORIES: usize = 1_000;
const FILES: usize = 10;
const TIMES: usize = 15;

type Error = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> Result<(), Error> {
    let directory = tempfile::tempdir()?;
    let settings = Settings {
        directory: directory.path().join("data"),
        max_size: 2 << 30,
        leases: LeaseTerms::default(),
        // Nothing is refused for want of a worker.
        scheduler: SchedulerConfig { start_grace: Duration::from_secs(3_600), ..SchedulerConfig::default() },
        queue: None,
    };
    let server = Server::assemble(settings)?;
    let listener = Listener::bind(&"127.0.0.1:0".parse()?).await?;
    let (url, router) = (listener.url().replace("grpc://", "http://"), server.router(&listener));
    tokio::spawn(listener::serve(listener, router, std::future::pending()));
    let house = House { server, channel: Endpoint::from_shared(url)?.connect().await? };

    let empty = |_: usize| vec![Bytes::new()];
    house.measure("no inputs", 0, empty).await?;
    house.measure("another root each time", 1, |time| root(time, DIRECTORIES)).await?;
    house.measure("one file of it changed", 2, |time| root(time, 1)).await?;
    house.measure("the same root again", 3, |_| root(0, DIRECTORIES)).await?;
    Ok(())
}

struct House {
    server: Server,
    channel: Channel,
}

impl House {
    /// Executes actions with roots that `inputs` makes, the root last, and tells how long it took until they were queued.
    async fn measure(
        &self,
        what: &str,
        series: usize,
        inputs: impl Fn(usize) -> Vec<Bytes>,
    ) -> Result<(), Error> {
        let mut times = Vec::new();
        for time in 0..TIMES {
            let mut blobs = inputs(time);
            let root = digest(blobs.last().expect("the root"));
            let arguments = vec![format!("{series}"), format!("{time}")];
            let command = encode_command(&Command { arguments, ..Command::default() });
            let action = encode_action(&Action {
                command_digest: digest(&command),
                input_root_digest: root,
                timeout: None,
                do_not_cache: true,
                platform: None,
            });
            let action_digest = Some(digest_to_wire(digest(&action)));
            blobs.extend([command, action]);
            self.keep(blobs).await?;
            let request = reapi::ExecuteRequest { action_digest, ..Default::default() };
            let mut client = ExecutionClient::new(self.channel.clone());
            let begun = Instant::now();
            let stream = client.execute(request).await?;
            times.push(begun.elapsed());
            drop(stream);
        }
        times.sort_unstable();
        let [first, middle, last] = [times[0], times[TIMES / 2], times[TIMES - 1]].map(millis);
        println!("{what:>24}: {middle:8.3} ms ({first:.3} to {last:.3})");
        Ok(())
    }

    async fn keep(&self, blobs: Vec<Bytes>) -> Result<(), Error> {
        let writes = blobs.into_iter().map(|bytes| async move {
            self.server.blobs.write_bytes(&Context::internal(), digest(&bytes), bytes).await
        });
        futures::future::try_join_all(writes).await?;
        Ok(())
    }
}

/// A root of so many directories, and all that is in them, the root last. One file is of `time` alone; where all
/// directories are to differ, so do all files.
fn root(time: usize, differ: usize) -> Vec<Bytes> {
    let mut blobs = Vec::new();
    let mut nodes = Vec::new();
    for directory in 0..DIRECTORIES {
        let of = if directory < differ { time } else { 0 };
        let files = (0..FILES).map(|file| {
            let content = Bytes::from(format!("file {file} of directory {directory}, {of}"));
            let digest = digest(&content);
            blobs.push(content);
            FileNode { name: format!("f{file}"), digest, is_executable: false, properties: None }
        });
        let message = encode_directory(&Directory { files: files.collect(), ..Directory::default() });
        nodes.push(DirectoryNode { name: format!("d{directory:04}"), digest: digest(&message) });
        blobs.push(message);
    }
    blobs.push(encode_directory(&Directory { directories: nodes, ..Directory::default() }));
    blobs
}

fn digest(bytes: &[u8]) -> Digest {
    Digest::of(Sha256, bytes)
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}
