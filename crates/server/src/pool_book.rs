//! The pools that were seen, in a small file of the server's directory, so that a server that was restarted knows them
//! though their workers have not come back yet. Written anew as a whole, by a thread that nobody waits for.

use mortar_model::{Platform, clock::since_epoch, session::Capacity};
use mortar_scheduler::{KnownPool, PoolBook};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

/// A pool that was not seen for so long is not known any more.
const KNOWN: Duration = Duration::from_secs(7 * 24 * 3600);

/// The book of one server.
pub(crate) struct FileBook(Arc<Inner>);

struct Inner {
    path: PathBuf,
    /// What is to be written, and when each was seen.
    latest: Mutex<Vec<(KnownPool, u64)>>,
    /// One writes at a time.
    writing: Mutex<()>,
}

impl FileBook {
    /// The book in `directory`, which exists.
    pub(crate) fn open(directory: &Path) -> Self {
        let path = directory.join("pools.json");
        let latest = match fs::read_to_string(&path) {
            Ok(text) => read(&text).unwrap_or_else(|| {
                tracing::warn!("`{}` is no list of pools of this release; it is begun anew", path.display());
                Vec::new()
            }),
            Err(_) => Vec::new(),
        };
        Self(Arc::new(Inner { path, latest: Mutex::new(latest), writing: Mutex::new(()) }))
    }
}

impl PoolBook for FileBook {
    fn read(&self) -> Vec<KnownPool> {
        let now = seconds(SystemTime::now());
        let lately = |seen: &u64| now.saturating_sub(*seen) < KNOWN.as_secs();
        let latest = self.0.latest.lock();
        latest.iter().filter(|(_, seen)| lately(seen)).map(|(pool, _)| pool.clone()).collect()
    }

    fn keep(&self, pools: &[KnownPool]) {
        {
            let mut latest = self.0.latest.lock();
            let now = seconds(SystemTime::now());
            let seen = |pool: &KnownPool| {
                let before = latest.iter().find(|(known, _)| known == pool).map(|(_, seen)| *seen);
                before.filter(|_| Some(pool) != pools.last()).unwrap_or(now)
            };
            *latest = pools.iter().map(|pool| (pool.clone(), seen(pool))).collect();
        }
        let inner = self.0.clone();
        std::thread::spawn(move || {
            let _one = inner.writing.lock();
            let text = write(&inner.latest.lock());
            if let Err(error) = replace(&inner.path, &text) {
                tracing::warn!(%error, "the list of known pools cannot be written");
            }
        });
    }
}

fn seconds(time: SystemTime) -> u64 {
    since_epoch(time).as_secs()
}

fn write(pools: &[(KnownPool, u64)]) -> String {
    let pools = pools.iter().map(|(pool, seen)| {
        let properties = pool.platform.properties.iter().map(|property| json!([property.name, property.value]));
        json!({
            "name": pool.name, "properties": properties.collect::<Vec<_>>(), "cpu_millis": pool.capacity.cpu_millis,
            "memory": pool.capacity.memory, "seen": seen,
        })
    });
    let pools: Vec<_> = pools.collect();
    json!({ "version": 1, "pools": pools }).to_string()
}

fn read(text: &str) -> Option<Vec<(KnownPool, u64)>> {
    let file: Value = serde_json::from_str(text).ok()?;
    let pool = |pool: &Value| {
        let properties = pool["properties"]
            .as_array()?
            .iter()
            .map(|pair| Some((pair[0].as_str()?.to_owned(), pair[1].as_str()?.to_owned())));
        let platform = Platform::new(properties.collect::<Option<Vec<_>>>()?);
        let (cpu_millis, memory) = (pool["cpu_millis"].as_u64()?, pool["memory"].as_u64()?);
        let capacity = Capacity { cpu_millis, memory };
        let name = pool["name"].as_str()?.to_owned();
        Some((KnownPool { name, platform, capacity }, pool["seen"].as_u64()?))
    };
    if file["version"] != 1 {
        return None;
    }
    file["pools"].as_array()?.iter().map(pool).collect()
}

/// The file is the old one or the new one, whatever happens.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let fresh = path.with_extension("new");
    let mut file = File::create(&fresh)?;
    file.write_all(text.as_bytes())?;
    file.sync_data()?;
    fs::rename(fresh, path)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::time::Instant;

    fn pool(name: &str) -> KnownPool {
        let platform = Platform::new([("name".to_owned(), name.to_owned())]);
        KnownPool { name: name.into(), platform, capacity: Capacity { cpu_millis: 1, memory: 2 } }
    }

    #[test]
    fn pools_are_known_after_a_restart_and_for_a_while() {
        let directory = tempfile::tempdir().unwrap();
        let book = FileBook::open(directory.path());
        assert_eq!(book.read(), []);
        book.keep(&[pool("a"), pool("b")]);
        let path = directory.path().join("pools.json");
        let deadline = Instant::now() + Duration::from_secs(30);
        while !path.exists() {
            assert!(Instant::now() < deadline, "it is not written");
            std::thread::yield_now();
        }
        assert_eq!(FileBook::open(directory.path()).read(), [pool("a"), pool("b")]);
        let long_ago = seconds(SystemTime::now()) - KNOWN.as_secs();
        replace(&path, &write(&[(pool("a"), long_ago), (pool("b"), long_ago + 3600)])).unwrap();
        assert_eq!(FileBook::open(directory.path()).read(), [pool("b")]);
    }

    #[test]
    fn what_cannot_be_read_is_begun_anew() {
        let directory = tempfile::tempdir().unwrap();
        for text in ["", "[]", "{\"version\":2}", "{\"version\":1,\"pools\":[{}]}"] {
            fs::write(directory.path().join("pools.json"), text).unwrap();
            assert_eq!(FileBook::open(directory.path()).read(), [], "{text}");
        }
    }
}
