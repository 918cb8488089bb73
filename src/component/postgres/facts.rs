//! What a backup records of a server and of its databases, beside their contents: the source writes it, the restorer reads it.
//!
//! These are the members of `facts` of a component of kind `postgres` in a manifest. A reader must treat every value as hostile.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::manifest::Facts;

/// Member of [`Facts`] that holds [`Databases`].
pub const DATABASES: &str = "databases";
/// Member of [`Facts`]: `SHOW server_version`, such as `15.18 (Debian 15.18-0+deb12u1)`.
pub const SERVER_VERSION: &str = "server_version";
/// Member of [`Facts`]: `SHOW server_version_num`, such as 150018.
pub const SERVER_VERSION_NUM: &str = "server_version_num";
/// Member of [`Facts`]: version of the `pg_dump` that wrote the archives, such as `15.18`.
pub const CLIENT_VERSION: &str = "client_version";

/// Member of [`Facts`]: `true` for a hot standby.
pub const IN_RECOVERY: &str = "in_recovery";
/// Member of [`Facts`] of a check only: sentences about what a backup would stumble over.
pub const HINTS: &str = "hints";

/// Every database of the backup, by its name.
pub type Databases = BTreeMap<String, DatabaseFacts>;

/// The databases that a backup holds; `None` when they are not recorded, or not in a form that is understood.
pub fn databases(facts: &Facts) -> Option<Databases> {
    facts.get(DATABASES).and_then(|value| serde_json::from_value(value.clone()).ok())
}

/// `pg_database` and `pg_db_role_setting`, as far as `pg_dump` without `--create` leaves them out of its archive.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DatabaseFacts {
    /// `pg_encoding_to_char(encoding)`.
    pub encoding: Option<String>,
    /// `datcollate`.
    pub collate: Option<String>,
    /// `datctype`.
    pub ctype: Option<String>,
    /// `datlocprovider`, spelt as CREATE DATABASE does: `libc`, `icu`, `builtin`. Before 15: `libc`.
    pub locale_provider: Option<String>,
    /// `daticulocale` (15, 16), `datlocale` (17 and later): of the providers `icu` and `builtin`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub locale: Option<String>,
    /// `daticurules` (16 and later).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icu_rules: Option<String>,
    /// `pg_get_userbyid(datdba)`.
    pub owner: Option<String>,
    /// `datacl::text[]`, an `aclitem` each; `None`: the default privileges.
    pub acl: Option<Vec<String>>,
    /// `shobj_description(oid, 'pg_database')`.
    pub comment: Option<String>,
    /// `datconnlimit`; -1: none.
    pub connection_limit: Option<i32>,
    /// `datistemplate`.
    pub is_template: bool,
    /// `spcname` of `dattablespace`.
    pub tablespace: Option<String>,
    /// The rows of `pg_db_role_setting` with this database.
    pub settings: Vec<RoleSettings>,
    /// `pg_database_size(oid)`.
    pub size_bytes: Option<u64>,
    /// The moment at which the contents are as the archive has them, by the server's clock. Each database has its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<DateTime<Utc>>,
    /// Version of the archive's format, such as `1.14`: an older `pg_restore` may not read it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub archive_version: Option<String>,
    /// The archives of rows beside the main one, which has everything else; empty where the main one has all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub split: Vec<Split>,
}

impl DatabaseFacts {
    /// What stands in no relation to other things of its server: without owner, privileges, settings of roles, and tablespace.
    #[must_use]
    pub fn without_owner(&self) -> Self {
        let settings = self.settings.iter().filter(|s| s.role.is_none()).cloned().collect();
        Self { owner: None, acl: None, tablespace: None, settings, ..self.clone() }
    }
}

impl DatabaseFacts {
    /// For a database that holds some tables of this one, and is for nobody but who looks for them.
    #[must_use]
    pub fn for_tables(&self, comment: String) -> Self {
        let comment = Some(comment);
        Self { acl: None, comment, connection_limit: None, is_template: false, settings: Vec::new(), ..self.clone() }
    }
}

/// An archive that holds the rows of some tables, and is loaded (`--section=data`) after the pre-data section of the main one and before
/// its post-data section, in any order with the main one's rows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Split {
    /// File name without the suffix of the compression: `app.data-1.dump`.
    pub archive: String,
    /// Quoted, with their schemas.
    pub tables: Vec<String>,
}

/// One row of `pg_db_role_setting`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleSettings {
    /// `None`: for every role.
    #[serde(default)]
    pub role: Option<String>,
    /// `setconfig::text[]`: `name=value` each.
    pub settings: Vec<String>,
}
