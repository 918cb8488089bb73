//! `sftp://user@host:port/path`.

use std::fmt;

use percent_encoding::percent_decode_str;

/// A folder on an SFTP server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SftpPlace {
    /// `None`: ssh's own choice.
    pub user: Option<String>,
    /// A name, an address, or a `Host` of ssh's configuration.
    pub host: String,
    /// `None`: ssh's own choice.
    pub port: Option<u16>,
    /// Without a slash at its end. From the home of the user where it does not begin with one; empty: the root.
    pub path: String,
}

impl SftpPlace {
    /// Understands a `url`.
    ///
    /// # Errors
    /// A sentence that says what is accepted.
    pub fn parse(url: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "`{url}` is not a folder on an SFTP server (expected `sftp://user@host/path`, or `sftp://user@host/~/path` below its home)"
            )
        };
        let rest = url.strip_prefix("sftp://").ok_or_else(wrong)?;
        let (authority, path) = rest.split_once('/').ok_or_else(wrong)?;
        let (user, server) = match authority.rsplit_once('@') {
            Some((user, server)) => (Some(user), server),
            None => (None, authority),
        };
        let (host, port) = match server.strip_prefix('[').and_then(|six| six.split_once(']')) {
            Some((host, "")) => (host, None),
            Some((host, port)) => (host, Some(port.strip_prefix(':').ok_or_else(wrong)?)),
            None => server.split_once(':').map_or((server, None), |(host, port)| (host, Some(port))),
        };
        let port = port.map(|port| port.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(wrong)).transpose()?;
        // each becomes an argument of ssh
        let is_host = !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':' | b'%'));
        let is_user = |user: &str| !user.is_empty() && user.bytes().all(|b| b.is_ascii_graphic() && !b"\"'\\`;<>|(){}$&/:@%".contains(&b));
        if !is_host || host.starts_with('-') || user.is_some_and(|user| !is_user(user) || user.starts_with('-')) {
            return Err(wrong());
        }
        if path.contains(['?', '#']) {
            return Err(wrong());
        }
        let decoded = percent_decode_str(path).decode_utf8().map_err(|_| wrong())?;
        let path = decoded.trim_end_matches('/');
        if path.split('/').any(|part| matches!(part, "." | "..")) || path.contains(['\0', '\n']) {
            return Err(wrong());
        }
        let path = match path.strip_prefix('~') {
            Some("") => ".".to_owned(),
            Some(below) if below.starts_with('/') => below.trim_start_matches('/').to_owned(),
            _ if path.is_empty() => String::new(),
            _ => format!("/{}", path.trim_start_matches('/')),
        };
        Ok(Self { user: user.map(ToOwned::to_owned), host: host.to_owned(), port, path })
    }

    /// What the server knows the file of `key` by; that of no key is the folder.
    pub fn server_path(&self, key: &str) -> String {
        match (self.path.as_str(), key) {
            ("", "") => "/".to_owned(),
            (path, "") => path.to_owned(),
            (path, key) => format!("{path}/{key}"),
        }
    }
}

/// As its `url`.
impl fmt::Display for SftpPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sftp://")?;
        if let Some(user) = &self.user {
            write!(f, "{user}@")?;
        }
        if self.host.contains(':') {
            write!(f, "[{}]", self.host)?
        } else {
            f.write_str(&self.host)?
        }
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        match self.path.as_str() {
            "" => f.write_str("/"),
            "." => f.write_str("/~"),
            path if path.starts_with('/') => f.write_str(path),
            path => write!(f, "/~/{path}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_what_its_url_says() {
        for (url, user, host, port, path, key) in [
            ("sftp://me@host/a/b", Some("me"), "host", None, "/a/b", "/a/b/k"),
            ("sftp://host:2222/a/", None, "host", Some(2222), "/a", "/a/k"),
            ("sftp://me@[::1]:22/a%20b", Some("me"), "::1", Some(22), "/a b", "/a b/k"),
            ("sftp://u123-sub1@box.example.com:23/~/backups", Some("u123-sub1"), "box.example.com", Some(23), "backups", "backups/k"),
            ("sftp://host/~", None, "host", None, ".", "./k"),
            ("sftp://host/", None, "host", None, "", "/k"),
            ("sftp://host/~other/x", None, "host", None, "/~other/x", "/~other/x/k"),
        ] {
            let place = SftpPlace::parse(url).expect(url);
            assert_eq!((place.user.as_deref(), place.host.as_str(), place.port, place.path.as_str()), (user, host, port, path), "{url}");
            assert_eq!(place.server_path("k"), key);
            assert_eq!(SftpPlace::parse(&place.to_string()).as_ref(), Ok(&place), "{place}");
        }
    }

    #[test]
    fn what_would_be_an_option_or_leave_the_folder_is_refused() {
        for url in [
            "sftp://host",
            "sftp:///path",
            "sftp://-oProxyCommand=x/path",
            "sftp://-lroot@host/path",
            "sftp://host:0/path",
            "sftp://host:99999/path",
            "sftp://host:x/path",
            "sftp://me@/path",
            "sftp://a b@host/path",
            "sftp://ho$t/path",
            "sftp://host/a/../b",
            "sftp://host/a%2F..%2Fb",
            "sftp://host/a?b",
            "sftp://host/a%0Ab",
        ] {
            assert!(SftpPlace::parse(url).is_err(), "{url}");
        }
    }
}
