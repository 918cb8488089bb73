//! What a stored component of kind `postgres` holds, taken from its manifest (pure).

use std::collections::BTreeMap;

use super::PostgresError;
use super::facts::{self, DatabaseFacts};
use super::restore_error::RestoreError;
use crate::component::{ComponentError, RestoreOptions};
use crate::manifest::{Artifact, Component, Facts, Format};

/// A backup of a server.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Contents {
    /// Roles and tablespaces.
    pub globals: Option<Artifact>,
    /// At least one, sorted by name.
    pub databases: Vec<DatabaseContents>,
    /// Major version of the server; `None`: not recorded.
    pub server: Option<u32>,
    /// As recorded.
    pub server_version: Option<String>,
    /// Major version of the `pg_dump` that wrote the archives; that of the server, if it is not recorded.
    pub dump: Option<u32>,
}

/// One database of a backup.
#[derive(Debug, Clone, PartialEq)]
pub struct DatabaseContents {
    pub name: String,
    pub facts: DatabaseFacts,
    /// The archive with the schema.
    pub main: Artifact,
    /// Archives of single tables' rows, which `main` leaves out.
    pub data: Vec<Artifact>,
}

/// One run of `pg_restore` over one archive.
#[derive(Debug, Clone, PartialEq)]
pub struct Pass<'a> {
    pub artifact: &'a Artifact,
    /// `--section` each; empty: everything.
    pub sections: &'static [&'static str],
}

impl Contents {
    /// # Errors
    /// [`RestoreError::Empty`], [`RestoreError::Nameless`], [`RestoreError::Archives`], [`RestoreError::Lacks`].
    pub fn of(part: &Component) -> Result<Self, RestoreError> {
        let mut recorded = facts::databases(&part.facts).unwrap_or_default();
        let mut archives: BTreeMap<&str, (Vec<&Artifact>, Vec<&Artifact>)> = BTreeMap::new();
        for artifact in part.artifacts.iter().filter(|a| a.format == Format::PgCustom) {
            let database = artifact.database.as_deref().ok_or_else(|| RestoreError::Nameless(artifact.path.to_string()))?;
            let (main, data) = archives.entry(database).or_default();
            if is_data(artifact) { data.push(artifact) } else { main.push(artifact) }
        }
        let mut databases = Vec::new();
        for (name, (main, data)) in archives {
            let [main] = main[..] else { return Err(RestoreError::Archives(name.to_owned())) };
            let facts = recorded.remove(name).unwrap_or_default();
            let has = |archive: &str| {
                data.iter().any(|a| a.path.file().strip_prefix(archive).is_some_and(|s| s.is_empty() || s.starts_with('.')))
            };
            if let Some(split) = facts.split.iter().find(|split| !has(&split.archive)) {
                return Err(RestoreError::Lacks { database: name.to_owned(), archive: split.archive.clone() });
            }
            databases.push(DatabaseContents {
                name: name.to_owned(),
                facts,
                main: main.clone(),
                data: data.into_iter().cloned().collect(),
            });
        }
        // a dump of others: it does not say of which database it is
        for main in part.artifacts.iter().filter(|a| a.format == Format::PgPlain) {
            databases.push(DatabaseContents { name: String::new(), facts: DatabaseFacts::default(), main: main.clone(), data: Vec::new() });
        }
        if databases.is_empty() {
            return Err(RestoreError::Empty);
        }
        let server_version = text(&part.facts, facts::SERVER_VERSION);
        let number = part.facts.get(facts::SERVER_VERSION_NUM).and_then(serde_json::Value::as_u64);
        let server = number.and_then(|n| u32::try_from(n / 10_000).ok()).or_else(|| major(server_version.as_deref()?));
        let dump = text(&part.facts, facts::CLIENT_VERSION).and_then(|version| major(&version)).or(server);
        let globals = part.artifacts.iter().find(|a| a.format == Format::PgGlobals).cloned();
        Ok(Self { globals, databases, server, server_version, dump })
    }

    /// What `options` ask for.
    ///
    /// # Errors
    /// As [`Self::of`]; [`ComponentError::NotHeld`].
    pub fn chosen(part: &Component, options: &RestoreOptions) -> Result<Self, ComponentError> {
        let mut contents = Self::of(part).map_err(PostgresError::from)?;
        let held = contents.names();
        let missing: Vec<&str> = options.databases.iter().map(String::as_str).filter(|name| !held.contains(name)).collect();
        if !missing.is_empty() {
            let advice = Some(format!("It holds {}.", quoted(&held)));
            return Err(ComponentError::NotHeld { what: format!("database {}", quoted(&missing)), advice });
        }
        contents.databases.retain(|d| options.databases.is_empty() || options.databases.contains(&d.name));
        if !options.tables.is_empty() {
            contents.globals = None;
            for database in &mut contents.databases {
                database.facts = database.facts.for_tables(format!("tables of database \"{}\", from a backup", database.name));
            }
        }
        if options.no_owner {
            contents.globals = None;
            contents.databases.iter_mut().for_each(|d| d.facts = d.facts.without_owner());
        }
        Ok(contents)
    }

    /// The dump of others, which needs a name and facts from elsewhere.
    pub fn plain(&mut self) -> Option<&mut DatabaseContents> {
        self.databases.iter_mut().find(|d| d.is_plain())
    }

    pub fn names(&self) -> Vec<&str> {
        self.databases.iter().map(|d| d.name.as_str()).collect()
    }
}

impl DatabaseContents {
    /// Whether it is SQL, for psql.
    pub fn is_plain(&self) -> bool {
        self.main.format == Format::PgPlain
    }

