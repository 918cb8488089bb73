//! Gzip members that say how long they are, so that a reader need not decompress to find the next one.
//!
//! RFC 1952 has room for it in the extra field of a member's header (section 2.3.1.1), which every reader passes over. Ours holds one
//! subfield, `BK`: the length of the whole member as 32 bits, little-endian, as all numbers of the format are. With it, members are
//! decompressed one by one into memory, by the same library that made them, which is several times faster than a stream.

use std::io::{self, Chain, Cursor, Read};

use bytes::{Bytes, BytesMut};
use flate2::read::MultiGzDecoder;
use libdeflater::{Compressor, Decompressor, crc32};

use super::block::BLOCK;

/// Bytes before the deflate stream: magic, deflate, extra field present; no time; no hint; unknown system; 8 bytes of extra field.
const HEADER: usize = 20;
const FIXED: [u8; 16] = [0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 255, 8, 0, b'B', b'K', 4, 0];

/// Bytes after it: CRC-32 and length of what was compressed.
const TRAILER: usize = 8;

/// Bytes that a member takes besides its deflate stream.
pub(super) const AROUND: usize = HEADER + TRAILER;

/// Bytes that a stream of foreign members hands on at once.
const FOREIGN: usize = 256 << 10;

/// Makes `bytes` a member at the beginning of `out`, which holds at least [`AROUND`] and the bound of the deflate stream. Its length.
pub(super) fn compress(compressor: &mut Compressor, bytes: &[u8], out: &mut [u8]) -> io::Result<usize> {
    let deflated = compressor.deflate_compress(bytes, &mut out[HEADER..]).map_err(io::Error::other)?;
    let end = HEADER + deflated;
    let length = u32::try_from(end + TRAILER).map_err(io::Error::other)?;
    let raw = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    out[..FIXED.len()].copy_from_slice(&FIXED);
    out[FIXED.len()..HEADER].copy_from_slice(&length.to_le_bytes());
    out[end..end + 4].copy_from_slice(&crc32(bytes).to_le_bytes());
    out[end + 4..end + TRAILER].copy_from_slice(&raw.to_le_bytes());
    Ok(end + TRAILER)
}

/// Reads members, ours and others, to the end of a stored stream.
pub struct Members<R> {
    state: State<R>,
    inflate: Decompressor,
    /// The member at hand.
    stored: Vec<u8>,
}

enum State<R> {
    Ours(R),
    /// From the first member on that does not say how long it is: there is no way back to the ones that do.
    Foreign(Box<MultiGzDecoder<Chain<Cursor<Vec<u8>>, R>>>),
    Over,
}

impl<R: Read> Members<R> {
    pub(super) fn new(stored: R) -> Self {
        Self { state: State::Ours(stored), inflate: Decompressor::new(), stored: Vec::new() }
    }

    /// What comes next of the raw stream; `None` at its end.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`] and [`io::ErrorKind::UnexpectedEof`] for what is no gzip, and those of the stored stream.
    pub(super) fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            match &mut self.state {
                State::Ours(source) => {
                    self.stored.resize(HEADER, 0);
                    let got = read_full(source, &mut self.stored)?;
                    if got == 0 {
                        self.state = State::Over;
                        return Ok(None);
                    }
                    self.stored.truncate(got);
                    match length(&self.stored) {
                        Some(length) => {
                            let raw = member(source, length, &mut self.stored, &mut self.inflate)?;
                            // no bytes are a member, too, and an empty block would be taken for the end
                            if !raw.is_empty() {
                                return Ok(Some(raw));
                            }
                        }
                        None => self.leave(),
                    }
                }
                State::Foreign(decoder) => {
                    let mut block = BytesMut::zeroed(FOREIGN);
                    let got = read_full(decoder, &mut block)?;
                    block.truncate(got);
                    return Ok((got > 0).then(|| block.freeze()));
                }
                State::Over => return Ok(None),
            }
        }
    }

    /// Hands what was read and what follows to a decoder that needs no lengths.
    fn leave(&mut self) {
        if let State::Ours(source) = std::mem::replace(&mut self.state, State::Over) {
            let read = Cursor::new(std::mem::take(&mut self.stored));
            self.state = State::Foreign(Box::new(MultiGzDecoder::new(read.chain(source))));
        }
    }
}

