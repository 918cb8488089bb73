//! The replica's side of a full resynchronisation: handshake, then the RDB as a stream (Redis' replication.c, `syncWithMaster` and
//! `readSyncBulkPayload`).
//!
//! A master sends the RDB as `$<length>` and so many bytes, or, to a replica that announced `capa eof`, as `$EOF:<40 bytes>`, the bytes, and
//! those 40 again. Bare line ends before that keep the connection alive while it saves.

use std::io;
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::time::timeout;

use super::RedisError;
use super::connect::{Connection, Reply, Wire, command, line};
use super::endpoint::Endpoint;

/// A master that prepares an RDB sends a line end every `repl-ping-replica-period`, 10 s by default; one that is silent for this long is gone.
const SILENCE: Duration = Duration::from_secs(120);
const MARKER: usize = 40;
const CHUNK: usize = 64 << 10;

/// A full resynchronisation that has begun.
pub struct Resync {
    pub replication_id: String,
    pub offset: String,
    pub stream: RdbStream,
}

/// How the master makes the RDB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transfer {
    /// Through a file on its disk: a slow reader is never dropped.
    Disk,
    /// Straight from its memory, for a master whose disk cannot be written. A reader slower than its `repl-timeout` is dropped.
    Diskless,
}

/// Asks for a full resynchronisation and waits until the first byte of the RDB is about to come.
///
/// # Errors
/// [`RedisError::Refused`] when the master says no to a step, with its words.
pub async fn resync(endpoint: &Endpoint, transfer: Transfer) -> Result<Resync, RedisError> {
    resync_over(Connection::open(endpoint).await?, transfer).await
}

/// As [`resync`], over a stream to a server that wants no password.
///
/// # Errors
/// As [`resync`].
pub async fn resync_with(wire: impl Wire + 'static, transfer: Transfer) -> Result<Resync, RedisError> {
    resync_over(Connection::over(Box::new(wire), Ipv4Addr::LOCALHOST.into(), "a stream".to_owned()), transfer).await
}

async fn resync_over(mut connection: Connection, transfer: Transfer) -> Result<Resync, RedisError> {
    ordered(&mut connection, "PING", &[b"PING"]).await?;
    if transfer == Transfer::Diskless {
        ordered(&mut connection, "REPLCONF", &[b"REPLCONF", b"capa", b"eof"]).await?;
    }
    // Since 7.0: the connection ends with the RDB, and nothing is kept for us afterwards. Older ones do not know it; we just leave.
    match connection.request(&[b"REPLCONF", b"rdb-only", b"1"]).await? {
        Reply::Error(reply) if reply.starts_with("NOPERM") => {
            return Err(RedisError::Refused { at: connection.at, command: "REPLCONF", reply });
        }
        Reply::Ok(_) | Reply::Error(_) => {}
    }
    let at = connection.at.clone();
    let failed = |source| RedisError::Protocol { at: at.clone(), source };
    connection.wire.write_all(&command(&[b"PSYNC", b"?", b"-1"])).await.map_err(failed)?;
    connection.wire.flush().await.map_err(failed)?;
    let answer = spoken(&mut connection).await.map_err(failed)?;
    if answer.contains("BGSAVE failed") {
        return Err(RedisError::NoRdb { at });
    }
    let refused = |reply: String| RedisError::Refused { at: at.clone(), command: "PSYNC", reply };
    let (replication_id, offset) = full_resync(&answer).map_err(refused)?;
    let header = spoken(&mut connection).await.map_err(|source| match source.kind() {
        // That is all that a server says when the save for us has failed.
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => RedisError::NoRdb { at: at.clone() },
        _ => failed(source),
    })?;
    if header.contains("BGSAVE failed") {
        return Err(RedisError::NoRdb { at });
    }
    let frame = Frame::parse(&header).map_err(refused)?;
    Ok(Resync { replication_id, offset, stream: RdbStream { connection, frame } })
}

/// Whether the server would let us resynchronise, without starting it: an offset that is no number is rejected only after the permission
/// was checked. `None`: it cannot be told (before 7.0, such an offset would start it).
///
/// # Errors
/// [`RedisError::Refused`] when the server refuses.
pub async fn probe(endpoint: &Endpoint, major: u32) -> Result<Option<()>, RedisError> {
    let mut connection = Connection::open(endpoint).await?;
    if major < 7 {
        return probe_in_transaction(&mut connection).await;
    }
    match connection.request(&[b"REPLCONF", b"rdb-only", b"1"]).await? {
        Reply::Error(reply) if reply.starts_with("NOPERM") => {
            return Err(RedisError::Refused { at: connection.at, command: "REPLCONF", reply });
        }
        Reply::Ok(_) | Reply::Error(_) => {}
    }
    match connection.request(&[b"PSYNC", b"?", b"x"]).await? {
        Reply::Error(reply) if reply.contains("not an integer") => Ok(Some(())),
        Reply::Error(reply) => Err(RedisError::Refused { at: connection.at, command: "PSYNC", reply: without_arguments(reply) }),
        Reply::Ok(_) => Ok(None),
    }
}

