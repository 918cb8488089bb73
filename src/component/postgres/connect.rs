//! How to reach a server: one [`Endpoint`] serves our own connections and the environment of the client programs alike.

use std::fmt;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use tokio_postgres::config::{ChannelBinding, SslMode as Negotiate, SslNegotiation, TargetSessionAttrs};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::PostgresError;
use super::conninfo;
use super::tls::{self, Root, SslMode, TlsOptions};
use crate::secret::Revealed;

/// An exporter's connection is idle for as long as a dump takes: firewalls forget idle connections.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);

/// Where bundles of the system's root certificates lie, for clients older than 16, which do not know `sslrootcert=system`.
const SYSTEM_BUNDLES: &[&str] =
    &["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem"];

/// A server, and a database of it. `Debug` shows no password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// At least one; tried in this order.
    pub(super) hosts: Vec<Host>,
    pub(super) user: String,
    pub(super) database: String,
    pub(super) tls: TlsOptions,
    pub(super) direct_tls: bool,
    pub(super) channel_binding: ChannelBinding,
    pub(super) connect_timeout: Duration,
    pub(super) options: Option<String>,
    /// Ours when unset; that of a client program, then, is its own name.
    pub(super) application_name: Option<String>,
    pub(super) target_session_attrs: TargetSessionAttrs,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Host {
    /// A name, an address, or the absolute directory of a Unix socket.
    pub(super) name: String,
    pub(super) address: Option<IpAddr>,
    pub(super) port: u16,
    pub(super) password: Option<Revealed>,
}

impl Host {
    pub(super) fn is_socket(&self) -> bool {
        self.name.starts_with('/')
    }
}

/// `host:port`; no secret.
impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.name.contains(':') { write!(f, "[{}]:{}", self.name, self.port) } else { write!(f, "{}:{}", self.name, self.port) }
    }
}

/// `user@host:port`; no secret.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@", self.user)?;
        for (at, host) in self.hosts.iter().enumerate() {
            write!(f, "{}{host}", if at > 0 { "," } else { "" })?;
        }
        Ok(())
    }
}

impl Endpoint {
    /// The database that connections go to unless they name another one.
    pub fn database(&self) -> &str {
        &self.database
    }

    pub fn user(&self) -> &str {
        &self.user
    }

    /// The same server, another database.
    #[must_use]
    pub fn with_database(&self, database: &str) -> Self {
        Self { database: database.to_owned(), ..self.clone() }
    }

    /// Connects to `database`, or to the endpoint's own. The connection closes when the client is dropped.
    ///
    /// # Errors
    /// Those of the last host tried: [`PostgresError::Resolve`], [`PostgresError::Connect`], [`PostgresError::Timeout`]; and
    /// [`PostgresError::Tls`].
    pub async fn connect(&self, database: Option<&str>) -> Result<Client, PostgresError> {
        self.settle(database).await.map(|(_, client)| client)
    }

    /// As [`Self::connect`], and the endpoint with the one host, and the one address, that answered: a snapshot of one server is
    /// worth nothing on another one, so that everything that uses it must go to the same.
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub async fn settle(&self, database: Option<&str>) -> Result<(Self, Client), PostgresError> {
        let mut last = PostgresError::Options { what: "host", why: "none is set".into() };
        for host in &self.hosts {
            let addresses = match self.addresses(host).await {
                Ok(addresses) => addresses,
                Err(error) => {
                    last = error;
                    continue;
                }
            };
            for host in addresses {
                let mut one = self.with_database(database.unwrap_or(&self.database));
                one.hosts = vec![host.clone()];
                let waited = tokio::time::timeout(self.connect_timeout, one.connect_host(&host)).await;
                match waited
                    .unwrap_or_else(|_| Err(PostgresError::Timeout { server: one.to_string(), seconds: self.connect_timeout.as_secs() }))
                {
                    Ok(client) => {
                        one.database.clone_from(&self.database);
                        one.target_session_attrs = TargetSessionAttrs::Any;
                        return Ok((one, client));
                    }
                    Err(error) => last = error,
                }
            }
        }
        Err(last)
    }

    /// The addresses of `host`, each as a host of its own.
    async fn addresses(&self, host: &Host) -> Result<Vec<Host>, PostgresError> {
        if host.is_socket() || host.address.is_some() {
            return Ok(vec![host.clone()]);
        }
        let fault = |source| PostgresError::Resolve { host: host.name.clone(), source };
        let lookup = tokio::net::lookup_host((host.name.as_str(), host.port));
        let found: Vec<SocketAddr> = match tokio::time::timeout(self.connect_timeout, lookup).await {
            Ok(found) => found.map_err(fault)?.collect(),
            Err(_) => return Err(fault(std::io::ErrorKind::TimedOut.into())),
        };
        if found.is_empty() {
            return Err(fault(std::io::ErrorKind::NotFound.into()));
        }
        Ok(found.into_iter().map(|a| Host { address: Some(a.ip()), ..host.clone() }).collect())
    }

    /// Connects to `host`, as often as the sslmode allows.
    async fn connect_host(&self, host: &Host) -> Result<Client, PostgresError> {
        // A Unix socket is never encrypted, whatever the sslmode says (as in libpq).
        let attempts: &[Negotiate] = match self.tls.mode {
            _ if host.is_socket() => &[Negotiate::Disable],
            SslMode::Disable => &[Negotiate::Disable],
            SslMode::Allow => &[Negotiate::Disable, Negotiate::Require],
            SslMode::Prefer => &[Negotiate::Prefer, Negotiate::Disable],
            SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => &[Negotiate::Require],
        };
        let mut result = self.connect_once(host, attempts[0]).await;
        for attempt in &attempts[1..] {
            match &result {
                Err(PostgresError::Connect { source, .. }) if is_about_encryption(source) => {}
                _ => break,
            }
            result = self.connect_once(host, *attempt).await;
        }
        result
    }

