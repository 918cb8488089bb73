//! What an archive holds, summed up while it flows by: rows of each table, large objects.
//!
//! To hash the rows within the server would cost as much again as to dump them, since both put every value into words. Here the words are
//! those of the dump; what is left is a hash at the speed of memory. That the dump has all rows, the server's own count says.
//!
//! The format of the blocks is in [`super::archive`], which reads where this one is fed: whoever stores the stream must not wait.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use super::archive::Head;
use super::lines::{Lines, Object, Sum};

/// What the archives of a database hold.
#[derive(Debug, Default)]
pub struct Held {
    /// By the table's oid.
    pub rows: BTreeMap<u32, Sum>,
    pub large_objects: u64,
    pub large_object_hash: u128,
    /// Why some is missing: an archive that was not understood.
    pub broken: Option<&'static str>,
}

/// Shared by the archives of a database.
pub type Shared = Arc<Mutex<Held>>;

/// Where the reader stands.
enum At {
    Kind,
    Id(u8),
    /// Before the length of a chunk.
    Length,
    /// Before the number of a large object.
    Oid,
    Chunk(u64),
    /// Not understood, or not wanted any longer.
    Off,
}

/// One archive's blocks, from the first one on.
pub struct Tap {
    held: Shared,
    /// Oids of tables, by the numbers of their entries.
    tables: HashMap<i64, u32>,
    /// Large objects of an archive of rows are those of the main one once more.
    main: bool,
    at: At,
    number: [u8; 9],
    filled: usize,
    int_size: usize,
    table: Option<u32>,
    lines: Lines,
    object: Option<Object>,
}

impl std::fmt::Debug for Tap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tap").field("table", &self.table).finish_non_exhaustive()
    }
}

const DATA: u8 = 1;
const BLOBS: u8 = 3;

impl Tap {
    /// For the bytes that follow `head`, whose numbers have `int_size` bytes.
    pub fn new(head: &Head, int_size: usize, main: bool, held: Shared) -> Self {
        let tables = head.entries.iter().filter(|e| e.copy.is_some() && e.has_data).map(|e| (i64::from(e.id), e.oid)).collect();
        let at = if head.compressed { At::Off } else { At::Kind };
        let tap = Self { held, tables, main, at, number: [0; 9], filled: 0, int_size, table: None, lines: Lines::default(), object: None };
        if head.compressed {
            tap.held().broken = Some("pg_dump has compressed it");
        }
        tap
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn off(&mut self, why: &'static str) {
        self.held().broken = Some(why);
        self.at = At::Off;
    }

    pub fn feed(&mut self, mut bytes: &[u8]) {
        while let Some((first, rest)) = bytes.split_first() {
            match self.at {
                At::Off => return,
                At::Kind if matches!(*first, DATA | BLOBS) => {
                    self.at = At::Id(*first);
                    bytes = rest;
                }
                At::Kind => return self.off("it has a block of an unknown kind"),
                At::Chunk(left) => {
                    let n = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                    let (chunk, rest) = bytes.split_at(n);
                    match &mut self.object {
                        Some(object) => object.feed(chunk),
                        None => self.lines.feed(chunk),
                    }
                    let left = left - n as u64;
                    self.at = if left == 0 { At::Length } else { At::Chunk(left) };
                    bytes = rest;
                }
                At::Id(_) | At::Length | At::Oid => match self.take_number(&mut bytes) {
                    None => return,
                    Some(number) => self.step(number),
                },
            }
        }
    }

    /// `ReadInt`; `None`: more bytes are needed.
    fn take_number(&mut self, bytes: &mut &[u8]) -> Option<i64> {
        let wanted = 1 + self.int_size;
        let n = (wanted - self.filled).min(bytes.len());
        self.number[self.filled..self.filled + n].copy_from_slice(&bytes[..n]);
        *bytes = &bytes[n..];
        self.filled += n;
        if self.filled < wanted {
            return None;
        }
        self.filled = 0;
        let mut magnitude = [0; 8];
        magnitude[..self.int_size].copy_from_slice(&self.number[1..wanted]);
        // negative numbers have no place here, and neither have those that are too large
        Some(if self.number[0] == 0 { i64::from_le_bytes(magnitude) } else { -1 })
    }

    fn step(&mut self, number: i64) {
        match self.at {
            At::Id(DATA) => match self.tables.get(&number) {
                Some(oid) => {
                    self.table = Some(*oid);
                    self.at = At::Length;
                }
                None => self.off("it has rows of no table"),
            },
            At::Id(_) => self.at = At::Oid,
            At::Oid => match u32::try_from(number) {
                Ok(0) => self.at = At::Kind,
                Ok(oid) => {
                    self.object = Some(Object::new(oid));
                    self.at = At::Length;
                }
                Err(_) => self.off("it has a large object without a number"),
            },
            At::Length if number > 0 => self.at = At::Chunk(number.unsigned_abs()),
            At::Length if number == 0 => self.end(),
            _ => self.off("it has a length below zero"),
        }
    }

    /// Of a table's rows, or of one large object.
    fn end(&mut self) {
        if let Some(object) = self.object.take() {
            if self.main {
                let hash = object.finish();
                let mut held = self.held();
                held.large_objects += 1;
                held.large_object_hash = held.large_object_hash.wrapping_add(hash);
            }
            self.at = At::Oid;
            return;
        }
        let sum = std::mem::take(&mut self.lines).finish();
        if let Some(table) = self.table.take() {
            *self.held().rows.entry(table).or_default() += sum;
        }
        self.at = At::Kind;
    }
}

#[cfg(test)]
mod tests {
    use xxhash_rust::xxh3::xxh3_128;

