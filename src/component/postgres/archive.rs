//! The custom format of `pg_dump` as a stream: its head (what there is), then its blocks (the data), to its end.
//!
//! After PostgreSQL's `src/bin/pg_dump/pg_backup_archiver.c` (`ReadHead`, `ReadToc`, `ReadInt`, `ReadStr`) and `pg_backup_custom.c`
//! (`_readBlockHeader`, `_PrintData`, `_LoadLOs`, `_ReadExtraToc`), versions 1.14 (PostgreSQL 14, 15), 1.15 (16) and 1.16 (17, 18):
//!
//! ```text
//! archive = head block*
//! head    = "PGDMP" major minor revision intSize offSize format compression date database server-version pg_dump-version
//!           count entry{count}
//! block   = 1 dump-id chunk* 0                       rows of a table, as COPY writes them
//!         | 3 dump-id (oid chunk* 0)* 0              large objects
//! chunk   = length byte{length}
//! ```
//!
//! Numbers are a sign byte and `intSize` bytes, little endian. An archive that went through a pipe has no offsets: blocks are found by
//! reading. Input is hostile: lengths are bounded before anything is allocated, and a file that ends early is an error, never an end.

use std::collections::BTreeSet;
use std::io;

use bytes::BytesMut;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt};

const MAGIC: &[u8] = b"PGDMP";

/// `archCustom` of `pg_backup.h`.
const CUSTOM: u8 = 1;

/// Minor versions of format 1 that are understood.
const MINORS: std::ops::RangeInclusive<u8> = 14..=16;

/// Most bytes of a head: 100,000 objects take about 100 MB.
const MAX_HEAD: usize = 512 << 20;

/// Most entries of a head. In a hostile one they may take many times as much memory as bytes.
const MAX_ENTRIES: i64 = 1 << 20;

/// Bytes that are read at once.
const BUFFER: usize = 256 << 10;

/// `BLK_DATA` and `BLK_BLOBS` of `pg_backup_custom.c`.
const DATA: u8 = 1;
const BLOBS: u8 = 3;

/// Whether what begins with `bytes` is an archive of a version that is understood; `WriteHead`.
pub fn is_known(bytes: &[u8]) -> bool {
    matches!(bytes.strip_prefix(MAGIC), Some([1, minor, ..]) if MINORS.contains(minor))
}

/// Why a stream is no archive that can be read.
#[derive(Debug, Error)]
pub enum ArchiveError {
    /// The stream's own error; only its end says whether the bytes were sound.
    #[error("read the archive")]
    Read(#[source] io::Error),
    #[error("it does not begin as an archive of pg_dump's custom format")]
    Magic,
    #[error("its format is {major}.{minor}, which is not understood")]
    Version { major: u8, minor: u8 },
    #[error("it ends within {0}")]
    Cut(&'static str),
    #[error("it is malformed: {0}")]
    Malformed(&'static str),
    #[error("it lacks the data of {} entries, such as {}", .0.len(), .0.first().map_or("none", String::as_str))]
    Missing(Vec<String>),
}

/// `teSection` of `pg_backup.h`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Section {
    #[default]
    /// ENCODING and the like; ACL and COMMENT, which belong to what stands before them.
    None,
    PreData,
    Data,
    PostData,
}

/// One entry of the table of contents.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entry {
    /// Positive, and of this entry alone.
    pub id: i32,
    /// Of the catalog's row, for a `TABLE DATA` the table's; 0: none is recorded.
    pub oid: u32,
    /// The object's name.
    pub tag: String,
    /// `TABLE`, `TABLE DATA`, `ACL`, …
    pub kind: String,
    pub section: Section,
    /// The schema, of what has one.
    pub namespace: Option<String>,
    /// `COPY … FROM stdin;`, of a `TABLE DATA`.
    pub copy: Option<String>,
    /// The setting of an `ENCODING`; not kept of other entries.
    pub setting: Option<String>,
    /// The role that owns it, of what is owned.
    pub owner: Option<String>,
    /// Numbers of what it depends on, not all of which are entries.
    pub dependencies: Vec<i32>,
    /// Whether a block with its data follows.
    pub has_data: bool,
}

/// All that stands before the data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Minor version of format 1.
    pub minor: u8,
    /// Whether the blocks are compressed by `pg_dump` itself.
    pub compressed: bool,
    /// Version of the server, as it said.
    pub server: Option<String>,
    /// Version of the `pg_dump`, as it said.
    pub dump: Option<String>,
    pub entries: Vec<Entry>,
    /// Whether some name or statement is not UTF-8: what the entries say of it is not exact.
    pub lossy: bool,
    /// The head as it stands in the archive.
    pub raw: Vec<u8>,
}

