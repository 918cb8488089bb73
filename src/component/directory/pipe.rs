//! A bounded pipe from a blocking writer to an asynchronous reader.
//!
//! Invariant: the reader sees an end only after the writer called [`PipeWriter::finish`]. A writer that returned, panicked or failed without it
//! is a read error. A reader that was dropped, or a cancelled token, is an error of the writer's next chunk.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::mpsc;
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;

/// Bytes of a chunk.
pub const CHUNK: usize = 512 << 10;
/// Chunks under way between the two sides.
const DEPTH: usize = 3;

enum Message {
    Data(Vec<u8>, usize),
    End,
    Failed(io::Error),
}

/// The blocking side. Buffers are used again, so that a long stream allocates a handful of chunks.
pub struct PipeWriter {
    sender: mpsc::Sender<Message>,
    returned: std::sync::mpsc::Receiver<Vec<u8>>,
    cancel: CancellationToken,
    chunk: Vec<u8>,
    filled: usize,
    written: u64,
}

/// The asynchronous side.
pub struct PipeReader {
    receiver: mpsc::Receiver<Message>,
    give_back: std::sync::mpsc::Sender<Vec<u8>>,
    current: Option<(Vec<u8>, usize)>,
    at: usize,
    ended: bool,
    limit: Option<Limit>,
}

/// How long the reader waits for the writer.
struct Limit {
    patience: Duration,
    /// While it waits.
    over: Option<Pin<Box<Sleep>>>,
    why: Why,
}

/// Why the writer sends nothing, if that can be told.
pub type Why = Box<dyn Fn() -> Option<io::Error> + Send + Sync>;

/// Why the writer must stop: nobody reads any more, or the run was cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped;

/// A new pipe, whose writer stops when `cancel` is cancelled.
pub fn pipe(cancel: CancellationToken) -> (PipeWriter, PipeReader) {
    let (sender, receiver) = mpsc::channel(DEPTH);
    let (give_back, returned) = std::sync::mpsc::channel();
    let writer = PipeWriter { sender, returned, cancel, chunk: vec![0; CHUNK], filled: 0, written: 0 };
    (writer, PipeReader { receiver, give_back, current: None, at: 0, ended: false, limit: None })
}

impl PipeWriter {
    /// Bytes written so far.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// # Errors
    /// [`Stopped`] when there is no use in going on.
    pub fn check(&self) -> Result<(), Stopped> {
        if self.cancel.is_cancelled() || self.sender.is_closed() { Err(Stopped) } else { Ok(()) }
    }

    /// # Errors
    /// [`Stopped`], see [`PipeWriter::check`].
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<(), Stopped> {
        while !bytes.is_empty() {
            let space = self.space()?;
            let length = space.len().min(bytes.len());
            space[..length].copy_from_slice(&bytes[..length]);
            bytes = &bytes[length..];
            self.advance(length);
        }
        Ok(())
    }

    /// Room for the next bytes, never empty; [`PipeWriter::advance`] says how much of it was filled.
    pub fn space(&mut self) -> Result<&mut [u8], Stopped> {
        if self.filled == self.chunk.len() {
            self.flush()?;
        }
        Ok(&mut self.chunk[self.filled..])
    }

    pub fn advance(&mut self, length: usize) {
        self.filled += length;
        self.written += length as u64;
    }

    /// Sends the last chunk and the end.
    ///
    /// # Errors
    /// [`Stopped`], see [`PipeWriter::check`].
    pub fn finish(mut self) -> Result<(), Stopped> {
        self.flush()?;
        self.sender.blocking_send(Message::End).map_err(|_| Stopped)
    }

    /// Makes the reader fail with `error`.
    pub fn fail(self, error: io::Error) {
        // a reader that is gone needs no error
        let _ = self.sender.blocking_send(Message::Failed(error));
    }

    fn flush(&mut self) -> Result<(), Stopped> {
        self.check()?;
        if self.filled > 0 {
            let next = self.returned.try_recv().unwrap_or_else(|_| vec![0; CHUNK]);
            let chunk = std::mem::replace(&mut self.chunk, next);
            self.sender.blocking_send(Message::Data(chunk, std::mem::take(&mut self.filled))).map_err(|_| Stopped)?;
        }
        Ok(())
    }
}

