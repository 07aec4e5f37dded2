//! The bad network is as bad as it says, and no worse.

#![allow(clippy::unwrap_used)]

use mortar_testkit::network::{Change, Flaps, Link, Plan, Relay, Script, State, Trigger};
use std::{
    io::{ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server that answers with what it hears, on threads that end with their connections.
fn echo() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut from, mut to) = match stream.and_then(|stream| Ok((stream.try_clone()?, stream))) {
                Ok(both) => both,
                Err(_) => return,
            };
            thread::spawn(move || {
                let _ = std::io::copy(&mut from, &mut to);
                let _ = to.shutdown(std::net::Shutdown::Write);
            });
        }
    });
    address
}

fn dial(relay: &Relay) -> TcpStream {
    let stream = TcpStream::connect(relay.address()).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Sends `bytes` and waits until all are back.
fn round(stream: &mut TcpStream, bytes: &[u8]) -> std::io::Result<()> {
    let mut to = stream.try_clone()?;
    thread::scope(|scope| {
        let sent = scope.spawn(move || to.write_all(bytes));
        let mut back = vec![0; bytes.len()];
        stream.read_exact(&mut back)?;
        assert!(back == bytes, "what comes back is what was sent");
        sent.join().unwrap()
    })
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        thread::yield_now();
    }
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[test]
fn each_byte_takes_the_latency_and_a_connection_its_handshake() {
    let relay = Relay::start(&echo(), Link::with_latency(ms(30))).unwrap();
    let start = Instant::now();
    let mut stream = dial(&relay);
    round(&mut stream, b"first").unwrap();
    assert!(start.elapsed() >= ms(120), "a handshake and a round trip: {:?}", start.elapsed());
    let start = Instant::now();
    round(&mut stream, b"second").unwrap();
    assert!(start.elapsed() >= ms(60), "a round trip: {:?}", start.elapsed());
    assert_eq!((relay.counts().bytes_up, relay.counts().bytes_down), (11, 11));
    relay.change(|link| link.latency = Duration::ZERO);
    round(&mut stream, b"third").unwrap();
}

#[test]
fn latency_is_no_window() {
    let relay = Relay::start(&echo(), Link::with_latency(ms(200))).unwrap();
    let mut stream = dial(&relay);
    round(&mut stream, &vec![7; 48 << 20]).unwrap();
    let most = relay.counts().most_in_flight;
    assert!(most > 8 << 20, "far more than a window is on its way at once: {most}");
}

#[test]
fn the_rate_is_shared_by_all_connections() {
    let relay = Relay::start(&echo(), Link { rate: Some(1_000_000), ..Link::default() }).unwrap();
    let start = Instant::now();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| round(&mut dial(&relay), &[1; 100_000]).unwrap());
        }
    });
    assert!(start.elapsed() >= ms(400), "{:?}", start.elapsed());
    assert_eq!(relay.counts().bytes_down, 400_000);
}

#[test]
fn lost_packets_come_later_and_the_same_ones_with_the_same_seed() {
    let server = echo();
    let stalls = |seed| {
        let link = Link { loss: 0.01, ..Link::default() };
        let relay = Relay::start_with(&server, link, Plan { seed, ..Plan::default() }).unwrap();
        let start = Instant::now();
        round(&mut dial(&relay), &vec![3; 300_000]).unwrap();
        let stalls = relay.counts().stalls;
        assert!(stalls == 0 || start.elapsed() >= ms(200), "{stalls} stalls in {:?}", start.elapsed());
        stalls
    };
    let of_seeds: Vec<u64> = (1..=4).map(stalls).collect();
    assert!(
        of_seeds.iter().any(|stalls| *stalls > 0) && of_seeds.iter().any(|stalls| *stalls != of_seeds[0])
    );
    assert_eq!((1..=4).map(stalls).collect::<Vec<_>>(), of_seeds);
}

#[test]
fn a_reset_breaks_what_there_is_and_nothing_new() {
    let relay = Relay::start(&echo(), Link::default()).unwrap();
    let mut stream = dial(&relay);
    round(&mut stream, b"fine").unwrap();
    relay.reset();
    assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    round(&mut dial(&relay), b"anew").unwrap();
    assert_eq!((relay.counts().connections, relay.counts().resets), (2, 1));
}

#[test]
fn what_is_stranded_stays_open_and_carries_nothing() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let relay = Relay::start(&server.local_addr().unwrap().to_string(), Link::default()).unwrap();
    let mut client = dial(&relay);
    let (mut end, _) = server.accept().unwrap();
    client.write_all(b"before").unwrap();
    let mut heard = [0; 6];
    end.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"before");
    relay.strand();
    let mut new = dial(&relay);
    let (mut new_end, _) = server.accept().unwrap();
    client.write_all(b"lost").unwrap();
    drop(client);
    new.write_all(b"served").unwrap();
    new_end.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"served");
    end.set_read_timeout(Some(ms(100))).unwrap();
    let error = end.read(&mut heard).unwrap_err();
    assert!([ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&error.kind()), "{error}");
    drop(relay);
    end.set_read_timeout(Some(PATIENCE)).unwrap();
    assert!(!matches!(end.read(&mut heard), Ok(1..)), "what was lost came through");
}

