//! The master's side of a full resynchronisation: a server that was told `REPLICAOF` to us fetches an RDB here.
//!
//! The listener is on a network, so it gives the RDB only to who knows the one-time password that the server was given as `masterauth`.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::connect::line;
use super::info::Info;
use super::rdb::Verifier;
use crate::component::ByteStream;
use crate::name::RestoreId;

/// For the handshake of one connection, most of all of one that is not a replica at all.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Between two line ends that keep a waiting replica's connection alive; its `repl-timeout` is a minute by default.
const KEEPALIVE: Duration = Duration::from_secs(1);
const MAX_WORDS: usize = 32;
const MAX_WORD: u64 = 64 << 10;
const CHUNK: usize = 256 << 10;
/// Connections that may shake hands at a time.
const MAX_PEERS: usize = 16;

/// Waits for one replica.
pub struct Master {
    listener: TcpListener,
    /// One-time, for `masterauth`.
    pub password: String,
}

impl Master {
    pub async fn bind(on: IpAddr) -> io::Result<Self> {
        let listener = TcpListener::bind((on, 0)).await?;
        Ok(Self { listener, password: token() })
    }

    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// The first peer that knows the password and asks for the data; others are turned away.
    pub async fn replica(&self) -> io::Result<Replica> {
        let mut peers = JoinSet::new();
        loop {
            tokio::select! {
                accepted = self.listener.accept(), if peers.len() < MAX_PEERS => {
                    let (socket, _) = accepted?;
                    let password = self.password.clone();
                    peers.spawn(async move { timeout(HANDSHAKE, greet(socket, &password)).await });
                }
                Some(done) = peers.join_next() => {
                    if let Ok(Ok(Ok(replica))) = done {
                        return Ok(replica);
                    }
                }
            }
        }
    }
}

/// The replication ID under which a server loads an RDB. It bears it from when it has loaded the whole of it (`master_replid` of INFO), and
/// when it is made a master again as that of its past (`master_replid2`), until it is restarted (`shiftReplicationId` in replication.c).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History(String);

impl History {
    /// Of that restore: tells whether the server holds what it has loaded.
    pub fn of(id: RestoreId) -> Self {
        Self(id.to_string().repeat(5))
    }

    /// One that means nothing.
    pub fn random() -> Self {
        Self(token())
    }

    /// Whether the server has loaded an RDB under it.
    pub fn is_of(&self, info: &Info) -> bool {
        info.is("master_replid", &self.0) || info.is("master_replid2", &self.0)
    }
}

/// A replica that has asked for the data.
pub struct Replica {
    wire: BufReader<TcpStream>,
}

impl Replica {
    /// Sends the RDB. Its last block is held back until `rdb` has ended, which it does only if its hash matched, so that a replica never
    /// loads one that is not sound; it keeps what it has until the last byte came.
    ///
    /// # Errors
    /// When `rdb` fails, is not a whole RDB of `length` bytes, or the replica goes away or takes nothing for `stall`. None of these has changed its data.
    pub async fn feed(
        &mut self,
        rdb: impl Future<Output = io::Result<ByteStream>>,
        length: u64,
        history: &History,
        stall: Duration,
    ) -> io::Result<()> {
        let Self { wire } = self;
        wire.write_all(format!("+FULLRESYNC {} 0\r\n", history.0).as_bytes()).await?;
        let mut verifier = Verifier::default();
        let (mut rdb, mut held) = alive(wire, async {
            let mut rdb = rdb.await?;
            let first = block(&mut rdb).await?;
            Ok((rdb, first))
        })
        .await?;
        wire.write_all(format!("${length}\r\n").as_bytes()).await?;
        let mut sent = 0;
        while !held.is_empty() {
            verifier.update(&held)?;
            sent += held.len() as u64;
            let next = block(&mut rdb).await?;
            if next.is_empty() {
                verifier.finish()?;
            }
            if sent > length || (next.is_empty() && sent != length) {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("the RDB has not the {length} bytes that its manifest says"),
                ));
            }
            taken(stall, wire.write_all(&held)).await?;
            held = next;
        }
        taken(stall, wire.flush()).await
    }

    /// Plays the idle master until the replica goes away.
    pub async fn attend(&mut self) -> io::Result<()> {
        let mut ticks = interval(KEEPALIVE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut acknowledgements = [0; 4096];
        loop {
            tokio::select! {
                read = self.wire.read(&mut acknowledgements) => if read? == 0 {
                    return Ok(());
                },
                _ = ticks.tick() => {
                    // A master may send its replica a bare line end at any time (processInlineBuffer in networking.c).
                    self.wire.write_all(b"\n").await?;
                }
            }
        }
    }
}

/// What is sent has to be taken within `stall`: it is no more than a chunk.
async fn taken(stall: Duration, sent: impl Future<Output = io::Result<()>>) -> io::Result<()> {
    let still = |_| io::Error::new(io::ErrorKind::TimedOut, format!("it took nothing for {}", humantime::format_duration(stall)));
    timeout(stall, sent).await.map_err(still)?
}

