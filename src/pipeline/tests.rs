//! Round trips through both directions of the pipeline, and everything that can break in between.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

use super::*;
use crate::chain;
use crate::encryption::{Identities, Lock};
use crate::manifest::{Artifact, Encoding, Format};

mod sealed;

const MIB: usize = 1 << 20;

fn options(encoding: Encoding) -> PackOptions {
    let codec = Codec::new(encoding, 1).unwrap_or(Codec { encoding, level: 0 });
    PackOptions { codec, estimate: None, max_parts: None, part_size: None, stall: Duration::from_secs(60) }
}

/// Compressible, and different everywhere.
fn sample(len: usize) -> Vec<u8> {
    let mut state = 1u32;
    (0..len)
        .map(|i| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            if i % 3 == 0 { (state >> 24) as u8 } else { (i / 1000) as u8 }
        })
        .collect()
}

async fn pack(
    engine: &Engine,
    source: impl AsyncRead + Send + Unpin + 'static,
    options: PackOptions,
) -> Result<(Vec<Vec<u8>>, Packed), PackError> {
    pack_with(engine, source, options, None).await
}

async fn pack_with(
    engine: &Engine,
    source: impl AsyncRead + Send + Unpin + 'static,
    options: PackOptions,
    lock: Option<&Lock>,
) -> Result<(Vec<Vec<u8>>, Packed), PackError> {
    let seal = match lock {
        Some(lock) => Some(engine.seal(lock).await?),
        None => None,
    };
    let admission = engine.admit(options).await;
    let mut packer = Packer::new(engine, source, options, admission, seal);
    let mut parts = Vec::new();
    while let Some(part) = packer.next().await? {
        parts.push(part.concat());
    }
    Ok((parts, packer.finish()))
}

fn artifact(encoding: Encoding, packed: &Packed) -> Artifact {
    Artifact {
        path: "media/media.tar".parse().expect("a path"),
        format: Format::Tar,
        encoding,
        encryption: None,
        database: None,
        raw_bytes: packed.raw_bytes,
        stored_bytes: packed.stored_bytes,
        sha256: packed.sha256.clone(),
        blake3: packed.blake3.clone(),
    }
}

async fn read_back(artifact: &Artifact, stored: Vec<u8>) -> io::Result<Vec<u8>> {
    let chunks: Vec<io::Result<Bytes>> = stored.chunks(100_000).map(|c| Ok(Bytes::copy_from_slice(c))).collect();
    let mut raw = Vec::new();
    unpack(artifact, &Identities::default(), stream::iter(chunks)).read_to_end(&mut raw).await.map(|_| raw)
}

fn engine() -> Engine {
    Engine::new(Budget::new(16 * MIB), 2)
}

const ENCODINGS: [Encoding; 3] = [Encoding::Gzip, Encoding::Zstd, Encoding::None];

#[tokio::test]
async fn every_length_around_the_boundaries_comes_back() {
    for encoding in ENCODINGS {
        for len in [0, 1, MIB - 1, MIB, MIB + 1, 3 * MIB, 8 * MIB, 9 * MIB, 21 * MIB + 7] {
            let raw = sample(len);
            let (parts, packed) = pack(&engine(), io::Cursor::new(raw.clone()), options(encoding)).await.expect("packed");
            let stored = parts.concat();
            assert_eq!((packed.raw_bytes, packed.stored_bytes), (len as u64, stored.len() as u64));
            let back = read_back(&artifact(encoding, &packed), stored).await.expect("read back");
            assert!(back == raw, "{encoding:?}, {len} bytes");
        }
    }
}

#[tokio::test]
async fn every_part_but_the_last_has_the_same_size() {
    let raw = sample(33 * MIB);
    let options = PackOptions { part_size: Some(5 << 20), ..options(Encoding::None) };
    let (parts, _) = pack(&engine(), io::Cursor::new(raw), options).await.expect("packed");
    let sizes: Vec<usize> = parts.iter().map(Vec::len).collect();
    assert_eq!(sizes, [5 * MIB, 5 * MIB, 5 * MIB, 5 * MIB, 5 * MIB, 5 * MIB, 3 * MIB]);
}

#[tokio::test]
async fn stock_tools_read_what_is_stored() {
    let raw = sample(5 * MIB);
    for (encoding, tool) in [(Encoding::Gzip, "gzip"), (Encoding::Zstd, "zstd")] {
        let (parts, _) = pack(&engine(), io::Cursor::new(raw.clone()), options(encoding)).await.expect("packed");
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), parts.concat()).expect("written");
        let output = std::process::Command::new(tool)
            .args(["-d", "-c"])
            .stdin(std::fs::File::open(file.path()).expect("opened"))
            .output()
            .unwrap_or_else(|e| panic!("{tool} is needed: run ./test, which installs it ({e})"));
        assert!(output.status.success() && output.stdout == raw, "{tool}");
    }
}