impl Head {
    /// `1.14`.
    pub fn version(&self) -> String {
        format!("1.{}", self.minor)
    }

    /// The entries that a run of `pg_restore` with `--section` takes for each: one without a section belongs to the one before it
    /// (`ProcessArchiveRestoreOptions`).
    pub fn sections(&self) -> impl Iterator<Item = (&Entry, Section)> {
        self.entries.iter().scan(Section::PreData, |current, entry| {
            if entry.section != Section::None {
                *current = entry.section;
            }
            Some((entry, *current))
        })
    }

    /// The encoding of names and rows, `UTF8` for most.
    pub fn encoding(&self) -> Option<&str> {
        let setting = self.entries.iter().find(|e| e.kind == "ENCODING")?.setting.as_deref()?;
        let (_, quoted) = setting.split_once('\'')?;
        Some(quoted.split_once('\'')?.0)
    }
}

/// The beginning of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Block {
    /// Rows; the id of their entry.
    Rows(i32),
    /// Large objects; the id of their entry.
    LargeObjects(i32),
}

impl Block {
    pub fn id(self) -> i32 {
        match self {
            Self::Rows(id) | Self::LargeObjects(id) => id,
        }
    }
}

/// Where the reader stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// Before a block, or at the end.
    Block,
    /// Before the length of a chunk; of a large object, if the flag is set.
    Length(bool),
    /// Before the number of a large object.
    Oid,
    /// Within a chunk, of which so many bytes are left.
    Chunk(usize, bool),
}

/// What came next within a block.
enum Step {
    /// So many bytes of a chunk are in the buffer; they are to be taken.
    Bytes(usize),
    /// A number of the frame.
    Number(i64),
    /// The number that ends the block.
    End(i64),
}

/// An archive whose head was read.
#[derive(Debug)]
pub struct Archive<R> {
    input: Input<R>,
    at: At,
    int_size: usize,
}

impl<R: AsyncRead + Unpin> Archive<R> {
    /// Reads the head of `source`.
    ///
    /// # Errors
    /// [`ArchiveError`].
    pub async fn open(source: R) -> Result<(Head, Self), ArchiveError> {
        let mut input = Input { source, buffer: vec![0; BUFFER], start: 0, end: 0, kept: Some(Vec::new()) };
        let (head, int_size) = read_head(&mut input).await?;
        Ok((head, Self { input, at: At::Block, int_size }))
    }

    /// What was read beyond the head, and the source, where the next bytes are; to be called before anything else is read.
    pub fn into_rest(self) -> (Vec<u8>, R) {
        let Input { source, mut buffer, start, end, .. } = self.input;
        buffer.truncate(end);
        buffer.drain(..start);
        (buffer, source)
    }

    /// Bytes of a number, without its sign.
    pub fn int_size(&self) -> usize {
        self.int_size
    }

    /// The next block, after what is left of the one before it; `None` at the archive's end, where the source has ended too.
    ///
    /// # Errors
    /// [`ArchiveError`].
    pub async fn next_block(&mut self) -> Result<Option<Block>, ArchiveError> {
        while self.at != At::Block {
            match self.step().await? {
                Step::Bytes(n) => self.input.start += n,
                Step::Number(_) | Step::End(_) => {}
            }
        }
        if self.input.available() == 0 && !self.input.fill().await? {
            return Ok(None);
        }
        let kind = self.input.byte("a block").await?;
        let id = self.number("a block").await?;
        let id = i32::try_from(id).ok().filter(|id| *id > 0).ok_or(ArchiveError::Malformed("a block of no entry"))?;
        match kind {
            DATA => {
                self.at = At::Length(false);
                Ok(Some(Block::Rows(id)))
            }
            BLOBS => {
                self.at = At::Oid;
                Ok(Some(Block::LargeObjects(id)))
            }
            _ => Err(ArchiveError::Malformed("an unknown kind of block")),
        }
    }

