//! `kill -9` under upload load: every acknowledged blob is there afterwards, and every blob that is there is whole.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Result;
use mortar_model::{Digest, DigestFunction};
use mortar_testkit::http;
use mortar_testkit::process::wait_until;

use crate::up;

const WRITERS: usize = 4;
const ROUNDS: usize = 3;

#[test]
fn acknowledged_blobs_survive() -> Result<()> {
    let mut server = up()?;
    let attempted = AtomicUsize::new(0);
    let mut acknowledged = Vec::new();
    for _ in 0..ROUNDS {
        let address = server.mortar.address().to_owned();
        let fresh = Mutex::new(Vec::new());
        std::thread::scope(|scope| -> Result<()> {
            for _ in 0..WRITERS {
                scope.spawn(|| upload_until_it_breaks(&address, &attempted, &fresh));
            }
            let enough = || Ok((fresh.lock().expect("no writer panics").len() >= 100).then_some(()));
            let waited = wait_until("a hundred acknowledged blobs", Duration::from_secs(60), enough);
            server.mortar.kill()?;
            waited
        })?;
        acknowledged.extend(fresh.into_inner().expect("no writer panics"));
        server.mortar.restart()?;
        check(server.mortar.address(), attempted.load(Ordering::SeqCst), &acknowledged)?;
    }
    Ok(())
}

/// The blob of that number: mostly small, some of several hundred kilobytes.
fn blob(number: usize) -> Vec<u8> {
    let length = if number % 16 == 15 { 400_000 + number } else { 100 + number * 7 % 5_000 };
    let text = format!("blob {number} ");
    text.bytes().cycle().take(length).collect()
}

fn path(number: usize) -> String {
    format!("/cas/{}", Digest::of(DigestFunction::Sha256, &blob(number)).hex())
}

fn upload_until_it_breaks(address: &str, attempted: &AtomicUsize, acknowledged: &Mutex<Vec<usize>>) {
    loop {
        let number = attempted.fetch_add(1, Ordering::SeqCst);
        match http::put(address, &path(number), &blob(number)) {
            Ok(answer) if answer.status < 300 => {
                acknowledged.lock().expect("no writer panics").push(number);
            }
            Ok(answer) => panic!("blob {number} was refused: {answer:?}"),
            Err(_) => return,
        }
    }
}

fn check(address: &str, attempted: usize, acknowledged: &[usize]) -> Result<()> {
    for number in 0..attempted {
        let answer = http::get(address, &path(number))?;
        match answer.status {
            200 => assert!(answer.body == blob(number), "blob {number} is not whole"),
            404 => assert!(!acknowledged.contains(&number), "blob {number} was acknowledged and is gone"),
            status => panic!("blob {number}: {status}"),
        }
    }
    Ok(())
}
