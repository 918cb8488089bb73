//! The shape of the configuration file. Its keys, their documentation and their defaults live here and nowhere else: the JSON Schema, the
//! reference, the strict check of each layer and `config show` are all derived from these structs.
//!
//! An empty string is an unset key. Extensions of the schema: `x-secret` (never printed), `x-later` (known, but a value is refused, since
//! to ignore it would be dangerous), `x-empty` (what an empty string in the file means, where it means something).

use std::collections::BTreeMap;
use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::secret::Secret;

mod target;

pub(super) use target::{RawBucket, RawTarget, RawWebIdentity};

/// A secret as a layer gave it; `None` when empty.
#[derive(Debug, Clone, Default)]
pub(super) struct SecretText(pub(super) Option<Secret>);

/// The key of the table by which a layer says "the whole content of this file", so that no character of its path can be misread.
pub(super) const FILE: &str = "file";

impl<'de> Deserialize<'de> for SecretText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Text(String),
            File { file: String },
        }
        Ok(match Form::deserialize(deserializer)? {
            Form::Text(text) if text.is_empty() => Self(None),
            Form::Text(text) => Self(Some(Secret::parse(&text))),
            Form::File { file } => Self(Some(Secret::File { path: Path::new(&file).to_owned(), default: None })),
        })
    }
}

impl Serialize for SecretText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(if self.0.is_some() { "***" } else { "" })
    }
}

impl JsonSchema for SecretText {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Secret".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "x-secret": true })
    }
}

/// A number of streams, or `auto`.
#[derive(Debug, Clone)]
pub(super) struct RawStreams(pub(super) String);

impl Default for RawStreams {
    fn default() -> Self {
        Self("1".into())
    }
}

impl<'de> Deserialize<'de> for RawStreams {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self)
    }
}

impl Serialize for RawStreams {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.parse::<u32>() {
            Ok(number) => serializer.serialize_u32(number),
            Err(_) => serializer.serialize_str(&self.0),
        }
    }
}

impl JsonSchema for RawStreams {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Streams".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "enum": [1, 2, 3, 4, 5, 6, "auto"] })
    }
}

/// The configuration of Backstay. Every key is optional, an empty string counts as unset, and an unknown key is an error.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(title = "Configuration of Backstay")]
pub(super) struct RawConfig {
    /// When to back up what, where to, and how much to keep. Without any job, `default` exists with the values below.
    #[schemars(extend("propertyNames" = { "pattern": "^[a-z0-9][a-z0-9-]{0,63}$" }))]
    pub jobs: BTreeMap<String, RawJob>,
    /// Where backups go. Without any target, `local` exists: `file:///backups` in a container, `file://./backups` outside of one.
    #[schemars(extend("propertyNames" = { "pattern": "^[a-z0-9][a-z0-9-]{0,63}$" }))]
    pub targets: BTreeMap<String, RawTarget>,
    /// A PostgreSQL server. What is unset here falls back to libpq's `PG*` variables, then to libpq's defaults.
    #[schemars(extend("propertyNames" = { "pattern": "^[a-z0-9][a-z0-9-]{0,63}$" }))]
    pub postgres: BTreeMap<String, RawPostgres>,
    /// A Redis server.
    #[schemars(extend("propertyNames" = { "pattern": "^[a-z0-9][a-z0-9-]{0,63}$" }))]
    pub redis: BTreeMap<String, RawRedis>,
    /// A tree of files. `media`, `certs`, `custom-templates` and `blueprints` exist without being configured; such a default that is not
    /// there is noted in the backup, while one that is configured must be there.
    #[schemars(extend("propertyNames" = { "pattern": "^[a-z0-9][a-z0-9-]{0,63}$" }))]
    pub directory: BTreeMap<String, RawDirectory>,
    /// An S3 bucket as a source.
    #[schemars(extend("propertyNames" = { "pattern": "^[a-z0-9][a-z0-9-]{0,63}$" }))]
    pub bucket: BTreeMap<String, RawBucket>,
    /// Encryption of every artifact with age.
    pub encryption: RawEncryption,
    /// The long-running service.
    pub worker: RawWorker,
    /// Who hears of a failure.
    pub notify: RawNotify,
}

