//! From one companion to the next, without a moment in which nobody listens: the sockets go from process to process as
//! descriptors, and calls that come meanwhile wait in their queues.

use super::{Home, Sockets, Whereabouts};
use mortar_model::{Error, Kind, Result};
use mortar_remote::{Endpoint, Options};
use mortar_wire::{
    companion::{HandOverRequest, companion_client::CompanionClient},
    status,
};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::PathBuf,
    time::Duration,
};

/// How long the other one may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Has the living companion give its sockets and end.
pub async fn take_over(home: &Home, living: &Whereabouts) -> Result<Sockets> {
    let path = home.directory().join(format!("hand-over-{}", std::process::id()));
    let failed = |error| Error::io("taking over from another companion", error);
    let _ = std::fs::remove_file(&path);
    let socket = UnixListener::bind(&path).map_err(failed)?;
    let given = tokio::task::spawn_blocking(move || receive(&socket));
    let answer = tokio::time::timeout(PATIENCE, ask(living, path.clone())).await;
    let asked = answer.unwrap_or_else(|_| {
        let message = format!("the companion of process {} does not answer", living.process);
        Err(Error::new(Kind::Unavailable { message, retry_after: None }))
    });
    if asked.is_err() {
        // Ends the waiting for what will not come.
        drop(UnixStream::connect(&path));
    }
    let given =
        given.await.map_err(|error| Error::internal("receiving the sockets panicked").with_source(error));
    let _ = std::fs::remove_file(&path);
    asked?;
    Sockets::adopt(given?.map_err(failed)?)
}

async fn ask(living: &Whereabouts, path: PathBuf) -> Result<()> {
    let endpoint: Endpoint = format!("unix:{}", living.socket.display()).parse()?;
    let mut client = CompanionClient::new(endpoint.channel(&Options::default()));
    let request = HandOverRequest { path: path.display().to_string() };
    client.hand_over(request).await.map(drop).map_err(|refused| status::from_status(&refused))
}

/// Gives these away.
pub(crate) async fn give(path: PathBuf, sockets: [OwnedFd; 2]) -> Result<()> {
    let given = tokio::task::spawn_blocking(move || send(&UnixStream::connect(path)?, &sockets)).await;
    given
        .map_err(|error| Error::internal("giving the sockets panicked").with_source(error))?
        .map_err(|error| Error::io("giving the sockets to another companion", error))
}

fn send(to: &UnixStream, sockets: &[OwnedFd; 2]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = sockets.each_ref().map(AsFd::as_fd);
    control.push(SendAncillaryMessage::ScmRights(&descriptors));
    sendmsg(to, &[IoSlice::new(b"2")], &mut control, SendFlags::empty())?;
    Ok(())
}

fn receive(socket: &UnixListener) -> io::Result<[OwnedFd; 2]> {
    let (from, _) = socket.accept()?;
    from.set_read_timeout(Some(PATIENCE))?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(&from, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut given = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            given.extend(descriptors);
        }
    }
    given.try_into().map_err(|_| io::Error::other("it gave no two sockets"))
}