    use super::*;
    use crate::component::postgres::archive::{Entry, Section};

    fn number(number: u32) -> Vec<u8> {
        [&[0][..], &number.to_le_bytes()].concat()
    }

    fn chunks(chunks: &[&[u8]]) -> Vec<u8> {
        let mut out: Vec<u8> = chunks.iter().flat_map(|c| [number(u32::try_from(c.len()).expect("short")), c.to_vec()].concat()).collect();
        out.extend(number(0));
        out
    }

    fn head() -> Head {
        let entry = |id, oid| Entry {
            id,
            oid,
            tag: "t".into(),
            kind: "TABLE DATA".into(),
            section: Section::Data,
            copy: Some("COPY t FROM stdin;\n".into()),
            has_data: true,
            ..Entry::default()
        };
        let entries = vec![entry(5, 16400), entry(6, 16401), entry(7, 16402)];
        Head { minor: 14, compressed: false, server: None, dump: None, entries, lossy: false, raw: Vec::new() }
    }

    fn fed(bytes: &[u8], step: usize, main: bool) -> Held {
        let held = Shared::default();
        let mut tap = Tap::new(&head(), 4, main, Arc::clone(&held));
        bytes.chunks(step).for_each(|piece| tap.feed(piece));
        drop(tap);
        Arc::into_inner(held).expect("the only one").into_inner().expect("not poisoned")
    }

    fn archive() -> Vec<u8> {
        [
            [&[DATA][..], &number(5), &chunks(&[b"1\t", b"x\n2\ty\n", b"\\.\n\n\n"])].concat(),
            [&[DATA][..], &number(6), &chunks(&[b"\\.\n\n\n"])].concat(),
            [&[BLOBS][..], &number(9), &number(424_242), &chunks(&[b"con", b"tent"]), &number(7), &chunks(&[]), &number(0)].concat(),
            [&[DATA][..], &number(7), &chunks(&[b"\n\n", b"\\.\n\n\n"])].concat(),
        ]
        .concat()
    }

    #[test]
    fn rows_and_large_objects_are_found_however_they_come() {
        let bytes = archive();
        for step in [1, 2, 3, 7, 64, 1 << 20] {
            let held = fed(&bytes, step, true);
            let rows: Vec<_> = held.rows.iter().map(|(oid, sum)| (*oid, sum.rows)).collect();
            assert_eq!(rows, [(16400, 2), (16401, 0), (16402, 2)], "in steps of {step}");
            assert_eq!(held.rows[&16400].hash, xxh3_128(b"1\tx").wrapping_add(xxh3_128(b"2\ty")));
            let object = |oid, bytes: &[u8]| {
                let mut object = Object::new(oid);
                object.feed(bytes);
                object.finish()
            };
            assert_eq!(held.large_object_hash, object(424_242, b"content").wrapping_add(object(7, b"")));
            assert_eq!((held.large_objects, held.broken), (2, None));
        }
        assert_eq!(fed(&bytes, 5, false).large_objects, 0, "they are in the main archive");
    }

    #[test]
    fn what_is_not_understood_is_said() {
        let broken = |bytes: &[u8]| fed(bytes, 3, true).broken;
        assert_eq!(broken(&[9]), Some("it has a block of an unknown kind"));
        assert_eq!(broken(&[&[DATA][..], &number(99)].concat()), Some("it has rows of no table"));
        assert_eq!(broken(&[&[DATA][..], &number(5), &[1, 1, 0, 0, 0]].concat()), Some("it has a length below zero"));
    }
}