#[test]
fn chance_resets_connections() {
    let relay = Relay::start(&echo(), Link { resets: 0.02, ..Link::default() }).unwrap();
    assert!(round(&mut dial(&relay), &vec![3; 4 << 20]).is_err());
    assert_eq!(relay.counts().resets, 1);
}

#[test]
fn a_black_hole_keeps_connections_and_lets_nothing_pass() {
    let relay = Relay::start(&echo(), Link::default()).unwrap();
    let mut old = dial(&relay);
    round(&mut old, b"before").unwrap();
    relay.change(|link| link.state = State::BlackHole);
    let mut new = dial(&relay);
    for stream in [&mut old, &mut new] {
        stream.write_all(b"during").unwrap();
        stream.set_read_timeout(Some(ms(100))).unwrap();
        let error = stream.read(&mut [0; 6]).unwrap_err();
        assert!([ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&error.kind()), "{error}");
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    assert_eq!(relay.counts().bytes_up, 6);
    relay.change(|link| link.state = State::Up);
    for stream in [&mut old, &mut new] {
        let mut back = [0; 6];
        stream.read_exact(&mut back).unwrap();
        assert_eq!(&back, b"during");
    }
}

#[test]
fn what_is_down_resets_all() {
    let relay = Relay::start(&echo(), Link::default()).unwrap();
    let mut old = dial(&relay);
    round(&mut old, b"before").unwrap();
    relay.change(|link| link.state = State::Down);
    assert_eq!(old.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert!(round(&mut dial(&relay), b"during").is_err());
    relay.change(|link| link.state = State::Up);
    round(&mut dial(&relay), b"after").unwrap();
}

#[test]
fn flaps_come_again_and_again() {
    let relay = Relay::start(&echo(), Link::default()).unwrap();
    let flaps = Flaps { every: ms(60), lasting: ms(20), state: State::Down };
    relay.change(|link| link.flaps = Some(flaps));
    let mut worked = 0;
    until("three connections were reset and three rounds worked", || {
        let Ok(mut stream) = TcpStream::connect(relay.address()) else { return false };
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        while round(&mut stream, b"tick").is_ok() {
            worked += 1;
        }
        relay.counts().resets >= 3 && worked >= 3
    });
    relay.change(|link| link.flaps = None);
    round(&mut dial(&relay), b"calm").unwrap();
}

#[test]
fn a_connection_is_cut_after_so_many_bytes() {
    let link = Link { cut_after: Some(150_000), ..Link::default() };
    let relay = Relay::start(&echo(), link).unwrap();
    for _ in 0..2 {
        let mut stream = dial(&relay);
        let mut to = stream.try_clone().unwrap();
        let sender = thread::spawn(move || to.write_all(&[9; 100_000]));
        let mut got = Vec::new();
        let _ = stream.read_to_end(&mut got);
        assert!(got.len() <= 150_000 && got.iter().all(|byte| *byte == 9));
        let _ = sender.join().unwrap();
    }
    let counts = relay.counts();
    assert_eq!((counts.cuts, counts.bytes_up + counts.bytes_down), (2, 300_000));
}

#[test]
fn closing_is_passed_on_both_ways() {
    let relay = Relay::start(&echo(), Link::with_latency(ms(5))).unwrap();
    let mut stream = dial(&relay);
    stream.write_all(b"last words").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut back = Vec::new();
    stream.read_to_end(&mut back).unwrap();
    assert_eq!(back, b"last words");
}

#[test]
fn a_script_is_followed() {
    let script = Script::default()
        .then(Trigger::After(20), Change::Reset)
        .then(Trigger::After(20), Change::Latency(ms(7)))
        .then(Trigger::At(ms(1)), Change::Rate(Some(77_000_000)))
        .then(Trigger::At(ms(20)), Change::Rate(Some(99_000_000)));
    let relay = Relay::start_with(&echo(), Link::default(), Plan { script, ..Plan::default() }).unwrap();
    let mut stream = dial(&relay);
    assert!(round(&mut stream, &[1; 20]).is_err(), "reset when the 20 bytes had arrived");
    assert_eq!((relay.link().latency, relay.counts().resets), (ms(7), 1));
    until("the last change by time", || relay.link().rate == Some(99_000_000));
}

#[test]
fn a_server_that_is_not_there_is_a_reset() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let relay = Relay::start(&nobody.to_string(), Link::default()).unwrap();
    assert!(round(&mut dial(&relay), b"anybody?").is_err());
}