impl PipeReader {
    /// Fails with what `why` says, if it says something, whenever nothing came for `patience`.
    pub fn within(self, patience: Duration, why: Why) -> Self {
        Self { limit: Some(Limit { patience, over: None, why }), ..self }
    }

    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Message>>> {
        if let Poll::Ready(message) = self.receiver.poll_recv(cx) {
            if let Some(limit) = &mut self.limit {
                limit.over = None;
            }
            return Poll::Ready(Ok(message));
        }
        let Some(limit) = &mut self.limit else { return Poll::Pending };
        loop {
            let over = limit.over.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit.patience)));
            ready!(over.as_mut().poll(cx));
            match (limit.why)() {
                Some(error) => return Poll::Ready(Err(error)),
                None => limit.over = None,
            }
        }
    }
}

impl AsyncRead for PipeReader {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            if this.ended || out.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            if let Some((chunk, filled)) = &this.current {
                let length = out.remaining().min(filled - this.at);
                out.put_slice(&chunk[this.at..this.at + length]);
                this.at += length;
                if this.at == *filled
                    && let Some((chunk, _)) = this.current.take()
                {
                    // a writer that is done takes no buffer back
                    let _ = this.give_back.send(chunk);
                }
                return Poll::Ready(Ok(()));
            }
            match ready!(this.poll_message(cx))? {
                Some(Message::Data(chunk, filled)) => {
                    this.at = 0;
                    this.current = Some((chunk, filled));
                }
                Some(Message::End) => this.ended = true,
                Some(Message::Failed(error)) => return Poll::Ready(Err(error)),
                None => {
                    return Poll::Ready(Err(io::Error::new(
                        io::ErrorKind::BrokenPipe,
                        "the reader of the directory stopped before its end",
                    )));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    async fn read(work: impl FnOnce(PipeWriter) + Send + 'static) -> io::Result<Vec<u8>> {
        let (writer, mut reader) = pipe(CancellationToken::new());
        tokio::task::spawn_blocking(move || work(writer));
        let mut all = Vec::new();
        reader.read_to_end(&mut all).await.map(|_| all)
    }

    #[tokio::test]
    async fn everything_arrives_in_order() {
        let sent: Vec<u8> = (0..5 * CHUNK + 17).map(|n| u8::try_from(n % 251).expect("small")).collect();
        let copy = sent.clone();
        let got = read(move |mut writer| {
            for part in copy.chunks(1000) {
                writer.write(part).expect("read");
            }
            writer.finish().expect("read");
        });
        assert_eq!(got.await.expect("a whole stream"), sent);
    }

    #[tokio::test]
    async fn an_end_without_finish_is_an_error() {
        assert!(read(|mut writer| writer.write(&[7; 3 * CHUNK]).expect("read")).await.is_err());
        assert!(read(|_| panic!("on purpose")).await.is_err());
        let failed = read(|writer| writer.fail(io::Error::other("named"))).await.expect_err("it failed");
        assert_eq!(failed.to_string(), "named");
    }

    #[tokio::test]
    async fn a_reader_that_is_gone_or_a_cancelled_run_stops_the_writer() {
        let endless = |mut writer: PipeWriter| move || while writer.write(&[1; 4096]).is_ok() {};
        let (writer, mut reader) = pipe(CancellationToken::new());
        let work = tokio::task::spawn_blocking(endless(writer));
        reader.read_exact(&mut [0; 10]).await.expect("bytes");
        drop(reader);
        work.await.expect("it stopped");

        let cancel = CancellationToken::new();
        let (writer, mut reader) = pipe(cancel.clone());
        let work = tokio::task::spawn_blocking(endless(writer));
        reader.read_exact(&mut [0; 10]).await.expect("bytes");
        cancel.cancel();
        assert!(reader.read_to_end(&mut Vec::new()).await.is_err());
        work.await.expect("it stopped");
    }
}
