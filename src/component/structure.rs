//! Whether an artifact's content is a whole file of its format: read to its end, restored nowhere.
//!
//! That every byte is the one that was written, the pipeline proves. This proves that what was written can be taken apart: a dump whose
//! every entry has its data, an archive whose members are complete, an RDB with its checksum.

use std::io;

use thiserror::Error;
use tokio::io::{AsyncReadExt, BufReader, sink};
use tokio_util::io::SyncIoBridge;

use super::directory::archive::ArchiveError as TarError;
use super::directory::archive::read::Reader;
use super::postgres::archive::{self, ArchiveError};
use super::redis::rdb::{RdbFault, Verifier};
use super::{ByteStream, MAX_FINGERPRINT};
use crate::manifest::Format;

/// What `pg_dumpall` writes at the end of a script (`dumpall.c`).
const END_OF_GLOBALS: &[u8] = b"-- PostgreSQL database cluster dump complete";

/// Likewise `pg_dump` (`pg_backup_archiver.c`, `RestoreArchive`).
pub const END_OF_DUMP: &[u8] = b"-- PostgreSQL database dump complete";

/// Bytes that are read at once.
const BUFFER: usize = 256 << 10;

/// Why an artifact's content is not a whole file of its format.
#[derive(Debug, Error)]
pub enum StructureError {
    #[error("read it")]
    Read(#[source] io::Error),
    #[error("it is no whole archive of pg_dump")]
    Archive(#[source] ArchiveError),
    #[error("it is no whole script of pg_dump or pg_dumpall: its last line is missing")]
    Script,
    #[error("it is no JSON")]
    Fingerprint(#[source] serde_json::Error),
    #[error("it is no whole RDB")]
    Rdb(#[source] RdbFault),
    #[error("it is no whole tar archive")]
    Tar(#[source] TarError),
    #[error("the thread that read it ended early")]
    Thread(#[source] tokio::task::JoinError),
}

impl StructureError {
    /// Whether the content is wrong, rather than out of reach.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Read(_) | Self::Thread(_) => false,
            Self::Archive(error) => !matches!(error, ArchiveError::Read(_)),
            Self::Tar(error) => !matches!(error, TarError::Read(_)),
            Self::Script | Self::Fingerprint(_) | Self::Rdb(_) => true,
        }
    }
}

/// Reads `stream` to its end; what was found, as a short text.
///
/// # Errors
/// [`StructureError`]; an error of the stream itself is among its sources.
pub async fn walk(format: Format, mut stream: ByteStream) -> Result<String, StructureError> {
    let found = match format {
        Format::PgCustom => {
            let head = archive::walk(&mut stream).await.map_err(StructureError::Archive)?;
            format!("{} entries", head.entries.len())
        }
        Format::PgGlobals => script(&mut stream, END_OF_GLOBALS).await?,
        Format::PgPlain => script(&mut stream, END_OF_DUMP).await?,
        Format::Fingerprint => fingerprint(&mut stream).await?,
        Format::Rdb => rdb(&mut stream).await?,
        Format::Tar => return tokio::task::spawn_blocking(move || tar(stream)).await.map_err(StructureError::Thread)?,
    };
    // what follows belongs to the stream, and only its end says that it was sound
    tokio::io::copy(&mut stream, &mut sink()).await.map_err(StructureError::Read)?;
    Ok(found)
}

async fn script(stream: &mut ByteStream, end: &[u8]) -> Result<String, StructureError> {
    let (mut buffer, mut tail, mut lines) = (vec![0; BUFFER], Vec::new(), 0);
    loop {
        let n = stream.read(&mut buffer).await.map_err(StructureError::Read)?;
        if n == 0 {
            break;
        }
        lines += buffer[..n].iter().filter(|b| **b == b'\n').count();
        tail.extend_from_slice(&buffer[..n]);
        tail.drain(..tail.len().saturating_sub(1 << 10));
    }
    match tail.windows(end.len()).any(|w| w == end) {
        true => Ok(format!("{lines} lines")),
        false => Err(StructureError::Script),
    }
}

async fn fingerprint(stream: &mut ByteStream) -> Result<String, StructureError> {
    let mut text = Vec::new();
    stream.take(MAX_FINGERPRINT).read_to_end(&mut text).await.map_err(StructureError::Read)?;
    let _: serde::de::IgnoredAny = serde_json::from_slice(&text).map_err(StructureError::Fingerprint)?;
    Ok("a fingerprint".to_owned())
}

async fn rdb(stream: &mut ByteStream) -> Result<String, StructureError> {
    let (mut buffer, mut verifier) = (vec![0; BUFFER], Verifier::default());
    loop {
        let n = stream.read(&mut buffer).await.map_err(StructureError::Read)?;
        if n == 0 {
            break;
        }
        verifier.update(&buffer[..n]).map_err(StructureError::Rdb)?;
    }
    let summary = verifier.finish().map_err(StructureError::Rdb)?;
    Ok(format!("RDB version {}", summary.version))
}

fn tar(stream: ByteStream) -> Result<String, StructureError> {
    let mut reader = Reader::new(SyncIoBridge::new(BufReader::with_capacity(BUFFER, stream)));
    let mut members = 0u64;
    // the content of each is passed over, to its end
    while reader.next_member().map_err(StructureError::Tar)?.is_some() {
        members += 1;
    }
    Ok(format!("{members} members"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files() -> Vec<(Format, Vec<u8>)> {
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(600);
        header.set_mode(0o644);
        archive.append_data(&mut header, "a", [7u8; 600].as_slice()).expect("appended");
        let globals = [b"CREATE ROLE a;\n\n--\n".as_slice(), END_OF_GLOBALS, b"\n--\n\n"].concat();
        // as `rdbchecksum no` leaves it
        let rdb = [b"REDIS0011\xff".as_slice(), &[0; 8]].concat();
        let fingerprint = b"{\"tables\": [\"a\"]}\n".to_vec();
        vec![
            (Format::Fingerprint, fingerprint),
            (Format::Tar, archive.into_inner().expect("an archive")),
            (Format::PgGlobals, globals),
            (Format::Rdb, rdb),
        ]
    }

    #[tokio::test]
    async fn a_whole_file_is_told_from_one_that_was_cut_before_it_was_stored() {
        for (format, whole) in files() {
            let found = walk(format, Box::new(io::Cursor::new(whole.clone()))).await;
            assert!(found.is_ok(), "{format:?}: {found:?}");
            for cut in [0, whole.len() / 3, whole.len() / 2] {
                let error = walk(format, Box::new(io::Cursor::new(whole[..cut].to_vec()))).await.expect_err("cut");
                assert!(error.is_damage(), "{format:?} cut at {cut}: {error:?}");
            }
        }
    }
}
