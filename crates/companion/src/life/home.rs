//! Where a companion lives: its directory, the lock by which there is one at most, and the file that tells where it is
//! reached.
//!
//! ```text
//! DIR/lock          locked while a companion lives
//! DIR/address.json  where it is reached, once it is
//! DIR/port          its port, the same at each start
//! DIR/socket        its unix socket, unless that is elsewhere
//! ```

use mortar_model::{Error, Kind, Result};
use mortar_services::listener::Listener;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use tokio::net::UnixStream;

/// How long a companion may take from its lock to its address, or from its end to the end of its lock.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(10);

/// The places of one companion.
#[derive(Clone, Debug)]
pub struct Home {
    directory: PathBuf,
    socket: PathBuf,
}

/// Where a companion is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Whereabouts {
    /// By clients.
    pub url: String,
    /// By those who care for it, and by clients too.
    pub socket: PathBuf,
    /// What is its own.
    pub directory: PathBuf,
    /// Its process id.
    pub process: u32,
    /// The version of Mortar.
    pub version: String,
}

/// Who has the directory.
pub enum Taken {
    /// This process.
    Ours(Ownership),
    /// A companion that lives already.
    Theirs(Whereabouts),
}

/// The directory is this process's, until this is dropped.
pub struct Ownership {
    home: Home,
    _lock: File,
}

impl Home {
    /// A companion with its data in `directory`, and its socket there or elsewhere.
    pub fn new(directory: &Path, socket: Option<PathBuf>) -> Self {
        let directory = std::path::absolute(directory).unwrap_or_else(|_| directory.into());
        let socket = socket.unwrap_or_else(|| directory.join("socket"));
        Self { directory, socket }
    }

    /// Its directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where its unix socket is to be.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The companion that lives here, if there is one that can be reached.
    pub async fn living(&self) -> Option<Whereabouts> {
        let told: Whereabouts = serde_json::from_slice(&fs::read(self.address()).ok()?).ok()?;
        UnixStream::connect(&told.socket).await.is_ok().then_some(told)
    }

    /// Becomes the companion here, or finds the one that is. Of several that try at once, one becomes it, and the others
    /// wait until it can be reached.
    pub async fn take(&self) -> Result<Taken> {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(ownership) = self.lock()? {
                return Ok(Taken::Ours(ownership));
            }
            if let Some(told) = self.living().await {
                return Ok(Taken::Theirs(told));
            }
            self.wait(until).await?;
        }
    }

    /// Waits until the companion that lives here has ended, and becomes the next.
    pub async fn succeed(&self) -> Result<Ownership> {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(ownership) = self.lock()? {
                return Ok(ownership);
            }
            self.wait(until).await?;
        }
    }

    async fn wait(&self, until: Instant) -> Result<()> {
        if Instant::now() >= until {
            let message = format!(
                "another process has `{}` for {} s now and answers nobody",
                self.directory.display(),
                PATIENCE.as_secs()
            );
            return Err(Error::new(Kind::Unavailable { message, retry_after: None }));
        }
        tokio::time::sleep(LOOK).await;
        Ok(())
    }

    fn lock(&self) -> Result<Option<Ownership>> {
        let failed = |error| Error::io(format!("taking `{}`", self.directory.display()), error);
        private_directory(&self.directory).map_err(failed)?;
        if let Some(parent) = self.socket.parent() {
            private_directory(parent).map_err(failed)?;
        }
        let mut options = fs::OpenOptions::new();
        let lock = options.write(true).create(true).truncate(false).open(self.directory.join("lock"));
        let lock = lock.map_err(failed)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
            Err(error) => return Err(failed(error.into())),
        }
        let ownership = Ownership { home: self.clone(), _lock: lock };
        // Of one that was killed.
        ownership.leave();
        Ok(Some(ownership))
    }

    fn address(&self) -> PathBuf {
        self.directory.join("address.json")
    }

    /// The port of the companion before.
    pub(super) fn port(&self) -> Option<u16> {
        fs::read_to_string(self.directory.join("port")).ok()?.trim().parse().ok()
    }

    pub(super) fn note_port(&self, port: u16) -> Result<()> {
        let path = self.directory.join("port");
        let written = fs::write(&path, format!("{port}\n"));
        written.map_err(|error| Error::io(format!("writing `{}`", path.display()), error))
    }
}

impl Ownership {
    /// Whose it is.
    pub fn home(&self) -> &Home {
        &self.home
    }

    pub(super) fn whereabouts(&self, tcp: &Listener, unix: &Listener) -> Whereabouts {
        let socket = unix.url();
        Whereabouts {
            url: tcp.url(),
            socket: socket.strip_prefix("unix:").unwrap_or(&socket).into(),
            directory: self.home.directory.clone(),
            process: std::process::id(),
            version: env!("CARGO_PKG_VERSION").into(),
        }
    }

    /// From now on others find it.
    pub(super) fn announce(&self, whereabouts: &Whereabouts) -> Result<()> {
        let (path, fresh) = (self.home.address(), self.home.directory.join("address.new"));
        let text = serde_json::to_vec(whereabouts).map_err(io::Error::other);
        text.and_then(|text| fs::write(&fresh, text))
            .and_then(|()| fs::rename(&fresh, &path))
            .map_err(|error| Error::io(format!("writing `{}`", path.display()), error))
    }

    /// From now on nobody does.
    pub(super) fn leave(&self) {
        // Where there is none, that is as well.
        let _ = fs::remove_file(self.home.address());
    }
}

/// Only its user may look into it.
fn private_directory(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}
