//! What a restore of PostgreSQL will do, in sentences (pure).

use bytesize::ByteSize;

use super::binaries::Binary;
use super::contents::Contents;
use super::destination::Place;
use super::helper::Role;
use super::inspect::Server;
use super::selection::Selection;
use super::tables;
use crate::component::RestoreOptions;

/// The sentences, in the order of what happens.
pub fn steps(
    contents: &Contents,
    place: &Place,
    server: &Server,
    binary: &Binary,
    selection: Option<&Selection>,
    options: &RestoreOptions,
) -> Vec<String> {
    let mut steps = vec![format!(
        "Restore to {} (PostgreSQL {}) with pg_restore {}; the backup is of a PostgreSQL {} server.",
        server.at,
        server.version,
        binary.version,
        contents.server_version.as_deref().unwrap_or("server of unknown version")
    )];
    if let (Some(selection), [database]) = (selection, contents.databases.as_slice()) {
        steps.extend(tables::steps(database, place, server, selection));
        return steps;
    }
    steps.push(match &contents.globals {
        _ if options.no_owner => format!(
            "Everything will belong to \"{}\": owners, privileges, roles and tablespaces of the backup are left out (--no-owner).",
            server.host.user
        ),
        Some(_) => "Create the roles and tablespaces that are missing there; those that exist stay as they are, passwords included.".into(),
        None => "Roles and tablespaces are not in the backup: those that the databases need must exist.".into(),
    });
    if !server.host.superuser && !options.no_owner {
        steps.push(format!(
            "User \"{}\" is no superuser: every object will belong to it, whoever owned it; privileges of missing roles are left out.",
            server.host.user
        ));
    }
    let mut size = 0;
    for database in &contents.databases {
        let name = place.name(&database.name);
        let raw = database.facts.size_bytes.unwrap_or(database.main.raw_bytes);
        size += raw;
        let what =
            if name == database.name { format!("Database \"{name}\"") } else { format!("Database \"{}\" as \"{name}\"", database.name) };
        let how = match server.database(name) {
            None => "it does not exist there and is created".to_owned(),
            Some(existing) => {
                let sessions = match existing.sessions {
                    0 => "no session uses it now".to_owned(),
                    1 => "1 session is cut".to_owned(),
                    n => format!("{n} sessions are cut"),
                };
                let fate = if options.keep_old { "kept under another name, closed to connections" } else { "dropped afterwards" };
                format!("loaded beside the existing one, then swapped in by rename ({sessions}); the old one is {fate}")
            }
        };
        steps.push(format!("{what} ({}): {how}.", ByteSize(raw).display().iec()));
    }
    if contents.databases.len() > 1 {
        steps.push("All databases are loaded before any is swapped in.".into());
    }
    steps.push(format!("The database server needs about {} of free space until then.", ByteSize(size).display().iec()));
    for (name, role) in server.leftovers() {
        steps.push(match role {
            Role::New => format!("Database \"{name}\" is left over from an interrupted restore and is not touched: drop it."),
            Role::Old => {
                format!("Database \"{name}\" is what an earlier restore replaced and is not touched: drop it when it is not needed.")
            }
        });
    }
    steps
}
