//! `mortar purge` and `mortar store …`: care of a data directory. Who owns the directory is asked over its admin socket;
//! where nobody does, the same service runs in this process for as long as the command takes. `mortar workers …` needs
//! the server that runs on it.

mod bar;
pub mod purge;
pub mod store;
pub mod workers;

use crate::settings::StoreFlags;
use anyhow::{Context, bail};
use mortar_server::{Care, admin};
use mortar_wire::admin::{GetOwnerRequest, admin_client::AdminClient};
use std::{
    io,
    path::{Path, PathBuf},
};
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, body::Body, codegen::StdError};
use tower::{ServiceExt, util::BoxCloneService};

/// Asks the owner, wherever it is.
type Client = AdminClient<BoxCloneService<http::Request<Body>, http::Response<Body>, StdError>>;

/// The bound of a store that is only looked after: nothing is evicted to meet it.
const UNBOUNDED: u64 = 1 << 60;

/// Finds the owner of the data directory, or becomes it. A store that is opened here may take `max_size` bytes.
async fn owner(flags: StoreFlags, max_size: Option<u64>) -> anyhow::Result<Client> {
    let directory = flags.directory()?;
    check_store(&directory)?;
    // Where the path is too long for a socket, its owner has none.
    let socket = admin::socket_path(&directory);
    if let Ok(socket) = &socket
        && is_served(socket).await?
    {
        return dial(&directory, socket.clone()).await;
    }
    let opened = Care::open(directory.join("store"), max_size.unwrap_or(UNBOUNDED));
    let care = match (opened, socket) {
        (Ok(care), _) => care,
        // Its owner may have come to life this moment.
        (Err(_), Ok(socket)) if is_served(&socket).await? => return dial(&directory, socket).await,
        (Err(error), Ok(socket)) => {
            let what =
                format!("nobody answers on `{}`, and the store cannot be opened here", socket.display());
            return Err(error).context(what);
        }
        (Err(error), Err(no_socket)) => {
            return Err(error).context(format!("its owner can have no admin socket: {}", no_socket.kind()));
        }
    };
    let here = admin::service(care, None, CancellationToken::new());
    let here = ServiceExt::<http::Request<Body>>::map_err(here, StdError::from);
    Ok(AdminClient::new(BoxCloneService::new(here)))
}

/// Finds the server that runs on the data directory.
async fn server(flags: StoreFlags) -> anyhow::Result<Client> {
    let directory = flags.directory()?;
    check_store(&directory)?;
    let socket = admin::socket_path(&directory)?;
    if is_served(&socket).await? {
        return dial(&directory, socket).await;
    }
    bail!(
        "no server runs on `{}`: nobody answers on `{}`\nHint: name the data directory of a server that runs with --dir",
        directory.display(),
        socket.display()
    )
}

fn check_store(directory: &Path) -> anyhow::Result<()> {
    if directory.join("store/FORMAT").exists() {
        return Ok(());
    }
    let hint = match directory.join("FORMAT").exists() {
        true => "this is the store itself; name the directory above it",
        false => "name the data directory of a server with --dir",
    };
    bail!("there is no store in `{}`\nHint: {hint}", directory.display())
}

/// Whether somebody listens.
async fn is_served(socket: &Path) -> anyhow::Result<bool> {
    match UnixStream::connect(socket).await {
        Ok(_) => Ok(true),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            Ok(false)
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => bail!(
            "the admin socket `{}` may not be opened: {error}\nHint: run this as the user who runs the server",
            socket.display()
        ),
        Err(error) => {
            Err(error).with_context(|| format!("the admin socket `{}` cannot be reached", socket.display()))
        }
    }
}

async fn dial(directory: &Path, socket: PathBuf) -> anyhow::Result<Client> {
    // The address is of no meaning: the connector knows where to go.
    let endpoint = tonic::transport::Endpoint::from_static("http://owner.invalid");
    let connect = tower::service_fn(move |_: http::Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(hyper_util::rt::TokioIo::new) }
    });
    let channel = endpoint.connect_with_connector(connect).await;
    let channel =
        channel.with_context(|| format!("the owner of `{}` cannot be reached", directory.display()))?;
    let mut client = AdminClient::new(BoxCloneService::new(channel.map_err(StdError::from)));
    client.get_owner(GetOwnerRequest {}).await.map_err(failed)?;
    Ok(client)
}

/// What the owner answered, for people.
fn failed(status: Status) -> anyhow::Error {
    match status.code() {
        Code::Unimplemented => anyhow::anyhow!(
            "the server that owns this directory does not know what it is asked for: it is another version of Mortar\n\
             Hint: use the `mortar` that it was started with"
        ),
        _ => anyhow::anyhow!("{}", status.message()),
    }
}

/// A stream that ended without its last message.
fn cut_short() -> anyhow::Error {
    anyhow::anyhow!("the server that owns this directory was stopped before this was done")
}

/// `1 blob`, `2 blobs`.
fn counted(count: u64, one: &str) -> String {
    format!("{count} {one}{}", if count == 1 { "" } else { "s" })
}
