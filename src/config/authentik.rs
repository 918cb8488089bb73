//! What authentik's own environment says: its PostgreSQL, its Redis, its directories and buckets, and the S3 target of its old backups.
//!
//! Names, defaults and the forms `env://NAME?default` and `file:///path?default` (resolved once) are those of authentik's
//! `authentik/lib/config.py` and `authentik/lib/default.yml`, of versions 2021 to 2025.12. Its many other variables are not ours to judge;
//! what its operator should know of some of them are the notes.

use std::collections::BTreeMap;

use base64::Engine as _;
use config::ValueKind;
use serde_json::Value as Json;

use super::LoadOptions;
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
    ("POSTGRESQL__READ_REPLICAS__0__HOST", "replica_host"),
    ("POSTGRESQL__READ_REPLICAS__0__PORT", "replica_port"),
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

/// What authentik keeps in buckets, and the component that each usage becomes: the media of all versions, the reports since 2025.12.
const USAGES: [(&str, &str); 2] = [("MEDIA", "media-bucket"), ("REPORTS", "reports-bucket")];

/// After `STORAGE__<usage>__S3__`, or `STORAGE__S3__` for all usages.
const BUCKET: &[(&str, &str)] = &[
    ("REGION", "region"),
    ("ENDPOINT", "endpoint"),
    ("ACCESS_KEY", "access_key_id"),
    ("SECRET_KEY", "secret_access_key"),
    ("SECURITY_TOKEN", "session_token"),
    ("SESSION_TOKEN", "session_token"),
    ("SESSION_PROFILE", "profile"),
];

/// Keys of libpq that a connection here knows too.
const CONN_OPTIONS: &[(&str, &str)] = &[
    ("host", "host"),
    ("port", "port"),
    ("dbname", "database"),
    ("user", "user"),
    ("password", "password"),
    ("sslmode", "sslmode"),
    ("sslrootcert", "sslrootcert"),
    ("sslcert", "sslcert"),
    ("sslkey", "sslkey"),
];

/// Where authentik 2025.12 and later keep their files, unless told otherwise.
const DATA: &str = "/data";

/// Later ones win: the one for a usage over the one for all of them.
const DIRECTORIES: &[(&str, &str)] = &[
    ("STORAGE__FILE__PATH", "media"),
    ("STORAGE__MEDIA__FILE__PATH", "media"),
    ("CERT_DISCOVERY_DIR", "certs"),
    ("BLUEPRINTS_DIR", "blueprints"),
    ("EMAIL__TEMPLATE_DIR", "custom-templates"),
];

/// Reads the variables that are known here. A value that cannot be right is a fault and is left out of the layer. With what an operator
/// should know, in sentences.
pub(super) fn layer(options: &LoadOptions, faults: &mut Vec<Fault>) -> (Layer, Vec<String>) {
    let mut reader = Reader { env: &options.env, faults, layer: Layer::default(), notes: Vec::new() };
    reader.postgres();
    reader.all(REDIS, "redis", "redis");
    if reader.layer.has_section("redis") {
        reader.assume("redis", "redis", "host", "localhost");
    }
    reader.s3_backup();
    for (variable, name) in DIRECTORIES {
        reader.take(variable, "directory", name, "path");
    }
    for (usage, name) in USAGES {
        reader.bucket(usage, name);
    }
    // its volume may be mounted here without a variable that says so
    let is_data = |entry: &super::layer::Entry| matches!(&entry.value, Some(ValueKind::String(path)) if path == DATA);
    if reader.is_authentik() && options.root.join(&DATA[1..]).is_dir() && !reader.layer.entries.iter().any(is_data) {
        reader.put("directory", "data", "path", DATA.into(), Origin::AuthentikDefault);
    }
    reader.note_the_rest();
    (reader.layer, reader.notes)
}

struct Reader<'a> {
    env: &'a BTreeMap<String, String>,
    faults: &'a mut Vec<Fault>,
    layer: Layer,
    notes: Vec<String>,
}

