//! The rows of one table, out of an archive into the server, over several connections at once.
//!
//! `pg_restore` loads a table over one connection, so that the largest table decides how long a restore takes, and it reads an archive
//! that comes through a pipe with one process. Here the rows are cut at line ends and shared out among connections, each of which runs the
//! archive's own COPY statement. That is as faithful: in the text format of COPY a line is a row, and a line end within a value is escaped
//! (PostgreSQL's documentation, "COPY", "Text Format"). Tables come in the order of the archive, each only after the one before it is
//! whole. Rows come to lie in another order than before, by some hundred kilobytes. What could tell the difference has its rows loaded
//! over one connection: tables that have triggers, rules or indexes already, which only an extension's tables have at that time.

use std::pin::Pin;

use bytes::{Bytes, BytesMut};
use futures_util::future::try_join_all;
use futures_util::{FutureExt, SinkExt};
use tokio::io::AsyncRead;
use tokio::sync::{Mutex, mpsc};
use tokio_postgres::{Client, CopyInSink};

use super::PostgresError;
use super::archive::{Archive, ArchiveError};
use super::connect::Endpoint;
use super::query;
use super::restore_error::RestoreError;

/// Bytes of rows that are handed out at once.
const CHUNK: usize = 256 << 10;

/// A row longer than this is sent in pieces.
const LONG_ROW: usize = 1 << 20;

/// Bytes that are held back until more comes, or the end: more than the end mark has.
const HELD_BACK: usize = 16;

/// As `pg_restore` prepares its session (`_doSetFixedOutputState` of `pg_backup_archiver.c`). Beside that, what a role or a database may
/// have set and what would read the values otherwise than `pg_dump` wrote them. Nothing waits for the disk: what makes a restore last is
/// the rename that switches it in, whose commit makes everything before it durable too; until then, a crash costs the helper database.
const SESSION: &str = "SET statement_timeout = 0; SET lock_timeout = 0; SET idle_in_transaction_session_timeout = 0; \
     SET default_transaction_read_only = off; SET standard_conforming_strings = on; SET xmloption = content; \
     SET client_min_messages = warning; SET row_security = off; SET synchronous_commit = off; SET array_nulls = on; \
     SET DateStyle = 'ISO, YMD'; SET IntervalStyle = 'postgres'; SET search_path = ''";

/// Why rows did not arrive: it is the archive, or the server.
#[derive(Debug)]
pub enum Fault {
    Archive(ArchiveError),
    Server(PostgresError),
}

impl From<ArchiveError> for Fault {
    fn from(error: ArchiveError) -> Self {
        Self::Archive(error)
    }
}

/// What is to be done with a block of rows.
#[derive(Debug, Clone, Copy)]
pub struct Table<'a> {
    /// For errors.
    pub name: &'a str,
    pub copy: &'a str,
    /// Whether the rows may be shared out, and are then counted.
    pub plain: bool,
}

/// Connections to the database that is loaded.
#[derive(Debug)]
pub struct Sessions(Vec<Client>);

impl Sessions {
    /// # Errors
    /// Those of [`Endpoint::connect`].
    pub async fn connect(endpoint: &Endpoint, count: usize) -> Result<Self, PostgresError> {
        let mut clients = Vec::new();
        for _ in 0..count.max(1) {
            let client = endpoint.connect(None).await?;
            client.batch_execute(SESSION).await.map_err(query("prepare a session"))?;
            clients.push(client);
        }
        Ok(Self(clients))
    }

    /// Loads the rows that `archive` stands before.
    ///
    /// # Errors
    /// [`Fault::Server`] with [`RestoreError::Rows`] or [`RestoreError::RowCount`].
    pub async fn load<R: AsyncRead + Unpin>(&self, archive: &mut Archive<R>, table: Table<'_>) -> Result<(), Fault> {
        let clients = if table.plain { self.0.as_slice() } else { &self.0[..1] };
        let (send, receive) = mpsc::channel(clients.len());
        let receive = Mutex::new(receive);
        let copies: Vec<_> = clients.iter().map(|client| copy(client, table.copy, &receive).boxed()).collect();
        let copied = async {
            let name = || table.name.to_owned();
            try_join_all(copies).await.map_err(|source| Fault::Server(RestoreError::Rows { table: name(), source }.into()))
        };
        let (sent, taken) = tokio::try_join!(share_out(archive, send), copied)?;
        let taken = taken.iter().sum();
        if table.plain && sent != taken {
            return Err(Fault::Server(RestoreError::RowCount { table: table.name.to_owned(), sent, taken }.into()));
        }
        Ok(())
    }
}

/// Cuts the rows of a block into what one connection takes at once; returns their number.
async fn share_out<R: AsyncRead + Unpin>(archive: &mut Archive<R>, send: mpsc::Sender<Bytes>) -> Result<u64, Fault> {
    let mut cutter = Cutter::default();
    loop {
        let wanted = cutter.pending.len() + CHUNK;
        let more = archive.rows(&mut cutter.pending, wanted).await?;
        let Some(chunk) = (if more { cutter.cut() } else { cutter.rest() }) else { if more { continue } else { break } };
        // a connection that is gone has its own error
        if send.send(chunk).await.is_err() || !more {
            break;
        }
    }
    Ok(cutter.rows)
}

