//! How many calls a client makes on one connection of HTTP/2 in clear text: read from the frames that pass, none of
//! which is changed.

/// What every client of HTTP/2 begins with.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Length (three bytes), type, flags, stream (four bytes).
const HEAD: usize = 9;
/// The type of the frame that begins a stream.
const HEADERS: u8 = 1;

/// Follows the bytes that a client sends.
pub(super) struct Calls {
    at: At,
    /// The stream that was begun last; later ones have greater numbers.
    latest: u32,
}

enum At {
    /// In the preface, of which so much has passed.
    Preface(usize),
    /// In the head of a frame.
    Head { bytes: [u8; HEAD], filled: usize },
    /// In what a frame holds, of which so much is to come.
    Payload(usize),
    /// Something else is spoken here.
    Foreign,
}

impl Calls {
    pub(super) fn new() -> Self {
        Self { at: At::Preface(0), latest: 0 }
    }

    /// How many calls begin in these bytes, which follow those of the time before.
    pub(super) fn begun(&mut self, mut bytes: &[u8]) -> u64 {
        let mut begun = 0;
        while !bytes.is_empty() {
            let taken = match &mut self.at {
                At::Preface(passed) => {
                    let taken = bytes.len().min(PREFACE.len() - *passed);
                    let is_preface = bytes[..taken] == PREFACE[*passed..*passed + taken];
                    *passed += taken;
                    if !is_preface {
                        self.at = At::Foreign;
                    } else if *passed == PREFACE.len() {
                        self.at = At::Head { bytes: [0; HEAD], filled: 0 };
                    }
                    taken
                }
                At::Head { bytes: head, filled } => {
                    let taken = bytes.len().min(HEAD - *filled);
                    head[*filled..*filled + taken].copy_from_slice(&bytes[..taken]);
                    *filled += taken;
                    if *filled == HEAD {
                        let head = *head;
                        begun += u64::from(self.frame(head));
                    }
                    taken
                }
                At::Payload(left) => {
                    let taken = bytes.len().min(*left);
                    *left -= taken;
                    if *left == 0 {
                        self.at = At::Head { bytes: [0; HEAD], filled: 0 };
                    }
                    taken
                }
                At::Foreign => return begun,
            };
            bytes = &bytes[taken..];
        }
        begun
    }

    /// Whether a frame with this head begins a call.
    fn frame(&mut self, head: [u8; HEAD]) -> bool {
        let [l0, l1, l2, kind, _, s0, s1, s2, s3] = head;
        let length = u32::from_be_bytes([0, l0, l1, l2]) as usize;
        self.at = match length {
            0 => At::Head { bytes: [0; HEAD], filled: 0 },
            length => At::Payload(length),
        };
        let stream = u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]);
        let begins = kind == HEADERS && stream > self.latest;
        if begins {
            self.latest = stream;
        }
        begins
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        bytes.extend([kind, 0]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    /// Settings, two calls, the trailers of the first, a third call; what they hold looks like frames.
    fn conversation() -> Vec<u8> {
        let mut bytes = PREFACE.to_vec();
        for (kind, stream, payload) in [
            (4, 0, &[][..]),
            (HEADERS, 1, &frame(HEADERS, 9, b"x")),
            (0, 1, &frame(HEADERS, 11, b"y")),
            (HEADERS, 3, b"a header"),
            (HEADERS, 1, b"trailers"),
            (8, 0, &[0, 0, 1, 0]),
            (HEADERS, 5, &[]),
        ] {
            bytes.extend(frame(kind, stream, payload));
        }
        bytes
    }

    #[test]
    fn calls_are_counted_however_bytes_are_cut_into_pieces() {
        let bytes = conversation();
        for piece in [1, 2, 5, 24, 33, bytes.len()] {
            let mut calls = Calls::new();
            let begun: u64 = bytes.chunks(piece).map(|piece| calls.begun(piece)).sum();
            assert_eq!(begun, 3, "pieces of {piece}");
        }
    }

    #[test]
    fn what_is_not_http_2_has_none() {
        for text in ["GET / HTTP/1.1\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n"] {
            let mut bytes = text.as_bytes().to_vec();
            bytes.extend(frame(HEADERS, 1, b"a"));
            assert_eq!(Calls::new().begun(&bytes), 0, "{text:?}");
        }
    }
}
