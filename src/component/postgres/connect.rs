//! A small front end of libpq: everything that says how to reach a server, merged into one [`Endpoint`] that serves our own connections
//! and the client programs alike.
//!
//! Order, first wins: keys of the configuration, its `url`, the service file, `PG*` variables, libpq's defaults. Secrets are read when an
//! endpoint is made, which is once a run.

use std::fmt;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_postgres::config::{ChannelBinding, SslMode as Negotiate, SslNegotiation, TargetSessionAttrs};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::conninfo::{self, Params};
use super::tls::{self, Root, SslMode, TlsOptions};
use super::{PostgresError, PostgresOptions};
use crate::secret::Revealed;

/// libpq waits for ever; a backup must not.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// An exporter's connection is idle for as long as a dump takes: firewalls forget idle connections.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);

/// Where bundles of the system's root certificates lie, for clients older than 16, which do not know `sslrootcert=system`.
const SYSTEM_BUNDLES: &[&str] =
    &["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem"];

/// A server, and a database of it. `Debug` shows no password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// At least one; tried in this order.
    hosts: Vec<Host>,
    user: String,
    database: String,
    tls: TlsOptions,
    direct_tls: bool,
    channel_binding: ChannelBinding,
    connect_timeout: Duration,
    options: Option<String>,
    /// Ours when unset; that of a client program, then, is its own name.
    application_name: Option<String>,
    target_session_attrs: TargetSessionAttrs,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Host {
    /// A name, an address, or the absolute directory of a Unix socket.
    name: String,
    address: Option<IpAddr>,
    port: u16,
    password: Option<Revealed>,
}

