//! Reads an archive member by member from any stream, in bounded memory, and trusts nothing in it.

use std::io::{BufRead, ErrorKind, Read};

use super::extensions::Extensions;
use super::header::{self, Fields};
use super::{ArchiveError, BLOCK, MAX_EXTENSION, MAX_EXTENTS, Member, MemberKind, Time, padding, pax, shown};

/// An archive that is being read.
pub struct Reader<R> {
    input: R,
    /// Content bytes of the current member that were not read yet, and the zeros after them.
    left: u64,
    padding: usize,
    /// For errors.
    current: String,
}

impl<R: BufRead> Reader<R> {
    pub fn new(input: R) -> Self {
        Self { input, left: 0, padding: 0, current: "the beginning".to_owned() }
    }

    /// The next member, past what is left of the current one; `None` after the end mark, when the whole stream was read to its end.
    ///
    /// # Errors
    /// [`ArchiveError`]; the reader cannot go on after it.
    pub fn next_member(&mut self) -> Result<Option<Member>, ArchiveError> {
        self.skip_rest()?;
        let mut extensions = Extensions::default();
        loop {
            let mut block = [0u8; BLOCK];
            if !self.block(&mut block)? {
                return Err(ArchiveError::NoEnd);
            }
            if block.iter().all(|b| *b == 0) {
                return self.finish().map(|()| None);
            }
            let fields = header::decode(&block).map_err(|problem| ArchiveError::Header { after: self.current.clone(), problem })?;
            match fields.kind {
                b'x' | b'L' | b'K' => {
                    let body = self.extension(&fields, &mut extensions)?;
                    extensions.take(fields.kind, &body).map_err(|problem| self.unsound(problem))?;
                }
                // what holds for all members is of no use here: comments of git and the like
                b'g' => drop(self.extension(&fields, &mut extensions)?),
                _ => return self.member(fields, extensions).map(Some),
            }
        }
    }

    /// Content of the current member, as much as is at hand; empty only at its end. [`Reader::consume`] says how much of it was used.
    ///
    /// # Errors
    /// [`ArchiveError`] when the stream fails or ends too early.
    pub fn data(&mut self) -> Result<&[u8], ArchiveError> {
        if self.left == 0 {
            return Ok(&[]);
        }
        loop {
            match self.input.fill_buf() {
                Ok([]) => return Err(ArchiveError::Truncated(self.current.clone())),
                Ok(_) => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(ArchiveError::Read(error)),
            }
        }
        let data = self.input.fill_buf().map_err(ArchiveError::Read)?;
        let length = usize::try_from(self.left).map_or(data.len(), |left| left.min(data.len()));
        Ok(&data[..length])
    }

    /// Goes on past so many bytes of what [`Reader::data`] gave.
    pub fn consume(&mut self, length: usize) {
        self.input.consume(length);
        self.left -= length as u64;
    }

    fn skip_rest(&mut self) -> Result<(), ArchiveError> {
        while self.left > 0 {
            let length = self.data()?.len();
            self.consume(length);
        }
        let mut zeros = [0u8; BLOCK];
        let padding = std::mem::take(&mut self.padding);
        self.exact(&mut zeros[..padding])
    }

