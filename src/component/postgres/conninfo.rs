//! libpq's connection strings and service files, as pure functions.
//!
//! Grammar: PostgreSQL's `src/interfaces/libpq/fe-connect.c` (`conninfo_parse`, `conninfo_uri_parse_options`, `parseServiceFile`).
//! Errors never repeat a value: it may be a password.

use std::collections::BTreeMap;

use crate::secret::Revealed;

/// Keys of libpq that are understood, with the environment variable that is their fallback.
pub const KEYS: &[(&str, &str)] = &[
    ("host", "PGHOST"),
    ("hostaddr", "PGHOSTADDR"),
    ("port", "PGPORT"),
    ("user", "PGUSER"),
    ("password", "PGPASSWORD"),
    ("dbname", "PGDATABASE"),
    ("passfile", "PGPASSFILE"),
    ("service", "PGSERVICE"),
    ("servicefile", "PGSERVICEFILE"),
    ("sslmode", "PGSSLMODE"),
    ("sslrootcert", "PGSSLROOTCERT"),
    ("sslcert", "PGSSLCERT"),
    ("sslkey", "PGSSLKEY"),
    ("sslnegotiation", "PGSSLNEGOTIATION"),
    ("channel_binding", "PGCHANNELBINDING"),
    ("connect_timeout", "PGCONNECT_TIMEOUT"),
    ("options", "PGOPTIONS"),
    ("application_name", "PGAPPNAME"),
    ("target_session_attrs", "PGTARGETSESSIONATTRS"),
];

/// Keys of libpq that change nothing that matters here: taken and not used.
const IGNORED: &[&str] = &[
    "client_encoding",
    "fallback_application_name",
    "gssdelegation",
    "gssencmode",
    "gsslib",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "krbsrvname",
    "load_balance_hosts",
    "sslcompression",
    "sslsni",
    "tcp_user_timeout",
];

/// Keys that would make a connection safer and that only libpq could honour: leaving them out silently would be a lie.
const REFUSED: &[&str] = &[
    "replication",
    "require_auth",
    "requirepeer",
    "ssl_max_protocol_version",
    "ssl_min_protocol_version",
    "sslcertmode",
    "sslcrl",
    "sslcrldir",
    "sslkeylogfile",
    "sslpassword",
];

/// Connection parameters by libpq's names. Empty values count as unset.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Params(BTreeMap<&'static str, Revealed>);

impl Params {
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(Revealed::expose)
    }

    /// Sets `key`; later calls win.
    ///
    /// # Errors
    /// A sentence, for a key that libpq does not know or that we do not support.
    pub fn set(&mut self, key: &str, value: impl Into<String>) -> Result<(), String> {
        let value = Revealed::new(value);
        if let Some((known, _)) = KEYS.iter().find(|(known, _)| *known == key) {
            if value.expose().is_empty() {
                self.0.remove(known);
            } else {
                self.0.insert(known, value);
            }
            Ok(())
        } else if IGNORED.contains(&key) {
            Ok(())
        } else if REFUSED.contains(&key) {
            Err(format!("the parameter `{key}` is not supported"))
        } else {
            Err(format!("`{}` is not a connection parameter", key.escape_debug()))
        }
    }

    /// Takes from `below` what is unset here. A host that is set here hides the addresses of `below`: they belong to its own host.
    pub fn or(&mut self, below: &Self) {
        let has_host = self.0.contains_key("host") || self.0.contains_key("hostaddr");
        for (key, value) in &below.0 {
            let hidden = has_host && matches!(*key, "host" | "hostaddr");
            if !hidden {
                self.0.entry(key).or_insert_with(|| value.clone());
            }
        }
    }

    /// [`Self::or`], as far as both are of one server, and of one user: a password must not be sent to a host that it is not for.
    #[must_use]
    pub fn inherit(mut self, mut below: Self) -> Self {
        let other = |key| self.get(key).is_some() && self.get(key) != below.get(key);
        if ["host", "hostaddr", "port", "service"].into_iter().any(other) {
            return self;
        }
        if other("user") {
            below.remove("password");
        }
        self.or(&below);
        self
    }

    pub fn remove(&mut self, key: &str) {
        self.0.remove(key);
    }

    /// The parameters that the environment gives.
    pub fn from_env(env: &dyn Fn(&str) -> Option<String>) -> Self {
        Self(KEYS.iter().filter_map(|(key, name)| Some((*key, Revealed::new(env(name).filter(|v| !v.is_empty())?)))).collect())
    }

    /// Understands `postgres://…` and `key=value …`.
    ///
    /// # Errors
    /// A sentence that does not repeat the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.strip_prefix("postgres://").or_else(|| text.strip_prefix("postgresql://")) {
            Some(rest) => parse_uri(rest),
            None => parse_pairs(text),
        }
    }
}

