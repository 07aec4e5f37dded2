//! One connection over the link: two pipes, each a reader that says when bytes are due and a writer that waits until
//! they are. Between the two, any number of bytes is on its way.

use super::{calls::Calls, counters::Way, driver::Shared, link::State, shaper::Chance};
use bytes::{Bytes, BytesMut};
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    time::{Instant, sleep_until},
};

/// What is read at once. Connections that share a rate take turns by this much.
const PIECE: usize = 16 << 10;
/// What may be on its way in one connection, one way: at 100 ms still 2.6 GB/s.
const IN_FLIGHT: usize = 256 << 20;
/// How much of the link's time may be taken by what is read already. Beyond it the sender has to wait.
const BACKLOG: Duration = Duration::from_millis(30);

/// Why a connection ends before both its ends have closed it.
enum Ending {
    /// In good order, as far as it got.
    Closed,
    /// With a reset to both ends.
    Reset,
    /// Not: both ends believe that it is still there.
    Stranded,
}

impl From<io::Error> for Ending {
    /// What one end broke is broken for the other.
    fn from(_: io::Error) -> Self {
        Self::Reset
    }
}

/// Carries the connection of `client` to its end.
pub(super) async fn carry(mut client: TcpStream, number: u64, shared: Arc<Shared>) {
    shared.counters.connections.fetch_add(1, Relaxed);
    let accepted = Instant::now();
    let mut broken = shared.resets.subscribe();
    broken.mark_unchanged();
    let mut stranded = shared.strands.subscribe();
    stranded.mark_unchanged();
    let mut states = shared.states.subscribe();
    if *states.borrow_and_update() == State::Down {
        shared.counters.resets.fetch_add(1, Relaxed);
        let _ = client.set_zero_linger();
        return;
    }
    let upstream = async {
        up(&mut states).await;
        TcpStream::connect(&shared.upstream).await
    };
    let upstream = tokio::select! {
        upstream = upstream => upstream,
        _ = broken.changed() => Err(io::ErrorKind::ConnectionReset.into()),
        _ = stranded.changed() => return std::future::pending().await,
    };
    let Ok(mut server) = upstream else {
        shared.counters.resets.fetch_add(1, Relaxed);
        let _ = client.set_zero_linger();
        return;
    };
    for stream in [&client, &server] {
        let _ = stream.set_nodelay(true);
    }
    let carried = Arc::new(AtomicU64::new(0));
    let ending = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let pipe = |way, hops| Pipe {
            shared: &shared,
            way,
            chance: Chance::new(shared.seed, number, way),
            not_before: accepted + hops * shared.link().latency,
            carried: carried.clone(),
        };
        let both = async {
            tokio::try_join!(
                pipe(Way::Up, 3).run(from_client, to_server),
                pipe(Way::Down, 2).run(from_server, to_client)
            )
        };
        tokio::select! {
            biased;
            _ = broken.changed() => Err(Ending::Reset),
            _ = stranded.changed() => Err(Ending::Stranded),
            ended = both => ended,
        }
    };
    match ending {
        Ok(_) => {}
        Err(Ending::Stranded) => std::future::pending().await,
        Err(Ending::Closed) => {
            shared.counters.cuts.fetch_add(1, Relaxed);
        }
        Err(Ending::Reset) => {
            shared.counters.resets.fetch_add(1, Relaxed);
            for stream in [&client, &server] {
                let _ = stream.set_zero_linger();
            }
        }
    }
}

/// Waits until something passes.
async fn up(states: &mut watch::Receiver<State>) {
    // The sender lives as long as the relay, of which this is a part.
    let _ = states.wait_for(|state| *state == State::Up).await;
}

/// One way of a connection.
struct Pipe<'a> {
    shared: &'a Shared,
    way: Way,
    chance: Chance,
    /// The handshake is not over before this.
    not_before: Instant,
    /// By this connection, both ways.
    carried: Arc<AtomicU64>,
}

