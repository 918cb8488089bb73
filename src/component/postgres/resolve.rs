//! From what an operator wrote to an [`Endpoint`]: a small front end of libpq.
//!
//! Order, first wins: keys of the configuration, its `url`, the service file, `PG*` variables, libpq's defaults. Secrets are read when an
//! endpoint is made, which is once a run.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_postgres::config::{ChannelBinding, TargetSessionAttrs};

use super::connect::{Endpoint, Host};
use super::conninfo::{self, Params};
use super::tls::{Root, SslMode, TlsOptions};
use super::{PostgresError, PostgresOptions, passfile};
use crate::secret::Revealed;

/// libpq waits for ever; a backup must not.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

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
                    .find_map(|name| passfile::find_password(file.expose(), name, host.port, &database, &user)),
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

#[cfg(test)]
mod tests {
    use super::*;

    /// An endpoint from a connection string, variables and a home folder.
    fn resolve(text: &str, variables: &[(&str, &str)], home: Option<&Path>) -> Result<Endpoint, String> {
        let env = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
        let machine =
            Machine { env: &env, home: home.map(Path::to_owned), user: Some("os".into()), default_host: &|_| "/var/run/postgresql".into() };
        let params = Params::parse(text).expect("it parses");
        Endpoint::resolve(params, &machine).map_err(|e| e.to_string())
    }

    fn show(endpoint: &Endpoint) -> String {
        let password = endpoint.hosts[0].password.as_ref().map_or("-", Revealed::expose);
        format!("{endpoint}/{} {} {password}", endpoint.database, endpoint.tls.mode.as_str())
    }

    fn check(text: &str, variables: &[(&str, &str)], expected: &str) {
        assert_eq!(resolve(text, variables, None).map(|e| show(&e)), Ok(expected.to_owned()), "{text}");
    }

    #[test]
    fn what_is_written_wins_over_the_environment_and_that_over_the_defaults() {
        check("", &[], "os@/var/run/postgresql:5432/os prefer -");
        check("", &[("PGUSER", "u"), ("PGHOST", "h"), ("PGPORT", "6")], "u@h:6/u prefer -");
        check("postgres://a:b@h/d", &[("PGUSER", "u"), ("PGPASSWORD", "p"), ("PGSSLMODE", "require")], "a@h:5432/d require b");
        check("host=h", &[("PGHOSTADDR", "10.0.0.1"), ("PGDATABASE", "d")], "os@h:5432/d prefer -");
        check("host=a,b port=1,2", &[], "os@a:1,b:2/os prefer -");
        check("host=::1", &[("PGPORT", "")], "os@[::1]:5432/os prefer -");
        check("host=h sslrootcert=system", &[], "os@h:5432/os verify-full -");
    }

    #[test]
    fn what_cannot_be_meant_is_refused_by_its_key() {
        let check = |text: &str, expected: &str| {
            let error = resolve(text, &[], None).expect_err(text);
            assert!(error.contains(expected), "{text}: {error}");
        };
        check("port=0", "`port`");
        check("port=s3cret", "`port`");
        check("host=a,b port=1,2,3", "`port`");
        check("host=a,b hostaddr=::1", "`hostaddr`");
        check("sslmode=verify", "`sslmode`");
        check("sslmode=require sslrootcert=system", "verify-full");
        check("sslmode=prefer sslnegotiation=direct", "`sslnegotiation`");
        check("sslcert=/c", "`sslkey`");
        check("connect_timeout=soon", "`connect_timeout`");
        check("target_session_attrs=any-will-do", "`target_session_attrs`");
        check("service=none", "`none` is in no service file");
    }

    #[test]
    fn files_of_the_home_folder_are_found() {
        use std::os::unix::fs::PermissionsExt;
        let home = tempfile::tempdir().expect("a directory");
        let write = |name: &str, text: &str, mode| {
            let path = home.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("created");
            std::fs::write(&path, text).expect("written");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("mode");
        };
        write(".pg_service.conf", "[prod]\nhost=h\nport=7\nuser=svc\n", 0o644);
        write(".pgpass", "h:7:*:svc:secret:with\nlocalhost:*:*:os:socket\n", 0o600);
        write(".postgresql/root.crt", "", 0o644);
        let shown = |text: &str, variables: &[(&str, &str)]| resolve(text, variables, Some(home.path())).map(|e| show(&e));
        assert_eq!(shown("service=prod", &[]).as_deref(), Ok("svc@h:7/svc prefer secret"));
        assert_eq!(shown("dbname=d", &[("PGSERVICE", "prod"), ("PGPORT", "9")]).as_deref(), Ok("svc@h:7/d prefer secret"));
        assert_eq!(shown("", &[]).as_deref(), Ok("os@/var/run/postgresql:5432/os prefer socket"));
        let endpoint = resolve("", &[], Some(home.path())).expect("valid");
        assert_eq!(endpoint.tls.root, Some(Root::File(home.path().join(".postgresql/root.crt"))));
        write(".pgpass", "*:*:*:*:open", 0o640);
        assert_eq!(shown("host=h", &[]).as_deref(), Ok("os@h:5432/os prefer -"), "others can read it");
    }

    #[test]
    fn nothing_that_is_printed_holds_the_password() {
        let endpoint = resolve("postgres://u:s3cret@h/d", &[], None).expect("valid");
        assert!(!format!("{endpoint} {endpoint:?}").contains("s3cret"));
        assert!(endpoint.child_env(15).contains(&("PGPASSWORD", "s3cret".to_owned())), "but a child gets it");
    }
}
