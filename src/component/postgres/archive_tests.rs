//! Against archives that are written here, byte by byte; those of real `pg_dump`s are read in the end-to-end tests.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::ReadBuf;

use super::*;

/// What it writes, and the minor version.
struct Writer(BytesMut, u8);

impl Writer {
    fn number(&mut self, number: i64) -> &mut Self {
        encode(number, 4, &mut self.0);
        self
    }

    fn text(&mut self, text: Option<&[u8]>) -> &mut Self {
        self.number(text.map_or(-1, |t| t.len() as i64));
        self.0.extend_from_slice(text.unwrap_or_default());
        self
    }

    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn head(minor: u8, entries: i64) -> Self {
        let mut writer = Self(BytesMut::from(&b"PGDMP"[..]), minor);
        writer.bytes(&[1, minor, 0, 4, 8, 1]);
        if minor >= 15 {
            writer.bytes(&[0])
        } else {
            writer.number(0)
        };
        for date in [1, 2, 3, 4, 5, 126, -1] {
            writer.number(date);
        }
        writer.text(Some(b"app")).text(Some(b"15.18")).text(Some(b"15.18")).number(entries);
        writer
    }

    fn entry(&mut self, id: i64, kind: &str, section: i64, tag: &[u8], defn: &str, copy: Option<&str>) -> &mut Self {
        self.number(id).number(1).text(Some(b"1259")).text(Some(b"16400")).text(Some(tag)).text(Some(kind.as_bytes())).number(section);
        self.text(Some(defn.as_bytes())).text(Some(b"")).text(copy.map(str::as_bytes)).text(Some(b"public"));
        self.text(None).text(Some(b"heap"));
        if self.1 >= 16 {
            self.number(i64::from(b'r'));
        }
        self.text(Some(b"owner")).text(Some(b"false")).text(Some(b"12")).text(None);
        self.bytes(&[if copy.is_some() || kind == "BLOBS" { 1 } else { 3 }]).bytes(&[0; 8])
    }
}

const ROWS: &[u8] = b"1\ta\n2\tb\n\\.\n\n\n";

fn sample(minor: u8) -> Vec<u8> {
    let mut w = Writer::head(minor, 4);
    w.entry(1, "ENCODING", 2, b"ENCODING", "SET client_encoding = 'LATIN1';\n", None);
    w.entry(5, "ACL", 1, b"TABLE t", "GRANT", None);
    w.entry(7, "TABLE DATA", 3, b"t", "", Some("COPY \"public\".\"t\" (\"a\") FROM stdin;\n"));
    w.entry(9, "BLOBS", 3, b"BLOBS", "", None);
    w.bytes(&[DATA]).number(7);
    for row in ROWS.split_inclusive(|b| *b == b'\n') {
        w.number(row.len() as i64).bytes(row);
    }
    w.number(0);
    // a number beyond i32::MAX is written with its sign
    w.bytes(&[BLOBS]).number(9).number(16_500).number(3).bytes(b"one").number(0).number(-5).number(0).number(0);
    w.0.to_vec()
}

/// Gives one byte at a time.
struct Trickle<'a>(&'a [u8]);

impl AsyncRead for Trickle<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some((first, rest)) = self.0.split_first() {
            buf.put_slice(&[*first]);
            self.0 = rest;
        }
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn what_there_is_and_its_data_are_read_in_every_version() {
    for minor in MINORS {
        let bytes = sample(minor);
        let (head, mut archive) = Archive::open(Trickle(&bytes)).await.expect("an archive");
        assert_eq!((head.version(), head.compressed, head.lossy), (format!("1.{minor}"), false, false));
        assert_eq!((head.server.as_deref(), head.encoding()), (Some("15.18"), Some("LATIN1")));
        let sections: Vec<_> = head.sections().map(|(e, s)| (e.id, s, e.has_data)).collect();
        let expected = [(1, Section::PreData, false), (5, Section::PreData, false), (7, Section::Data, true), (9, Section::Data, true)];
        assert_eq!(sections, expected);
        assert!(bytes.starts_with(&head.raw));

        let mut raw = BytesMut::from(&head.raw[..]);
        assert_eq!(archive.next_block().await.expect("a block"), Some(Block::Rows(7)));
        let mut rows = BytesMut::new();
        while archive.rows(&mut rows, usize::MAX).await.expect("rows") {}
        assert_eq!(rows, ROWS);
        let block = archive.next_block().await.expect("a block").expect("large objects");
        assert_eq!(block, Block::LargeObjects(9));
        raw.extend_from_slice(&archive.block_head(block));
        while archive.raw(&mut raw, usize::MAX).await.expect("large objects") {}
        assert_eq!(archive.next_block().await.expect("the end"), None);
        assert!(bytes.ends_with(&raw[head.raw.len()..]), "as it stands in the archive");
        walk(&bytes[..]).await.expect("sound");
    }
}