fn parse_uri(rest: &str) -> Result<Params, String> {
    let mut params = Params::default();
    // As in libpq, an `@` ends the user part only if no `/` comes before it.
    let rest = match rest.find(['@', '/']) {
        Some(at) if rest.as_bytes()[at] == b'@' => {
            let (user, password) = rest[..at].split_once(':').unwrap_or((&rest[..at], ""));
            params.set("user", decode(user)?)?;
            params.set("password", decode(password)?)?;
            &rest[at + 1..]
        }
        _ => rest,
    };
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
    let (mut hosts, mut ports) = (Vec::new(), Vec::new());
    for part in authority.split(',') {
        let (host, port) = match part.strip_prefix('[') {
            Some(v6) => {
                let (host, port) = v6.split_once(']').ok_or("the `]` of an IPv6 address is missing")?;
                let port = match port {
                    "" => "",
                    _ => port.strip_prefix(':').ok_or("after the `]` of an IPv6 address comes a `:` and a port, or nothing")?,
                };
                (host, port)
            }
            None => part.split_once(':').unwrap_or((part, "")),
        };
        hosts.push(decode(host)?);
        ports.push(decode(port)?);
    }
    if hosts.iter().any(|h| !h.is_empty()) {
        params.set("host", hosts.join(","))?;
    }
    if ports.iter().any(|p| !p.is_empty()) {
        params.set("port", ports.join(","))?;
    }
    params.set("dbname", decode(database)?)?;
    for pair in query.split('&').filter(|p| !p.is_empty()) {
        let (key, value) = pair.split_once('=').ok_or("a parameter after the `?` has no `=`")?;
        let (key, value) = (decode(key)?, decode(value)?);
        // JDBC's spelling, which libpq takes too.
        match (key.as_str(), value.as_str()) {
            ("ssl", "true") => params.set("sslmode", "require".to_owned())?,
            _ => params.set(&key, value)?,
        }
    }
    Ok(params)
}

fn decode(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = tail.get(..2).and_then(|d| std::str::from_utf8(d).ok()).filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
        match digits.and_then(|d| u8::from_str_radix(d, 16).ok()) {
            Some(0) | None => return Err("a `%` is not followed by two hex digits other than 00 (write `%25` for the sign itself)".into()),
            Some(byte) => bytes.push(byte),
        }
        rest = &tail[2..];
    }
    String::from_utf8(bytes).map_err(|_| "it is not UTF-8 after decoding".into())
}

fn parse_pairs(text: &str) -> Result<Params, String> {
    let mut params = Params::default();
    let mut chars = text.chars().peekable();
    loop {
        while chars.next_if(|c| c.is_ascii_whitespace()).is_some() {}
        if chars.peek().is_none() {
            return Ok(params);
        }
        let mut key = String::new();
        while let Some(c) = chars.next_if(|c| !c.is_ascii_whitespace() && *c != '=') {
            key.push(c);
        }
        while chars.next_if(|c| c.is_ascii_whitespace()).is_some() {}
        if chars.next() != Some('=') {
            return Err("it is neither `postgres://…` nor `key=value …`: a `=` is missing".into());
        }
        while chars.next_if(|c| c.is_ascii_whitespace()).is_some() {}
        let quoted = chars.next_if_eq(&'\'').is_some();
        let mut value = String::new();
        loop {
            match chars.next() {
                Some('\\') => value.extend(chars.next()),
                Some('\'') if quoted => break,
                Some(c) if !quoted && c.is_ascii_whitespace() => break,
                Some(c) => value.push(c),
                None if quoted => return Err("the `'` at the end of a value is missing".into()),
                None => break,
            }
        }
        params.set(&key, value)?;
    }
}