impl Host {
    fn is_socket(&self) -> bool {
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
    /// The endpoint that the configuration means, with this process' environment and files.
    ///
    /// # Errors
    /// [`PostgresError::Options`] when something does not parse, [`PostgresError::Secret`] when a secret cannot be read.
    pub fn from_options(options: &PostgresOptions) -> Result<Self, PostgresError> {
        Self::resolve(configured(options)?, &Machine::this())
    }

    /// The endpoint that `url` means, and the database if it names one. A URL without a host, or with the host (and port) of `fallback`, is
    /// of the same server, and what it leaves unset comes from there; for any other server only the environment counts.
    ///
    /// # Errors
    /// As [`Self::from_options`].
    pub fn from_url(url: &str, fallback: &PostgresOptions) -> Result<(Self, Option<String>), PostgresError> {
        let params = Params::parse(url).map_err(|why| PostgresError::Options { what: "destination", why })?;
        let database = params.get("dbname").map(str::to_owned);
        Ok((Self::resolve(params.inherit(configured(fallback)?), &Machine::this())?, database))
    }

    /// Fills `params` up from the service file, the environment and the defaults.
    fn resolve(mut params: Params, machine: &Machine<'_>) -> Result<Self, PostgresError> {
        let env = Params::from_env(&machine.env);
        if let Some(service) = params.get("service").or(env.get("service")).map(str::to_owned) {
            let file = params.get("servicefile").or(env.get("servicefile")).map(PathBuf::from);
            params.or(&machine.service(&service, file)?);
        }
        params.or(&env);
        let user = match params.get("user") {
            Some(user) => user.to_owned(),
            None => machine.user.clone().ok_or_else(|| PostgresError::Options {
                what: "user",
                why: "none is set, and the user of this process has no name".into(),
            })?,
        };
        let database = params.get("dbname").unwrap_or(&user).to_owned();
        let mut hosts = hosts(&params, machine)?;
        let passwords = match params.get("password") {
            Some(_) => None,
            None => machine.password_file(params.get("passfile"))?,
        };
        for host in &mut hosts {
            host.password = match (params.get("password"), &passwords) {
                (Some(password), _) => Some(Revealed::new(password)),
                (None, Some(file)) => [host.name.as_str(), if host.is_socket() { "localhost" } else { host.name.as_str() }]
                    .iter()
                    .find_map(|name| conninfo::find_password(file.expose(), name, host.port, &database, &user)),
                (None, None) => None,
            };
        }
        Ok(Self {
            hosts,
            user,
            database,
            tls: tls_options(&params, machine)?,
            direct_tls: one_of(&params, "sslnegotiation", &[("postgres", false), ("direct", true)])?,
            channel_binding: one_of(
                &params,
                "channel_binding",
                &[("prefer", ChannelBinding::Prefer), ("disable", ChannelBinding::Disable), ("require", ChannelBinding::Require)],
            )?,
            connect_timeout: connect_timeout(&params)?,
            options: params.get("options").map(str::to_owned),
            application_name: params.get("application_name").map(str::to_owned),
            target_session_attrs: one_of(
                &params,
                "target_session_attrs",
                &[
                    ("any", TargetSessionAttrs::Any),
                    ("read-write", TargetSessionAttrs::ReadWrite),
                    ("primary", TargetSessionAttrs::ReadWrite),
                    ("read-only", TargetSessionAttrs::ReadOnly),
                    ("standby", TargetSessionAttrs::ReadOnly),
                    ("prefer-standby", TargetSessionAttrs::Any),
                ],
            )?,
        })
    }

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

/// The parameters that the configuration itself gives.
fn configured(options: &PostgresOptions) -> Result<Params, PostgresError> {
    let secret = |what| move |source| PostgresError::Secret { what, source };
    let path = |path: &Option<PathBuf>| path.as_ref().map(|p| p.to_string_lossy().into_owned());
    let mut params = Params::default();
    let values = [
        ("host", options.host.clone()),
        ("port", options.port.map(|p| p.to_string())),
        ("user", options.user.clone()),
        ("dbname", options.database.clone()),
        ("sslmode", options.sslmode.clone()),
        ("sslrootcert", path(&options.sslrootcert)),
        ("sslcert", path(&options.sslcert)),
        ("sslkey", path(&options.sslkey)),
        ("password", options.password.as_ref().map(|p| p.reveal()).transpose().map_err(secret("password"))?.map(|p| p.expose().to_owned())),
    ];
    for (key, value) in values {
        if let Some(value) = value {
            params.set(key, value).map_err(|why| PostgresError::Options { what: key, why })?;
        }
    }
    if let Some(url) = &options.url {
        let url = url.reveal().map_err(secret("url"))?;
        params.or(&Params::parse(url.expose()).map_err(|why| PostgresError::Options { what: "url", why })?);
    }
    Ok(params)
}

fn hosts(params: &Params, machine: &Machine<'_>) -> Result<Vec<Host>, PostgresError> {
    let fault = |what, why: &str| PostgresError::Options { what, why: why.into() };
    let split = |key| params.get(key).map(|v| v.split(',').map(str::trim).collect::<Vec<_>>()).unwrap_or_default();
    let (names, addresses, ports) = (split("host"), split("hostaddr"), split("port"));
    let count = names.len().max(addresses.len()).max(1);
    if !names.is_empty() && !addresses.is_empty() && names.len() != addresses.len() {
        return Err(fault("hostaddr", "there must be as many as there are hosts"));
    }
    if ports.len() > 1 && ports.len() != count {
        return Err(fault("port", "there must be one, or as many as there are hosts"));
    }
    let host = |at: usize| {
        let port = match ports.get(at).or(ports.first()).copied().unwrap_or("") {
            "" => 5432,
            port => port.parse().ok().filter(|p| *p > 0).ok_or_else(|| fault("port", "it is not a number from 1 to 65535"))?,
        };
        let address = match addresses.get(at).copied().unwrap_or("") {
            "" => None,
            address => Some(address.parse::<IpAddr>().map_err(|_| fault("hostaddr", "it is not an IP address"))?),
        };
        let name = match (names.get(at).copied().unwrap_or(""), address) {
            ("", Some(address)) => address.to_string(),
            ("", None) => (machine.default_host)(port),
            (name, _) => name.to_owned(),
        };
        Ok(Host { name, address, port, password: None })
    };
    (0..count).map(host).collect()
}

fn tls_options(params: &Params, machine: &Machine<'_>) -> Result<TlsOptions, PostgresError> {
    let fault = |what, why: &str| PostgresError::Options { what, why: why.into() };
    let root = match params.get("sslrootcert") {
        Some("system") => Some(Root::System),
        Some(path) => Some(Root::File(path.into())),
        None => machine.home_file(".postgresql/root.crt").map(Root::File),
    };
    let mode = match params.get("sslmode") {
        Some(mode) => mode.parse().map_err(|why| PostgresError::Options { what: "sslmode", why })?,
        None if root == Some(Root::System) => SslMode::VerifyFull,
        None => SslMode::Prefer,
    };
    if root == Some(Root::System) && mode != SslMode::VerifyFull {
        return Err(fault("sslrootcert", "`system` needs sslmode verify-full: a name that is not checked could be anybody's"));
    }
    if params.get("sslnegotiation") == Some("direct") && matches!(mode, SslMode::Disable | SslMode::Allow | SslMode::Prefer) {
        return Err(fault("sslnegotiation", "`direct` needs sslmode require or stronger"));
    }
    let file = |key, default| params.get(key).map(PathBuf::from).or_else(|| machine.home_file(default));
    let identity = match (file("sslcert", ".postgresql/postgresql.crt"), file("sslkey", ".postgresql/postgresql.key")) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (Some(_), None) => return Err(fault("sslkey", "a client certificate is set but no key")),
        (None, _) => None,
    };
    Ok(TlsOptions { mode, root, identity })
}

fn connect_timeout(params: &Params) -> Result<Duration, PostgresError> {
    match params.get("connect_timeout").map(|v| v.trim().parse::<u32>()) {
        None | Some(Ok(0)) => Ok(CONNECT_TIMEOUT),
        Some(Ok(seconds)) => Ok(Duration::from_secs(u64::from(seconds.max(2)))),
        Some(Err(_)) => Err(PostgresError::Options { what: "connect_timeout", why: "it is not a number of seconds".into() }),
    }
}

/// The meaning of `key`; the first choice is the default.
fn one_of<T: Copy>(params: &Params, key: &'static str, choices: &[(&str, T)]) -> Result<T, PostgresError> {
    let value = params.get(key).unwrap_or(choices[0].0);
    choices.iter().find(|(name, _)| *name == value).map(|(_, meaning)| *meaning).ok_or_else(|| {
        let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
        PostgresError::Options { what: key, why: format!("it is none of {}", names.join(", ")) }
    })
}

/// What libpq takes from its surroundings.
struct Machine<'a> {
    env: &'a dyn Fn(&str) -> Option<String>,
    home: Option<PathBuf>,
    /// Name of the user that this process runs as.
    user: Option<String>,
    default_host: &'a dyn Fn(u16) -> String,
}