/// Before 7.0 a PSYNC can be queued in a transaction, which is then discarded; the permission is checked when it is queued.
async fn probe_in_transaction(connection: &mut Connection) -> Result<Option<()>, RedisError> {
    if let Reply::Error(_) = connection.request(&[b"MULTI"]).await? {
        return Ok(None);
    }
    let answer = connection.request(&[b"PSYNC", b"?", b"-1"]).await?;
    connection.request(&[b"DISCARD"]).await?;
    match answer {
        Reply::Ok(_) => Ok(Some(())),
        Reply::Error(reply) => Err(RedisError::Refused { at: connection.at.clone(), command: "PSYNC", reply: without_arguments(reply) }),
    }
}

async fn ordered(connection: &mut Connection, name: &'static str, args: &[&[u8]]) -> Result<(), RedisError> {
    match connection.request(args).await? {
        Reply::Ok(_) => Ok(()),
        Reply::Error(reply) => Err(RedisError::Refused { at: connection.at.clone(), command: name, reply: without_arguments(reply) }),
    }
}

/// A server that does not know a command repeats its arguments.
fn without_arguments(reply: String) -> String {
    reply.split(", with args").next().map(str::to_owned).unwrap_or(reply)
}

/// The next line that is not a keepalive.
async fn spoken(connection: &mut Connection) -> io::Result<String> {
    loop {
        let line = match timeout(SILENCE, line(&mut connection.wire)).await {
            Ok(line) => line?,
            Err(_) => return Err(io::Error::new(io::ErrorKind::TimedOut, format!("silent for {} seconds", SILENCE.as_secs()))),
        };
        if !line.is_empty() {
            return Ok(line);
        }
    }
}

/// Id and offset from `+FULLRESYNC id offset`; otherwise the master's refusal.
fn full_resync(line: &str) -> Result<(String, String), String> {
    let mut words = line.split(' ');
    match (words.next(), words.next(), words.next()) {
        (Some("+FULLRESYNC"), Some(id), Some(offset)) => Ok((id.to_owned(), offset.to_owned())),
        _ => Err(without_arguments(line.trim_start_matches(['-', '+']).to_owned())),
    }
}

/// How the end of the RDB is told.
#[derive(Debug)]
enum Frame {
    Length { left: u64 },
    Marker(Scan),
}

impl Frame {
    fn parse(header: &str) -> Result<Self, String> {
        let refusal = || header.trim_start_matches('-').to_owned();
        let rest = header.strip_prefix('$').ok_or_else(refusal)?;
        if let Some(marker) = rest.strip_prefix("EOF:") {
            let marker = marker.as_bytes().try_into().map_err(|_| refusal())?;
            return Ok(Self::Marker(Scan::new(marker)));
        }
        Ok(Self::Length { left: rest.parse().map_err(|_| refusal())? })
    }
}

/// Looks for the marker in pieces of any size and holds back what may be its beginning.
#[derive(Debug)]
struct Scan {
    marker: [u8; MARKER],
    held: Vec<u8>,
    /// How much of `held` is known not to belong to the marker.
    ready: usize,
    found: bool,
}

impl Scan {
    fn new(marker: [u8; MARKER]) -> Self {
        Self { marker, held: Vec::new(), ready: 0, found: false }
    }

    fn push(&mut self, bytes: &[u8]) {
        let from = self.held.len().saturating_sub(MARKER - 1).max(self.ready);
        self.held.extend_from_slice(bytes);
        if let Some(at) = find(&self.held[from..], &self.marker) {
            self.held.truncate(from + at);
            self.found = true;
            self.ready = self.held.len();
        } else {
            self.ready = self.held.len().saturating_sub(MARKER - 1);
        }
    }

    /// Moves what is ready into `buf`, as far as it fits.
    fn take(&mut self, buf: &mut ReadBuf<'_>) -> usize {
        let n = self.ready.min(buf.remaining());
        buf.put_slice(&self.held[..n]);
        self.held.drain(..n);
        self.ready -= n;
        n
    }
}

fn find(haystack: &[u8], needle: &[u8; MARKER]) -> Option<usize> {
    let mut at = 0;
    while let Some(next) = haystack[at..].iter().position(|b| *b == needle[0]) {
        at += next;
        if haystack[at..].starts_with(needle) {
            return Some(at);
        }
        at += 1;
    }
    None
}

/// The RDB's bytes. Ends where the master's framing says that it ends, and is an error if the connection ends before.
pub struct RdbStream {
    connection: Connection,
    frame: Frame,
}

impl AsyncRead for RdbStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { connection, frame } = &mut *self;
        poll_frame(&mut connection.wire, frame, cx, buf)
    }
}