/// `value` as it must be written after `key=` in a connection string.
pub fn quote_value(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// The parameters of section `[service]` of a service file; `None` if there is no such section.
///
/// # Errors
/// A sentence with the line's number.
pub fn parse_service(file: &str, service: &str) -> Result<Option<Params>, String> {
    let mut found: Option<Params> = None;
    let mut inside = false;
    for (at, line) in file.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(section) = line.strip_prefix('[') {
            if inside {
                break;
            }
            inside = section.strip_suffix(']') == Some(service);
            if inside {
                found = Some(Params::default());
            }
        } else if let Some(params) = found.as_mut().filter(|_| inside) {
            let fault = |why: &str| format!("line {}: {why}", at + 1);
            let (key, value) = line.split_once('=').ok_or_else(|| fault("a `=` is missing"))?;
            if matches!(key, "service" | "servicefile") {
                return Err(fault("a service cannot name another one"));
            }
            params.set(key, value.to_owned()).map_err(|why| fault(&why))?;
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(params: &Params) -> Vec<(&str, &str)> {
        params.0.iter().map(|(k, v)| (*k, v.expose())).collect()
    }

    fn check(text: &str, expected: &[(&str, &str)]) {
        let params = Params::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
        let mut expected = expected.to_vec();
        expected.sort_unstable();
        assert_eq!(pairs(&params), expected, "{text}");
    }

    #[test]
    fn uris_read_as_libpq_reads_them() {
        check("postgres://", &[]);
        check("postgresql:///app", &[("dbname", "app")]);
        check("postgres://u:p@h:5/d", &[("user", "u"), ("password", "p"), ("host", "h"), ("port", "5"), ("dbname", "d")]);
        check("postgres://u@h", &[("user", "u"), ("host", "h")]);
        check("postgres://u:a$ =#\"'b@h/d", &[("user", "u"), ("password", "a$ =#\"'b"), ("host", "h"), ("dbname", "d")]);
        check("postgres://u:%40%2F%25%3A@h", &[("user", "u"), ("password", "@/%:"), ("host", "h")]);
        check("postgres://[::1]:5433/d", &[("host", "::1"), ("port", "5433"), ("dbname", "d")]);
        check("postgres://a:1,b:2/d", &[("host", "a,b"), ("port", "1,2"), ("dbname", "d")]);
        check("postgres://%2Fvar%2Frun:6/d", &[("host", "/var/run"), ("port", "6"), ("dbname", "d")]);
        check(
            "postgres:///d?host=/tmp&port=7&sslmode=disable",
            &[("dbname", "d"), ("host", "/tmp"), ("port", "7"), ("sslmode", "disable")],
        );
        check("postgres://h/d?ssl=true&keepalives=1", &[("host", "h"), ("dbname", "d"), ("sslmode", "require")]);
        check("postgres://h/a%20b%3D%27", &[("host", "h"), ("dbname", "a b='")]);
    }

    #[test]
    fn pairs_read_as_libpq_reads_them() {
        check(
            "host=h port = 5 password='a \\' b\\\\' dbname=x\\ y",
            &[("host", "h"), ("port", "5"), ("password", "a ' b\\"), ("dbname", "x y")],
        );
        check("  user=''  host=h ", &[("host", "h")]);
    }

    #[test]
    fn a_fault_is_named_without_the_value() {
        for bad in [
            "s3cret",
            "password='s3cret",
            "postgres://u:s3cret%zz@h",
            "postgres://u:s3cret%00@h",
            "postgres://u:s3cret@[::1",
            "postgres://u:s3cret@h/d?nokey",
            "postgres://u:s3cret@h/d?sslcrl=x",
            "postgres://u:s3cret@h/d?wrong=x",
        ] {
            let why = Params::parse(bad).expect_err(bad);
            assert!(!why.contains("s3cret"), "{bad}: {why}");
        }
    }

    #[test]
    fn a_quoted_value_reads_back() {
        for name in ["app", "a b", "it's", "back\\slash", "postgres://x/y", "a=b", "\\'", "ü\n"] {
            check(&format!("dbname={} host=h", quote_value(name)), &[("dbname", name), ("host", "h")]);
        }
    }

    #[test]
    fn an_upper_host_hides_a_lower_address() {
        let mut upper = Params::parse("host=new").expect("valid");
        upper.or(&Params::parse("host=old hostaddr=10.0.0.1 user=u").expect("valid"));
        assert_eq!(pairs(&upper), [("host", "new"), ("user", "u")]);
    }

    #[test]
    fn a_password_goes_to_its_own_server_and_user_only() {
        let below = || Params::parse("host=h port=5 user=u password=p sslmode=require").expect("valid");
        for (url, password) in [
            ("postgres:///new", Some("p")),
            ("postgres://h/new", Some("p")),
            ("postgres://u@h:5/new", Some("p")),
            ("postgres://u:q@h/new", Some("q")),
            ("postgres://other@h/new", None),
            ("postgres://elsewhere/new", None),
            ("postgres://h:6/new", None),
        ] {
            let params = Params::parse(url).expect("valid").inherit(below());
            assert_eq!(params.get("password"), password, "{url}");
        }
    }

    #[test]
    fn a_service_is_found_by_its_section() {
        let file = "# c\n[one]\nhost=a\n\n[two]\nhost=b\nport=6\n[three]\nhost=c\n";
        let two = parse_service(file, "two").expect("valid").expect("there");
        assert_eq!(pairs(&two), [("host", "b"), ("port", "6")]);
        assert_eq!(parse_service(file, "four"), Ok(None));
        assert_eq!(parse_service("[x]\nservice=y\n", "x"), Err("line 2: a service cannot name another one".into()));
    }
}
