//! Where a server is and who we are there: the URL with the explicit keys laid over it.

use std::path::PathBuf;

use percent_encoding::percent_decode_str;
use url::{Host, Url};

use super::{RedisError, RedisOptions};
use crate::secret::Revealed;

const PORT: u16 = 6379;

/// A server's address and credentials. `Debug` shows no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub address: Address,
    pub username: Option<String>,
    pub password: Option<Revealed>,
    /// PEM, in place of the system's roots.
    pub ca_file: Option<PathBuf>,
}

/// How the server is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    Tcp { host: String, port: u16, tls: bool },
    Unix(PathBuf),
}

impl Endpoint {
    /// The configured server; secrets are read as they are now.
    ///
    /// # Errors
    /// A secret that cannot be read, or a URL that is none; neither is printed.
    pub fn configured(options: &RedisOptions) -> Result<Self, RedisError> {
        let url = options.url.as_ref().map(|url| url.reveal().map_err(RedisError::Secret)).transpose()?;
        let mut endpoint = match &url {
            Some(url) if !url.expose().is_empty() => Self::parse(url.expose())?,
            _ => Self::at("localhost"),
        };
        if options.host.is_some() || options.port.is_some() {
            let (host, port, tls) = match endpoint.address {
                Address::Tcp { host, port, tls } => (host, port, tls),
                Address::Unix(_) => ("localhost".to_owned(), PORT, false),
            };
            endpoint.address = Address::Tcp { host: options.host.clone().unwrap_or(host), port: options.port.unwrap_or(port), tls };
        }
        if let Address::Tcp { tls, .. } = &mut endpoint.address {
            *tls |= options.tls;
        }
        if let Some(username) = &options.username {
            endpoint.username = Some(username.clone());
        }
        if let Some(password) = &options.password {
            endpoint.password = Some(password.reveal().map_err(RedisError::Secret)?);
        }
        endpoint.password = endpoint.password.filter(|p| !p.expose().is_empty());
        endpoint.username = endpoint.username.filter(|u| !u.is_empty());
        endpoint.ca_file.clone_from(&options.ca_file);
        Ok(endpoint)
    }

    /// `redis://`, `rediss://` or `unix://`, user and password percent-decoded.
    ///
    /// # Errors
    /// [`RedisError::Url`], without the text, which may hold a password.
    pub fn parse(text: &str) -> Result<Self, RedisError> {
        let url = Url::parse(text).map_err(|_| RedisError::Url("it is not a URL"))?;
        let decoded = |text: &str| match percent_decode_str(text).decode_utf8() {
            Ok(text) => Ok(text.into_owned()),
            Err(_) => Err(RedisError::Url("user or password is not UTF-8 when decoded")),
        };
        let username = Some(decoded(url.username())?).filter(|u| !u.is_empty());
        let password = url.password().map(decoded).transpose()?.map(Revealed::new);
        let address = match url.scheme() {
            "redis" | "valkey" => tcp(&url, false)?,
            "rediss" | "valkeys" => tcp(&url, true)?,
            "unix" | "redis+unix" => Address::Unix(decoded(url.path())?.into()),
            _ => return Err(RedisError::Url("its scheme is none of redis, rediss, unix")),
        };
        Ok(Self { address, username, password, ca_file: None })
    }

    fn at(host: &str) -> Self {
        Self { address: Address::Tcp { host: host.to_owned(), port: PORT, tls: false }, username: None, password: None, ca_file: None }
    }

    /// `host:port` or the socket's path: for messages.
    pub fn display(&self) -> String {
        match &self.address {
            Address::Tcp { host, port, .. } if host.contains(':') => format!("[{host}]:{port}"),
            Address::Tcp { host, port, .. } => format!("{host}:{port}"),
            Address::Unix(path) => path.display().to_string(),
        }
    }
}

fn tcp(url: &Url, tls: bool) -> Result<Address, RedisError> {
    let host = match url.host() {
        Some(Host::Ipv6(ip)) => ip.to_string(),
        Some(Host::Ipv4(ip)) => ip.to_string(),
        Some(Host::Domain(name)) if !name.is_empty() => name.to_owned(),
        _ => "localhost".to_owned(),
    };
    let db = url.path().trim_matches('/');
    if !db.is_empty() && db.parse::<u32>().is_err() {
        return Err(RedisError::Url("what follows the host is not the number of a database"));
    }
    Ok(Address::Tcp { host, port: url.port().unwrap_or(PORT), tls })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    fn options() -> RedisOptions {
        RedisOptions::new("redis".parse().expect("a name"))
    }

    fn parsed(text: &str) -> (String, Option<String>, Option<String>, bool) {
        let e = Endpoint::parse(text).expect("a URL");
        let tls = matches!(e.address, Address::Tcp { tls: true, .. });
        (e.display(), e.username.clone(), e.password.as_ref().map(|p| p.expose().to_owned()), tls)
    }

    #[test]
    fn urls_are_read_and_percent_decoded() {
        let own = |s: &str| Some(s.to_owned());
        assert_eq!(parsed("redis://redis:6379/0"), ("redis:6379".into(), None, None, false));
        assert_eq!(parsed("rediss://h"), ("h:6379".into(), None, None, true));
        assert_eq!(parsed("redis://:p%40%2F%23%25%20w@h:1/3"), ("h:1".into(), None, own("p@/#% w"), false));
        assert_eq!(parsed("redis://u:p$=\"'@[::1]:7/"), ("[::1]:7".into(), own("u"), own("p$=\"'"), false));
        assert_eq!(parsed("unix:///run/r%20s.sock"), ("/run/r s.sock".into(), None, None, false));
    }

    #[test]
    fn explicit_keys_win_over_the_url() {
        let options = RedisOptions {
            url: Some(Secret::parse("redis://a:b@host:1/0")),
            host: Some("other".into()),
            password: Some(Secret::parse("0123 $#")),
            tls: true,
            ..options()
        };
        let e = Endpoint::configured(&options).expect("valid");
        assert_eq!(e.address, Address::Tcp { host: "other".into(), port: 1, tls: true });
        assert_eq!((e.username.as_deref(), e.password.as_ref().map(Revealed::expose)), (Some("a"), Some("0123 $#")));
        assert_eq!(Endpoint::configured(&self::options()).expect("defaults").display(), "localhost:6379");
    }

    #[test]
    fn a_bad_url_is_refused_without_printing_it() {
        for text in ["canary", "http://u:canary@h", "redis://u:canary@h/x", "redis://u:can#ary@h"] {
            let e = Endpoint::parse(text).expect_err(text);
            assert!(!format!("{e} {e:?}").contains("canary"), "{e:?}");
        }
    }
}