    /// Appends to `rows` what follows in a block of rows, until `rows` has `limit` bytes or the block ends. `false`: it has ended.
    ///
    /// # Errors
    /// [`ArchiveError`].
    pub async fn rows(&mut self, rows: &mut BytesMut, limit: usize) -> Result<bool, ArchiveError> {
        while rows.len() < limit {
            if self.at == At::Block {
                return Ok(false);
            }
            match self.step().await? {
                Step::Bytes(n) => rows.extend_from_slice(self.input.take(n)),
                Step::Number(_) | Step::End(_) => {}
            }
        }
        Ok(true)
    }

    /// As [`Self::rows`], for any block, with its frame, as it stands in the archive; without the head of the block, see
    /// [`Self::block_head`].
    ///
    /// # Errors
    /// [`ArchiveError`].
    pub async fn raw(&mut self, out: &mut BytesMut, limit: usize) -> Result<bool, ArchiveError> {
        while out.len() < limit {
            if self.at == At::Block {
                return Ok(false);
            }
            match self.step().await? {
                Step::Bytes(n) => out.extend_from_slice(self.input.take(n)),
                Step::Number(number) | Step::End(number) => encode(number, self.int_size, out),
            }
        }
        Ok(true)
    }

    /// How a block begins.
    pub fn block_head(&self, block: Block) -> BytesMut {
        let kind = if matches!(block, Block::Rows(_)) { DATA } else { BLOBS };
        let mut out = BytesMut::from(&[kind][..]);
        encode(block.id().into(), self.int_size, &mut out);
        out
    }

    /// Reads the source to its end, whatever it holds.
    ///
    /// # Errors
    /// The source's own.
    pub async fn drain(&mut self) -> io::Result<()> {
        tokio::io::copy(&mut self.input.source, &mut tokio::io::sink()).await.map(|_| ())
    }

    async fn step(&mut self) -> Result<Step, ArchiveError> {
        const WHERE: &str = "a block";
        match self.at {
            At::Block => Err(ArchiveError::Malformed("no block")),
            At::Oid => {
                let oid = self.number(WHERE).await?;
                self.at = if oid == 0 { At::Block } else { At::Length(true) };
                Ok(if oid == 0 { Step::End(0) } else { Step::Number(oid) })
            }
            At::Length(large) => {
                let length = self.number(WHERE).await?;
                let bytes = usize::try_from(length).map_err(|_| ArchiveError::Malformed("a chunk of negative length"))?;
                self.at = match (bytes, large) {
                    (0, true) => At::Oid,
                    (0, false) => At::Block,
                    _ => At::Chunk(bytes, large),
                };
                Ok(if self.at == At::Block { Step::End(0) } else { Step::Number(length) })
            }
            At::Chunk(left, large) => {
                if self.input.available() == 0 && !self.input.fill().await? {
                    return Err(ArchiveError::Cut(WHERE));
                }
                let n = left.min(self.input.available());
                self.at = if n == left { At::Length(large) } else { At::Chunk(left - n, large) };
                Ok(Step::Bytes(n))
            }
        }
    }

    async fn number(&mut self, within: &'static str) -> Result<i64, ArchiveError> {
        self.input.number(self.int_size, within).await
    }
}

/// Reads an archive to its end: its head, every block, and that no entry lacks its data.
///
/// # Errors
/// [`ArchiveError`].
pub async fn walk(source: impl AsyncRead + Unpin) -> Result<Head, ArchiveError> {
    let (head, mut archive) = Archive::open(source).await?;
    let mut missing: BTreeSet<i32> = head.entries.iter().filter(|e| e.has_data).map(|e| e.id).collect();
    while let Some(block) = archive.next_block().await? {
        if !missing.remove(&block.id()) {
            return Err(ArchiveError::Malformed("a block of no entry, or a second one"));
        }
    }
    if missing.is_empty() {
        return Ok(head);
    }
    let names = head.entries.iter().filter(|e| missing.contains(&e.id)).map(|e| format!("{} {}", e.kind, e.tag));
    Err(ArchiveError::Missing(names.collect()))
}

