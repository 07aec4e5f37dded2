//! The bytes of the two records. All numbers are little-endian; every length is checked; what does not decode is for
//! the caller to drop. That the bytes are those that were written is the business of who keeps them.
//!
//! A result, under SHA-256 of `INSTANCE\nFUNCTION\nHASH` (hash of the action, raw):
//!
//! | bytes | what |
//! |---|---|
//! | 1 | version, 1 |
//! | 1 + 32 | function (1 SHA-256, 2 BLAKE3) and hash of the action |
//! | 2 + n | instance |
//! | 8 + 4 | when it was stored: seconds since the Unix epoch, nanoseconds |
//! | 2 + n | invocation that stored it; longer names are cut |
//! | 2 + n | worker that made it; longer names are cut |
//! | 4 | how many blobs its closure has |
//! | 41 each | function, hash and size (8) of a blob |
//! | the rest | the result, as the codec wrote it |
//!
//! Producers of a blob, under SHA-256 of `blob\nFUNCTION\nHASH`, so that a blob is found by its hash alone:
//!
//! | bytes | what |
//! |---|---|
//! | 1 | version, 1 |
//! | 8 | size of the blob |
//! | 1 | how many actions follow, newest first |
//! | 1 + 32, 2 + n each | function and hash of the action, instance |

use bytes::{Buf, BufMut, Bytes, BytesMut};
use mortar_model::{ActionKey, Digest, DigestFunction, DigestSet, InstanceName, clock::since_epoch};
use std::time::{Duration, SystemTime};

const VERSION: u8 = 1;
const DIGEST_LENGTH: usize = 1 + 32 + 8;
/// How many actions are remembered as those that made a blob.
pub const MOST_MAKERS: usize = 4;

/// Why bytes are no record.
pub type Refusal = String;

/// The name of an action's result.
pub fn result_name(instance: &InstanceName, key: ActionKey) -> [u8; 32] {
    // Instance names hold no control characters, so a newline divides without doubt.
    name(instance.as_str(), key.function, &key.hash)
}

/// The name of what is known of the producers of a blob.
pub fn producer_name(function: DigestFunction, hash: &[u8; 32]) -> [u8; 32] {
    name("blob", function, hash)
}

fn name(first: &str, function: DigestFunction, hash: &[u8; 32]) -> [u8; 32] {
    let text = [first.as_bytes(), b"\n", function.name().as_bytes(), b"\n", hash].concat();
    *Digest::of(DigestFunction::Sha256, &text).hash()
}

/// An action of an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// The instance.
    pub instance: InstanceName,
    /// The action.
    pub key: ActionKey,
}

/// All that is kept of a result besides itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Whose result it is.
    pub named: Named,
    /// When it was stored.
    pub stored: SystemTime,
    /// The invocation that stored it.
    pub invocation: String,
    /// The worker that made it.
    pub worker: String,
    /// Every blob that it needs.
    pub closure: DigestSet,
}

impl Head {
    /// The record of a result whose own bytes are `result`.
    pub fn encode(&self, result: &[u8]) -> Bytes {
        let mut bytes = BytesMut::with_capacity(256 + self.closure.len() * DIGEST_LENGTH + result.len());
        bytes.put_u8(VERSION);
        put_key(&mut bytes, self.named.key);
        put_text(&mut bytes, self.named.instance.as_str());
        let stored = since_epoch(self.stored);
        bytes.put_u64_le(stored.as_secs());
        bytes.put_u32_le(stored.subsec_nanos());
        put_text(&mut bytes, &self.invocation);
        put_text(&mut bytes, &self.worker);
        bytes.put_u32_le(u32::try_from(self.closure.len()).expect("a closure is bounded when it is found"));
        for digest in self.closure.iter() {
            put_hash(&mut bytes, digest.function(), digest.hash());
            bytes.put_u64_le(digest.size());
        }
        bytes.put_slice(result);
        bytes.freeze()
    }

