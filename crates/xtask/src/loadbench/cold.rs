//! From the start of a companion to its first answer, by itself and by `--detach`, as the wrapper for Bazel starts it.

use super::{Bench, Table};
use anyhow::{Context as _, Result, bail, ensure};
use mortar_model::{ActionCache, ActionKey, BlobStoreExt, Context, Digest, DigestFunction};
use mortar_remote::{Endpoint, Options, Retry};
use mortar_testkit::{
    mortar::{self, Mortar},
    process::{self, Running, free_port},
};
use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// Blobs that are written at the same time.
const AT_ONCE: usize = 200;
/// How long a companion may take, with whatever it has.
const LIMIT: Duration = Duration::from_secs(120);

pub(super) fn measure(bench: &Bench<'_>) -> Result<Table> {
    let runtime = tokio::runtime::Runtime::new()?;
    let server = bench.start("server", "cold-server", &[])?;
    let filled = bench.directory.join("cold-filled");
    runtime.block_on(fill(bench, &server, &filled))?;
    let mut table = Table::new("| from the start to the first answer | median ms | least | most | asked |");
    for (what, is_filled) in [("an empty directory", false), ("a directory of this many blobs", true)] {
        for (how, detach) in [("`run`", false), ("`run --detach`", true)] {
            let mut times = Vec::new();
            for round in 0..bench.arguments.rounds {
                let empty = bench.directory.join(format!("cold-{detach}-{round}"));
                let directory: PathBuf = if is_filled { filled.clone() } else { empty };
                let cold = Cold { program: &bench.program, upstream: &server.grpc(), directory: &directory };
                times.push(runtime.block_on(cold.start(detach))?);
            }
            times.sort_unstable();
            let millis = |time: Duration| format!("{:.0}", time.as_secs_f64() * 1e3);
            let blobs = bench.arguments.blobs;
            let what =
                if is_filled { what.replace("this many", &blobs.to_string()) } else { what.to_owned() };
            table.row(&[
                format!("{how}, {what}"),
                millis(times[times.len() / 2]),
                millis(times[0]),
                millis(times[times.len() - 1]),
                "at most 150".to_owned(),
            ]);
        }
    }
    Ok(table)
}

/// So many small blobs, which the companion holds and knows to be upstream.
async fn fill(bench: &Bench<'_>, server: &Mortar, directory: &Path) -> Result<()> {
    let flags = ["--upstream", &server.grpc(), "--local-worker", "off"];
    let companion = Mortar::start(&bench.program, "companion", directory, &flags)?;
    let client = Endpoint::connect(&companion.grpc(), Options::default())?;
    let (mut next, mut writing) = (0, tokio::task::JoinSet::new());
    while next < bench.arguments.blobs || !writing.is_empty() {
        if next < bench.arguments.blobs && writing.len() < AT_ONCE {
            let (client, bytes) = (client.clone(), format!("the blob of number {next}").into_bytes());
            next += 1;
            writing.spawn(async move {
                let digest = Digest::of(DigestFunction::Sha256, &bytes);
                client.write_bytes(&Context::internal(), digest, bytes.into()).await
            });
            continue;
        }
        writing.join_next().await.context("nothing is being written")???;
    }
    command(&bench.program, directory, "flush")
}

/// One start.
struct Cold<'a> {
    program: &'a Path,
    upstream: &'a str,
    directory: &'a Path,
}

impl Cold<'_> {
    /// How long it took until a look-up was answered; it is ended then.
    async fn start(&self, detach: bool) -> Result<Duration> {
        let address = format!("127.0.0.1:{}", free_port()?);
        let mut command = mortar::command(self.program, "companion");
        command.args(["run", "--listen", &address, "--upstream", self.upstream, "--dir"]).arg(self.directory);
        let begun = Instant::now();
        let _running = match detach {
            true => {
                let status = command.arg("--detach").stdout(std::process::Stdio::null()).status()?;
                ensure!(status.success(), "mortar companion run --detach: {status}");
                None
            }
            false => Some(Running::start(&mut command)?),
        };
        self.answer(&address).await?;
        let took = begun.elapsed();
        self::command(self.program, self.directory, "stop")?;
        Ok(took)
    }

    /// A look-up of what nobody has, as soon as it is answered.
    async fn answer(&self, address: &str) -> Result<()> {
        let key = ActionKey::from(Digest::of(DigestFunction::Sha256, b"an action that nobody has"));
        let options = Options { retry: Retry::NEVER, ..Options::default() };
        let begun = Instant::now();
        while begun.elapsed() < LIMIT {
            if tokio::net::TcpStream::connect(address).await.is_ok() {
                let client = Endpoint::connect(&format!("grpc://{address}"), options.clone())?;
                client.get(&Context::internal(), key).await?;
                return Ok(());
            }
            tokio::time::sleep(Duration::from_micros(500)).await;
        }
        bail!("no companion listens on {address} within {} s", LIMIT.as_secs())
    }
}

fn command(program: &Path, directory: &Path, verb: &str) -> Result<()> {
    let mut command = mortar::command(program, "companion");
    let finished = process::run(command.arg(verb).arg("--dir").arg(directory), LIMIT)?;
    ensure!(finished.status.success(), "mortar companion {verb}: {}", finished.stderr);
    Ok(())
}
