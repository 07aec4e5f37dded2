//! What went through a relay.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// From the client.
    Up,
    /// To the client.
    Down,
}

/// What went through a relay so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections that were accepted.
    pub connections: u64,
    /// Calls of HTTP/2 in clear text that reached the server: what a client of gRPC makes.
    pub calls: u64,
    /// Bytes that reached the server.
    pub bytes_up: u64,
    /// Bytes that reached the client.
    pub bytes_down: u64,
    /// The most bytes of one connection that were on their way at once, one way.
    pub most_in_flight: u64,
    /// Packets that were lost and came later.
    pub stalls: u64,
    /// Connections that the network reset.
    pub resets: u64,
    /// Connections that ended because they had carried all that they may.
    pub cuts: u64,
}

#[derive(Default)]
pub(super) struct Counters {
    pub(super) connections: AtomicU64,
    pub(super) calls: AtomicU64,
    bytes: [AtomicU64; 2],
    pub(super) most_in_flight: AtomicU64,
    pub(super) stalls: AtomicU64,
    pub(super) resets: AtomicU64,
    pub(super) cuts: AtomicU64,
}

impl Counters {
    /// Counts bytes that arrived, and gives how many did so far, both ways.
    pub(super) fn arrived(&self, way: Way, bytes: usize) -> u64 {
        self.bytes[way as usize].fetch_add(bytes as u64, Relaxed);
        self.bytes.iter().map(|bytes| bytes.load(Relaxed)).sum()
    }

    pub(super) fn read(&self) -> Counts {
        Counts {
            connections: self.connections.load(Relaxed),
            calls: self.calls.load(Relaxed),
            bytes_up: self.bytes[Way::Up as usize].load(Relaxed),
            bytes_down: self.bytes[Way::Down as usize].load(Relaxed),
            most_in_flight: self.most_in_flight.load(Relaxed),
            stalls: self.stalls.load(Relaxed),
            resets: self.resets.load(Relaxed),
            cuts: self.cuts.load(Relaxed),
        }
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { connections, calls, bytes_up, bytes_down, most_in_flight, stalls, resets, cuts } = self;
        write!(
            f,
            "connections={connections} calls={calls} bytes_up={bytes_up} bytes_down={bytes_down} \
             most_in_flight={most_in_flight} stalls={stalls} resets={resets} cuts={cuts}"
        )
    }
}