    /// The head in a record, and the bytes of the result.
    pub fn decode(content: Bytes) -> Result<(Self, Bytes), Refusal> {
        let mut fields = Fields(content);
        fields.version()?;
        let named = fields.named()?;
        let stored = fields.time()?;
        let (invocation, worker) = (fields.text("invocation")?, fields.text("worker")?);
        let count = fields.u32("the number of its blobs")? as usize;
        if fields.0.len() / DIGEST_LENGTH < count {
            return Err(format!("it says that it needs {count} blobs; {} bytes are left", fields.0.len()));
        }
        let digests = (0..count).map(|_| {
            let (function, hash) = fields.hash("the hash of a blob")?;
            Ok(Digest::new(function, hash, fields.u64("the size of a blob")?))
        });
        let closure = digests.collect::<Result<DigestSet, Refusal>>()?;
        Ok((Self { named, stored, invocation, worker, closure }, fields.0))
    }
}

/// The actions that made a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Makers {
    /// The size of the blob.
    pub size: u64,
    /// At most [`MOST_MAKERS`].
    pub newest_first: Vec<Named>,
}

impl Makers {
    /// Of a blob that nobody made yet.
    pub fn of_blob(size: u64) -> Self {
        Self { size, newest_first: Vec::new() }
    }

    /// With another one, who comes first; one too many is forgotten.
    #[must_use]
    pub fn with(mut self, maker: Named) -> Self {
        self.newest_first.retain(|known| *known != maker);
        self.newest_first.insert(0, maker);
        self.newest_first.truncate(MOST_MAKERS);
        self
    }

    /// The record.
    pub fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(64 * (1 + self.newest_first.len()));
        bytes.put_u8(VERSION);
        bytes.put_u64_le(self.size);
        bytes.put_u8(u8::try_from(self.newest_first.len()).expect("few makers are remembered"));
        for maker in &self.newest_first {
            put_key(&mut bytes, maker.key);
            put_text(&mut bytes, maker.instance.as_str());
        }
        bytes.freeze()
    }

    /// What a record says.
    pub fn decode(content: Bytes) -> Result<Self, Refusal> {
        let mut fields = Fields(content);
        fields.version()?;
        let size = fields.u64("the size of the blob")?;
        let count = fields.u8("the number of actions")?;
        let newest_first = (0..count).map(|_| fields.named()).collect::<Result<_, _>>()?;
        match fields.0.len() {
            0 => Ok(Self { size, newest_first }),
            left => Err(format!("{left} bytes are left at its end")),
        }
    }
}

fn put_key(bytes: &mut BytesMut, key: ActionKey) {
    put_hash(bytes, key.function, &key.hash);
}

fn put_hash(bytes: &mut BytesMut, function: DigestFunction, hash: &[u8; 32]) {
    bytes.put_u8(match function {
        DigestFunction::Sha256 => 1,
        DigestFunction::Blake3 => 2,
    });
    bytes.put_slice(hash);
}

fn put_text(bytes: &mut BytesMut, text: &str) {
    let most = text.len().min(usize::from(u16::MAX));
    let end = (0..=most).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    bytes.put_u16_le(end as u16);
    bytes.put_slice(&text.as_bytes()[..end]);
}

/// What is left of a record.
struct Fields(Bytes);

impl Fields {
    fn take(&mut self, length: usize, what: &str) -> Result<Bytes, Refusal> {
        match self.0.len() {
            left if left < length => Err(format!("{what} has {length} bytes; {left} are left")),
            _ => Ok(self.0.split_to(length)),
        }
    }

    fn version(&mut self) -> Result<(), Refusal> {
        match self.u8("its version")? {
            VERSION => Ok(()),
            other => Err(format!("its version is {other}; expected {VERSION}")),
        }
    }

    fn u8(&mut self, what: &str) -> Result<u8, Refusal> {
        Ok(self.take(1, what)?.get_u8())
    }

    fn u32(&mut self, what: &str) -> Result<u32, Refusal> {
        Ok(self.take(4, what)?.get_u32_le())
    }

    fn u64(&mut self, what: &str) -> Result<u64, Refusal> {
        Ok(self.take(8, what)?.get_u64_le())
    }

    fn text(&mut self, what: &str) -> Result<String, Refusal> {
        let length = self.take(2, what)?.get_u16_le();
        let text = self.take(usize::from(length), what)?;
        String::from_utf8(text.into()).map_err(|_| format!("{what} is not UTF-8"))
    }

