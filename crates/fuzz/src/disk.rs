//! The readers of the disk format: segments, the index.

use mortar_store::disk::probe;
use std::path::PathBuf;

thread_local! {
    /// Files of this thread, used again and again; in memory where there is such a place.
    static DIRECTORY: PathBuf = {
        let memory = std::path::Path::new("/dev/shm");
        let above = if memory.is_dir() { memory.to_path_buf() } else { std::env::temp_dir() };
        let number = std::process::id();
        let name = format!("mortar-fuzz-{number}-{:?}", std::thread::current().id());
        let directory = above.join(name.replace(['(', ')'], ""));
        for part in ["segments", "index"] {
            std::fs::create_dir_all(directory.join(part)).expect("a directory for files can be made");
        }
        directory
    };
}

fn within(part: &str) -> PathBuf {
    DIRECTORY.with(|directory| directory.join(part))
}

pub(crate) fn segment(data: &[u8]) -> String {
    format!("good: {}", counted(probe::read_segment(&within("segments"), data)))
}

pub(crate) fn segment_seeds() -> Vec<Vec<u8>> {
    let payloads: [&[u8]; 5] = [b"", b"content", &[7; 100], b"", &[0; 1000]];
    (0..=payloads.len()).map(|count| probe::segment_seed(&payloads[..count])).collect()
}

pub(crate) fn index(data: &[u8]) -> String {
    match probe::read_index(&within("index"), data) {
        Some(entries) => format!("good: {}", counted(entries)),
        None => "refused".into(),
    }
}

pub(crate) fn index_seeds() -> Vec<Vec<u8>> {
    vec![probe::index_seed(&within("index"))]
}

/// A number as an outcome: few are told apart.
fn counted(number: usize) -> &'static str {
    ["none", "one", "two", "three", "four"].get(number).copied().unwrap_or("many")
}