    async fn connect_once(&self, host: &Host, negotiate: Negotiate) -> Result<Client, PostgresError> {
        let config = self.config(host, negotiate);
        let fault = |source| PostgresError::Connect { server: self.to_string(), database: self.database.clone(), source };
        if negotiate == Negotiate::Disable {
            let (client, connection) = config.connect(NoTls).await.map_err(fault)?;
            drive(connection);
            Ok(client)
        } else {
            let tls = MakeRustlsConnect::new(tls::client_config(&self.tls)?);
            let (client, connection) = config.connect(tls).await.map_err(fault)?;
            drive(connection);
            Ok(client)
        }
    }

    fn config(&self, host: &Host, negotiate: Negotiate) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        if host.is_socket() {
            config.host_path(&host.name);
        } else {
            config.host(&host.name);
        }
        if let Some(address) = host.address {
            config.hostaddr(address);
        }
        if let Some(password) = &host.password {
            config.password(password.expose());
        }
        if let Some(options) = &self.options {
            config.options(options);
        }
        if self.direct_tls && negotiate == Negotiate::Require {
            config.ssl_negotiation(SslNegotiation::Direct);
        }
        config
            .port(host.port)
            .user(&self.user)
            .dbname(&self.database)
            .application_name(self.application_name.as_deref().unwrap_or("backstay"))
            .ssl_mode(negotiate)
            .channel_binding(self.channel_binding)
            .target_session_attrs(self.target_session_attrs)
            .keepalives_idle(KEEPALIVE_IDLE);
        config
    }

    /// The environment in which a client program reaches the same database: `pg_dump`, `pg_dumpall`, `psql`; `pg_restore` needs
    /// [`Self::database_argument`] besides. The password is in it, for the child's eyes only: that of the
    /// first host, so that an endpoint with several is to be settled first. `major` is the program's version.
    pub fn child_env(&self, major: u32) -> Vec<(&'static str, String)> {
        let list = |of: &dyn Fn(&Host) -> String| self.hosts.iter().map(of).collect::<Vec<_>>().join(",");
        let path = |path: &Path| path.to_string_lossy().into_owned();
        let mut env = vec![
            ("PGHOST", list(&|h| h.name.clone())),
            ("PGPORT", list(&|h| h.port.to_string())),
            ("PGUSER", self.user.clone()),
            ("PGDATABASE", self.database.clone()),
            ("PGSSLMODE", self.tls.mode.as_str().to_owned()),
            ("PGCONNECT_TIMEOUT", self.connect_timeout.as_secs().max(2).to_string()),
            // Neither we nor the tests speak Kerberos; a stray ticket must not change how a dump connects.
            ("PGGSSENCMODE", "disable".to_owned()),
        ];
        if self.hosts.iter().any(|h| h.address.is_some()) {
            env.push(("PGHOSTADDR", list(&|h| h.address.map_or_else(String::new, |a| a.to_string()))));
        }
        if let [Host { password: Some(password), .. }, ..] = self.hosts.as_slice() {
            env.push(("PGPASSWORD", password.expose().to_owned()));
        }
        env.extend(self.application_name.iter().map(|name| ("PGAPPNAME", name.clone())));
        env.extend(self.options.iter().map(|options| ("PGOPTIONS", options.clone())));
        match &self.tls.root {
            Some(Root::File(root)) => env.push(("PGSSLROOTCERT", path(root))),
            Some(Root::System) if major >= 16 => env.push(("PGSSLROOTCERT", "system".to_owned())),
            Some(Root::System) => {
                env.extend(SYSTEM_BUNDLES.iter().find(|b| Path::new(b).exists()).map(|b| ("PGSSLROOTCERT", (*b).to_owned())));
            }
            None => {}
        }
        if let Some((certificate, key)) = &self.tls.identity {
            env.extend([("PGSSLCERT", path(certificate)), ("PGSSLKEY", path(key))]);
        }
        if self.direct_tls && major >= 17 {
            env.push(("PGSSLNEGOTIATION", "direct".to_owned()));
        }
        match self.channel_binding {
            ChannelBinding::Require => env.push(("PGCHANNELBINDING", "require".to_owned())),
            ChannelBinding::Disable => env.push(("PGCHANNELBINDING", "disable".to_owned())),
            _ => {}
        }
        env
    }

    /// What `pg_restore --dbname=` and the like must be given: a bare name with `=` in it, or one that looks like a URL, would be taken
    /// for a connection string. Holds no secret; the rest comes from [`Self::child_env`].
    pub fn database_argument(&self) -> String {
        format!("dbname={}", conninfo::quote_value(&self.database))
    }
}

/// The connection ends with its client; how it ended, the client's own errors say.
fn drive<E: fmt::Display + Send>(connection: impl Future<Output = Result<(), E>> + Send + 'static) {
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "connection ended");
        }
    });
}

/// Whether another try with, or without, encryption may help: TLS failed, or `pg_hba.conf` has no line for this kind of connection.
fn is_about_encryption(error: &tokio_postgres::Error) -> bool {
    error.as_db_error().is_none_or(|e| *e.code() == SqlState::INVALID_AUTHORIZATION_SPECIFICATION)
}
