//! The `healthcheck` verb: asks the worker's `/readyz`, over a plain TCP connection so that an image needs no other tool.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use serde::Deserialize;
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// For connecting and the whole answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// The longest answer that is read; thousands of jobs fit.
const MAX_ANSWER: u64 = 4 << 20;

/// Why the worker is not well.
#[derive(Debug, Error)]
pub enum HealthError {
    #[error("connect to the worker at {address}")]
    Connect {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("read the answer of the worker at {address}")]
    Read {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("what answers at {0} is not a worker")]
    Stranger(SocketAddr),
    #[error("not ready: {0}")]
    Unready(String),
}

impl HealthError {
    /// What the operator can do about it, as a sentence.
    pub fn advice(&self) -> Option<String> {
        match self {
            Self::Connect { .. } => Some("Is `backstay worker` running, and with the same `worker.listen`?".into()),
            Self::Read { .. } => Some("The worker may hang: see its log, and restart it.".into()),
            Self::Stranger(_) => Some("Another program uses this port: set `worker.listen`.".into()),
            Self::Unready(_) => None,
        }
    }
}

#[derive(Deserialize)]
struct Answer {
    reasons: Vec<String>,
}

/// Asks the worker that was told to listen on `listen`.
///
/// # Errors
/// [`HealthError`], when it cannot be reached or says that a job is overdue or failing.
pub async fn probe(listen: SocketAddr) -> Result<(), HealthError> {
    let address = reachable(listen);
    let late = || io::Error::from(io::ErrorKind::TimedOut);
    let asked = tokio::time::timeout(PATIENCE, ask(address)).await;
    let answer = asked.unwrap_or_else(|_| Err(HealthError::Read { address, source: late() }))?;
    judge(&answer).map_or(Err(HealthError::Stranger(address)), |reasons| reasons.map_err(HealthError::Unready))
}

async fn ask(address: SocketAddr) -> Result<Vec<u8>, HealthError> {
    let mut stream = TcpStream::connect(address).await.map_err(|source| HealthError::Connect { address, source })?;
    let request = format!("GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    let mut answer = Vec::new();
    let read = async {
        stream.write_all(request.as_bytes()).await?;
        stream.take(MAX_ANSWER).read_to_end(&mut answer).await
    };
    read.await.map_err(|source| HealthError::Read { address, source })?;
    Ok(answer)
}

/// An address that was given to listen on all interfaces is reached over the loopback one.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

/// `None`: not an answer of a worker. `Some(Err)`: why it is not ready.
fn judge(answer: &[u8]) -> Option<Result<(), String>> {
    let text = std::str::from_utf8(answer).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status: u16 = head.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    let Answer { reasons } = serde_json::from_str(body).ok()?;
    match status {
        200 => Some(Ok(())),
        503 if reasons.is_empty() => Some(Err("the worker's main loop hangs".into())),
        503 => Some(Err(reasons.join("; "))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_interfaces_are_reached_over_loopback() {
        for (listen, expected) in
            [("0.0.0.0:9717", "127.0.0.1:9717"), ("[::]:1", "[::1]:1"), ("127.0.0.1:9", "127.0.0.1:9"), ("192.0.2.7:80", "192.0.2.7:80")]
        {
            assert_eq!(reachable(listen.parse().expect("an address")).to_string(), expected);
        }
    }

    #[test]
    fn only_a_workers_answer_is_believed() {
        let answer = |head: &str, body: &str| judge(format!("HTTP/1.1 {head}\r\nA: b\r\n\r\n{body}").as_bytes());
        assert_eq!(answer("200 OK", r#"{"reasons":[],"jobs":[]}"#), Some(Ok(())));
        assert_eq!(answer("503 Service Unavailable", r#"{"reasons":["a","b"]}"#), Some(Err("a; b".into())));
        assert!(answer("503 Service Unavailable", r#"{"reasons":[]}"#).is_some_and(|r| r.is_err()));
        for stranger in [answer("200 OK", "<html>"), answer("404 Not Found", r#"{"reasons":[]}"#), judge(b""), judge(b"SSH-2.0-x\r\n\r\n")]
        {
            assert_eq!(stranger, None);
        }
    }
}
