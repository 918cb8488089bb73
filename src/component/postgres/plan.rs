//! What a restore of PostgreSQL will do, in sentences (pure).

use bytesize::ByteSize;
use serde_json::json;

use super::binaries::{Binary, Tool};
use super::contents::{Contents, DatabaseContents};
use super::destination::Place;
use super::helper::Role;
use super::inspect::Server;
use super::restore_error::RestoreError;
use super::selection::Selection;
use super::surroundings::Surroundings;
use super::tables;
use crate::component::RestoreOptions;
use crate::manifest::Facts;

/// All that is known before a restore.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    pub contents: &'a Contents,
    pub place: &'a Place,
    pub server: &'a Server,
    pub binary: &'a Binary,
    pub surroundings: &'a Surroundings,
}

impl Known<'_> {
    /// Bytes that the new databases took on their server, dead rows included; of their archives where that is not recorded.
    fn size(&self) -> u64 {
        self.contents.databases.iter().map(size).fold(0, u64::saturating_add)
    }

    /// Refuses what cannot fit: not even what the rows take, whatever form they are in.
    ///
    /// # Errors
    /// [`RestoreError::Space`].
    pub fn enough_room(&self) -> Result<(), RestoreError> {
        let archives = |d: &DatabaseContents| d.data.iter().chain([&d.main]).map(|artifact| artifact.raw_bytes).sum::<u64>();
        let needed = self.contents.databases.iter().map(|d| size(d).min(archives(d))).sum();
        match &self.surroundings.room {
            Some(room) if self.is_in_data_directory() && room.bytes < needed => {
                Err(RestoreError::Space { server: self.server.at.clone(), path: room.path.clone(), available: room.bytes, needed })
            }
            _ => Ok(()),
        }
    }

    /// A tablespace may be another file system.
    fn is_in_data_directory(&self) -> bool {
        let elsewhere = |space: &String| space != "pg_default" && self.server.host.tablespaces.contains(space);
        !self.contents.databases.iter().any(|d| d.facts.tablespace.as_ref().is_some_and(elsewhere))
    }

    fn versions(&self) -> Vec<String> {
        let Self { contents, server, binary, .. } = self;
        let mut steps = vec![format!(
            "Restore to {} (PostgreSQL {}) with {} {}; the backup is of a PostgreSQL {} server.",
            server.at,
            server.version,
            if contents.databases.iter().any(DatabaseContents::is_plain) { Tool::Psql } else { Tool::PgRestore }.as_str(),
            binary.version,
            contents.server_version.as_deref().unwrap_or("server of unknown version")
        )];
        if let Some(old) = contents.server.filter(|old| *old < server.host.major) {
            steps.push(format!(
                "From PostgreSQL {old} to {}: extensions come in the versions that are installed there, parameters that it does not know are \
                 left out with a warning, and if it refuses anything else, the restore fails and leaves what is there.",
                server.host.major
            ));
        }
        steps
    }

    /// For some tables.
    pub fn table_steps(&self, selection: &Selection) -> Vec<String> {
        let mut steps = self.versions();
        if let [database] = self.contents.databases.as_slice() {
            steps.extend(tables::steps(database, self.place, self.server, selection));
        }
        steps
    }

    /// For scripts.
    pub fn facts(&self) -> Facts {
        let databases = self.contents.databases.iter().map(|database| {
            let into = self.place.name(&database.name);
            json!({
                "name": database.name, "into": into, "bytes": size(database), "exists": self.server.database(into).is_some(),
                "current_bytes": self.surroundings.sizes.get(into), "sessions": self.surroundings.sessions_json(into),
            })
        });
        let room = self.surroundings.room.as_ref().map(|room| json!({"path": room.path, "available_bytes": room.bytes}));
        let facts = [
            ("server", json!(self.server.at)),
            ("server_version", json!(self.server.version)),
            ("client_version", json!(self.binary.version)),
            ("backup_version", json!(self.contents.server_version)),
            ("user", json!(self.server.host.user)),
            ("superuser", json!(self.server.host.superuser)),
            ("needed_bytes", json!(self.size())),
            ("room", json!(room)),
            ("databases", databases.collect()),
        ];
        facts.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }

    fn room_step(&self) -> String {
        let needed = ByteSize(self.size()).display().iec();
        match &self.surroundings.room {
            Some(room) if self.is_in_data_directory() => {
                let short =
                    if room.bytes < self.size() { "; that is less: the new one may be smaller, since it has no dead rows" } else { "" };
                format!(
                    "About {needed} of free space are needed until then; {} has {}{short}.",
                    room.path.display(),
                    ByteSize(room.bytes).display().iec()
                )
            }
            _ => format!("The database server needs about {needed} of free space until then; how much it has cannot be seen from here."),
        }
    }

    /// The sentences, in the order of what happens.
    pub fn steps(&self, options: &RestoreOptions) -> Vec<String> {
        let Self { contents, place, server, surroundings, .. } = self;
        let mut steps = self.versions();
        steps.push(match &contents.globals {
            _ if options.no_owner => format!(
                "Everything will belong to \"{}\": owners, privileges, roles and tablespaces of the backup are left out (--no-owner).",
                server.host.user
            ),
            Some(_) => {
                "Create the roles and tablespaces that are missing there; those that exist stay as they are, passwords included.".into()
            }
            None => "Roles and tablespaces are not in the backup: those that the databases need must exist.".into(),
        });
        if !server.host.superuser && !options.no_owner {
            steps.push(format!(
                "User \"{}\" is no superuser: every object will belong to it, whoever owned it; privileges of missing roles are left out.",
                server.host.user
            ));
        }
        for database in &contents.databases {
            let name = place.name(&database.name);
            let raw = size(database);
            let what = if name == database.name {
                format!("Database \"{name}\"")
            } else {
                format!("Database \"{}\" as \"{name}\"", database.name)
            };
            let how = match server.database(name) {
                None => "it does not exist there and is created".to_owned(),
                Some(_) => {
                    let sessions = surroundings.cut(name);
                    let now =
                        surroundings.sizes.get(name).map_or_else(String::new, |bytes| format!(" of {}", ByteSize(*bytes).display().iec()));
                    let fate = if options.keep_old { "kept under another name, closed to connections" } else { "dropped afterwards" };
                    format!("loaded beside the existing one{now}, then swapped in by rename ({sessions}); the old one is {fate}")
                }
            };
            steps.push(format!("{what} ({}): {how}.", ByteSize(raw).display().iec()));
            let beyond = surroundings.beyond_reach(name);
            if !beyond.is_empty() {
                steps.push(format!(
                    "Note: user \"{}\" may not end the sessions of {}; if they stay, the swap fails and the old database stays in service.",
                    server.host.user,
                    beyond.iter().map(|user| format!("\"{user}\"")).collect::<Vec<_>>().join(", ")
                ));
            }
        }
        if contents.databases.len() > 1 {
            steps.push("All databases are loaded before any is swapped in.".into());
        }
        steps.push(self.room_step());
        for (name, role) in server.leftovers() {
            steps.push(match role {
                Role::New => format!(
                    "Database \"{name}\" is of a restore that was interrupted: drop it, unless what is left of that one is removed first."
                ),
                Role::Old => {
                    format!("Database \"{name}\" is what an earlier restore replaced and is not touched: drop it when it is not needed.")
                }
            });
        }
        steps
    }
}