impl Reader<'_> {
    /// Whether this looks like the environment of authentik itself.
    fn is_authentik(&self) -> bool {
        ["AUTHENTIK_SECRET_KEY", "AUTHENTIK_POSTGRESQL__HOST", "AUTHENTIK_POSTGRESQL__PASSWORD"].iter().any(|v| self.env.contains_key(*v))
    }

    fn postgres(&mut self) {
        self.all(POSTGRES, "postgres", "postgres");
        self.conn_options();
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

    /// Base64 of a JSON object with keywords of libpq, which win over the other variables.
    fn conn_options(&mut self) {
        let Some((text, variable)) = self.text("POSTGRESQL__CONN_OPTIONS") else { return };
        let decoded = base64::engine::general_purpose::STANDARD.decode(text.trim()).ok();
        let Some(Json::Object(keywords)) = decoded.and_then(|bytes| serde_json::from_slice(&bytes).ok()) else {
            self.faults.push(Fault::new(Origin::Variable(variable), "", "is not the base64 of a JSON object"));
            return;
        };
        let mut unused = Vec::new();
        for (keyword, value) in keywords {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let known = CONN_OPTIONS.iter().find(|(name, _)| *name == keyword).map(|(_, key)| *key);
            let spec = known.and_then(|key| keys::section("postgres").and_then(|section| section.key(key)));
            let (Some(key), Some(spec)) = (known, spec) else {
                unused.push(format!("`{keyword}`"));
                continue;
            };
            let origin = Origin::Variable(variable.clone());
            match spec.parse(&text) {
                Ok(value) => self.put("postgres", "postgres", key, value, origin),
                Err(text) => self.faults.push(Fault::new(origin, path(&["postgres", "postgres", key]).join("."), text)),
            }
        }
        if !unused.is_empty() {
            self.notes.push(format!("{variable}: {} make no difference here", unused.join(", ")));
        }
    }

    /// The bucket of a usage whose backend is S3.
    fn bucket(&mut self, usage: &str, name: &str) {
        let of = |reader: &mut Self, key: &str| {
            let own = reader.text(&format!("STORAGE__{usage}__{key}"));
            own.or_else(|| reader.text(&format!("STORAGE__{key}")))
        };
        if of(self, "BACKEND").is_none_or(|(backend, _)| backend != "s3") {
            return;
        }
        let Some((bucket, variable)) = of(self, "S3__BUCKET_NAME") else {
            let text = format!(
                "the backend is s3, and neither AUTHENTIK_STORAGE__{usage}__S3__BUCKET_NAME nor AUTHENTIK_STORAGE__S3__BUCKET_NAME is set"
            );
            self.faults.push(Fault::new(Origin::Variable("AUTHENTIK_STORAGE__BACKEND".into()), format!("bucket.{name}.url"), text));
            return;
        };
        let url = ValueKind::String(format!("s3://{bucket}"));
        // one bucket for several usages is one component
        let endpoint = of(self, "S3__ENDPOINT").map(|(endpoint, _)| ValueKind::String(endpoint));
        let text = |reader: &Self, name: &str, key: &str| reader.layer.get(&["bucket", name, key]).and_then(|entry| entry.value.clone());
        let same = |other: &str| text(self, other, "url").as_ref() == Some(&url) && text(self, other, "endpoint") == endpoint;
        if USAGES.iter().any(|(_, other)| *other != name && same(other)) {
            return;
        }
        self.put("bucket", name, "url", url, Origin::Variable(variable));
        for (variable, key) in BUCKET {
            self.take(&format!("STORAGE__S3__{variable}"), "bucket", name, key);
            self.take(&format!("STORAGE__{usage}__S3__{variable}"), "bucket", name, key);
        }
        if let Some((_, variable)) = of(self, "S3__ENDPOINT").filter(|(endpoint, _)| endpoint.starts_with("http://")) {
            self.put("bucket", name, "allow_http", true.into(), Origin::Variable(variable));
        }
        if let Some((style, variable)) = of(self, "S3__ADDRESSING_STYLE").filter(|(style, _)| style != "auto") {
            self.put("bucket", name, "addressing", style.as_str().into(), Origin::Variable(variable));
        }
        if let Some((_, variable)) = of(self, "S3__SIGNATURE_VERSION").filter(|(version, _)| version == "s3") {
            let text = "signatures of version 2 are not made here: use a store that takes version 4, which every current one does";
            self.faults.push(Fault::new(Origin::Variable(variable), format!("bucket.{name}"), text));
        }
    }

    /// What is set, makes no difference here, and should not surprise anybody at a restore.
    fn note_the_rest(&mut self) {
        let is_true = |text: &(String, String)| text.0.eq_ignore_ascii_case("true");
        for variable in ["POSTGRESQL__USE_PGBOUNCER", "POSTGRESQL__USE_PGPOOL"] {
            if let Some((_, variable)) = self.text(variable).filter(is_true) {
                self.notes.push(format!(
                    "{variable}: a dump and a restore want the server itself, not a pooler in front of it: set \
                     BACKSTAY__POSTGRES__POSTGRES__HOST, and …__PORT if it differs"
                ));
            }
        }
        let replicas = self.env.keys().filter(|variable| variable.starts_with("AUTHENTIK_POSTGRESQL__READ_REPLICAS__")).count();
        if replicas > 0 {
            self.notes.push(
                "AUTHENTIK_POSTGRESQL__READ_REPLICAS__…: backups are taken from the server that is written to; \
                 BACKSTAY__POSTGRES__POSTGRES__FROM_REPLICA=true takes them from the first replica"
                    .to_owned(),
            );
        }
        if self.env.contains_key("AUTHENTIK_SECRET_KEY") {
            self.notes.push(
                "AUTHENTIK_SECRET_KEY is in no backup: keep your .env with it, or what is restored cannot decrypt its own data".to_owned(),
            );
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
