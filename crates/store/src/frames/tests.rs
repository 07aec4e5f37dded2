//! Frames over random content: what comes back, what is refused, and what damage does.

use super::*;
use mortar_model::Encoding;
use mortar_testkit::conformance::Random;
use std::ops::Range;

/// Content that compresses about as well as source code.
fn text(random: &mut Random, length: usize) -> Vec<u8> {
    const WORDS: [&str; 12] =
        ["fn ", "let ", "bytes", "digest", "(", ")", ";\n    ", "self.", "store", "action", "match ", "0x"];
    let mut text = Vec::with_capacity(length + 8);
    while text.len() < length {
        match random.number() % 8 {
            0 => text.extend_from_slice(format!("{}", random.number() % 1000).as_bytes()),
            _ => text.extend_from_slice(WORDS[random.number() as usize % WORDS.len()].as_bytes()),
        }
    }
    text.truncate(length);
    text
}

/// Pushes frames through a decoder in pieces of at most `step` bytes.
fn inflate(frames: &[u8], expected: u64, step: usize) -> Result<Vec<u8>, Flaw> {
    let (mut inflate, mut content) = (Inflate::new(expected), Vec::new());
    for mut piece in frames.chunks(step) {
        while let Some(more) = inflate.next(&mut piece)? {
            content.extend_from_slice(&more);
            assert!(content.len() as u64 <= expected, "more than expected was given out");
        }
        assert!(piece.is_empty(), "input was left without need");
    }
    inflate.finish().map(|()| content)
}

/// A seekable file, made even where that is not worth its while would be refused.
fn seekable(content: &[u8]) -> Vec<u8> {
    let mut file = Vec::new();
    let length = compress(&content, content.len() as u64, &mut file, Level::default()).unwrap();
    assert_eq!(length, Some(file.len() as u64), "compressible content was left alone");
    file
}