#[tokio::test]
async fn no_flipped_byte_and_no_cut_comes_back_as_an_end() {
    for encoding in ENCODINGS {
        let (parts, packed) = pack(&engine(), io::Cursor::new(sample(300_000)), options(encoding)).await.expect("packed");
        let stored = parts.concat();
        let artifact = artifact(encoding, &packed);
        // the first bytes are the gzip header's, some of which no decoder looks at
        for at in (0..16).chain((16..stored.len()).step_by(stored.len() / 97 + 1)).chain([stored.len() - 1]) {
            let mut flipped = stored.clone();
            flipped[at] ^= 0x10;
            let error = read_back(&artifact, flipped).await.expect_err("damaged");
            assert!(chain::find::<UnpackError>(&error).is_some_and(UnpackError::is_damage), "{encoding:?} at {at}: {error}");
            let error = read_back(&artifact, stored[..at].to_vec()).await.expect_err("cut");
            assert!(chain::find::<UnpackError>(&error).is_some_and(UnpackError::is_damage), "{encoding:?} cut at {at}: {error}");
        }
        let longer = [stored.as_slice(), stored.as_slice()].concat();
        assert!(read_back(&artifact, longer).await.is_err(), "{encoding:?} twice");
    }
}

#[tokio::test]
async fn a_small_object_that_unpacks_to_much_is_cut_at_its_recorded_length() {
    let (parts, packed) = pack(&engine(), io::Cursor::new(vec![0; 64 * MIB]), options(Encoding::Zstd)).await.expect("packed");
    let artifact = Artifact { raw_bytes: 10, ..artifact(Encoding::Zstd, &packed) };
    let error = read_back(&artifact, parts.concat()).await.expect_err("too long");
    assert!(matches!(chain::find(&error), Some(UnpackError::RawSize { expected: 10, found, .. }) if *found <= MIB as u64), "{error}");
}

/// Yields `data`, then fails or stands still.
struct Broken {
    data: io::Cursor<Vec<u8>>,
    stands_still: bool,
}

impl AsyncRead for Broken {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if (self.data.position() as usize) < self.data.get_ref().len() {
            return Pin::new(&mut self.data).poll_read(cx, buf);
        }
        if self.stands_still { Poll::Pending } else { Poll::Ready(Err(io::Error::other("the dump failed"))) }
    }
}

#[tokio::test]
async fn a_source_that_fails_even_after_its_last_byte_is_an_error() {
    for len in [0, 1, MIB, 9 * MIB] {
        let source = Broken { data: io::Cursor::new(sample(len)), stands_still: false };
        let error = pack(&engine(), source, options(Encoding::Gzip)).await.expect_err("failed");
        assert!(matches!(&error, PackError::Read(e) if e.to_string() == "the dump failed"), "{error:?}");
    }
}

#[tokio::test]
async fn a_codec_that_fails_and_a_thread_or_a_reader_that_dies_are_errors() {
    let options = |level| PackOptions { codec: Codec { encoding: Encoding::Gzip, level }, ..options(Encoding::Gzip) };
    let error = pack(&engine(), io::Cursor::new(sample(3 * MIB)), options(99)).await.expect_err("no such level");
    assert!(matches!(error, PackError::Encode(_)), "{error:?}");
    let error = pack(&engine(), io::Cursor::new(sample(3 * MIB)), options(encode::PANICS)).await.expect_err("panicked");
    assert!(matches!(error, PackError::Compressor), "{error:?}");

    struct Panics;
    impl AsyncRead for Panics {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            panic!("on purpose")
        }
    }
    let error = pack(&engine(), Panics, options(1)).await.expect_err("panicked");
    assert!(matches!(error, PackError::Reader), "{error:?}");
}

/// The target stores a part only when no more come: as slow as a target can be.
#[tokio::test]
async fn a_target_that_is_much_slower_than_the_source_holds_no_more_than_the_budget() {
    let (engine, options) = (engine(), options(Encoding::None));
    let source = AsyncReadExt::take(tokio::io::repeat(7), 64 << 20);
    let admission = engine.admit(options).await;
    let mut packer = Packer::new(&engine, source, options, admission, None);
    let (out, mut parts) = tokio::sync::mpsc::unbounded_channel();
    let packing = tokio::spawn(async move {
        while let Some(part) = packer.next().await.expect("packed") {
            out.send(part).expect("somebody stores it");
        }
        drop(out);
        packer.finish().raw_bytes
    });
    let bytes = |part: &Vec<Bytes>| part.iter().map(Bytes::len).sum::<usize>();
    let (mut held, mut stored) = (VecDeque::new(), 0);
    loop {
        match tokio::time::timeout(Duration::from_millis(50), parts.recv()).await {
            Ok(Some(part)) => {
                held.push_back(part);
                let under_way: usize = held.iter().map(bytes).sum();
                assert!(under_way <= 16 * MIB, "{under_way} bytes are under way");
            }
            Ok(None) => break,
            Err(_) => stored += held.pop_front().as_ref().map_or(0, bytes),
        }
    }
    stored += held.iter().map(bytes).sum::<usize>();
    assert_eq!((stored, packing.await.expect("it ended")), (64 * MIB, 64 << 20));
}

