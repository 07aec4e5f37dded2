//! Messages between a process and its helpers: a length of four bytes, little-endian, then JSON.

use serde::{Serialize, de::DeserializeOwned};
use std::io::{self, Read, Write};

/// Arguments and environments of a hundred megabytes are nothing that `exec` would take.
const LONGEST: u32 = 100 << 20;

/// Writes one message.
pub fn send(mut to: impl Write, message: &impl Serialize) -> io::Result<()> {
    let body = serde_json::to_vec(message)?;
    let length = u32::try_from(body.len()).ok().filter(|length| *length <= LONGEST);
    let length = length.ok_or_else(|| io::Error::other("the message is too long"))?;
    let mut bytes = length.to_le_bytes().to_vec();
    bytes.extend_from_slice(&body);
    to.write_all(&bytes)
}

/// Reads one message.
pub fn receive<T: DeserializeOwned>(mut from: impl Read) -> io::Result<T> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length);
    if length > LONGEST {
        return Err(io::Error::other("the message is too long"));
    }
    let mut body = vec![0; length as usize];
    from.read_exact(&mut body)?;
    Ok(serde_json::from_slice(&body)?)
}