    /// Fills `buffer` or fails.
    fn exact(&mut self, buffer: &mut [u8]) -> Result<(), ArchiveError> {
        self.input.read_exact(buffer).map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => ArchiveError::Truncated(self.current.clone()),
            _ => ArchiveError::Read(error),
        })
    }

    /// Reads a block; false when the stream ended before it.
    fn block(&mut self, block: &mut [u8; BLOCK]) -> Result<bool, ArchiveError> {
        let got = read_some(&mut self.input, &mut block[..])?;
        if got == 0 {
            return Ok(false);
        }
        self.exact(&mut block[got..]).map(|()| true)
    }

    /// The first block of zeros was read: the rest must be zeros too, up to the very end of the stream, which is where its hashes are known.
    fn finish(&mut self) -> Result<(), ArchiveError> {
        let mut rest = vec![0u8; 64 << 10];
        let mut zeros = 0u64;
        loop {
            let got = read_some(&mut self.input, &mut rest)?;
            if got == 0 {
                return if zeros >= BLOCK as u64 { Ok(()) } else { Err(ArchiveError::NoEnd) };
            }
            if rest[..got].iter().any(|b| *b != 0) {
                let problem = "something follows the end of the archive";
                return Err(ArchiveError::Header { after: self.current.clone(), problem });
            }
            zeros += got as u64;
        }
    }

    /// The body of an extension header; all those of one member together are bounded.
    fn extension(&mut self, fields: &Fields, extensions: &mut Extensions) -> Result<Vec<u8>, ArchiveError> {
        extensions.bytes = extensions.bytes.saturating_add(fields.size).saturating_add(BLOCK as u64);
        let length = usize::try_from(fields.size).ok().filter(|_| extensions.bytes <= MAX_EXTENSION + 4 * BLOCK as u64);
        let length = length.ok_or_else(|| self.unsound("it is too large"))?;
        let mut body = vec![0u8; length + padding(fields.size)];
        self.exact(&mut body)?;
        body.truncate(length);
        Ok(body)
    }

    fn unsound(&self, problem: &'static str) -> ArchiveError {
        ArchiveError::Extension { after: self.current.clone(), problem }
    }

    fn member(&mut self, fields: Fields, extensions: Extensions) -> Result<Member, ArchiveError> {
        let name = extensions.sparse_name.or(extensions.path).unwrap_or(fields.name);
        self.current = shown(&name);
        let link = extensions.link.unwrap_or(fields.link);
        let id = |id: u64| u32::try_from(id).map_err(|_| self.unsound("an owner is out of range"));
        let device = |number: u64| u32::try_from(number).map_err(|_| self.unsound("a device number is out of range"));
        let (uid, gid) = (id(extensions.uid.unwrap_or(fields.uid))?, id(extensions.gid.unwrap_or(fields.gid))?);
        let mut size = extensions.size.unwrap_or(fields.size);
        let kind = match fields.kind {
            b'0' | b'7' | 0 => MemberKind::File,
            b'1' => MemberKind::HardLink(normal(&link)),
            b'2' => MemberKind::Symlink(link),
            b'3' => MemberKind::CharDevice { major: device(fields.major)?, minor: device(fields.minor)? },
            b'4' => MemberKind::BlockDevice { major: device(fields.major)?, minor: device(fields.minor)? },
            b'5' => MemberKind::Directory,
            b'6' => MemberKind::Fifo,
            other => return Err(ArchiveError::Unsupported { path: self.current.clone(), kind: char::from(other) }),
        };
        if kind != MemberKind::File {
            size = 0;
        }
        self.left = size;
        self.padding = padding(size);
        let kind = match (kind, extensions.sparse) {
            (MemberKind::File, true) => {
                let real = extensions.sparse_real.ok_or_else(|| ArchiveError::SparseMap(self.current.clone()))?;
                let extents = self.sparse_map()?;
                if !map_is_sound(&extents, real, self.left) {
                    return Err(ArchiveError::SparseMap(self.current.clone()));
                }
                MemberKind::Sparse { real, extents }
            }
            (kind, _) => kind,
        };
        Ok(Member {
            path: normal(&name),
            kind,
            mode: u32::try_from(fields.mode & 0o7777).unwrap_or(0),
            uid,
            gid,
            user: extensions.user.unwrap_or(fields.user),
            group: extensions.group.unwrap_or(fields.group),
            modified: extensions.modified.unwrap_or(Time { seconds: fields.mtime, nanos: 0 }),
            xattrs: extensions.xattrs,
            size: self.left,
        })
    }

    /// The map at the beginning of the content: blocks of decimal numbers, one a line.
    fn sparse_map(&mut self) -> Result<Vec<(u64, u64)>, ArchiveError> {
        let broken = |this: &Self| ArchiveError::SparseMap(this.current.clone());
        let mut block = [0u8; BLOCK];
        let mut number = Vec::new();
        let mut count = None;
        let mut offset = None;
        let mut extents = Vec::new();
        while count.is_none_or(|count| (extents.len() as u64) < count) {
            if self.left < BLOCK as u64 {
                return Err(broken(self));
            }
            self.exact(&mut block)?;
            self.left -= BLOCK as u64;
            for byte in block {
                if byte != b'\n' {
                    if number.len() >= 20 {
                        return Err(broken(self));
                    }
                    number.push(byte);
                    continue;
                }
                let value = pax::decimal(&number).ok_or_else(|| broken(self))?;
                number.clear();
                match (count, offset.take()) {
                    (None, _) if value <= MAX_EXTENTS as u64 => count = Some(value),
                    (None, _) => return Err(broken(self)),
                    (Some(_), None) => offset = Some(value),
                    (Some(_), Some(offset)) => extents.push((offset, value)),
                }
                if count.is_some_and(|count| extents.len() as u64 == count) {
                    break;
                }
            }
        }
        Ok(extents)
    }
}

/// Ascending, apart, within the file, and together as long as what is stored.
fn map_is_sound(extents: &[(u64, u64)], real: u64, stored: u64) -> bool {
    let mut end = 0u64;
    let mut sum = 0u64;
    for (offset, length) in extents {
        let Some(next) = offset.checked_add(*length).filter(|next| *offset >= end && *next <= real) else { return false };
        end = next;
        sum += length;
    }
    sum == stored && i64::try_from(real).is_ok()
}

/// Without `./` in front and slashes at its end; anything else that is odd stays, for the unpacker to refuse.
fn normal(name: &[u8]) -> Vec<u8> {
    let mut name = name;
    while let Some(rest) = name.strip_prefix(b"./") {
        name = rest;
    }
    while let [rest @ .., b'/'] = name {
        if rest.is_empty() {
            break;
        }
        name = rest;
    }
    if name == b"." { Vec::new() } else { name.to_vec() }
}