/// Of the whole member, if this is the header of one of ours; no larger than we make them.
fn length(header: &[u8]) -> Option<usize> {
    let length = header.strip_prefix(&FIXED)?.first_chunk::<4>().map(|bytes| u32::from_le_bytes(*bytes) as usize)?;
    (AROUND..=BLOCK).contains(&length).then_some(length)
}

/// Reads the rest of a member whose header is in `stored` and decompresses it.
fn member(source: &mut impl Read, length: usize, stored: &mut Vec<u8>, inflate: &mut Decompressor) -> io::Result<Bytes> {
    let invalid = |what: &'static str| io::Error::new(io::ErrorKind::InvalidData, what);
    stored.resize(length, 0);
    if read_full(source, &mut stored[HEADER..])? < length - HEADER {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a gzip member is cut"));
    }
    let (deflated, trailer) = stored[HEADER..].split_at(length - AROUND);
    let number = |at: usize| trailer.get(at..).and_then(|rest| rest.first_chunk::<4>()).map_or(0, |bytes| u32::from_le_bytes(*bytes));
    let (sum, size) = (number(0), number(4) as usize);
    if size > BLOCK {
        return Err(invalid("a gzip member claims to be larger than any of ours"));
    }
    let mut raw = BytesMut::zeroed(size);
    match inflate.deflate_decompress(deflated, &mut raw) {
        Ok(got) if got == size && crc32(&raw) == sum => Ok(raw.freeze()),
        Ok(_) => Err(invalid("the checksum of a gzip member does not match")),
        Err(_) => Err(invalid("a gzip member is no deflate stream")),
    }
}

/// Fills `buffer` as far as the stream goes; how far.
pub(super) fn read_full(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut n = 0;
    while n < buffer.len() {
        match reader.read(&mut buffer[n..]) {
            Ok(0) => break,
            Ok(read) => n += read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(n)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use libdeflater::CompressionLvl;

    use super::*;

    fn ours(raw: &[u8]) -> Vec<u8> {
        let mut compressor = Compressor::new(CompressionLvl::fastest());
        let mut out = vec![0; AROUND + compressor.deflate_compress_bound(raw.len())];
        let length = compress(&mut compressor, raw, &mut out).expect("compressed");
        out.truncate(length);
        out
    }

    fn foreign(raw: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(raw).expect("written");
        encoder.finish().expect("finished")
    }

    fn read(stored: &[u8]) -> io::Result<Vec<u8>> {
        let mut members = Members::new(stored);
        let mut raw = Vec::new();
        while let Some(block) = members.next()? {
            assert!(!block.is_empty());
            raw.extend_from_slice(&block);
        }
        Ok(raw)
    }

    #[test]
    fn members_of_ours_and_of_others_are_read_in_any_order() {
        let large = vec![b'x'; 3 << 20];
        let cases: [(Vec<Vec<u8>>, Vec<u8>); 6] = [
            (vec![], vec![]),
            (vec![ours(b"")], vec![]),
            (vec![ours(b"one "), ours(b""), ours(b"two")], b"one two".to_vec()),
            (vec![foreign(b"one "), ours(b"two")], b"one two".to_vec()),
            (vec![ours(b"one "), foreign(b"two "), ours(b"three")], b"one two three".to_vec()),
            (vec![foreign(&large)], large.clone()),
        ];
        for (members, expected) in cases {
            assert_eq!(read(&members.concat()).expect("read"), expected);
        }
    }

    #[test]
    fn what_is_written_is_plain_gzip() {
        let stored = [ours(b"one "), ours(&[7; 100_000])].concat();
        let mut raw = Vec::new();
        MultiGzDecoder::new(stored.as_slice()).read_to_end(&mut raw).expect("gzip");
        assert_eq!(raw, [b"one ".as_slice(), &[7; 100_000]].concat());
    }

    #[test]
    fn no_flipped_bit_and_no_cut_goes_unnoticed() {
        let whole = [ours(b"the first of them"), ours(b"the second")].concat();
        let raw = read(&whole).expect("sound");
        for cut in 1..whole.len() {
            // between two members is a place where a stream may end: the manifest knows its length
            assert!(read(&whole[..cut]).map_or(true, |read| raw.starts_with(&read) && read.len() < raw.len()), "cut at {cut}");
        }
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            // the header has bits without a meaning: they never change what is read
            assert!(read(&flipped).map_or(true, |read| read == raw), "bit {bit}");
        }
    }
}
