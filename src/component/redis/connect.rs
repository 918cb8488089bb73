//! A connection to a server: TCP, TLS or a Unix socket, signed in. Both the control connection and the replication stream use it.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::RedisError;
use super::endpoint::{Address, Endpoint};

/// For the connection and its TLS handshake together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// For one short reply.
pub const REPLY_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest line of a reply that is read, in bytes.
const MAX_LINE: u64 = 64 << 10;
const CHUNK: usize = 64 << 10;

/// A byte stream to a server.
pub trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// A signed-in connection. Buffered for reading: bytes behind a reply stay in it.
pub struct Connection {
    pub wire: BufReader<Box<dyn Wire>>,
    /// The address by which the server can reach this host, as far as this connection knows.
    pub local: IpAddr,
    pub at: String,
}

impl Connection {
    /// Connects and signs in, if there is a password.
    ///
    /// # Errors
    /// [`RedisError::Connect`] when nothing answers there, [`RedisError::SignIn`] when the server refuses the credentials.
    pub async fn open(endpoint: &Endpoint) -> Result<Self, RedisError> {
        let at = endpoint.display();
        let connect = connect(endpoint);
        let (wire, local) = match timeout(CONNECT_TIMEOUT, connect).await {
            Ok(connected) => connected?,
            Err(_) => return Err(RedisError::Connect { at, source: io::ErrorKind::TimedOut.into() }),
        };
        let mut connection = Self::over(wire, local, at);
        connection.sign_in(endpoint).await?;
        Ok(connection)
    }

    /// Not signed in.
    pub fn over(wire: Box<dyn Wire>, local: IpAddr, at: String) -> Self {
        Self { wire: BufReader::with_capacity(CHUNK, wire), local, at }
    }

    async fn sign_in(&mut self, endpoint: &Endpoint) -> Result<(), RedisError> {
        let Some(password) = &endpoint.password else { return Ok(()) };
        let args: Vec<&[u8]> = match &endpoint.username {
            Some(user) => vec![b"AUTH", user.as_bytes(), password.expose().as_bytes()],
            None => vec![b"AUTH", password.expose().as_bytes()],
        };
        match self.request(&args).await? {
            Reply::Ok(_) => Ok(()),
            Reply::Error(reply) => {
                let code = reply.split(' ').next().unwrap_or_default().to_owned();
                Err(RedisError::SignIn { at: self.at.clone(), reply: code })
            }
        }
    }

    /// Sends a command whose reply is one line.
    pub async fn request(&mut self, args: &[&[u8]]) -> Result<Reply, RedisError> {
        let exchange = async {
            self.wire.write_all(&command(args)).await?;
            self.wire.flush().await?;
            line(&mut self.wire).await
        };
        let answer = match timeout(REPLY_TIMEOUT, exchange).await {
            Ok(answer) => answer,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        };
        let text = answer.map_err(|source| RedisError::Protocol { at: self.at.clone(), source })?;
        Ok(Reply::parse(&text))
    }
}

/// A reply of one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    Ok(String),
    /// Without the leading `-`.
    Error(String),
}

impl Reply {
    pub fn parse(line: &str) -> Self {
        match (line.strip_prefix('-'), line.strip_prefix('+')) {
            (Some(error), _) => Self::Error(error.to_owned()),
            (None, Some(ok)) => Self::Ok(ok.to_owned()),
            (None, None) => Self::Ok(line.to_owned()),
        }
    }
}

/// A command in RESP: an array of bulk strings.
pub fn command(args: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", args.len()).into_bytes();
    for arg in args {
        bytes.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        bytes.extend_from_slice(arg);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// The next line, without its end.
///
/// # Errors
/// When the connection ends before the line does, or the line is longer than any reply.
pub async fn line<R: AsyncBufReadExt + Unpin>(wire: &mut R) -> io::Result<String> {
    let mut bytes = Vec::new();
    wire.take(MAX_LINE).read_until(b'\n', &mut bytes).await?;
    match bytes.pop() {
        Some(b'\n') => {}
        None => return Err(io::ErrorKind::UnexpectedEof.into()),
        Some(_) if bytes.len() as u64 >= MAX_LINE - 1 => return Err(io::Error::new(io::ErrorKind::InvalidData, "overlong line")),
        Some(_) => return Err(io::ErrorKind::UnexpectedEof.into()),
    }
    if bytes.last() == Some(&b'\r') {
        bytes.pop();
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

async fn connect(endpoint: &Endpoint) -> Result<(Box<dyn Wire>, IpAddr), RedisError> {
    let failed = |source| RedisError::Connect { at: endpoint.display(), source };
    match &endpoint.address {
        Address::Unix(path) => {
            let socket = UnixStream::connect(path).await.map_err(failed)?;
            Ok((Box::new(socket), Ipv4Addr::LOCALHOST.into()))
        }
        Address::Tcp { host, port, tls } => {
            let socket = TcpStream::connect((host.as_str(), *port)).await.map_err(failed)?;
            socket.set_nodelay(true).map_err(failed)?;
            let local = socket.local_addr().map_err(failed)?.ip();
            if !tls {
                return Ok((Box::new(socket), local));
            }
            let name = ServerName::try_from(host.clone()).map_err(|e| failed(io::Error::new(io::ErrorKind::InvalidInput, e)))?;
            let connector = TlsConnector::from(Arc::new(tls_config(endpoint.ca_file.as_deref())?));
            let socket = connector.connect(name, socket).await.map_err(failed)?;
            Ok((Box::new(socket), local))
        }
    }
}

/// Ring is named explicitly: there may be no process-wide provider.
fn tls_config(ca_file: Option<&Path>) -> Result<ClientConfig, RedisError> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = ca_file {
        let failed = |source| RedisError::CaFile { path: path.to_owned(), source };
        let invalid = |e: Box<dyn std::error::Error + Send + Sync>| failed(io::Error::new(io::ErrorKind::InvalidData, e));
        let pem = std::fs::read(path).map_err(failed)?;
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            roots.add(certificate.map_err(|e| invalid(e.into()))?).map_err(|e| invalid(e.into()))?;
        }
        if roots.is_empty() {
            return Err(invalid("it holds no certificate".into()));
        }
    } else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring supports the default protocol versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}