/// Keeps the replica waiting while `work` prepares what it will get.
async fn alive<T>(wire: &mut BufReader<TcpStream>, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let mut ticks = interval(KEEPALIVE);
    tokio::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return done,
            _ = ticks.tick() => wire.write_all(b"\n").await?,
        }
    }
}

/// The next bytes, at most [`CHUNK`]; empty at the end.
async fn block(rdb: &mut ByteStream) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(CHUNK);
    rdb.read_buf(&mut bytes).await?;
    Ok(bytes)
}

/// Answers a replica's handshake up to its PSYNC.
async fn greet(socket: TcpStream, password: &str) -> io::Result<Replica> {
    let mut wire = BufReader::new(socket);
    let mut known = false;
    loop {
        let words = words(&mut wire).await?;
        let name = words.first().map(|w| w.to_ascii_uppercase()).unwrap_or_default();
        let answer: &[u8] = match name.as_slice() {
            b"PING" => b"+PONG\r\n",
            b"AUTH" if words.last().map(Vec::as_slice) == Some(password.as_bytes()) => {
                known = true;
                b"+OK\r\n"
            }
            b"REPLCONF" if known => b"+OK\r\n",
            b"PSYNC" if known => return Ok(Replica { wire }),
            _ => {
                wire.write_all(b"-NOAUTH not for you\r\n").await?;
                return Err(io::ErrorKind::PermissionDenied.into());
            }
        };
        wire.write_all(answer).await?;
    }
}

/// The words of the next command, an array of bulk strings; sizes are bounded, for anyone may connect.
pub async fn words<R: AsyncBufReadExt + Unpin>(wire: &mut R) -> io::Result<Vec<Vec<u8>>> {
    let invalid = || io::Error::new(io::ErrorKind::InvalidData, "not a command");
    let count = line(wire).await?.strip_prefix('*').and_then(|n| n.parse::<usize>().ok()).ok_or_else(invalid)?;
    if count > MAX_WORDS {
        return Err(invalid());
    }
    let mut words = Vec::new();
    for _ in 0..count {
        let length = line(wire).await?.strip_prefix('$').and_then(|n| n.parse::<u64>().ok()).ok_or_else(invalid)?;
        if length > MAX_WORD {
            return Err(invalid());
        }
        let mut word = Vec::new();
        (&mut *wire).take(length).read_to_end(&mut word).await?;
        if word.len() as u64 != length || !line(wire).await?.is_empty() {
            return Err(invalid());
        }
        words.push(word);
    }
    Ok(words)
}

/// Forty hex digits, as a replication id has.
fn token() -> String {
    let bytes: [u8; 20] = rand::random();
    crate::manifest::hex(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::component::redis::connect::command;

    /// What a peer that sends those commands gets, and whether it was taken for the replica.
    async fn meet(commands: &[&[&[u8]]]) -> (String, bool) {
        let master = Master::bind([127, 0, 0, 1].into()).await.expect("bound");
        let mut peer = TcpStream::connect(master.address().expect("bound")).await.expect("connected");
        let (socket, _) = master.listener.accept().await.expect("accepted");
        for words in commands {
            peer.write_all(&command(words)).await.expect("sent");
        }
        peer.shutdown().await.expect("shut");
        let taken = greet(socket, "secret").await.is_ok();
        let mut got = Vec::new();
        // A reset after the refusal is as good as an end.
        peer.read_to_end(&mut got).await.unwrap_or_default();
        (String::from_utf8_lossy(&got).into_owned(), taken)
    }

    #[tokio::test]
    async fn only_who_knows_the_password_gets_the_data() {
        let psync: &[&[u8]] = &[b"PSYNC", b"?", b"-1"];
        let auth: &[&[u8]] = &[b"AUTH", b"secret"];
        let wrong: &[&[u8]] = &[b"AUTH", b"Secret"];
        assert_eq!(meet(&[&[b"PING"], auth, &[b"REPLCONF", b"capa", b"eof"], psync]).await, ("+PONG\r\n+OK\r\n+OK\r\n".into(), true));
        assert!(!meet(&[psync]).await.1);
        assert!(!meet(&[&[b"PING"], wrong, psync]).await.1);
        assert!(!meet(&[&[b"REPLCONF", b"a"], auth, psync]).await.1);
    }

    #[tokio::test]
    async fn oversized_words_are_refused_unread() {
        for text in ["*33\r\n", "*1\r\n$99999999999\r\n", "*1\r\n$3\r\nabcd\r\n", "GET / HTTP/1.1\r\n", "*x\r\n", "*1\r\n$5\r\nab"] {
            words(&mut BufReader::new(text.as_bytes())).await.expect_err(text);
        }
    }
}