fn part<F: ReadAt>(file: &Seekable<F>, part: Range<u64>, encoding: Encoding) -> Result<Vec<u8>, Flaw> {
    let (mut left, mut bytes) = (part, Vec::new());
    while let Some(piece) = file.piece(&mut left, encoding)? {
        assert!(!piece.is_empty());
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

#[test]
fn streams_of_any_make_come_back() {
    let mut random = Random::seeded(1);
    let content = text(&mut random, 700_000);
    let skippable = [&0x184d_2a53_u32.to_le_bytes()[..], &5_u32.to_le_bytes(), b"skip!"].concat();
    let one = zstd::encode_all(&content[..], 19).unwrap();
    let halves = [&content[..300_000], &content[300_000..]].map(|half| zstd::encode_all(half, 1).unwrap());
    for frames in [
        one.clone(),
        halves.concat(),
        [&halves[0][..], EMPTY_FRAME, &skippable, &halves[1], &skippable].concat(),
        content.chunks(1000).flat_map(|chunk| deflate(chunk).unwrap()).collect(),
        seekable(&content),
    ] {
        for step in [1, 7, 4096, usize::MAX] {
            assert!(inflate(&frames, 700_000, step).unwrap() == content, "in steps of {step}");
        }
    }
}

#[test]
fn nothing_is_no_content_with_and_without_a_frame() {
    for frames in [&b""[..], EMPTY_FRAME] {
        assert!(inflate(frames, 0, 3).unwrap().is_empty());
        assert!(matches!(inflate(frames, 1, 3), Err(Flaw::TooShort { expected: 1, actual: 0 })));
    }
}

#[test]
fn what_does_not_fit_is_told_apart() {
    let content = text(&mut Random::seeded(2), 10_000);
    let frame = deflate(&content).unwrap();
    assert!(matches!(inflate(&frame[..frame.len() - 1], 10_000, 99), Err(Flaw::CutOff { .. })));
    assert!(matches!(inflate(&frame, 10_001, 99), Err(Flaw::TooShort { actual: 10_000, .. })));
    assert!(matches!(inflate(&frame, 9_999, 99), Err(Flaw::TooLong { .. })));
    assert!(matches!(inflate(b"no frames at all", 10_000, 99), Err(Flaw::Garbage(_))));
    let followed = [&frame[..], b"garbage"].concat();
    assert!(matches!(inflate(&followed, 10_000, 99), Err(Flaw::Garbage(_))));
    let begun = [&frame[..], &frame[..3]].concat();
    assert!(matches!(inflate(&begun, 10_000, 99), Err(Flaw::CutOff { .. })));
}

#[test]
fn a_bomb_is_stopped_at_once() {
    let bomb = zstd::encode_all(&vec![0; 64 << 20][..], 3).unwrap();
    let (mut inflate, mut input) = (Inflate::new(1000), &bomb[..]);
    assert!(matches!(inflate.next(&mut input), Err(Flaw::TooLong { expected: 1000 })));
    assert_eq!(inflate.produced(), 1001, "one byte is enough to see that there is more");

    let endless: Vec<u8> = EMPTY_FRAME.iter().copied().cycle().take(EMPTY_FRAME.len() << 18).collect();
    assert!(matches!(self::inflate(&endless, 1000, 4096), Err(Flaw::Bloated { .. })));
}

#[test]
fn a_window_beyond_the_limit_is_refused() {
    let content = text(&mut Random::seeded(3), 1000);
    for (window_log, is_taken) in [(27, true), (28, false)] {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(window_log).unwrap();
        std::io::Write::write_all(&mut encoder, &content).unwrap();
        let frame = encoder.finish().unwrap();
        assert_eq!(inflate(&frame, 1000, 99).is_ok(), is_taken, "window of 2^{window_log} bytes");
    }
}

#[test]
fn the_decoder_knows_where_a_stream_may_end() {
    let content = text(&mut Random::seeded(4), 1000);
    let frame = deflate(&content).unwrap();
    let frames = [&frame[..], &frame[..]].concat();
    let mut inflate = Inflate::new(2000);
    for (at, byte) in frames.chunks(1).enumerate() {
        assert_eq!(inflate.at_boundary(), at % frame.len() == 0, "before byte {at}");
        let mut byte = byte;
        while inflate.next(&mut byte).unwrap().is_some() {}
    }
    assert!(inflate.at_boundary());
}

#[test]
fn any_part_of_a_file_comes_back_in_both_encodings() {
    let mut random = Random::seeded(5);
    let frame = FRAME_CONTENT as u64;
    for length in [1000, frame - 1, frame, frame + 1, 3 * frame, 3 * frame + 77] {
        let content = text(&mut random, length as usize);
        let bytes = seekable(&content);
        let file = Seekable::open(&bytes[..], bytes.len() as u64, length).unwrap();
        let mut parts = vec![0..length, 0..1, length - 1..length, length..length, 5..length - 5];
        parts.extend([frame, frame * 2].map(|edge| edge.min(length) - 3..(edge + 3).min(length)));
        parts.extend((0..10).map(|_| random.number() % length).map(|at| at..at + random_below(length - at)));
        for range in parts {
            let expected = &content[range.start as usize..range.end as usize];
            let plain = part(&file, range.clone(), Encoding::Identity).unwrap();
            assert!(plain == expected, "{range:?} of {length}");
            let frames = part(&file, range.clone(), Encoding::Zstd).unwrap();
            assert!(
                inflate(&frames, expected.len() as u64, 5000).unwrap() == expected,
                "{range:?} of {length}"
            );
        }
    }
}

fn random_below(limit: u64) -> u64 {
    Random::seeded(limit).number() % (limit + 1)
}

#[test]
fn whole_frames_are_passed_as_they_are() {
    let content = text(&mut Random::seeded(6), 3 * FRAME_CONTENT);
    let bytes = seekable(&content);
    let file = Seekable::open(&bytes[..], bytes.len() as u64, content.len() as u64).unwrap();
    let frames = part(&file, 0..content.len() as u64, Encoding::Zstd).unwrap();
    assert!(frames == bytes[..file.table().compressed_length() as usize], "the file without its table");
    let middle = file.table().frames()[1];
    let tail = part(&file, 1000..content.len() as u64, Encoding::Zstd).unwrap();
    assert!(tail.ends_with(&frames[middle.start as usize..]), "all but the first frame as they are");
}

#[test]
fn the_table_is_as_the_format_says() {
    // Checksums are XXH64, as published: 44bc2cf5ad770999 for `abc`.
    let mut codec = one_frame::Codec::new(3, true);
    assert_eq!(writer::checksum(&codec.compress(b"abc").unwrap()), 0xad77_0999);
    let content = text(&mut Random::seeded(7), FRAME_CONTENT + 5000);
    let bytes = seekable(&content);
    let table = SeekTable::read(&bytes, bytes.len() as u64).unwrap();
    assert_eq!(table.frames().len(), 2);
    for (entry, part) in table.frames().iter().zip(content.chunks(FRAME_CONTENT)) {
        let frame = &bytes[entry.start as usize..][..entry.length as usize];
        assert_eq!(zstd::decode_all(frame).unwrap(), part);
        assert_eq!(u32::from_le_bytes(*frame.last_chunk().unwrap()), entry.checksum);
    }
    assert_eq!(zstd::decode_all(&bytes[..]).unwrap(), content, "the file is a plain zstd stream");
}

#[test]
fn what_does_not_compress_is_left_alone_before_anything_is_written() {
    let mut random = Random::seeded(8);
    let noise = random.bytes(2_000_000).to_vec();
    let mut file = Vec::new();
    assert_eq!(compress(&noise, noise.len() as u64, &mut file, Level::default()).unwrap(), None);
    assert!(file.is_empty());
    // A compressible beginning is found out later.
    let mut misleading = noise.clone();
    misleading[..70_000].copy_from_slice(&text(&mut random, 70_000));
    assert_eq!(compress(&misleading, misleading.len() as u64, &mut file, Level::default()).unwrap(), None);
    for length in [0, 1, 50] {
        assert_eq!(compress(&text(&mut random, length), length as u64, &mut file, Level(1)).unwrap(), None);
    }
}

#[test]
fn small_blobs_shrink_and_grow() {
    let mut random = Random::seeded(9);
    for length in [64, 65, 1000, 100_000] {
        let content = text(&mut random, length);
        let frame = shrink(&content);
        if length >= 1000 {
            assert!(frame.is_some(), "{length} bytes of text were left alone");
        }
        let Some(frame) = frame else { continue };
        assert!(frame.len() <= length - length / 16);
        assert_eq!(grow(&frame, length).unwrap(), content);
        assert!(grow(&frame, length - 1).is_err() && grow(&frame, length + 1).is_err());
        assert!(grow(&frame[..frame.len() - 1], length).is_err());
        assert!(shrink(&random.bytes(length)).is_none(), "noise was compressed");
    }
    assert!(shrink(b"").is_none() && shrink(&[0; 63]).is_none());
}

#[test]
fn a_flipped_bit_is_an_error_or_changes_nothing() {
    let content = text(&mut Random::seeded(10), 3000);
    let mut bytes = seekable(&content);
    let length = content.len() as u64;
    for bit in 0..bytes.len() * 8 {
        bytes[bit / 8] ^= 1 << (bit % 8);
        let read = Seekable::open(&bytes[..], bytes.len() as u64, length)
            .and_then(|file| part(&file, 0..length, Encoding::Identity));
        if let Ok(read) = read {
            assert!(read == content, "bit {bit}: other content");
        }
        if let Ok(read) = inflate(&bytes, length, usize::MAX) {
            assert!(read == content, "bit {bit}: other content from the stream");
        }
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
}

#[test]
fn a_truncated_file_is_an_error() {
    let content = text(&mut Random::seeded(11), 3000);
    let bytes = seekable(&content);
    for end in 0..bytes.len() {
        let file = &bytes[..end];
        assert!(Seekable::open(file, end as u64, 3000).is_err(), "cut at {end}");
        // Also where it is shorter than its owner believes.
        assert!(Seekable::open(file, bytes.len() as u64, 3000).is_err(), "lost from {end}");
    }
    let file = Seekable::open(&bytes[..], bytes.len() as u64, 3001);
    assert!(file.unwrap_err().to_string().contains("3000"));
}

#[test]
fn flaws_blame_whom_the_frames_come_from() {
    let digest = Digest::of(Default::default(), b"abc");
    let flaws = || {
        let io = std::io::Error::other("refused");
        [
            Flaw::TooLong { expected: 3 },
            Flaw::Garbage("Unknown frame descriptor"),
            Flaw::CutOff { content: 1 },
        ]
        .into_iter()
        .map(|flaw| (flaw, Blame::Client))
        .chain([(Flaw::Io(io), Blame::Server)])
    };
    for (flaw, blame) in flaws() {
        let error = flaw.of_upload(digest);
        assert_eq!(error.blame(), blame, "{error}");
        assert!(error.to_string().contains(&digest.to_string()), "{error}");
    }
    for (flaw, _) in flaws() {
        let error = flaw.at_rest(digest);
        assert_eq!(error.blame(), Blame::Server, "{error}");
        assert!(error.to_string().contains(&digest.to_string()), "{error}");
    }
}
