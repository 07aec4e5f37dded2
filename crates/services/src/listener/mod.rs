//! One port for everything: gRPC, HTTP/1.1 and HTTP/2 with prior knowledge, over TCP or a unix socket.

mod serving;

pub use serving::serve;

use crate::Traffic;
use mortar_model::{Error, Result};
use std::{
    fmt, io,
    net::SocketAddr,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::FileTypeExt,
    },
    path::{Path, PathBuf},
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio::net::{TcpListener, UnixListener};

/// Where to listen: `HOST:PORT` or `unix:PATH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A TCP address; port 0 picks a free one.
    Tcp(String),
    /// A unix socket.
    Unix(PathBuf),
}

impl FromStr for Address {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refuse = |why: &str| {
            Err(Error::invalid("listen", format!("`{text}` {why}; expected HOST:PORT or unix:PATH")))
        };
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() { refuse("names no path") } else { Ok(Self::Unix(path.into())) };
        }
        let text_without_scheme =
            text.strip_prefix("grpc://").or(text.strip_prefix("http://")).unwrap_or(text);
        match text_without_scheme.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => {
                Ok(Self::Tcp(text_without_scheme.to_owned()))
            }
            _ => refuse("is no address"),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => f.write_str(address),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A port that is ours, on which nothing is answered yet.
pub struct Listener {
    socket: Socket,
    traffic: Traffic,
}

enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

/// A socket in the file system, which goes with its listener, unless another process has taken the socket over.
struct SocketFile {
    path: PathBuf,
    taken: Arc<AtomicBool>,
}

impl SocketFile {
    fn new(path: PathBuf) -> Self {
        Self { path, taken: Arc::default() }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if !self.taken.load(Ordering::Relaxed) {
            // What cannot be removed is replaced by the next listener.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Listener {
    /// Takes the address. An address in use is an error that says so; a unix socket that nobody serves any more is replaced.
    pub async fn bind(address: &Address) -> Result<Self> {
        let failed = |error: io::Error| {
            let in_use = error.kind() == io::ErrorKind::AddrInUse;
            let failed = Error::io(format!("listening on `{address}`"), error);
            if in_use {
                failed.hint("something else listens there; stop it, or choose another address with --listen")
            } else {
                failed
            }
        };
        let socket = match address {
            Address::Tcp(tcp) => Socket::Tcp(TcpListener::bind(tcp).await.map_err(failed)?),
            Address::Unix(path) => {
                // Clients may be elsewhere.
                let path = std::path::absolute(path).map_err(failed)?;
                make_room(&path).await.map_err(failed)?;
                Socket::Unix(UnixListener::bind(&path).map_err(failed)?, SocketFile::new(path))
            }
        };
        Ok(Self { socket, traffic: Traffic::default() })
    }

    /// A TCP socket that listens already: opened by who started this process, or taken over from another.
    pub fn adopt_tcp(socket: std::net::TcpListener) -> Result<Self> {
        let failed = |error| Error::io("taking over a socket that listens", error);
        socket.set_nonblocking(true).map_err(failed)?;
        let socket = Socket::Tcp(TcpListener::from_std(socket).map_err(failed)?);
        Ok(Self { socket, traffic: Traffic::default() })
    }

    /// The same of a unix socket, which knows where it is.
    pub fn adopt_unix(socket: std::os::unix::net::UnixListener) -> Result<Self> {
        let failed = |error| Error::io("taking over a socket that listens", error);
        socket.set_nonblocking(true).map_err(failed)?;
        let address = socket.local_addr().map_err(failed)?;
        let unnamed = || failed(io::Error::new(io::ErrorKind::InvalidInput, "the socket has no path"));
        let path = address.as_pathname().ok_or_else(unnamed)?.to_owned();
        let socket = UnixListener::from_std(socket).map_err(failed)?;
        Ok(Self { socket: Socket::Unix(socket, SocketFile::new(path)), traffic: Traffic::default() })
    }

    /// The socket once more, to be given to another process.
    pub fn spare(&self) -> Result<Spare> {
        let (descriptor, taken) = match &self.socket {
            Socket::Tcp(listener) => (listener.as_fd().try_clone_to_owned(), Arc::default()),
            Socket::Unix(listener, file) => (listener.as_fd().try_clone_to_owned(), file.taken.clone()),
        };
        let descriptor = descriptor.map_err(|error| Error::io("copying a socket", error))?;
        Ok(Spare { descriptor, taken })
    }

    /// Where clients reach it, as Bazel spells it.
    pub fn url(&self) -> String {
        match &self.socket {
            Socket::Tcp(listener) => match listener.local_addr() {
                Ok(address) => format!("grpc://{}", reachable(address)),
                Err(_) => "grpc://?".to_owned(),
            },
            Socket::Unix(_, file) => format!("unix:{}", file.path.display()),
        }
    }

    /// Counts what goes over its connections.
    pub fn traffic(&self) -> Traffic {
        self.traffic.clone()
    }
}

/// A listener's socket, for another process.
pub struct Spare {
    descriptor: OwnedFd,
    taken: Arc<AtomicBool>,
}

impl Spare {
    /// The descriptor that is to be given away.
    pub fn descriptor(&self) -> &OwnedFd {
        &self.descriptor
    }

    /// Another process has it: the end of this listener no longer removes the socket's file.
    pub fn taken(&self) {
        self.taken.store(true, Ordering::Relaxed);
    }
}

/// An address that a client on this machine can dial.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

/// Removes a socket that nobody serves any more. A file that is no socket is not ours to remove.
async fn make_room(path: &Path) -> io::Result<()> {
    match tokio::fs::symlink_metadata(path).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Ok(file) if !file.file_type().is_socket() => {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the path exists and is no socket"));
        }
        other => other?,
    };
    let dead = tokio::net::UnixStream::connect(path).await;
    if dead.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
        tokio::fs::remove_file(path).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_dead_sockets_are_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let address = Address::Unix(path.clone());
        let living = Listener::bind(&address).await.unwrap();
        let error = Listener::bind(&address).await.err().unwrap().to_string();
        assert!(error.contains("in use") && error.contains("Hint: something else listens there"), "{error}");
        drop(living);
        assert!(!path.exists());
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        drop(Listener::bind(&address).await.unwrap());
        std::fs::write(&path, "kept").unwrap();
        let error = Listener::bind(&address).await.err().unwrap().to_string();
        assert!(error.ends_with("the path exists and is no socket"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "kept");
    }

    #[test]
    fn addresses() {
        for (text, expected) in [
            ("127.0.0.1:8980", Some(Address::Tcp("127.0.0.1:8980".into()))),
            ("grpc://[::1]:0", Some(Address::Tcp("[::1]:0".into()))),
            ("unix:/run/mortar.sock", Some(Address::Unix("/run/mortar.sock".into()))),
            ("unix:", None),
            ("8980", None),
            (":8980", None),
            ("localhost:port", None),
            ("localhost:99999", None),
        ] {
            assert_eq!(text.parse::<Address>().ok(), expected, "{text}");
        }
    }
}