#[tokio::test]
async fn a_part_larger_than_the_budget_is_cut_to_it() {
    let engine = Engine::new(Budget::new(8 * MIB), 2);
    let options = PackOptions { part_size: Some(64 << 20), ..options(Encoding::None) };
    let (parts, packed) = pack(&engine, io::Cursor::new(sample(20 * MIB)), options).await.expect("packed");
    assert_eq!(packed.raw_bytes, 20 << 20);
    assert!(parts.iter().all(|p| p.len() <= 5 * MIB), "{:?}", parts.iter().map(Vec::len).collect::<Vec<_>>());
}

/// A tree's archive: what is dense already and text by turns.
fn mixed() -> Vec<u8> {
    let mut dense = vec![0; 4 * MIB];
    StdRng::seed_from_u64(1).fill_bytes(&mut dense);
    let text: Vec<u8> =
        (0..400_000u32).flat_map(|i| format!("line {} of {}\n", i.wrapping_mul(2_654_435_761), i % 977).into_bytes()).collect();
    dense.chunks(100_000).zip(text.chunks(70_000)).flat_map(|(a, b)| [a, b].concat()).collect()
}

/// The reference is a single stream of the library that everybody has.
#[tokio::test]
async fn members_cost_at_most_two_percent_of_the_ratio_of_a_single_stream() {
    for raw in [mixed(), sample(5 * MIB)] {
        let mut reference = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
        io::Write::write_all(&mut reference, &raw).expect("compressed");
        let reference = reference.finish().expect("compressed").len() as u64;
        let options = PackOptions { codec: Codec::new(Encoding::Gzip, 0).expect("a codec"), ..options(Encoding::Gzip) };
        let (parts, packed) = pack(&engine(), io::Cursor::new(raw.clone()), options).await.expect("packed");
        assert!(packed.stored_bytes * 100 <= reference * 102, "{} to {reference}", packed.stored_bytes);
        assert!(read_back(&artifact(Encoding::Gzip, &packed), parts.concat()).await.expect("read back") == raw);
    }
}

#[tokio::test]
async fn a_source_that_stands_still_is_cut() {
    let stall = Duration::from_millis(20);
    let source = Broken { data: io::Cursor::new(sample(10)), stands_still: true };
    let error = pack(&engine(), source, PackOptions { stall, ..options(Encoding::None) }).await.expect_err("cut");
    assert!(matches!(error, PackError::Stalled(after) if after == stall), "{error:?}");
}

#[tokio::test]
async fn a_stored_stream_that_breaks_is_out_of_reach_not_damaged() {
    let (parts, packed) = pack(&engine(), io::Cursor::new(sample(MIB)), options(Encoding::Gzip)).await.expect("packed");
    let chunks = vec![Ok(Bytes::from(parts.concat()).slice(..1000)), Err(io::Error::other("connection reset"))];
    let mut raw = Vec::new();
    let error = unpack(&artifact(Encoding::Gzip, &packed), &Identities::default(), stream::iter(chunks))
        .read_to_end(&mut raw)
        .await
        .expect_err("broken");
    assert!(matches!(chain::find(&error), Some(UnpackError::Fetch { .. })), "{error:?}");
}

#[tokio::test]
async fn more_streams_than_the_budget_holds_all_end() {
    let engine = Engine::new(Budget::new(8 * MIB), 2);
    let work = (0..12).map(|i| {
        let engine = engine.clone();
        async move { pack(&engine, io::Cursor::new(sample(5 * MIB + i)), options(Encoding::Gzip)).await.expect("packed").1.raw_bytes }
    });
    let sizes = futures_util::future::join_all(work).await;
    assert_eq!(sizes, (0..12).map(|i| (5 * MIB + i) as u64).collect::<Vec<_>>());
}

#[tokio::test]
async fn streams_that_outgrow_their_estimate_all_end() {
    // with this few parts every stream wants larger ones than the budget has room for
    let engine = Engine::new(Budget::new(24 * MIB), 2);
    let options = PackOptions { max_parts: Some(4), part_size: Some(5 << 20), ..options(Encoding::None) };
    let work = (0..3).map(|i| {
        let engine = engine.clone();
        async move { pack(&engine, io::Cursor::new(sample(40 * MIB + i)), options).await.expect("packed").1.raw_bytes }
    });
    let sizes = futures_util::future::join_all(work).await;
    assert_eq!(sizes, (0..3).map(|i| (40 * MIB + i) as u64).collect::<Vec<_>>());
}