/// `[jobs.NAME]`
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(title = "A job", rename = "Job")]
pub(super) struct RawJob {
    /// Cron expression: five fields, six with leading seconds, or `@daily` and the like.
    #[schemars(extend("x-empty" = "only by hand"))]
    pub schedule: String,
    /// IANA time zone of the schedule. Unset: `$TZ`, else UTC.
    pub timezone: String,
    /// Components to back up. Empty: every configured one.
    pub components: Vec<String>,
    /// Targets to write to. Empty: every configured one that no job fills by copying.
    pub targets: Vec<String>,
    /// Makes this a job that copies: of the backups in this target, it copies into `targets` what its own `keep_…` keep there, and removes
    /// there what they do not keep. It backs up nothing itself, and has no `components`, `compression`, `level` and `drill`. Without a
    /// `schedule` it runs after every run of the worker that wrote to this target.
    pub copy_from: String,
    /// How many complete backups to keep. 0: this rule is not used.
    pub keep_last: u32,
    /// Keep the newest backup of each of this many hours. 0: this rule is not used; likewise below.
    pub keep_hourly: u32,
    /// Keep the newest backup of each of this many days.
    pub keep_daily: u32,
    /// Keep the newest backup of each of this many ISO weeks.
    pub keep_weekly: u32,
    /// Keep the newest backup of each of this many months.
    pub keep_monthly: u32,
    /// Keep the newest backup of each of this many years.
    pub keep_yearly: u32,
    /// Compression of the artifacts.
    #[schemars(extend("enum" = ["gzip", "zstd", "none"]))]
    pub compression: String,
    /// Level of the compression: gzip 1 to 9, zstd 1 to 19. 0: the measured default.
    pub level: u32,
    /// Whether a slot that was missed while the worker was down is run once at its start.
    pub catch_up: bool,
    /// Longest random delay before a scheduled run, such as `5m`.
    pub jitter: String,
    /// Longest time of a run, such as `6h`; what is done by then is kept as a partial backup. `0s`: no limit.
    pub timeout: String,
    /// A stream that does not move for this long is cut.
    pub stall_timeout: String,
    /// Cron expression of the restore drill: the newest complete backup is restored for a trial, see docs/operations.md.
    #[schemars(extend("x-empty" = "no drill"))]
    pub drill: String,
}

impl Default for RawJob {
    fn default() -> Self {
        Self {
            schedule: "0 0 * * *".into(),
            timezone: String::new(),
            components: Vec::new(),
            targets: Vec::new(),
            copy_from: String::new(),
            keep_last: 10,
            keep_hourly: 0,
            keep_daily: 0,
            keep_weekly: 0,
            keep_monthly: 0,
            keep_yearly: 0,
            compression: "gzip".into(),
            level: 0,
            catch_up: true,
            jitter: "0s".into(),
            timeout: "0s".into(),
            stall_timeout: "10m".into(),
            drill: String::new(),
        }
    }
}

/// `[postgres.NAME]`
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(title = "A PostgreSQL server", rename = "Postgres")]
pub(super) struct RawPostgres {
    /// `postgres://user:password@host:port/database?sslmode=…` or `host=… dbname=…`, as libpq reads it. The keys below win over it.
    pub url: SecretText,
    /// Host name, address, or the directory of a Unix socket.
    pub host: String,
    /// Port.
    #[schemars(range(min = 1))]
    pub port: Option<u16>,
    /// Role to connect as.
    pub user: String,
    /// Its password.
    pub password: SecretText,
    /// Database to connect to.
    pub database: String,
    /// As libpq understands it.
    #[schemars(extend("enum" = ["", "disable", "allow", "prefer", "require", "verify-ca", "verify-full"]))]
    pub sslmode: String,
    /// PEM file of the certificate authorities that may sign the server's certificate; `system` for the system's.
    pub sslrootcert: String,
    /// PEM file of the client's certificate.
    pub sslcert: String,
    /// PEM file of the client's key.
    pub sslkey: String,
    /// Whether it is dumped from the replica below. Restores, and what is backed up before one, have to do with the server above.
    pub from_replica: bool,
    /// Host of a replica (a hot standby), for which all other keys hold too. What it has not received yet is not in the backup.
    pub replica_host: String,
    /// Its port. Unset: that of the server.
    #[schemars(range(min = 1))]
    pub replica_port: Option<u16>,
    /// Databases to back up. Empty: the one of the connection. `["*"]`: all but templates.
    pub databases: Vec<String>,
    /// Whether roles and tablespaces are backed up too. A user who may not read them gets a warning.
    pub globals: bool,
    /// Streams of a dump. With more than 1, big tables go into archives of their own, where there are any; `auto`: as many as gain
    /// something, by the sizes of database and tables and by cores. A restore decides for itself.
    pub jobs: RawStreams,
    /// What a backup notes for a restore to be compared with: the number of rows and a hash over all of them for each table, with sequences,
    /// large objects and the schema; `counts`: the same without hashes of rows and large objects; `off`: nothing. A restore compares what
    /// both the backup and this key allow.
    #[schemars(extend("enum" = ["full", "counts", "off"]))]
    pub fingerprint: String,
}

impl Default for RawPostgres {
    fn default() -> Self {
        Self {
            url: SecretText::default(),
            host: String::new(),
            port: None,
            user: String::new(),
            password: SecretText::default(),
            database: String::new(),
            sslmode: String::new(),
            sslrootcert: String::new(),
            sslcert: String::new(),
            sslkey: String::new(),
            from_replica: false,
            replica_host: String::new(),
            replica_port: None,
            databases: Vec::new(),
            globals: true,
            jobs: RawStreams::default(),
            fingerprint: "full".into(),
        }
    }
}