/// `WriteInt`.
fn encode(number: i64, int_size: usize, out: &mut BytesMut) {
    out.extend_from_slice(&[u8::from(number < 0)]);
    out.extend_from_slice(&number.unsigned_abs().to_le_bytes()[..int_size]);
}

/// `ReadHead` and `ReadToc`; also the size of a number.
async fn read_head<R: AsyncRead + Unpin>(input: &mut Input<R>) -> Result<(Head, usize), ArchiveError> {
    const WHERE: &str = "its head";
    let mut magic = [0; MAGIC.len()];
    for byte in &mut magic {
        *byte = match input.byte(WHERE).await {
            Err(ArchiveError::Cut(_)) => return Err(ArchiveError::Magic),
            byte => byte?,
        };
    }
    if magic != MAGIC {
        return Err(ArchiveError::Magic);
    }
    let (major, minor, _revision) = (input.byte(WHERE).await?, input.byte(WHERE).await?, input.byte(WHERE).await?);
    if major != 1 || !MINORS.contains(&minor) {
        return Err(ArchiveError::Version { major, minor });
    }
    let int_size = usize::from(input.byte(WHERE).await?);
    let offset_size = usize::from(input.byte(WHERE).await?);
    if !(1..=8).contains(&int_size) || !(1..=8).contains(&offset_size) {
        return Err(ArchiveError::Malformed("numbers of an unknown size"));
    }
    if input.byte(WHERE).await? != CUSTOM {
        return Err(ArchiveError::Malformed("not the custom format"));
    }
    let compressed = if minor >= 15 { input.byte(WHERE).await? != 0 } else { input.number(int_size, WHERE).await? != 0 };
    for _date in 0..7 {
        input.number(int_size, WHERE).await?;
    }
    let mut toc = Toc { input, int_size, lossy: false };
    let _database = toc.text().await?;
    let (server, dump) = (toc.text().await?, toc.text().await?);
    let count = toc.number().await?;
    if count > MAX_ENTRIES {
        return Err(ArchiveError::Malformed("more entries than any database has"));
    }
    let mut entries = Vec::new();
    let mut ids = BTreeSet::new();
    for _ in 0..count {
        let entry = toc.entry(minor, offset_size).await?;
        if !ids.insert(entry.id) {
            return Err(ArchiveError::Malformed("two entries of one number"));
        }
        entries.push(entry);
    }
    let lossy = toc.lossy;
    let raw = input.kept.take().unwrap_or_default();
    Ok((Head { minor, compressed, server, dump, entries, lossy, raw }, int_size))
}

/// The table of contents while it is read.
struct Toc<'a, R> {
    input: &'a mut Input<R>,
    int_size: usize,
    lossy: bool,
}

