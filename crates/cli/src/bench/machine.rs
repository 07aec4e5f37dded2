//! What this machine can do at best, measured in the same run, so that figures can be told as shares of it.

use super::plain_files::PlainFiles;
use anyhow::{Context, Result};
use bytes::Bytes;
use futures::future::try_join_all;
use mortar_model::{BlobStoreExt, Digest, DigestFunction, Hasher};
use serde::Serialize;
use std::{
    fs::File,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    time::{Duration, Instant},
};

/// How long each of the six measurements takes, about.
const TIME: Duration = Duration::from_millis(700);
const PIECE: usize = 1 << 20;
/// Pieces that are written before the file is synced.
const PIECES: usize = 64;
/// The size of a blob that is one file.
const FILE: usize = 4 << 10;
/// Writers of such files at the same time.
const AT_ONCE: u64 = 16;

/// The limits.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Machine {
    /// The digest function, on one core.
    hash_bytes_per_second: f64,
    /// 64 MiB at a time, then fsync.
    write_and_sync_bytes_per_second: f64,
    /// The same file again, from the page cache.
    cached_read_bytes_per_second: f64,
    /// One after another: a file of 4 KiB, fsync, rename, fsync of the directory.
    synced_files_per_second: f64,
    /// The same, sixteen at the same time: what a file a blob comes to at best.
    synced_files_at_once_per_second: f64,
    /// One connection, both ends here.
    loopback_bytes_per_second: f64,
}

/// A figure of a scenario as a share of what limits it.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Share {
    limit: &'static str,
    ratio: f64,
}

impl Machine {
    /// Measures, with the disk on which `directory` is. Leaves nothing there.
    pub(super) async fn measure(directory: &Path, function: DigestFunction) -> Result<Self> {
        let scratch = directory.join("mortar-bench-limits");
        std::fs::create_dir_all(&scratch).with_context(|| format!("making `{}`", scratch.display()))?;
        let files = synced_files(&scratch, function, 1).await;
        let at_once = synced_files(&scratch, function, AT_ONCE).await;
        let disk = {
            let scratch = scratch.clone();
            tokio::task::spawn_blocking(move || disk(&scratch))
        }
        .await?;
        std::fs::remove_dir_all(&scratch).with_context(|| format!("removing `{}`", scratch.display()))?;
        let (written, read) = disk?;
        let (hashed, carried) = tokio::task::spawn_blocking(move || (hash(function), loopback())).await?;
        Ok(Self {
            hash_bytes_per_second: hashed,
            write_and_sync_bytes_per_second: written,
            cached_read_bytes_per_second: read,
            synced_files_per_second: files?,
            synced_files_at_once_per_second: at_once?,
            loopback_bytes_per_second: carried.context("measuring the loopback")?,
        })
    }

    /// What limits a scenario, if that is known, and how near to it these rates are. Over the network, reads are
    /// limited by the loopback; in one process, by the page cache.
    pub(super) fn share(&self, scenario: &str, network: bool, items: f64, bytes: f64) -> Option<Share> {
        let (limit, reached, most) = match scenario {
            "batch-write" | "stream-write-small" => {
                ("synced_files", items, self.synced_files_at_once_per_second)
            }
            "stream-write-large" if self.hash_bytes_per_second < self.write_and_sync_bytes_per_second => {
                ("hash", bytes, self.hash_bytes_per_second)
            }
            "stream-write-large" => ("write_and_sync", bytes, self.write_and_sync_bytes_per_second),
            "batch-read" | "stream-read-small" | "stream-read-large" if network => {
                ("loopback", bytes, self.loopback_bytes_per_second)
            }
            "batch-read" | "stream-read-small" | "stream-read-large" => {
                ("cached_read", bytes, self.cached_read_bytes_per_second)
            }
            _ => return None,
        };
        Some(Share { limit, ratio: reached / most.max(f64::EPSILON) })
    }

    /// One line.
    pub(super) fn line(&self) -> String {
        let giga = |bytes: f64| format!("{:.2} GB/s", bytes / 1e9);
        format!(
            "this machine: hashing {}, writing and syncing {}, cached reading {}, loopback {}, {:.0} synced files/s, {:.0} at once\n",
            giga(self.hash_bytes_per_second),
            giga(self.write_and_sync_bytes_per_second),
            giga(self.cached_read_bytes_per_second),
            giga(self.loopback_bytes_per_second),
            self.synced_files_per_second,
            self.synced_files_at_once_per_second
        )
    }
}

impl Share {
    pub(super) fn cell(&self) -> String {
        format!("{:.2} {}", self.ratio, self.limit)
    }
}

/// Repeats `step`, which tells how much it did, until the time is over; how much that is a second.
fn rate(mut step: impl FnMut() -> Result<u64>) -> Result<f64> {
    let (began, mut done) = (Instant::now(), 0);
    while began.elapsed() < TIME {
        done += step()?;
    }
    Ok(done as f64 / began.elapsed().as_secs_f64())
}

fn hash(function: DigestFunction) -> f64 {
    let (piece, mut hasher) = (vec![7; PIECE], Hasher::new(function));
    let hashed = rate(|| {
        hasher.update(&piece);
        Ok(PIECE as u64)
    });
    std::hint::black_box(hasher.finish());
    hashed.unwrap_or_default()
}

/// Writing and syncing, and reading what was written.
fn disk(scratch: &Path) -> Result<(f64, f64)> {
    let path = scratch.join("large");
    let failed = || format!("measuring the disk with `{}`", path.display());
    let mut piece: Vec<u8> = (0..PIECE).map(|place| ((place * place) >> 7) as u8).collect();
    let written = rate(|| {
        let mut file = File::create(&path).with_context(failed)?;
        for _ in 0..PIECES {
            file.write_all(&piece).with_context(failed)?;
        }
        file.sync_all().with_context(failed)?;
        Ok((PIECE * PIECES) as u64)
    })?;
    let read = rate(|| {
        let mut file = File::open(&path).with_context(failed)?;
        while file.read(&mut piece).with_context(failed)? > 0 {}
        Ok((PIECE * PIECES) as u64)
    })?;
    Ok((written, read))
}

async fn synced_files(scratch: &Path, function: DigestFunction, writers: u64) -> Result<f64> {
    let store = PlainFiles::open(&scratch.join(format!("small-{writers}")))?;
    let (store, context, began) = (&store, &mortar_model::Context::internal(), Instant::now());
    let write = |writer: u64| async move {
        let mut files = 0_u64;
        while began.elapsed() < TIME {
            let mut content = vec![0; FILE];
            content[..8].copy_from_slice(&files.to_le_bytes());
            content[8..16].copy_from_slice(&writer.to_le_bytes());
            let digest = Digest::of(function, &content);
            store.write_bytes(context, digest, Bytes::from(content)).await?;
            files += 1;
        }
        Ok::<_, mortar_model::Error>(files)
    };
    let files: u64 = try_join_all((0..writers).map(write)).await?.into_iter().sum();
    Ok(files as f64 / began.elapsed().as_secs_f64())
}

fn loopback() -> Result<f64> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut sender = TcpStream::connect(listener.local_addr()?)?;
    let (mut receiver, _) = listener.accept()?;
    let receiving = std::thread::spawn(move || {
        let mut piece = vec![0; PIECE];
        while receiver.read(&mut piece).is_ok_and(|length| length > 0) {}
    });
    let piece = vec![7; PIECE];
    let sent = rate(|| {
        sender.write_all(&piece)?;
        Ok(PIECE as u64)
    });
    drop(sender);
    let _ = receiving.join();
    sent
}
