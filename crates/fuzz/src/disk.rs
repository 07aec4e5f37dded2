//! The readers of the disk format: segments, the index, checkpoints.

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
        for part in ["segments", "index", "checkpoint"] {
            std::fs::create_dir_all(directory.join(part)).expect("a directory for files can be made");
        }
        directory
    };
}

fn within(part: &str) -> PathBuf {
    DIRECTORY.with(|directory| directory.join(part))
}

pub(crate) fn segment(data: &[u8]) -> String {
    format!("{} records", probe::read_segment(&within("segments"), data))
}

pub(crate) fn segment_seeds() -> Vec<Vec<u8>> {
    let payloads: [&[u8]; 5] = [b"", b"content", &[7; 100], b"", &[0; 1000]];
    (0..=payloads.len()).map(|count| probe::segment_seed(&payloads[..count])).collect()
}

pub(crate) fn index(data: &[u8]) -> String {
    match probe::read_index(&within("index"), data) {
        Some(entries) => format!("{entries} entries"),
        None => "refused".into(),
    }
}

pub(crate) fn index_seeds() -> Vec<Vec<u8>> {
    vec![probe::index_seed(&within("index"))]
}

pub(crate) fn checkpoint(data: &[u8]) -> String {
    format!("{}", probe::read_checkpoint(&within("checkpoint"), data))
}

pub(crate) fn checkpoint_seeds() -> Vec<Vec<u8>> {
    let text = "mortar checkpoint 1\nclean 1\napplied 7 4096\nsequence 99\nfiles 8192\ncounts 3 2 1\nnow 1\norigin 1\nsum 0\n";
    vec![text.into()]
}