impl<R: AsyncRead + Unpin> Toc<'_, R> {
    const WHERE: &'static str = "its table of contents";

    async fn number(&mut self) -> Result<i64, ArchiveError> {
        self.input.number(self.int_size, Self::WHERE).await
    }

    /// `ReadStr`; a negative length is NULL.
    async fn text(&mut self) -> Result<Option<String>, ArchiveError> {
        let Ok(length) = usize::try_from(self.number().await?) else { return Ok(None) };
        let bytes = self.input.bytes(length, Self::WHERE).await?;
        Ok(Some(String::from_utf8(bytes).unwrap_or_else(|error| {
            self.lossy = true;
            String::from_utf8_lossy(error.as_bytes()).into_owned()
        })))
    }

    async fn entry(&mut self, minor: u8, offset_size: usize) -> Result<Entry, ArchiveError> {
        let id = i32::try_from(self.number().await?).ok().filter(|id| *id > 0);
        let id = id.ok_or(ArchiveError::Malformed("an entry without a number"))?;
        let _had_dumper = self.number().await?;
        let (_class, oid) = (self.text().await?, self.text().await?);
        let oid = oid.and_then(|oid| oid.parse().ok()).unwrap_or(0);
        let tag = self.text().await?.unwrap_or_default();
        let kind = self.text().await?.unwrap_or_default();
        let section = match self.number().await? {
            2 => Section::PreData,
            3 => Section::Data,
            4 => Section::PostData,
            _ => Section::None,
        };
        let setting = self.text().await?.filter(|_| kind == "ENCODING");
        let _drop = self.text().await?;
        let copy = self.text().await?.filter(|copy| !copy.is_empty());
        let namespace = self.text().await?.filter(|namespace| !namespace.is_empty());
        let (_tablespace, _access_method) = (self.text().await?, self.text().await?);
        if minor >= 16 {
            let _relation_kind = self.number().await?;
        }
        let (owner, _with_oids) = (self.text().await?, self.text().await?);
        let mut dependencies = Vec::new();
        while let Some(on) = self.text().await? {
            dependencies.extend(on.parse::<i32>().ok());
        }
        // `_ReadExtraToc`: 3 is K_OFFSET_NO_DATA
        let has_data = self.input.byte(Self::WHERE).await? != 3;
        self.input.bytes(offset_size, Self::WHERE).await?;
        Ok(Entry { id, oid, tag, kind, section, namespace, copy, setting, owner, dependencies, has_data })
    }
}

/// A source with a buffer before it.
#[derive(Debug)]
struct Input<R> {
    source: R,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// What was taken so far, while the head is read.
    kept: Option<Vec<u8>>,
}

impl<R: AsyncRead + Unpin> Input<R> {
    fn available(&self) -> usize {
        self.end - self.start
    }

    /// Reads more; `false` at the source's end.
    async fn fill(&mut self) -> Result<bool, ArchiveError> {
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        let read = self.source.read(&mut self.buffer[self.end..]).await.map_err(ArchiveError::Read)?;
        self.end += read;
        Ok(read > 0)
    }

    fn take(&mut self, n: usize) -> &[u8] {
        let from = self.start;
        self.start += n;
        &self.buffer[from..from + n]
    }

    /// Takes `n` bytes, which are in the buffer, into what is kept.
    fn keep(&mut self, n: usize) -> Result<&[u8], ArchiveError> {
        let from = self.start;
        self.start += n;
        let taken = &self.buffer[from..from + n];
        if let Some(kept) = &mut self.kept {
            if kept.len() + n > MAX_HEAD {
                return Err(ArchiveError::Malformed("a head beyond all measure"));
            }
            kept.extend_from_slice(taken);
        }
        Ok(taken)
    }

    async fn byte(&mut self, within: &'static str) -> Result<u8, ArchiveError> {
        if self.available() == 0 && !self.fill().await? {
            return Err(ArchiveError::Cut(within));
        }
        Ok(self.keep(1)?[0])
    }

    /// `ReadInt`.
    async fn number(&mut self, int_size: usize, within: &'static str) -> Result<i64, ArchiveError> {
        while self.available() <= int_size {
            if !self.fill().await? {
                return Err(ArchiveError::Cut(within));
            }
        }
        let taken = self.keep(int_size + 1)?;
        let mut bytes = [0; 8];
        bytes[..int_size].copy_from_slice(&taken[1..]);
        let number = i64::from_le_bytes(bytes);
        if number < 0 {
            return Err(ArchiveError::Malformed("a number beyond all measure"));
        }
        Ok(if taken[0] == 0 { number } else { -number })
    }

    /// Memory grows with what comes, not with what was announced.
    async fn bytes(&mut self, length: usize, within: &'static str) -> Result<Vec<u8>, ArchiveError> {
        let mut bytes = Vec::with_capacity(length.min(BUFFER));
        while bytes.len() < length {
            if self.available() == 0 && !self.fill().await? {
                return Err(ArchiveError::Cut(within));
            }
            let n = (length - bytes.len()).min(self.available());
            bytes.extend_from_slice(self.keep(n)?);
        }
        Ok(bytes)
    }
}

#[cfg(test)]
#[path = "archive_tests.rs"]
mod tests;
