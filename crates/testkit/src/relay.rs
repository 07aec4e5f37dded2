//! A TCP relay on the loopback that can fall silent: connections stay open, and nothing comes through any more, as when
//! the machine at the other end is gone without a word.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Result;

/// How soon a thread sees that the relay was told something.
const ATTENTION: Duration = Duration::from_millis(20);

/// The relay. Its connections are closed when it is dropped.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    state: Arc<State>,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct State {
    to: String,
    /// Connections are numbered; those up to this one are silent for ever.
    silent: AtomicU64,
    connections: AtomicU64,
    /// New connections are taken and come through.
    open: AtomicBool,
    over: AtomicBool,
}

impl Relay {
    /// Relays what comes to a free port to `HOST:PORT`.
    pub fn to(address: &str) -> Result<Relay> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        listener.set_nonblocking(true)?;
        let state = Arc::new(State {
            to: address.to_owned(),
            silent: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            open: AtomicBool::new(true),
            over: AtomicBool::new(false),
        });
        let address = listener.local_addr()?;
        let shared = state.clone();
        let accepting = Some(std::thread::spawn(move || accept(&listener, &shared)));
        Ok(Relay { address, state, accepting })
    }

    /// `grpc://HOST:PORT`
    pub fn grpc(&self) -> String {
        format!("grpc://{}", self.address)
    }

    /// From now on nothing comes through, and no end of a connection is told. Those that are made wait.
    pub fn fall_silent(&self) {
        self.state.open.store(false, Ordering::SeqCst);
        self.state.silent.store(self.state.connections.load(Ordering::SeqCst), Ordering::SeqCst);
    }

    /// New connections come through again; those of before stay silent.
    pub fn revive(&self) {
        self.state.open.store(true, Ordering::SeqCst);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.state.over.store(true, Ordering::SeqCst);
        if let Some(thread) = self.accepting.take() {
            // It ends within its attention, and has nothing to tell.
            let _ = thread.join();
        }
    }
}

fn accept(listener: &TcpListener, state: &Arc<State>) {
    while !state.over.load(Ordering::SeqCst) {
        match listener.accept() {
            Ok((client, _)) if state.open.load(Ordering::SeqCst) => {
                let number = state.connections.fetch_add(1, Ordering::SeqCst) + 1;
                // A server that is away is met with a connection that closes.
                let _ = join(client, number, state);
            }
            // Whoever is taken in between has come too late to be served, and hears nothing.
            Ok((client, _)) => {
                let state = state.clone();
                std::thread::spawn(move || hold(&state, client));
            }
            Err(_) => std::thread::sleep(ATTENTION),
        }
    }
}

fn join(client: TcpStream, number: u64, state: &Arc<State>) -> Result<()> {
    let server = TcpStream::connect(&state.to)?;
    for stream in [&client, &server] {
        stream.set_nonblocking(false)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ATTENTION))?;
    }
    let (up, down) = ((client.try_clone()?, server.try_clone()?), (server, client));
    for (from, to) in [up, down] {
        let state = state.clone();
        std::thread::spawn(move || pump(&state, number, from, to));
    }
    Ok(())
}

/// Passes on what comes, until the connection ends or falls silent.
fn pump(state: &State, number: u64, mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = vec![0; 64 << 10];
    let is_silent = || number <= state.silent.load(Ordering::SeqCst);
    while !state.over.load(Ordering::SeqCst) {
        let read = from.read(&mut buffer);
        if is_silent() {
            return hold(state, (from, to));
        }
        match read {
            Ok(0) => break,
            Ok(length) if to.write_all(&buffer[..length]).is_err() => break,
            Err(error) if !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break,
            Ok(_) | Err(_) => {}
        }
    }
    // Either end may be closed already.
    let _ = (from.shutdown(std::net::Shutdown::Both), to.shutdown(std::net::Shutdown::Both));
}

/// Keeps a connection open, unread, until the relay is over.
fn hold<T>(state: &State, connection: T) {
    while !state.over.load(Ordering::SeqCst) {
        std::thread::sleep(ATTENTION);
    }
    drop(connection);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn it_falls_silent_without_an_end_and_takes_new_connections_later() {
        let echo = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let relay = Relay::to(&echo.local_addr().unwrap().to_string()).unwrap();
        let talk = |client: &mut TcpStream| {
            let (mut server, _) = echo.accept().unwrap();
            client.write_all(b"word").unwrap();
            let mut heard = [0; 4];
            server.read_exact(&mut heard).unwrap();
            assert_eq!(&heard, b"word");
            server
        };
        let mut first = TcpStream::connect(relay.address).unwrap();
        let mut server = talk(&mut first);
        relay.fall_silent();
        first.write_all(b"lost").unwrap();
        drop(first);
        server.set_read_timeout(Some(10 * ATTENTION)).unwrap();
        let silence = server.read(&mut [0; 4]).unwrap_err().kind();
        assert!(matches!(silence, ErrorKind::WouldBlock | ErrorKind::TimedOut), "{silence}");
        relay.revive();
        let mut second = TcpStream::connect(relay.address).unwrap();
        talk(&mut second);
        drop(relay);
        assert_eq!(second.read(&mut [0; 4]).unwrap(), 0, "the relay is over");
    }
}
