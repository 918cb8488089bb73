//! Which parts of a chunk are worth compressing.
//!
//! Photographs, archives and encrypted bytes do not shrink, and deflate is slowest on just these. An archive of a tree has them side by
//! side with text, so that the question is asked for every block, not for a chunk: first by a count of its byte values, which costs next
//! to nothing, then, for a run of blocks whose values are spread evenly, by trying to compress its beginning.

use std::ops::Range;

/// Bytes that are looked at as one.
const BLOCK: usize = 16 << 10;

/// Bytes of an even run that are compressed to see whether it repeats itself.
pub(super) const TRIAL: usize = 64 << 10;

/// A stretch of a chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) range: Range<usize>,
    /// Compressing it would gain next to nothing.
    pub(super) dense: bool,
}

/// Cuts `chunk` into stretches that are dense and stretches that are not, by turns. `shrinks` says whether the beginning of an even run
/// can be compressed. No bytes are no stretch.
pub(super) fn segments(chunk: &[u8], mut shrinks: impl FnMut(&[u8]) -> bool) -> Vec<Segment> {
    let mut runs: Vec<Segment> = Vec::new();
    let mut at = 0;
    for block in chunk.chunks(BLOCK) {
        push(&mut runs, Segment { range: at..at + block.len(), dense: block.len() == BLOCK && is_even(block) });
        at += block.len();
    }
    let mut segments = Vec::with_capacity(runs.len());
    for mut run in runs {
        run.dense = run.dense && !shrinks(&chunk[run.range.start..run.range.end.min(run.range.start + TRIAL)]);
        push(&mut segments, run);
    }
    segments
}

/// Adds a stretch, as a part of the last one where both are alike.
fn push(segments: &mut Vec<Segment>, next: Segment) {
    match segments.last_mut() {
        Some(last) if last.dense == next.dense => last.range.end = next.range.end,
        _ => segments.push(next),
    }
}

/// Whether the byte values of a block are spread so evenly that coding them by frequency gains at most about one percent: the sum of
/// the squared frequencies, times 256, is 1 for a perfectly even spread, and 9/8 at an entropy of 7.91 bits a byte. A quarter of the
/// bytes is counted, in pieces that hold every place of a word or a pixel.
fn is_even(block: &[u8]) -> bool {
    // four tables: neighbouring bytes are often equal, and would wait for one another's count
    let mut tables = [[0u32; 256]; 4];
    let mut counted = 0;
    for piece in block.chunks(64) {
        let (quads, _) = piece[..piece.len().min(16)].as_chunks::<4>();
        counted += 4 * quads.len() as u64;
        for quad in quads {
            for (table, byte) in tables.iter_mut().zip(quad) {
                table[usize::from(*byte)] += 1;
            }
        }
    }
    let squares: u64 = (0..256).map(|value| tables.iter().map(|table| u64::from(table[value])).sum::<u64>().pow(2)).sum();
    squares * 256 * 8 <= counted.pow(2) * 9
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngCore, SeedableRng};

    use super::*;

    fn random(len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        StdRng::seed_from_u64(1).fill_bytes(&mut bytes);
        bytes
    }

    fn dense(chunk: &[u8]) -> Vec<(usize, bool)> {
        segments(chunk, |_| false).into_iter().map(|s| (s.range.len(), s.dense)).collect()
    }

    #[test]
    fn even_bytes_are_dense_and_all_else_is_not() {
        let bytes = random(4 * BLOCK);
        assert_eq!(dense(&bytes), [(4 * BLOCK, true)]);
        // base64 and hexadecimal digits hold six and four bits a byte
        let base64: Vec<u8> = bytes.iter().map(|b| b % 64 + 32).collect();
        assert_eq!(dense(&base64), [(4 * BLOCK, false)]);
        assert_eq!(dense(&[]), []);
        assert_eq!(dense(&bytes[..BLOCK - 1]), [(BLOCK - 1, false)]);
    }

    #[test]
    fn a_chunk_is_cut_where_its_nature_changes() {
        let chunk = [random(2 * BLOCK), vec![b'a'; 3 * BLOCK], random(BLOCK), vec![b'b'; 5]].concat();
        assert_eq!(dense(&chunk), [(2 * BLOCK, true), (3 * BLOCK, false), (BLOCK, true), (5, false)]);
    }

    #[test]
    fn an_even_run_that_repeats_itself_is_compressed_with_its_neighbours() {
        let chunk = [vec![b'a'; BLOCK], random(2 * BLOCK), vec![b'b'; BLOCK]].concat();
        let all = segments(&chunk, |start| start.len() == 2 * BLOCK);
        assert_eq!(all, [Segment { range: 0..4 * BLOCK, dense: false }]);
    }
}
