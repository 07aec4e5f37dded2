//! A codec without a format, for tests of stores that may not know protobuf.

use bytes::Bytes;
use mortar_model::{ActionResult, Codec, DigestFunction, Directory, Error, Result, Tree};
use std::sync::Mutex;

/// Keeps messages in tables; their bytes say where. Valid for as long as the value lives.
#[derive(Default)]
pub struct TableCodec {
    results: Mutex<Vec<ActionResult>>,
    trees: Mutex<Vec<Tree>>,
    directories: Mutex<Vec<Directory>>,
}

impl TableCodec {
    /// Bytes that stand for a tree.
    pub fn encode_tree(&self, tree: &Tree) -> Bytes {
        encode("tree", &self.trees, tree)
    }

    /// Bytes that stand for a directory.
    pub fn encode_directory(&self, directory: &Directory) -> Bytes {
        encode("directory", &self.directories, directory)
    }
}

impl Codec for TableCodec {
    fn encode_result(&self, result: &ActionResult) -> Bytes {
        encode("result", &self.results, result)
    }

    fn decode_result(&self, _: DigestFunction, bytes: Bytes) -> Result<ActionResult> {
        decode("result", &self.results, &bytes)
    }

    fn decode_tree(&self, _: DigestFunction, bytes: Bytes) -> Result<Tree> {
        decode("tree", &self.trees, &bytes)
    }

    fn decode_directory(&self, _: DigestFunction, bytes: Bytes) -> Result<Directory> {
        // As in protobuf, nothing is the encoding of nothing.
        if bytes.is_empty() {
            Ok(Directory::default())
        } else {
            decode("directory", &self.directories, &bytes)
        }
    }
}

fn encode<T: Clone>(kind: &str, table: &Mutex<Vec<T>>, message: &T) -> Bytes {
    let mut table = table.lock().expect("no test panics within");
    table.push(message.clone());
    format!("{kind} {}", table.len() - 1).into()
}

fn decode<T: Clone>(kind: &'static str, table: &Mutex<Vec<T>>, bytes: &[u8]) -> Result<T> {
    let place = std::str::from_utf8(bytes).ok().and_then(|text| text.strip_prefix(kind)?.trim().parse().ok());
    let table = table.lock().expect("no test panics within");
    let message = place.and_then(|place: usize| table.get(place).cloned());
    message.ok_or_else(|| Error::invalid(kind, "these bytes stand for no message"))
}
