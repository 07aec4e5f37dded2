//! The admin socket: a unix socket in the data directory, on which its owner is asked to care for it. Whoever may open
//! it may do anything to the data, so it is the owner's user's alone.

mod convert;
mod service;

pub use service::{AdminService, service};

use mortar_model::{Error, Kind, Result};
use mortar_wire::admin::admin_server::AdminServer;
use socket2::{Domain, SockAddr, Socket, Type};
use std::{
    io,
    os::unix::{ffi::OsStrExt, net},
    path::{Path, PathBuf},
};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;

/// The name of the socket in the data directory.
const NAME: &str = "admin.sock";
/// The longest path of a socket, in bytes: the operating system takes 108, of which one ends it.
pub const LONGEST_PATH: usize = 107;
/// Callers that are not yet greeted.
const BACKLOG: i32 = 64;

/// Where the socket of a data directory is. A path that is too long for a socket is an error.
pub fn socket_path(directory: &Path) -> Result<PathBuf> {
    let path = std::path::absolute(directory).unwrap_or_else(|_| directory.into()).join(NAME);
    let length = path.as_os_str().as_bytes().len();
    if length <= LONGEST_PATH {
        return Ok(path);
    }
    let path = path.display();
    let message = format!("`{path}` has {length} bytes; the path of a socket may have {LONGEST_PATH}");
    let error = Error::new(Kind::FailedPrecondition { message });
    Err(error.hint("choose a data directory with a shorter path with --dir"))
}

/// A socket that is ours, on which nothing is answered yet.
pub struct AdminSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl AdminSocket {
    /// Takes the socket of a data directory, in place of one that an earlier owner left. Only who owns the store in it
    /// may call this.
    pub fn bind(directory: &Path) -> Result<Self> {
        let path = socket_path(directory)?;
        let listener = bind(&path).map_err(|error| {
            Error::io(format!("listening on the admin socket `{}`", path.display()), error)
        })?;
        Ok(Self { listener, path })
    }

    /// Answers until `stop` is cancelled.
    pub async fn serve(self, service: AdminServer<AdminService>, stop: CancellationToken) {
        let incoming = UnixListenerStream::new(self.listener);
        let server = tonic::transport::Server::builder().add_service(service);
        let served = server.serve_with_incoming_shutdown(incoming, stop.cancelled_owned()).await;
        if let Err(error) = served {
            tracing::error!(%error, "the admin socket is no longer served");
        }
        // What cannot be removed is replaced by the next owner.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn bind(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // Before it has a name, so that at no time others may open it.
    rustix::fs::fchmod(&socket, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR)?;
    socket.bind(&SockAddr::unix(path)?)?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    UnixListener::from_std(net::UnixListener::from(socket))
}