fn size(database: &DatabaseContents) -> u64 {
    database.facts.size_bytes.unwrap_or(database.main.raw_bytes)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::component::postgres::PostgresOptions;
    use crate::component::postgres::connect::Endpoint;
    use crate::component::postgres::facts::DatabaseFacts;
    use crate::component::postgres::surroundings::Room;
    use crate::manifest::{Artifact, Encoding, Format};

    fn database(size_bytes: Option<u64>, raw_bytes: u64) -> DatabaseContents {
        let main = Artifact {
            path: "pg/app.dump".parse().expect("a path"),
            format: Format::PgCustom,
            encoding: Encoding::None,
            encryption: None,
            database: Some("app".into()),
            raw_bytes,
            stored_bytes: raw_bytes,
            sha256: String::new(),
            blake3: String::new(),
        };
        let facts = DatabaseFacts { size_bytes, tablespace: Some("fast".into()), ..DatabaseFacts::default() };
        DatabaseContents { name: "app".into(), facts, main, data: Vec::new() }
    }

    /// Whether a database of so many bytes, with an archive of so many, is let into the room; and what the plan says of it.
    fn fits(size: Option<u64>, archive: u64, room: Option<u64>, tablespace: bool) -> (bool, String) {
        let contents = Contents { databases: vec![database(size, archive)], ..Contents::default() };
        let options = PostgresOptions { host: Some("localhost".into()), ..PostgresOptions::new("pg".parse().expect("a name")) };
        let place = Place { endpoint: Endpoint::from_options(&options).expect("an endpoint"), rename: None };
        let mut server = Server::default();
        server.host.tablespaces.extend(tablespace.then(|| "fast".to_owned()));
        let room = room.map(|bytes| Room { path: PathBuf::from("/data"), bytes });
        let surroundings = Surroundings { room, ..Surroundings::default() };
        let binary = Binary { path: PathBuf::new(), major: 15, version: "15".into() };
        let known = Known { contents: &contents, place: &place, server: &server, binary: &binary, surroundings: &surroundings };
        (known.enough_room().is_ok(), known.room_step())
    }

    #[test]
    fn what_cannot_fit_is_refused_and_what_may_not_is_said() {
        assert!(fits(Some(100), 80, Some(100), false).0);
        assert!(!fits(Some(100), 80, Some(79), false).0, "not even the rows");
        assert!(!fits(None, 80, Some(79), false).0);
        let (fits_perhaps, step) = fits(Some(1000), 80, Some(99), false);
        assert!(fits_perhaps && step.contains("that is less"), "{step}");
        assert!(fits(Some(100), 80, Some(1), true).0, "a tablespace may lie elsewhere");
        let (unknown, step) = fits(Some(100), 80, None, false);
        assert!(unknown && step.contains("cannot be seen"), "{step}");
    }
}