fn poll_frame<R: AsyncRead + Unpin>(wire: &mut R, frame: &mut Frame, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
    if buf.remaining() == 0 {
        return Poll::Ready(Ok(()));
    }
    let lost = |what: String| Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, what)));
    match frame {
        Frame::Length { left: 0 } => Poll::Ready(Ok(())),
        Frame::Length { left } => {
            let most = usize::try_from(*left).unwrap_or(usize::MAX).min(buf.remaining());
            let mut part = ReadBuf::new(buf.initialize_unfilled_to(most));
            match Pin::new(wire).poll_read(cx, &mut part) {
                Poll::Ready(Ok(())) => {}
                other => return other,
            }
            let n = part.filled().len();
            buf.advance(n);
            *left -= n as u64;
            match n {
                0 => lost(format!("the server closed the connection, {left} bytes before the end of its RDB")),
                _ => Poll::Ready(Ok(())),
            }
        }
        Frame::Marker(scan) => loop {
            if scan.take(buf) > 0 || scan.found {
                return Poll::Ready(Ok(()));
            }
            let mut chunk = [0; CHUNK / 4];
            let mut part = ReadBuf::new(&mut chunk);
            match Pin::new(&mut *wire).poll_read(cx, &mut part) {
                Poll::Ready(Ok(())) => {}
                other => return other,
            }
            if part.filled().is_empty() {
                return lost("the server closed the connection before the end of its RDB".to_owned());
            }
            scan.push(part.filled());
        },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::AsyncReadExt;
    use tokio_util::io::StreamReader;

    use super::*;

    const END: &[u8; MARKER] = b"aaaaaaaaaabbbbbbbbbbccccccccccdddddddddd";

    struct Framed<R> {
        wire: R,
        frame: Frame,
    }

    impl<R: AsyncRead + Unpin> AsyncRead for Framed<R> {
        fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            let Self { wire, frame } = &mut *self;
            poll_frame(wire, frame, cx, buf)
        }
    }

    /// What a reader sees of a connection that delivers those bytes in pieces and then ends.
    async fn read(header: &str, bytes: &[u8], piece: usize) -> io::Result<Vec<u8>> {
        let pieces: Vec<io::Result<Vec<u8>>> = bytes.chunks(piece.max(1)).map(|p| Ok(p.to_vec())).collect();
        let stream = futures_util::stream::iter(pieces.into_iter().map(|p| p.map(std::io::Cursor::new)));
        let mut framed = Framed { wire: StreamReader::new(stream), frame: Frame::parse(header).expect("a header") };
        let mut out = Vec::new();
        framed.read_to_end(&mut out).await.map(|_| out)
    }

    #[tokio::test]
    async fn a_length_ends_the_stream_exactly() {
        assert_eq!(read("$5", b"12345*1\r\n$4\r\nPING\r\n", 3).await.expect("whole"), b"12345");
        assert_eq!(read("$5", b"1234", 3).await.expect_err("short").kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn a_marker_that_never_comes_is_an_error() {
        let header = format!("$EOF:{}", String::from_utf8_lossy(END));
        for bytes in [&b""[..], b"body", &END[..39]] {
            assert_eq!(read(&header, bytes, 7).await.expect_err("cut").kind(), io::ErrorKind::UnexpectedEof);
        }
    }

    #[test]
    fn refusals_carry_the_masters_words() {
        for (line, words) in [
            ("-NOMASTERLINK Can't SYNC while not connected with my master", "NOMASTERLINK"),
            ("-LOADING Redis is loading the dataset in memory", "LOADING"),
            ("-NOPERM this user has no permissions to run the 'psync' command", "NOPERM"),
            ("-ERR unknown command `PSYNC`, with args beginning with: `?`, ", "ERR unknown command `PSYNC`"),
            ("+CONTINUE abc", "CONTINUE"),
        ] {
            let refusal = full_resync(line).expect_err(line);
            assert!(refusal.starts_with(words) && !refusal.contains("args"), "{refusal}");
        }
        assert_eq!(full_resync("+FULLRESYNC id 42"), Ok(("id".into(), "42".into())));
        assert!(Frame::parse("$x").is_err() && Frame::parse("-ERR no").is_err() && Frame::parse("$EOF:short").is_err());
    }

    proptest! {
        #[test]
        fn the_marker_is_found_across_any_split(
            body in prop::collection::vec(prop::sample::select(b"abcdx".to_vec()), 0..200), false_start in 0usize..40, piece in 1usize..90,
        ) {
            let body = [&body[..], &END[..false_start]].concat();
            // A false start that the marker completes by itself would be the marker's own beginning; its first ten bytes are one letter.
            let whole = [&body[..], END, b"\n"].concat();
            let at = whole.windows(MARKER).position(|w| w == END).expect("it is there");
            let header = format!("$EOF:{}", String::from_utf8_lossy(END));
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            let out = runtime.block_on(read(&header, &whole, piece)).expect("whole");
            prop_assert_eq!(out, &whole[..at]);
        }
    }
}