#[derive(Debug, Default)]
struct Cutter {
    pending: BytesMut,
    rows: u64,
}

impl Cutter {
    /// Whole rows; or a piece of a long one, which does not end in a line end.
    fn cut(&mut self) -> Option<Bytes> {
        let sure = self.pending.len().saturating_sub(HELD_BACK);
        let whole = self.pending[..sure].iter().rposition(|b| *b == b'\n').map(|at| at + 1);
        let length = whole.or((sure > LONG_ROW).then_some(sure))?;
        let chunk = self.pending.split_to(length).freeze();
        self.rows += line_ends(&chunk);
        Some(chunk)
    }

    /// What is left, without the end mark, `\.` on a line of its own (`dumpTableData_copy` of `pg_dump.c`).
    fn rest(&mut self) -> Option<Bytes> {
        let rest = self.pending.split().freeze();
        let length = rest.iter().rposition(|b| *b != b'\n').map_or(0, |at| at + 1);
        let rest = match rest[..length].strip_suffix(b"\\.") {
            Some(rows) if rows.last().is_none_or(|b| *b == b'\n') => rest.slice(..rows.len()),
            _ => rest,
        };
        self.rows += line_ends(&rest) + u64::from(rest.last().is_some_and(|b| *b != b'\n'));
        (!rest.is_empty()).then_some(rest)
    }
}

fn line_ends(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|b| **b == b'\n').count() as u64
}

/// Copies what comes until nothing more does; returns how many rows the server took. A connection that gets nothing begins nothing.
async fn copy(client: &Client, statement: &str, queue: &Mutex<mpsc::Receiver<Bytes>>) -> Result<u64, tokio_postgres::Error> {
    let mut sink: Option<Pin<Box<CopyInSink<Bytes>>>> = None;
    loop {
        let mut turn = Some(queue.lock().await);
        // the rest of a long row must follow on the same connection
        while let Some(receiver) = &mut turn {
            let Some(chunk) = receiver.recv().await else {
                return match &mut sink {
                    Some(sink) => sink.as_mut().finish().await,
                    None => Ok(0),
                };
            };
            if chunk.ends_with(b"\n") {
                turn = None;
            }
            let sink = match &mut sink {
                Some(sink) => sink,
                empty => empty.insert(Box::pin(client.copy_in(statement).await?)),
            };
            sink.feed(chunk).await?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `block` in pieces of `step` bytes; gives the rows as they are sent, and their number.
    fn cut(block: &[u8], step: usize) -> (Vec<Bytes>, u64) {
        let mut cutter = Cutter::default();
        let mut chunks = Vec::new();
        for piece in block.chunks(step) {
            cutter.pending.extend_from_slice(piece);
            chunks.extend(cutter.cut());
        }
        chunks.extend(cutter.rest());
        (chunks, cutter.rows)
    }

    fn check(block: &[u8], rows: &[u8], count: u64) {
        for step in [1, 2, 3, 5, 7, 16, 64, 1 << 20] {
            let (chunks, counted) = cut(block, step);
            assert_eq!(chunks.concat(), rows, "in steps of {step}");
            assert_eq!(counted, count, "in steps of {step}");
            assert!(chunks.iter().rev().skip(1).all(|c| c.ends_with(b"\n")), "whole rows, in steps of {step}");
        }
    }

    #[test]
    fn rows_are_cut_at_their_ends_and_the_end_mark_is_no_row() {
        check(b"\\.\n\n\n", b"", 0);
        check(b"1\n\\.\n\n\n", b"1\n", 1);
        let rows: Vec<u8> = (0..200).flat_map(|i| format!("{i}\t\\N\t{}\n", "x".repeat(i % 40)).into_bytes()).collect();
        check(&[&rows[..], b"\\.\n\n\n"].concat(), &rows, 200);
        // rows of a table with one empty text column
        check(b"\n\n\n\\.\n\n\n", b"\n\n\n", 3);
        // a value that looks like the mark is escaped, and one that ends like it is no line of its own
        check(b"\\\\.\nx\\\\.\n\\.\n\n\n", b"\\\\.\nx\\\\.\n", 2);
        check(b"no mark\n", b"no mark\n", 1);
        check(b"no line end", b"no line end", 1);
    }

    #[test]
    fn a_long_row_goes_in_pieces() {
        let mut row = vec![b'x'; 5 * LONG_ROW];
        row.extend_from_slice(b"\nshort\n");
        let (chunks, rows) = cut(&[&row[..], b"\\.\n\n\n"].concat(), CHUNK);
        assert_eq!((chunks.concat(), rows), (row, 2));
        assert!(chunks.len() > 2 && chunks.iter().all(|c| c.len() <= LONG_ROW + 2 * CHUNK));
    }
}