/// What is on its way; without bytes, the end of the stream.
struct Piece {
    due: Instant,
    bytes: Bytes,
    _room: Option<OwnedSemaphorePermit>,
}

impl Pipe<'_> {
    async fn run(self, from: ReadHalf<'_>, to: WriteHalf<'_>) -> Result<(), Ending> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let room = Arc::new(Semaphore::new(IN_FLIGHT));
        let take = async { self.take(from, sender, &room).await };
        tokio::try_join!(take, self.deliver(receiver, to)).map(drop)
    }

    /// Reads what the link has time for and says when it is due.
    async fn take(
        &self,
        mut from: ReadHalf<'_>,
        pieces: mpsc::UnboundedSender<Piece>,
        room: &Arc<Semaphore>,
    ) -> Result<(), Ending> {
        let mut states = self.shared.states.subscribe();
        let mut due = self.not_before;
        let mut offset = 0;
        loop {
            up(&mut states).await;
            let permit = room.clone().acquire_many_owned(PIECE as u32).await;
            let mut permit = permit.expect("nobody closes the semaphore");
            let mut buffer = BytesMut::with_capacity(PIECE);
            let count = from.read_buf(&mut buffer).await?;
            let link = self.shared.link();
            let left = self.shared.shapers[self.way as usize].send(count, link.rate);
            let lost = self.chance.hits(offset, count, link.loss, 0);
            if self.chance.hits(offset, count, link.resets, 1) > 0 {
                return Err(Ending::Reset);
            }
            self.shared.counters.stalls.fetch_add(lost, Relaxed);
            let late = if lost > 0 { link.retransmission() } else { Duration::ZERO };
            due = due.max(left + link.latency + late);
            offset += count as u64;
            drop(permit.split(PIECE - count));
            let in_flight = (IN_FLIGHT - room.available_permits()) as u64;
            self.shared.counters.most_in_flight.fetch_max(in_flight, Relaxed);
            if pieces.send(Piece { due, bytes: buffer.freeze(), _room: Some(permit) }).is_err() || count == 0
            {
                return Ok(());
            }
            sleep_until(left.checked_sub(BACKLOG).unwrap_or(left)).await;
        }
    }

    /// Writes what is due.
    async fn deliver(
        &self,
        mut pieces: mpsc::UnboundedReceiver<Piece>,
        mut to: WriteHalf<'_>,
    ) -> Result<(), Ending> {
        let mut states = self.shared.states.subscribe();
        let mut calls = (self.way == Way::Up).then(Calls::new);
        while let Some(piece) = pieces.recv().await {
            sleep_until(piece.due).await;
            up(&mut states).await;
            if piece.bytes.is_empty() {
                to.shutdown().await?;
                return Ok(());
            }
            let Some((may_pass, is_cut)) = self.allowed(piece.bytes.len()) else {
                // The other way carries the last bytes and ends the connection.
                return std::future::pending().await;
            };
            // Counted first, so that who has seen the bytes sees them counted.
            let all = self.shared.counters.arrived(self.way, may_pass);
            let begun = calls.as_mut().map_or(0, |calls| calls.begun(&piece.bytes[..may_pass]));
            self.shared.counters.calls.fetch_add(begun, Relaxed);
            to.write_all(&piece.bytes[..may_pass]).await?;
            self.shared.follow_script(all);
            if is_cut {
                return Err(Ending::Closed);
            }
        }
        Ok(())
    }

    /// How many of `count` bytes this connection may still carry, and whether it ends with them; none if that was
    /// reached before.
    fn allowed(&self, count: usize) -> Option<(usize, bool)> {
        let before = self.carried.fetch_add(count as u64, Relaxed);
        let Some(most) = self.shared.link().cut_after else { return Some((count, false)) };
        let left = usize::try_from(most.checked_sub(before).filter(|left| *left > 0)?).unwrap_or(usize::MAX);
        Some((count.min(left), count >= left))
    }
}