    /// The runs of `pg_restore` that load it, in their order: rows come before indexes and constraints, wherever they lie.
    pub fn passes(&self) -> Vec<Pass<'_>> {
        let main = |sections| Pass { artifact: &self.main, sections };
        if self.data.is_empty() {
            return vec![main(&[])];
        }
        let data = self.data.iter().map(|artifact| Pass { artifact, sections: &["data"] });
        std::iter::once(main(&["pre-data", "data"])).chain(data).chain([main(&["post-data"])]).collect()
    }
}

fn quoted(names: &[&str]) -> String {
    names.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ")
}

/// `<database>.data-N.dump` is such an archive; a dot within a database's name does not make it one, since its own archive has no `-N`.
fn is_data(artifact: &Artifact) -> bool {
    let file = artifact.path.file();
    let stem = file.split_once(".dump").map_or(file, |(stem, _)| stem);
    let digits = stem.rsplit_once(".data-").map_or("", |(_, digits)| digits);
    let own = artifact.database.as_deref().map(crate::name::file_stem);
    !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) && own.as_deref() != Some(stem)
}

fn text(facts: &Facts, key: &str) -> Option<String> {
    facts.get(key)?.as_str().map(str::to_owned)
}

fn major(version: &str) -> Option<u32> {
    let digits = version.bytes().take_while(u8::is_ascii_digit).count();
    version[..digits].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{ComponentStatus, Encoding, Kind};

    fn artifact(file: &str, format: Format, database: Option<&str>) -> Artifact {
        Artifact {
            path: format!("pg/{file}").parse().expect("a path"),
            format,
            encoding: Encoding::Gzip,
            encryption: None,
            database: database.map(str::to_owned),
            raw_bytes: 1,
            stored_bytes: 1,
            sha256: String::new(),
            blake3: String::new(),
        }
    }

    fn component(artifacts: Vec<Artifact>, facts: &[(&str, serde_json::Value)]) -> Component {
        Component {
            name: "pg".parse().expect("a name"),
            kind: Kind::Postgres,
            status: ComponentStatus::Complete,
            reason: None,
            seconds: 0.0,
            facts: facts.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect(),
            warnings: Vec::new(),
            fingerprint: None,
            artifacts,
        }
    }

    #[test]
    fn a_backup_is_understood() {
        let part = component(
            vec![
                artifact("b.dump.gz", Format::PgCustom, Some("b")),
                artifact("globals.sql.gz", Format::PgGlobals, None),
                artifact("a.dump.gz", Format::PgCustom, Some("a")),
            ],
            &[
                (facts::SERVER_VERSION, "15.18 (Debian 15.18-0+deb12u1)".into()),
                (facts::CLIENT_VERSION, "16.1".into()),
                (facts::DATABASES, serde_json::json!({"a": {"owner": "x", "unknown": 1}})),
            ],
        );
        let contents = Contents::of(&part).expect("contents");
        assert_eq!((contents.names(), contents.server, contents.dump), (vec!["a", "b"], Some(15), Some(16)));
        assert_eq!(contents.databases[0].facts.owner.as_deref(), Some("x"));
        assert_eq!(contents.databases[1].facts, DatabaseFacts::default());
        assert_eq!(contents.databases[0].passes().len(), 1);
        assert!(contents.globals.is_some());
    }

    #[test]
    fn rows_that_lie_apart_come_before_indexes() {
        let file = |file: &str| artifact(file, Format::PgCustom, Some("a"));
        let part = component(vec![file("a.data-1.dump.gz"), file("a.dump.gz"), file("a.data-2.dump.gz")], &[]);
        let contents = Contents::of(&part).expect("contents");
        let passes: Vec<_> =
            contents.databases[0].passes().iter().map(|p| format!("{} {}", p.artifact.path.file(), p.sections.join(" "))).collect();
        assert_eq!(passes, ["a.dump.gz pre-data data", "a.data-1.dump.gz data", "a.data-2.dump.gz data", "a.dump.gz post-data"]);
    }

    #[test]
    fn an_archive_of_rows_that_is_recorded_must_be_there() {
        let file = |file: &str| artifact(file, Format::PgCustom, Some("a"));
        let facts = serde_json::json!({"a": {"split": [{"archive": "a.data-1.dump"}, {"archive": "a.data-2.dump"}]}});
        let of = |files: &[&str]| Contents::of(&component(files.iter().map(|f| file(f)).collect(), &[(facts::DATABASES, facts.clone())]));
        assert!(of(&["a.dump.gz", "a.data-1.dump.gz", "a.data-2.dump.gz"]).is_ok());
        let error = of(&["a.dump.gz", "a.data-1.dump.gz"]).expect_err("rows are missing").to_string();
        assert!(error.contains("a.data-2.dump"), "{error}");
    }

    #[test]
    fn a_backup_that_makes_no_sense_is_refused() {
        assert!(matches!(Contents::of(&component(vec![], &[])), Err(RestoreError::Empty)));
        let nameless = component(vec![artifact("a.dump.gz", Format::PgCustom, None)], &[]);
        assert!(matches!(Contents::of(&nameless), Err(RestoreError::Nameless(_))));
        let two = component(vec![artifact("a.dump", Format::PgCustom, Some("a")), artifact("b.dump", Format::PgCustom, Some("a"))], &[]);
        assert!(matches!(Contents::of(&two), Err(RestoreError::Archives(_))));
        let rows_only = component(vec![artifact("a.data-1.dump", Format::PgCustom, Some("a"))], &[]);
        assert!(matches!(Contents::of(&rows_only), Err(RestoreError::Archives(_))));
    }
}
