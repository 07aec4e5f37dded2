//! A relay on the loopback that can be told to swallow what passes or to break connections.

use std::{net::SocketAddr, sync::Arc};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
};

/// What becomes of connections and what is on them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Way {
    Passes,
    /// Connections stay and are made, and nothing comes through.
    Swallows,
    /// Connections are closed, and new ones too.
    Breaks,
}

pub struct Relay {
    pub address: SocketAddr,
    way: Arc<watch::Sender<Way>>,
}

impl Relay {
    /// Before the server at `to`.
    pub async fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let way = Arc::new(watch::Sender::new(Way::Passes));
        let ways = way.clone();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(carry(near, to, ways.clone()));
            }
        });
        Self { address, way }
    }

    pub fn set(&self, way: Way) {
        self.way.send_replace(way);
    }
}

async fn carry(near: TcpStream, to: SocketAddr, way: Arc<watch::Sender<Way>>) {
    let Ok(far) = TcpStream::connect(to).await else { return };
    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
    let mut ways = way.subscribe();
    tokio::select! {
        () = async { tokio::join!(copy(near_in, far_out, way.subscribe()), copy(far_in, near_out, way.subscribe())); } => {}
        _ = ways.wait_for(|way| *way == Way::Breaks) => {}
    }
}

async fn copy(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut way: watch::Receiver<Way>) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        // What was swallowed comes when the way is free again, as after a stall.
        if way.wait_for(|way| *way == Way::Passes).await.is_err()
            || to.write_all(&buffer[..length]).await.is_err()
        {
            return;
        }
    }
}