    fn hash(&mut self, what: &str) -> Result<(DigestFunction, [u8; 32]), Refusal> {
        let function = match self.u8(what)? {
            1 => DigestFunction::Sha256,
            2 => DigestFunction::Blake3,
            other => return Err(format!("{what} is of the unknown function {other}")),
        };
        let mut hash = [0; 32];
        self.take(32, what)?.copy_to_slice(&mut hash);
        Ok((function, hash))
    }

    fn named(&mut self) -> Result<Named, Refusal> {
        let (function, hash) = self.hash("the action")?;
        let instance = self.text("the instance")?;
        let instance = InstanceName::parse(&instance).map_err(|error| error.to_string())?;
        Ok(Named { instance, key: ActionKey { function, hash } })
    }

    fn time(&mut self) -> Result<SystemTime, Refusal> {
        let (seconds, nanoseconds) = (self.u64("its time")?, self.u32("its time")?);
        let refuse = || format!("its time is {seconds} s and {nanoseconds} ns after 1970, which cannot be");
        if nanoseconds >= 1_000_000_000 {
            return Err(refuse());
        }
        SystemTime::UNIX_EPOCH.checked_add(Duration::new(seconds, nanoseconds)).ok_or_else(refuse)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn named(instance: &str, hash: u8) -> Named {
        let key = ActionKey { function: DigestFunction::Blake3, hash: [hash; 32] };
        Named { instance: InstanceName::parse(instance).unwrap(), key }
    }

    fn head() -> Head {
        Head {
            named: named("team/one", 7),
            stored: SystemTime::UNIX_EPOCH + Duration::new(1_700_000_000, 999_999_999),
            invocation: "b6b4…".into(),
            worker: String::new(),
            closure: DigestFunction::ALL.into_iter().map(|function| Digest::of(function, b"blob")).collect(),
        }
    }

    #[test]
    fn records_come_back() {
        let (decoded, rest) = Head::decode(head().encode(b"the result")).unwrap();
        assert_eq!((decoded, rest.as_ref()), (head(), b"the result".as_ref()));
        let makers = Makers::of_blob(u64::MAX).with(named("", 1)).with(named("a", 1)).with(named("a", 2));
        assert_eq!(Makers::decode(makers.encode()).unwrap(), makers);
    }

    #[test]
    fn the_newest_makers_are_remembered_once_each() {
        let mut makers = Makers::of_blob(1);
        for hash in [1, 2, 3, 1, 4, 5] {
            makers = makers.with(named("", hash));
        }
        let hashes: Vec<u8> = makers.newest_first.iter().map(|maker| maker.key.hash[0]).collect();
        assert_eq!(hashes, [5, 4, 1, 3]);
    }

    #[test]
    fn long_names_are_cut_between_characters() {
        let head = Head { invocation: "é".repeat(40_000), ..head() };
        let (decoded, _) = Head::decode(head.encode(b"")).unwrap();
        assert_eq!(decoded.invocation, "é".repeat(32_767));
    }

    #[test]
    fn what_is_cut_short_is_refused() {
        let whole = head().encode(b"");
        for length in 0..whole.len() {
            assert!(Head::decode(whole.slice(..length)).is_err(), "{length} of {} bytes", whole.len());
        }
        let whole = Makers::of_blob(9).with(named("a/b", 1)).encode();
        for length in 0..whole.len() {
            assert!(Makers::decode(whole.slice(..length)).is_err(), "{length} of {} bytes", whole.len());
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let changed = |at: usize, byte: u8| {
            let mut bytes = head().encode(b"").to_vec();
            bytes[at] = byte;
            Head::decode(bytes.into())
        };
        let instance = 1 + 33 + 2;
        let nanoseconds = instance + "team/one".len() + 8 + 3;
        for (what, at, byte) in [
            ("a version to come", 0, 2),
            ("an unknown function", 1, 3),
            ("an instance that is no name", instance + 4, b'\n'),
            ("more nanoseconds than a second has", nanoseconds, 0xff),
        ] {
            assert!(changed(at, byte).is_err(), "{what}");
        }
        let mut longer = Makers::of_blob(9).encode().to_vec();
        longer.push(0);
        assert!(Makers::decode(longer.into()).is_err());
    }
}
