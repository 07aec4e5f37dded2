//! A store that is filled past its capacity while Bazel 4.2.3 builds against it without the bytes: nothing that a build
//! counts on goes, whatever else has to.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mortar_model::{Digest, DigestFunction};
use mortar_testkit::conformance::Random;
use mortar_testkit::http;
use mortar_testkit::mortar::Mortar;
use mortar_testkit::process::wait_until;

use crate::MORTAR;
use crate::lost_blobs::goes_on;

const CAPACITY: u64 = 96 << 20;
/// What is uploaded, in turn: a file, and a record of a segment.
const SIZES: [usize; 2] = [200_000, 20_000];

/// Half of all outputs are lost or damaged too, as in an empty store.
#[test]
fn a_build_goes_on_while_others_fill_the_store() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let size = format!("{CAPACITY}B");
    let server = Mortar::start(MORTAR, "up", dir.path(), &["--max-size", &size])?;
    let (filler, stop) = (Filler::new(server.address()), AtomicBool::new(false));
    let lost = std::thread::scope(|scope| {
        let filling = scope.spawn(|| filler.fill_until(&stop));
        let over = || Ok((filler.written() > CAPACITY / 10 * 11).then_some(()));
        let built = wait_until("a store that is full", Duration::from_secs(240), over)
            .and_then(|()| goes_on(&server, dir.path()));
        stop.store(true, Ordering::SeqCst);
        filling.join().expect("the filler does not panic").and(built)
    })?;
    let figures = http::get(server.address(), "/status.json")?.body;
    let figures: serde_json::Value = serde_json::from_slice(&figures)?;
    let figure = |name: &str| figures["storage"][name].as_u64().with_context(|| format!("no storage/{name}"));
    assert!(figure("evictions")? > 0, "{figures}");
    // What was harmed had been promised; nothing else that was promised is gone.
    assert!(figure("lease_violations")? <= lost as u64, "{lost} harmed: {figures}");
    assert!(figure("bytes")? <= CAPACITY, "{figures}");
    Ok(())
}

/// Somebody else, who uploads for as long as he is let.
struct Filler {
    address: String,
    written: AtomicU64,
}

impl Filler {
    fn new(address: &str) -> Self {
        Self { address: address.to_owned(), written: AtomicU64::new(0) }
    }

    fn written(&self) -> u64 {
        self.written.load(Ordering::SeqCst)
    }

    fn fill_until(&self, stop: &AtomicBool) -> Result<()> {
        let mut random = Random::new();
        for size in SIZES.into_iter().cycle() {
            if stop.load(Ordering::SeqCst) {
                break;
            }
            let bytes = random.bytes(size);
            let path = format!("/cas/{}", Digest::of(DigestFunction::Sha256, &bytes).hex());
            let answer = http::put(&self.address, &path, &bytes)?;
            ensure!(answer.status < 300, "a blob was refused: {answer:?}");
            self.written.fetch_add(bytes.len() as u64, Ordering::SeqCst);
        }
        Ok(())
    }
}