fn read_some(input: &mut impl Read, buffer: &mut [u8]) -> Result<usize, ArchiveError> {
    loop {
        match input.read(buffer) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => return result.map_err(ArchiveError::Read),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::write;
    use super::*;

    fn archive(members: &[(Member, &[u8])]) -> Vec<u8> {
        let mut out = Vec::new();
        for (member, data) in members {
            write::member(member, &mut out).expect("small");
            out.extend_from_slice(data);
            out.resize(out.len() + padding(data.len() as u64), 0);
        }
        let end = write::end(out.len() as u64);
        out.extend_from_slice(&end);
        out
    }

    fn all(bytes: &[u8]) -> Result<Vec<(Member, Vec<u8>)>, ArchiveError> {
        let mut reader = Reader::new(bytes);
        let mut members = Vec::new();
        while let Some(member) = reader.next_member()? {
            let mut data = Vec::new();
            while !reader.data()?.is_empty() {
                let piece = reader.data()?.to_vec();
                reader.consume(piece.len());
                data.extend_from_slice(&piece);
            }
            members.push((member, data));
        }
        Ok(members)
    }

    fn sample() -> Vec<(Member, &'static [u8])> {
        let file = |path: &[u8]| Member { path: path.to_vec(), mode: 0o4751, size: 3, ..Member::default() };
        let of = |path: &[u8], kind| Member { path: path.to_vec(), kind, ..Member::default() };
        vec![
            (of(b"", MemberKind::Directory), b""),
            (file(b"a"), b"abc"),
            (Member { uid: u32::MAX - 1, gid: 3_000_000, ..file(&[0xff; 300]) }, b"abc"),
            (Member { modified: Time { seconds: -5, nanos: 7 }, ..file("ü/x".as_bytes()) }, b"abc"),
            (
                Member {
                    modified: Time { seconds: 1 << 40, nanos: 0 },
                    xattrs: vec![(b"user.a=".to_vec(), b"\0\n=".to_vec())],
                    ..file(b"x")
                },
                b"abc",
            ),
            (of(b"l", MemberKind::Symlink(vec![b'/'; 4000])), b""),
            (of(b"h", MemberKind::HardLink(b"a".to_vec())), b""),
            (of(b"f", MemberKind::Fifo), b""),
            (of(b"c", MemberKind::CharDevice { major: 259, minor: 70_000 }), b""),
            (of(b"b", MemberKind::BlockDevice { major: 8, minor: 1 }), b""),
            (Member { size: 5, ..of(b"d/sparse", MemberKind::Sparse { real: 1 << 40, extents: vec![(4096, 5), (1 << 40, 0)] }) }, b"abcde"),
            (of(b"empty-sparse", MemberKind::Sparse { real: 1 << 20, extents: vec![(1 << 20, 0)] }), b""),
        ]
    }

    #[test]
    fn what_was_written_is_read() {
        let read = all(&archive(&sample())).expect("sound");
        for ((written, data), (read, bytes)) in sample().iter().zip(&read) {
            assert_eq!((written, *data), (read, bytes.as_slice()));
        }
        assert_eq!(read.len(), sample().len());
    }

    #[test]
    fn a_cut_anywhere_is_an_error() {
        let whole = archive(&sample());
        let end = whole.len() - whole.iter().rev().take_while(|b| **b == 0).count();
        let end = end + padding(end as u64) + 2 * BLOCK;
        for cut in (0..end).step_by(97).chain([end - 1, end - BLOCK]) {
            assert!(all(&whole[..cut]).is_err(), "{cut}");
        }
        assert!(all(&whole[..end]).is_ok(), "the fill after the end mark may be missing");
    }

    #[test]
    fn a_hostile_size_does_not_claim_memory() {
        for kind in *b"xLKg" {
            let block = header::encode(&Fields { name: b"x".to_vec(), size: header::MAX_SIZE, kind, ..Fields::default() });
            assert!(matches!(all(&block), Err(ArchiveError::Extension { .. })), "{kind}");
        }
        let mut endless = Vec::new();
        for _ in 0..40_000 {
            endless.extend_from_slice(&header::encode(&Fields { name: b"x".to_vec(), kind: b'x', ..Fields::default() }));
        }
        assert!(matches!(all(&endless), Err(ArchiveError::Extension { .. })));
    }

    #[test]
    fn a_sparse_map_that_lies_is_refused() {
        for (extents, real, size) in [
            (vec![(0, 3)], 2, 3),
            (vec![(5, 3), (4, 2)], 10, 5),
            (vec![(u64::MAX, 3)], 10, 3),
            (vec![(0, 3)], 10, 4),
            (vec![(0, 3)], u64::MAX, 3),
        ] {
            let member = Member { path: b"s".to_vec(), kind: MemberKind::Sparse { real, extents }, size, ..Member::default() };
            let data = vec![b'x'; usize::try_from(size).expect("small")];
            assert!(matches!(all(&archive(&[(member, &data)])), Err(ArchiveError::SparseMap(_))));
        }
    }
}
