//! The two sockets of a companion: a port of the loopback, the same at each start, and a unix socket.
//!
//! Either may be open already when the process starts: by the protocol of systemd (`LISTEN_FDS`), or because another
//! companion hands them over ([`super::hand_over`]).

use super::Home;
use mortar_model::{Error, Result};
use mortar_services::listener::{Address, Listener};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use std::{
    io,
    net::TcpListener,
    os::{fd::OwnedFd, unix::net::UnixListener},
};

/// The first descriptor that is inherited.
const FIRST: i32 = 3;

/// What a companion listens on.
pub struct Sockets {
    /// For clients.
    pub tcp: Listener,
    /// For clients, and for those who care for it.
    pub unix: Listener,
}

impl Sockets {
    /// Those that were inherited, and new ones for the rest. `listen` is where clients are to reach it, if that is
    /// settled. Only who has the directory may call this.
    pub async fn open(home: &Home, listen: Option<&Address>) -> Result<Self> {
        let (mut tcp, mut unix) = (None, None);
        for descriptor in inherited()? {
            match TcpListener::from(descriptor) {
                socket if socket.local_addr().is_ok() => tcp = Some(Listener::adopt_tcp(socket)?),
                socket => unix = Some(Listener::adopt_unix(UnixListener::from(OwnedFd::from(socket)))?),
            }
        }
        let tcp = match (tcp, listen) {
            (Some(tcp), _) => tcp,
            (None, Some(address)) => Listener::bind(address).await?,
            (None, None) => stable_port(home).await?,
        };
        let unix = match unix {
            Some(unix) => unix,
            None => {
                // It is nobody's: whoever had it had the directory.
                let _ = std::fs::remove_file(home.socket());
                Listener::bind(&Address::Unix(home.socket().to_owned())).await?
            }
        };
        Ok(Self { tcp, unix })
    }

    /// Those that another companion gives.
    pub(super) fn adopt([tcp, unix]: [OwnedFd; 2]) -> Result<Self> {
        Ok(Self {
            tcp: Listener::adopt_tcp(TcpListener::from(tcp))?,
            unix: Listener::adopt_unix(UnixListener::from(unix))?,
        })
    }
}

/// The port of the time before, if it is free; else another one, which is noted.
async fn stable_port(home: &Home) -> Result<Listener> {
    let at = |port: u16| Address::Tcp(format!("127.0.0.1:{port}"));
    if let Some(port) = home.port() {
        match Listener::bind(&at(port)).await {
            Ok(listener) => return Ok(listener),
            Err(error) => tracing::warn!("the port of the time before cannot be had: {}", error.kind()),
        }
    }
    let listener = Listener::bind(&at(0)).await?;
    let url = listener.url();
    if let Some(port) = url.rsplit_once(':').and_then(|(_, port)| port.parse().ok()) {
        home.note_port(port)?;
    }
    Ok(listener)
}

/// The sockets that whoever started this process opened for it.
fn inherited() -> Result<Vec<OwnedFd>> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<i32>().ok());
    if number("LISTEN_PID") != Some(Pid::as_raw(Some(getpid()))) {
        return Ok(Vec::new());
    }
    let failed =
        |error: rustix::io::Errno| Error::io("taking the sockets of LISTEN_FDS", io::Error::from(error));
    // Copies, since which descriptors are open nobody in this process can know.
    let this = pidfd_open(getpid(), PidfdFlags::empty()).map_err(failed)?;
    let count = number("LISTEN_FDS").unwrap_or_default().clamp(0, 16);
    (FIRST..FIRST + count)
        .map(|at| pidfd_getfd(&this, at, PidfdGetfdFlags::empty()).map_err(failed))
        .collect()
}
