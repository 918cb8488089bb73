//! The hash of a file's content, the same wherever its holes are.
//!
//! A file is taken in blocks of 4096 bytes. Blocks of nothing but zeros are not hashed but counted, so that a hole of a terabyte costs
//! nothing, and a file system that keeps holes elsewhere, or none, gives the same hash. Without such blocks it is the BLAKE3 of the content;
//! with them, the BLAKE3 of a mark, the BLAKE3 of all other blocks, and the BLAKE3 of the runs of zero blocks (first block and their
//! number, 8 bytes each, little-endian).

use blake3::Hasher;

/// Bytes of a block.
const BLOCK: usize = 4096;

static ZEROS: [u8; BLOCK] = [0; BLOCK];

/// Set before the hashes of a file that has blocks of zeros.
const MARK: &[u8] = b"blocks of zeros\0";

/// The hash of a content.
pub type Hash = [u8; 32];

/// The hash of a whole content that lies in memory.
pub fn hash(content: &[u8]) -> Hash {
    if content.chunks(BLOCK).any(is_zeros) {
        let mut hasher = Content::default();
        hasher.update(content);
        return hasher.finish();
    }
    *blake3::hash(content).as_bytes()
}

/// A content that comes in pieces of any size.
#[derive(Default)]
pub struct Content {
    data: Hasher,
    runs: Option<Box<Hasher>>,
    /// The run of zero blocks that is not over: first block, blocks.
    run: Option<(u64, u64)>,
    /// Bytes so far.
    at: u64,
    /// The block at hand has something else than zeros, and was hashed up to here.
    kept: bool,
}

impl Content {
    /// The next bytes.
    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let within = self.within();
            if within > 0 || bytes.len() < BLOCK {
                let (piece, rest) = bytes.split_at(bytes.len().min(BLOCK - within));
                self.piece(piece);
                bytes = rest;
                continue;
            }
            let kept = bytes.chunks_exact(BLOCK).take_while(|block| !is_zeros(block)).count();
            if kept == 0 {
                self.zero_blocks(1);
                bytes = &bytes[BLOCK..];
                continue;
            }
            let (blocks, rest) = bytes.split_at(kept * BLOCK);
            self.data.update(blocks);
            self.at += blocks.len() as u64;
            bytes = rest;
        }
    }

    /// As many zeros, without looking at them.
    pub fn skip(&mut self, mut zeros: u64) {
        while zeros > 0 {
            let within = self.within();
            if within == 0 && zeros >= BLOCK as u64 {
                let blocks = zeros / BLOCK as u64;
                self.zero_blocks(blocks);
                zeros -= blocks * BLOCK as u64;
                continue;
            }
            let piece = usize::try_from(zeros).map_or(BLOCK - within, |zeros| zeros.min(BLOCK - within));
            self.piece(&ZEROS[..piece]);
            zeros -= piece as u64;
        }
    }

    pub fn finish(mut self) -> Hash {
        if self.within() > 0 {
            self.end_block();
        }
        self.end_run();
        let data = self.data.finalize();
        let Some(runs) = self.runs else { return *data.as_bytes() };
        *Hasher::new().update(MARK).update(data.as_bytes()).update(runs.finalize().as_bytes()).finalize().as_bytes()
    }

    /// Bytes of the block at hand that came already.
    fn within(&self) -> usize {
        usize::try_from(self.at % BLOCK as u64).unwrap_or(0)
    }

    /// A part of the block at hand.
    fn piece(&mut self, piece: &[u8]) {
        if !self.kept && !is_zeros(piece) {
            // the zeros before it belong to it after all
            let before = self.within();
            self.data.update(&ZEROS[..before]);
            self.kept = true;
        }
        if self.kept {
            self.data.update(piece);
        }
        self.at += piece.len() as u64;
        if self.within() == 0 {
            self.end_block();
        }
    }

    /// The block that ends at `at` is complete.
    fn end_block(&mut self) {
        if !std::mem::take(&mut self.kept) {
            self.note((self.at - 1) / BLOCK as u64, 1);
        }
    }

    fn zero_blocks(&mut self, blocks: u64) {
        self.note(self.at / BLOCK as u64, blocks);
        self.at += blocks * BLOCK as u64;
    }

    fn note(&mut self, first: u64, blocks: u64) {
        match &mut self.run {
            Some((start, run)) if *start + *run == first => *run += blocks,
            _ => {
                self.end_run();
                self.run = Some((first, blocks));
            }
        }
    }

    fn end_run(&mut self) {
        if let Some((first, blocks)) = self.run.take() {
            let runs = self.runs.get_or_insert_with(Box::default);
            runs.update(&first.to_le_bytes()).update(&blocks.to_le_bytes());
        }
    }
}

/// Compared rather than looked through: that is done many bytes at a time.
fn is_zeros(bytes: &[u8]) -> bool {
    bytes == &ZEROS[..bytes.len()]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_content_without_blocks_of_zeros_has_the_hash_that_b3sum_prints() {
        for content in [&b""[..], b"x", &[7; 10_000], &[&[0; 4095][..], b"x"].concat()] {
            assert_eq!(hash(content), *blake3::hash(content).as_bytes(), "{} bytes", content.len());
        }
    }

    #[test]
    fn where_the_zeros_are_matters() {
        let at = |block: usize| {
            let mut content = vec![0; 5 * BLOCK];
            content[block * BLOCK] = 1;
            hash(&content)
        };
        let hashes: std::collections::BTreeSet<_> = (0..5).map(at).collect();
        assert_eq!(hashes.len(), 5);
        let lengths: std::collections::BTreeSet<_> = [0, 1, 4095, 4096, 4097, 8192, 8193].map(|length| hash(&vec![0; length])).into();
        assert_eq!(lengths.len(), 4, "the length is told apart elsewhere; blocks are counted here");
    }

    #[test]
    fn a_huge_hole_costs_nothing() {
        let mut content = Content::default();
        content.update(b"x");
        content.skip(1 << 50);
        content.update(b"y");
        content.finish();
    }

    proptest! {
        /// Runs of zeros and of other bytes, given as data or skipped, in pieces of any size.
        #[test]
        fn any_split_gives_the_same_hash(
            parts in prop::collection::vec((any::<bool>(), 0usize..10_000), 0..8), piece in 1usize..9000, skip in any::<bool>()
        ) {
            let whole: Vec<u8> = parts.iter().flat_map(|(zeros, length)| vec![if *zeros { 0 } else { 7 }; *length]).collect();
            let mut content = Content::default();
            for (zeros, length) in parts {
                if zeros && skip {
                    content.skip(length as u64);
                    continue;
                }
                for piece in vec![if zeros { 0 } else { 7 }; length].chunks(piece) {
                    content.update(piece);
                }
            }
            prop_assert_eq!(content.finish(), hash(&whole));
        }
    }
}