impl Machine<'static> {
    fn this() -> Self {
        Self {
            env: &|name| std::env::var(name).ok(),
            home: std::env::var_os("HOME").filter(|h| !h.is_empty()).map(PathBuf::from),
            user: process_user(),
            default_host: &default_host,
        }
    }
}

impl Machine<'_> {
    fn home_file(&self, name: &str) -> Option<PathBuf> {
        self.home.as_ref().map(|home| home.join(name)).filter(|path| path.is_file())
    }

    /// The parameters of `service`: from `file` or `~/.pg_service.conf`, else from the system's file.
    fn service(&self, service: &str, file: Option<PathBuf>) -> Result<Params, PostgresError> {
        let fault = |why| PostgresError::Options { what: "service", why };
        let system = (self.env)("PGSYSCONFDIR").unwrap_or_else(|| "/etc/postgresql-common".to_owned());
        let named = file.is_some();
        let files = [file.or_else(|| self.home_file(".pg_service.conf")), Some(Path::new(&system).join("pg_service.conf"))];
        for (at, path) in files.into_iter().flatten().enumerate() {
            let text = match std::fs::read_to_string(&path) {
                Ok(text) => text,
                Err(error) if named && at == 0 => {
                    return Err(fault(format!("the service file {} cannot be read: {error}", path.display())));
                }
                Err(_) => continue,
            };
            match conninfo::parse_service(&text, service) {
                Ok(Some(params)) => return Ok(params),
                Ok(None) => {}
                Err(why) => return Err(fault(format!("{}: {why}", path.display()))),
            }
        }
        Err(fault(format!("`{service}` is in no service file")))
    }

    /// The text of the password file. As in libpq, a missing one is none, and one that others can read is not used.
    fn password_file(&self, path: Option<&str>) -> Result<Option<Revealed>, PostgresError> {
        use std::os::unix::fs::PermissionsExt;
        let Some(path) = path.map(PathBuf::from).or_else(|| self.home_file(".pgpass")) else {
            return Ok(None);
        };
        match std::fs::metadata(&path) {
            Ok(metadata) if !metadata.is_file() => return Ok(None),
            Ok(metadata) if metadata.permissions().mode() & 0o077 != 0 => {
                tracing::warn!(path = %path.display(), "password file is not used: group or others have access (it must be mode 0600)");
                return Ok(None);
            }
            Err(_) => return Ok(None),
            Ok(_) => {}
        }
        let text = std::fs::read_to_string(&path)
            .map_err(|error| PostgresError::Options { what: "passfile", why: format!("{} cannot be read: {error}", path.display()) })?;
        Ok(Some(Revealed::new(text)))
    }
}

/// The socket of this machine, where distributions put it, if the server listens there.
fn default_host(port: u16) -> String {
    ["/var/run/postgresql", "/tmp"]
        .into_iter()
        .find(|dir| Path::new(dir).join(format!(".s.PGSQL.{port}")).exists())
        .unwrap_or("localhost")
        .to_owned()
}

/// The name of the effective user, from `/etc/passwd`; `$USER` where that has no entry (a container with an arbitrary user).
fn process_user() -> Option<String> {
    let id = rustix::process::geteuid().as_raw().to_string();
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let entry = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == id).then(|| name.to_owned())
    });
    entry.or_else(|| std::env::var("USER").ok().filter(|user| !user.is_empty()))
}