#[tokio::test]
async fn a_limit_is_kept_and_what_is_left_comes_next_or_is_skipped() {
    let bytes = sample(14);
    let (_, mut archive) = Archive::open(&bytes[..]).await.expect("an archive");
    archive.next_block().await.expect("a block");
    let mut rows = BytesMut::new();
    assert!(archive.rows(&mut rows, 5).await.expect("rows"));
    assert_eq!(&rows[..], b"1\ta\n2\tb\n", "whole chunks, at least the limit");
    assert_eq!(archive.next_block().await.expect("the next block"), Some(Block::LargeObjects(9)));
}

#[tokio::test]
async fn an_archive_that_is_cut_anywhere_is_an_error() {
    for minor in MINORS {
        let bytes = sample(minor);
        for end in 0..bytes.len() {
            assert!(walk(&bytes[..end]).await.is_err(), "1.{minor}, cut at {end}");
        }
    }
}

#[tokio::test]
async fn data_that_is_missing_foreign_or_there_twice_is_an_error() {
    let bytes = sample(14);
    let (head, _) = Archive::open(&bytes[..]).await.expect("an archive");
    let error = walk(&head.raw[..]).await.expect_err("no data");
    assert!(error.to_string().contains("2 entries, such as TABLE DATA t"), "{error}");
    for id in [7, 8] {
        let mut more = Writer(BytesMut::from(&bytes[..]), 14);
        more.bytes(&[DATA]).number(id).number(0);
        assert!(matches!(walk(&more.0[..]).await, Err(ArchiveError::Malformed(_))), "{id}");
    }
}

#[tokio::test]
async fn hostile_bytes_are_an_error_and_cost_no_memory() {
    let bytes = sample(16);
    for at in 0..bytes.len() {
        for flip in [1, 0x80, 0xff] {
            let mut hostile = bytes.clone();
            hostile[at] ^= flip;
            let _ = walk(&hostile[..]).await;
        }
    }
    let mut huge = Writer::head(14, MAX_ENTRIES);
    huge.number(1).number(1).number(i64::from(i32::MAX)).bytes(b"short");
    assert!(matches!(walk(&huge.0[..]).await, Err(ArchiveError::Cut(_))));
    assert!(matches!(walk(&b"-- a script"[..]).await, Err(ArchiveError::Magic)));
    assert!(matches!(walk(&b"PG"[..]).await, Err(ArchiveError::Magic)));
    assert!(matches!(walk(&b"PGDMP\x01\x11\x00"[..]).await, Err(ArchiveError::Version { major: 1, minor: 17 })));
}

#[tokio::test]
async fn names_of_another_encoding_are_told() {
    let mut w = Writer::head(15, 1);
    w.entry(1, "TABLE", 2, b"caf\xe9", "", None);
    let (head, _) = Archive::open(&w.0[..]).await.expect("an archive");
    assert!(head.lossy);
}

#[tokio::test]
async fn more_entries_than_any_database_has_are_refused_before_the_first_is_read() {
    let head = Writer::head(16, MAX_ENTRIES + 1);
    assert!(matches!(walk(&head.0[..]).await, Err(ArchiveError::Malformed(_))));
}
