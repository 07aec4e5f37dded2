//! zstd frames: nothing is produced that was not announced, and a part is the same however it is read.

use mortar_model::Encoding;
use mortar_store::frames::{EMPTY_FRAME, Flaw, Inflate, Level, Seekable, compress, deflate, grow, shrink};
use std::ops::Range;

/// Two bytes of expected size, one of step, then frames.
pub fn inflate(data: &[u8]) -> String {
    let Some(([low, high, step], frames)) = data.split_first_chunk() else { return "too short".into() };
    let expected = u64::from(u16::from_le_bytes([*low, *high]));
    let at_once = inflated(frames, expected, usize::MAX);
    let stepwise = inflated(frames, expected, usize::from(*step).max(1));
    // zstd looks less closely at damaged frames that come piecemeal: what is refused may differ, what is taken may not.
    if let (Ok(at_once), Ok(stepwise)) = (&at_once, &stepwise) {
        assert!(at_once == stepwise, "steps of {step} make a difference");
    }
    outcome(at_once.map(|content| content.len()))
}

fn inflated(frames: &[u8], expected: u64, step: usize) -> Result<Vec<u8>, Flaw> {
    let (mut inflate, mut content) = (Inflate::new(expected), Vec::new());
    for mut piece in frames.chunks(step) {
        while let Some(more) = inflate.next(&mut piece)? {
            content.extend_from_slice(&more);
            assert!(content.len() as u64 <= expected, "{} bytes of {expected}", content.len());
        }
    }
    inflate.finish()?;
    assert_eq!(content.len() as u64, expected);
    Ok(content)
}

/// Three bytes of expected size, one that makes the owner's idea of the file's length wrong, four that choose a part;
/// then a file.
pub fn seekable(data: &[u8]) -> String {
    let Some(([a, b, c, off, part @ ..], file)) = data.split_first_chunk::<8>() else {
        return "too short".into();
    };
    let expected = u64::from(u32::from_le_bytes([*a, *b, *c, 0]));
    let length = (file.len() as u64).saturating_add_signed(i64::from(*off as i8));
    let opened = Seekable::open(file, length, expected);
    let Ok(opened) = opened else { return outcome(opened.map(drop)) };
    let [from, to] = [&part[..2], &part[2..]].map(|two| u64::from(two[0]) << 8 | u64::from(two[1]));
    let whole = read(&opened, 0..expected, Encoding::Identity);
    let range = from.min(expected)..to.min(expected);
    let plain = read(&opened, range.clone(), Encoding::Identity);
    let frames = read(&opened, range.clone(), Encoding::Zstd);
    if let Ok(whole) = &whole {
        assert_eq!(whole.len() as u64, expected);
        let part = whole.get(range.start as usize..range.end as usize).unwrap_or_default();
        assert_eq!(plain.as_ref().ok().map(Vec::as_slice), Some(part), "{range:?}");
        let frames = frames.as_ref().expect("what can be read can be read as frames");
        let again = inflated(frames, part.len() as u64, usize::MAX);
        assert_eq!(again.ok().as_deref(), Some(part), "{range:?} as frames");
    }
    format!("{} / {} / {}", outcome(whole), outcome(plain), outcome(frames))
}

fn read(file: &Seekable<&[u8]>, mut part: Range<u64>, encoding: Encoding) -> Result<Vec<u8>, Flaw> {
    let mut bytes = Vec::new();
    while let Some(piece) = file.piece(&mut part, encoding)? {
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

/// Two bytes of expected size, then what is taken for a frame, and for content.
pub fn one_frame(data: &[u8]) -> String {
    let Some(([low, high], rest)) = data.split_first_chunk() else { return "too short".into() };
    let expected = usize::from(u16::from_le_bytes([*low, *high]));
    let grown = grow(rest, expected);
    if let Ok(content) = &grown {
        assert_eq!(content.len(), expected);
    }
    let frame = deflate(rest).expect("any content can be compressed");
    assert_eq!(grow(&frame, rest.len()).expect("what was compressed can be decompressed"), rest);
    if let Some(shrunk) = shrink(rest) {
        assert!(shrunk.len() < rest.len());
        assert_eq!(grow(&shrunk, rest.len()).expect("what was shrunk can be grown"), rest);
    }
    outcome(grown)
}

fn outcome<T>(result: Result<T, Flaw>) -> String {
    match result {
        Ok(_) => "good".into(),
        Err(flaw) => flaw.to_string(),
    }
}

fn text(length: usize) -> Vec<u8> {
    b"fn main() { let store = Store::open(path)?; }\n".iter().copied().cycle().take(length).collect()
}

fn frame(content: &[u8]) -> Vec<u8> {
    deflate(content).expect("any content can be compressed")
}

/// One frame, several, skippable ones, none.
pub fn inflate_seeds() -> Vec<Vec<u8>> {
    let skippable = [&0x184d_2a50_u32.to_le_bytes()[..], &2_u32.to_le_bytes(), b"ok"].concat();
    let halves = [frame(&text(300)), skippable, EMPTY_FRAME.to_vec(), frame(&text(700))].concat();
    [(1000, frame(&text(1000))), (1000, halves), (0, EMPTY_FRAME.to_vec()), (3, frame(b"abc")), (0, vec![])]
        .into_iter()
        .map(|(expected, frames)| [&u16::to_le_bytes(expected)[..], &[7], &frames].concat())
        .collect()
}

/// Frames that are worth their while, and frames that are not.
pub fn one_frame_seeds() -> Vec<Vec<u8>> {
    [text(1000), text(60), b"abc".to_vec(), vec![]]
        .into_iter()
        .map(|content| [&(content.len() as u16).to_le_bytes()[..], &frame(&content)].concat())
        .collect()
}

/// A file of one frame, and one of two.
pub fn seekable_seeds() -> Vec<Vec<u8>> {
    [1000, 263_000]
        .into_iter()
        .map(|length| {
            let (content, mut file) = (text(length), Vec::new());
            let written = compress(&content, length as u64, &mut file, Level::default());
            assert!(matches!(written, Ok(Some(_))), "text is worth compressing");
            [&(length as u32).to_le_bytes()[..3], &[0, 0, 3, 2, 200], &file].concat()
        })
        .collect()
}
