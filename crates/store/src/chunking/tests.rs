//! Both functions against what their reference implementations make of the same bytes, and what must hold for any bytes.

use super::*;
use mortar_model::ChunkingFunction::{FastCdc2020 as Fast, RepMaxCdc as RepMax};
use mortar_testkit::conformance::Random;
use std::collections::HashSet;

fn fast(average: u64, seed: u32) -> ChunkingParameters {
    let fast_cdc_2020 = mortar_model::FastCdc2020 { average, seed };
    ChunkingParameters { fast_cdc_2020, ..Default::default() }
}

fn rep_max(minimum: u64, horizon: u64) -> ChunkingParameters {
    let rep_max_cdc = mortar_model::RepMaxCdc { minimum, horizon };
    ChunkingParameters { rep_max_cdc, ..Default::default() }
}

/// The first `length` bytes of a seed, with the bits of `mask` only.
fn content(seed: u64, length: usize, mask: u8) -> Vec<u8> {
    Random::seeded(seed).bytes(length).iter().map(|byte| byte & mask).collect()
}

/// Cuts bytes that come in pieces of these sizes, over and over.
fn cut(
    parameters: ChunkingParameters,
    function: ChunkingFunction,
    bytes: &[u8],
    pieces: &[usize],
) -> Vec<Bytes> {
    check(&parameters).unwrap();
    let mut chunker = Chunker::new(&parameters, function);
    let (mut chunks, mut rest) = (Vec::new(), bytes);
    for piece in pieces.iter().cycle() {
        let (piece, after) = rest.split_at(rest.len().min(*piece));
        chunks.extend(chunker.push(piece));
        rest = after;
        if rest.is_empty() {
            break;
        }
    }
    chunks.extend(chunker.finish());
    chunks
}

fn lengths(chunks: &[Bytes]) -> Vec<usize> {
    chunks.iter().map(Bytes::len).collect()
}