/// `[redis.NAME]`
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(title = "A Redis server", rename = "Redis")]
pub(super) struct RawRedis {
    /// `redis://` or `rediss://` (TLS) `[username[:password]@]host[:port][/db]`. The keys below win over it. With neither this nor `host`:
    /// `redis://redis:6379/0`.
    pub url: SecretText,
    /// Host name or address.
    pub host: String,
    /// Port. Unset: 6379.
    #[schemars(range(min = 1))]
    pub port: Option<u16>,
    /// User of an ACL.
    pub username: String,
    /// Password.
    pub password: SecretText,
    /// Number of the database to connect to. A backup holds all of them.
    #[schemars(range(min = 0))]
    pub db: Option<i64>,
    /// Whether to speak TLS.
    pub tls: bool,
    /// PEM file of the certificate authorities that may sign the server's certificate. Unset: the system's.
    pub ca_file: String,
    /// How the data is read: as a replica, or by BGSAVE and from `rdb_path`. `auto`: as a replica, else by BGSAVE if `rdb_path` is set.
    #[schemars(extend("enum" = ["", "auto", "replication", "bgsave"]))]
    pub method: String,
    /// Where the server's RDB file can be read from here.
    pub rdb_path: String,
    /// What a backup notes for a restore to be compared with: the keys of each database, the libraries of functions and the checksum of
    /// the RDB, all but the checksum, or nothing.
    #[schemars(extend("enum" = ["full", "counts", "off"]))]
    pub fingerprint: String,
}

impl Default for RawRedis {
    fn default() -> Self {
        Self {
            url: SecretText::default(),
            host: String::new(),
            port: None,
            username: String::new(),
            password: SecretText::default(),
            db: None,
            tls: false,
            ca_file: String::new(),
            method: String::new(),
            rdb_path: String::new(),
            fingerprint: "full".into(),
        }
    }
}

/// `[directory.NAME]`
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(title = "A directory", rename = "Directory")]
pub(super) struct RawDirectory {
    /// The tree.
    pub path: String,
    /// What to leave out: globs as in a `.gitignore`, relative to `path`.
    pub exclude: Vec<String>,
    /// A file that cannot be read is a warning rather than a failure of the component.
    pub skip_unreadable: bool,
    /// What a backup notes for a restore to be compared with: hashes of all contents and attributes, only how many files and bytes there
    /// are, or nothing. With hashes, a restore reads the new tree once.
    #[schemars(extend("enum" = ["full", "counts", "off"]))]
    pub fingerprint: String,
}

impl Default for RawDirectory {
    fn default() -> Self {
        Self { path: String::new(), exclude: Vec::new(), skip_unreadable: false, fingerprint: "full".into() }
    }
}

/// `[encryption]`
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(title = "Encryption", rename = "Encryption")]
pub(super) struct RawEncryption {
    /// age public keys (`age1…`, X25519). Set: every artifact is encrypted to all of them, and each of their identities alone decrypts it.
    pub recipients: Vec<String>,
    /// Instead of recipients: one passphrase that encrypts and decrypts. Whoever reads this configuration then reads all backups.
    pub passphrase: SecretText,
    /// Secret key that signs each backup's manifest, such as `file:///etc/backstay/signing.key`; `backstay keygen --signing` makes one.
    pub signing_key: SecretText,
    /// Public keys (`ed25519:…`). Set: backups that none of these has signed are refused, and not counted by retention.
    pub trusted_signers: Vec<String>,
    /// File with age identities (`AGE-SECRET-KEY-1…`, one a line), for restore, verify, export and drill only. A backup needs none: keep it
    /// away from the host that is backed up.
    pub identity_file: String,
}

/// `[worker]`
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(title = "The worker", rename = "Worker")]
pub(super) struct RawWorker {
    /// Address and port of `/healthz` and `/readyz`.
    #[schemars(extend("x-empty" = "no HTTP"))]
    pub listen: String,
    /// How much the worker and the programs that it starts give way to others for the CPU: 0 (as it was started) to 19. At start only.
    #[schemars(range(min = 0, max = 19))]
    pub nice: u32,
    /// Class of its disk accesses: `idle` only when nobody else wants the disk, `best-effort` at its lowest level, `none` as it was
    /// started. Counts with the I/O scheduler BFQ. At start only.
    #[schemars(extend("enum" = ["none", "best-effort", "idle"]))]
    pub ionice: String,
}

impl Default for RawWorker {
    fn default() -> Self {
        Self { listen: "127.0.0.1:9717".into(), nice: 0, ionice: "none".into() }
    }
}

/// `[notify]`
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(title = "Notifications", rename = "Notify")]
pub(super) struct RawNotify {
    /// Where to send: `smtp://…`, https webhooks, healthchecks pings.
    #[schemars(extend("x-secret" = true,
        "x-later" = "notifications are not in this version; remove the key, so that nobody waits for a message"))]
    pub urls: Vec<String>,
    /// From which severity on.
    #[schemars(extend("enum" = ["error", "warn", "info"]))]
    pub level: String,
}

impl Default for RawNotify {
    fn default() -> Self {
        Self { urls: Vec::new(), level: "error".into() }
    }
}
