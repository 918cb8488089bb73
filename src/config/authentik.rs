//! What authentik's own environment says: its PostgreSQL, its Redis, its directories, and the S3 target of its old backups.
//!
//! Names, defaults and the forms `env://NAME?default` and `file:///path?default` (resolved once) are those of authentik's
//! `authentik/lib/config.py` and `authentik/lib/default.yml`. Its many other variables are not ours to judge.

use std::collections::BTreeMap;

use config::ValueKind;

use super::error::Fault;
use super::keys;
use super::layer::{Layer, Origin, path};

/// Name of the target that `AUTHENTIK_POSTGRESQL__S3_BACKUP__*` describes.
pub(super) const S3_BACKUP: &str = "s3-backup";

const POSTGRES: &[(&str, &str)] = &[
    ("POSTGRESQL__HOST", "host"),
    ("POSTGRESQL__PORT", "port"),
    ("POSTGRESQL__NAME", "database"),
    ("POSTGRESQL__USER", "user"),
    ("POSTGRESQL__PASSWORD", "password"),
    ("POSTGRESQL__SSLMODE", "sslmode"),
    ("POSTGRESQL__SSLROOTCERT", "sslrootcert"),
    ("POSTGRESQL__SSLCERT", "sslcert"),
    ("POSTGRESQL__SSLKEY", "sslkey"),
];

const POSTGRES_DEFAULTS: &[(&str, &str)] = &[("host", "localhost"), ("database", "authentik"), ("user", "authentik")];

const REDIS: &[(&str, &str)] = &[
    ("REDIS__HOST", "host"),
    ("REDIS__PORT", "port"),
    ("REDIS__USERNAME", "username"),
    ("REDIS__PASSWORD", "password"),
    ("REDIS__DB", "db"),
    ("REDIS__TLS", "tls"),
    ("REDIS__TLS_CA_CERT", "ca_file"),
];

const S3: &[(&str, &str)] = &[
    ("POSTGRESQL__S3_BACKUP__ACCESS_KEY", "access_key_id"),
    ("POSTGRESQL__S3_BACKUP__SECRET_KEY", "secret_access_key"),
    ("POSTGRESQL__S3_BACKUP__REGION", "region"),
    ("POSTGRESQL__S3_BACKUP__HOST", "endpoint"),
];

/// Later ones win: the one for a usage over the one for all of them.
const DIRECTORIES: &[(&str, &str)] = &[
    ("STORAGE__FILE__PATH", "media"),
    ("STORAGE__MEDIA__FILE__PATH", "media"),
    ("CERT_DISCOVERY_DIR", "certs"),
    ("BLUEPRINTS_DIR", "blueprints"),
    ("EMAIL__TEMPLATE_DIR", "custom-templates"),
];

/// Reads the variables that are known here. A value that cannot be right is a fault and is left out of the layer.
pub(super) fn layer(env: &BTreeMap<String, String>, faults: &mut Vec<Fault>) -> Layer {
    let mut reader = Reader { env, faults, layer: Layer::default() };
    reader.postgres();
    reader.all(REDIS, "redis", "redis");
    if reader.layer.has_section("redis") {
        reader.assume("redis", "redis", "host", "localhost");
    }
    reader.s3_backup();
    for (variable, name) in DIRECTORIES {
        reader.take(variable, "directory", name, "path");
    }
    reader.layer
}

struct Reader<'a> {
    env: &'a BTreeMap<String, String>,
    faults: &'a mut Vec<Fault>,
    layer: Layer,
}