/// Seed, length and mask of the content, minimum and horizon, and the lengths of the chunks.
type Case = (u64, usize, u8, u64, u64, &'static [usize]);

/// The lengths were printed by `buildbarn/go-cdc` v0.0.10, the implementation that the protocol refers to, for the same
/// bytes; its two implementations agreed on each.
#[test]
fn rep_max_cdc_cuts_as_its_reference_does() {
    #[rustfmt::skip]
    let cases: &[Case] = &[
        (1, 100_000, 0xff, 4096, 32768, &[
            4218, 4597, 6712, 6777, 5064, 5977, 7389, 4411, 4580, 5173, 4977, 7588, 4153, 4211, 4860, 6642, 5337, 7334,
        ]),
        (2, 20_001, 0xff, 1024, 100, &[
            1062, 1105, 1088, 1122, 1083, 1060, 1061, 1082, 1114, 1104, 1094, 1027, 1060, 1079, 1089, 1102, 1027, 1642,
        ]),
        (3, 50_000, 0x03, 2048, 16384, &[
            2255, 2049, 3171, 2851, 2949, 2136, 2999, 2669, 2605, 3943, 2289, 3009, 2319, 2603, 2527, 3971, 3555, 2100,
        ]),
        (4, 50_000, 0x00, 2048, 16384, &[
            2048, 2048, 2048, 2048, 2048, 2048, 2048, 2048, 2048, 2048, 2048, 2048, 2048, 2048, 2048, 2048, 2048, 2048,
            2048, 2048, 2048, 2048, 2048, 2896,
        ]),
        (5, 40_000, 0xff, 8192, 0, &[8192, 8192, 8192, 15424]),
        (6, 8 << 20, 0xff, 256 << 10, 2 << 20, &[
            349330, 366784, 274858, 264334, 268481, 345639, 275342, 266951, 398761, 302058, 265062, 376578, 267993,
            398617, 351367, 502935, 266694, 328822, 315908, 318858, 311028, 289233, 505633, 503708, 273634,
        ]),
    ];
    for (seed, length, mask, minimum, horizon, expected) in cases {
        let bytes = content(*seed, *length, *mask);
        let chunks = cut(rep_max(*minimum, *horizon), RepMax, &bytes, &[100_000]);
        assert_eq!(lengths(&chunks), *expected, "seed {seed}");
    }
}

/// Small chunks and a small horizon, so that a search often lies within one block of places and often does not.
#[test]
fn rep_max_cdc_finds_the_same_ends_as_a_search_of_every_place() {
    for (seed, minimum, horizon) in [(7, 64, 512), (8, 64, 40_000), (9, 1000, 7777), (10, 3000, 1)] {
        let bytes = content(seed, 120_000, 0xff);
        let expected = search(&bytes, minimum, horizon);
        let chunks = cut(rep_max(minimum as u64, horizon as u64), RepMax, &bytes, &[1, 5000]);
        assert_eq!(lengths(&chunks), expected, "seed {seed}");
    }
}

/// RepMaxCDC as it is defined, with every hash from its 64 bytes.
fn search(bytes: &[u8], minimum: usize, horizon: usize) -> Vec<usize> {
    let hash = |place: usize| {
        let window = &bytes[place - gear::WINDOW..place];
        window.iter().fold(0u64, |hash, byte| (hash << 1).wrapping_add(gear::GEAR[usize::from(*byte)]))
    };
    let hashes: Vec<u64> = (0..=bytes.len()).map(|place| if place < 64 { 0 } else { hash(place) }).collect();
    let (mut start, mut lengths) = (0, Vec::new());
    while start < bytes.len() {
        let window = (bytes.len() - start).min(2 * minimum + horizon);
        let mut length = window;
        let mut last = start + window.saturating_sub(minimum);
        while length >= 2 * minimum {
            let places = start + minimum..=last;
            let best = places.rev().max_by_key(|place| hashes[*place]).unwrap();
            length = best - start;
            last = best - minimum;
        }
        lengths.push(length);
        start += length;
    }
    lengths
}

/// The `fastcdc` crate is one of the two implementations that the protocol refers to.
#[test]
fn fast_cdc_cuts_as_its_reference_does() {
    use fastcdc::v2020::{FastCDC, Normalization::Level2};
    let mut cases = vec![(11, 6 << 20, 0xff, 512 << 10, 0), (12, 6_000_001, 0xff, 512 << 10, 666)];
    for (index, seed) in [0, 1, 666, u32::MAX].into_iter().enumerate() {
        let small = 20 + index as u64;
        cases.extend([(small, 100_001, 0xff, 1 << 10, seed), (small, 200_000, 0x03, 4 << 10, seed)]);
        cases.extend([(small, 70_003, 0x00, 1 << 10, seed), (small, 300_002, 0xff, 16 << 10, seed)]);
    }
    for length in [1, 255, 256, 257, 258, 259, 1023, 1025, 4095, 4096, 4097, 4099] {
        cases.push((30, length, 0x01, 1 << 10, 0));
    }
    for (seed, length, mask, average, table) in cases {
        let bytes = content(seed, length, mask);
        let size = average as usize;
        let reference =
            FastCDC::with_level_and_seed(&bytes, size / 4, size, size * 4, Level2, u64::from(table));
        let expected: Vec<_> = reference.map(|chunk| chunk.length).collect();
        let chunks = cut(fast(average, table), Fast, &bytes, &[64_000, 1]);
        assert_eq!(lengths(&chunks), expected, "seeds {seed} and {table}, {length} bytes");
    }
}

/// Printed by the `fastcdc` crate 5.0.0, so that a later version of it cannot take both along.
#[test]
fn fast_cdc_cuts_as_it_did() {
    let expected = [6957, 18202, 22407, 4725, 22792, 20285, 4633];
    assert_eq!(lengths(&cut(fast(16 << 10, 666), Fast, &content(2, 100_001, 0xff), &[100_001])), expected);
    let expected = [
        3571, 7903, 5450, 4959, 4698, 5511, 10159, 7120, 4750, 5528, 5210, 3135, 5405, 5607, 4615, 5135,
        2959, 4133, 4153,
    ];
    assert_eq!(lengths(&cut(fast(4 << 10, 666), Fast, &content(1, 100_001, 0xff), &[7])), expected);
}

fn both() -> [(ChunkingParameters, ChunkingFunction, usize, usize); 2] {
    [(fast(1 << 10, 0), Fast, 256, 4096), (rep_max(1 << 10, 8 << 10), RepMax, 1024, 2047)]
}

#[test]
fn chunks_are_the_blob_and_keep_to_their_sizes() {
    for (parameters, function, least, most) in both() {
        for length in [0, 1, 63, 64, 256, 1023, 1024, 2047, 2048, 4096, 50_001] {
            for mask in [0xff, 0x01, 0x00] {
                let bytes = content(40, length, mask);
                let chunks = cut(parameters, function, &bytes, &[999]);
                assert_eq!(chunks.concat(), bytes, "{function:?}, {length} bytes");
                let (last, others) = chunks.split_last().map_or((0, &[][..]), |(last, o)| (last.len(), o));
                assert!(others.iter().all(|chunk| (least..=most).contains(&chunk.len())), "{function:?}");
                let short = function == Fast || length < least;
                assert!(last <= most && (short || last >= least), "{function:?}: the last has {last} bytes");
            }
        }
    }
}

#[test]
fn the_sizes_of_pieces_do_not_matter() {
    let bytes = content(50, 60_000, 0xff);
    for (parameters, function, ..) in both() {
        let expected = cut(parameters, function, &bytes, &[bytes.len()]);
        assert!(expected.len() > 10);
        for pieces in [&[1][..], &[63, 64, 65], &[4096], &[0, 10_000], &[59_999]] {
            assert_eq!(cut(parameters, function, &bytes, pieces), expected, "{function:?}, {pieces:?}");
        }
    }
}

#[test]
fn a_change_in_one_place_changes_the_chunks_there() {
    let before = content(60, 400_000, 0xff);
    let mut inserted = before.clone();
    inserted.splice(200_000..200_000, *b"a few bytes more");
    let mut removed = before.clone();
    removed.drain(100_000..100_100);
    for (parameters, function, ..) in both() {
        let known = cut(parameters, function, &before, &[8192]);
        let set: HashSet<_> = known.iter().collect();
        for changed in [&inserted, &removed] {
            let chunks = cut(parameters, function, changed, &[8192]);
            let new = chunks.iter().filter(|chunk| !set.contains(chunk)).count();
            assert!((1..=12).contains(&new), "{function:?}: {new} of {} chunks are new", chunks.len());
        }
    }
}

#[test]
fn a_chunker_holds_no_more_than_its_reach() {
    let bytes = content(70, 1 << 20, 0xff);
    for (parameters, function, ..) in both() {
        let mut chunker = Chunker::new(&parameters, function);
        for piece in bytes.chunks(10_000) {
            chunker.push(piece);
            assert!(chunker.window.len() < chunker.cutter.reach());
        }
    }
}

#[test]
fn parameters_outside_the_protocol_s_ranges_are_refused() {
    assert!(check(&ChunkingParameters::default()).is_ok());
    let bad = [fast(1000, 0), fast(512, 0), fast(16 << 20, 0), rep_max(63, 0), rep_max(16 << 20, 0)];
    for parameters in bad.into_iter().chain([rep_max(64, 65 << 20)]) {
        assert!(check(&parameters).is_err(), "{parameters:?}");
    }
}