impl Reader<'_> {
    fn postgres(&mut self) {
        self.all(POSTGRES, "postgres", "postgres");
        if !self.layer.has_section("postgres") {
            return;
        }
        for (key, value) in POSTGRES_DEFAULTS {
            self.assume("postgres", "postgres", key, value);
        }
        // authentik's default password; without the variable there may still be a pgpass
        if self.env.get("POSTGRES_PASSWORD").is_some_and(|p| !p.is_empty()) {
            self.assume("postgres", "postgres", "password", "env://POSTGRES_PASSWORD");
        }
    }

    fn s3_backup(&mut self) {
        let Some((bucket, variable)) = self.text("POSTGRESQL__S3_BACKUP__BUCKET") else { return };
        let prefix = self.text("POSTGRESQL__S3_BACKUP__LOCATION").map_or(String::new(), |(text, _)| text);
        let url = format!("s3://{bucket}/{}", prefix.trim_matches('/'));
        self.put("targets", S3_BACKUP, "url", url.trim_end_matches('/').into(), Origin::Variable(variable));
        self.all(S3, "targets", S3_BACKUP);
        self.assume("targets", S3_BACKUP, "region", "eu-central-1");
        if let Some((host, variable)) = self.text("POSTGRESQL__S3_BACKUP__HOST") {
            self.assume("targets", S3_BACKUP, "addressing", "path");
            if host.starts_with("http://") {
                self.put("targets", S3_BACKUP, "allow_http", true.into(), Origin::Variable(variable));
            }
        }
        if let Some((text, variable)) = self.text("POSTGRESQL__S3_BACKUP__INSECURE_SKIP_VERIFY") {
            let skip = text.eq_ignore_ascii_case("true");
            self.put("targets", S3_BACKUP, "insecure_skip_verify", skip.into(), Origin::Variable(variable));
        }
    }

    fn all(&mut self, table: &[(&str, &str)], section: &str, name: &str) {
        for (variable, key) in table {
            self.take(variable, section, name, key);
        }
    }

    /// The value of `AUTHENTIK_<variable>` as that of a key.
    fn take(&mut self, variable: &str, section: &str, name: &str, key: &str) {
        let Some(spec) = keys::section(section).and_then(|s| s.key(key)) else { return };
        let variable = format!("AUTHENTIK_{variable}");
        let Some(raw) = self.env.get(&variable).filter(|v| !v.is_empty()) else { return };
        let text = if spec.secret { Ok(raw.clone()) } else { resolve(self.env, raw) };
        let value = match text {
            Ok(text) if text.is_empty() => return,
            // authentik takes everything but "true" for false
            Ok(text) if spec.kind == keys::Kind::Flag => Ok(ValueKind::Boolean(text.trim().eq_ignore_ascii_case("true"))),
            Ok(text) => spec.parse(&text),
            Err(text) => Err(text),
        };
        let origin = Origin::Variable(variable);
        match value {
            Ok(value) => self.put(section, name, key, value, origin),
            Err(text) => self.faults.push(Fault::new(origin, path(&[section, name, key]).join("."), text)),
        }
    }

    /// A resolved text that is not the value of one key, and its variable.
    fn text(&mut self, variable: &str) -> Option<(String, String)> {
        let variable = format!("AUTHENTIK_{variable}");
        let raw = self.env.get(&variable).filter(|v| !v.is_empty())?;
        match resolve(self.env, raw) {
            Ok(text) => (!text.is_empty()).then_some((text, variable)),
            Err(text) => {
                self.faults.push(Fault::new(Origin::Variable(variable), "", text));
                None
            }
        }
    }

    fn put(&mut self, section: &str, name: &str, key: &str, value: ValueKind, origin: Origin) {
        let path = path(&[section, name, key]);
        self.layer.entries.retain(|e| e.path != path);
        self.layer.set(path, value, origin);
    }

    /// authentik's default, where nothing is set.
    fn assume(&mut self, section: &str, name: &str, key: &str, value: &str) {
        if self.layer.get(&[section, name, key]).is_none() {
            self.put(section, name, key, value.into(), Origin::AuthentikDefault);
        }
    }
}

/// One level of `env://NAME?default` and `file:///path?default`; empty when there is neither value nor default.
fn resolve(env: &BTreeMap<String, String>, raw: &str) -> Result<String, String> {
    let split =
        |rest: &str| rest.split_once('?').map_or((rest.to_owned(), None), |(place, default)| (place.to_owned(), Some(default.to_owned())));
    if let Some(rest) = raw.strip_prefix("env://") {
        let (name, default) = split(rest);
        return Ok(env.get(&name).filter(|v| !v.is_empty()).cloned().or(default).unwrap_or_default());
    }
    if let Some(rest) = raw.strip_prefix("file://") {
        let (file, default) = split(rest);
        return match (std::fs::read_to_string(&file), default) {
            (Ok(text), _) => Ok(text.trim().to_owned()),
            (Err(_), Some(default)) => Ok(default),
            (Err(e), None) => Err(format!("cannot read {file}: {e}")),
        };
    }
    Ok(raw.to_owned())
}
