//! A restore of some tables: into a new database beside the one they are of, which it never touches. The new one is the result, left for
//! the operator to look into and to copy rows from.

use bytesize::ByteSize;
use tokio_util::sync::CancellationToken;

use super::connect::Endpoint;
use super::contents::{Contents, DatabaseContents};
use super::destination::Place;
use super::inspect::{self, Server};
use super::load::{self, Unselected};
use super::restore_error::RestoreError;
use super::selection::Selection;
use super::table_name::TableName;
use super::{PostgresError, query};
use crate::component::{ArtifactOpener, ComponentError};

/// Sentences about single tables, each.
const SHOWN: usize = 5;

/// What the backup has of `tables`, for a database that does not exist yet.
///
/// # Errors
/// [`ComponentError::NotHeld`]; [`RestoreError::Exists`], and those of [`load::select`].
pub async fn select(
    contents: &Contents,
    place: &Place,
    server: &Server,
    open: &ArtifactOpener,
    tables: &[TableName],
) -> Result<Selection, ComponentError> {
    let [database] = contents.databases.as_slice() else {
        return Err(PostgresError::from(RestoreError::WhichDatabase(contents.names().join("\", \""))).into());
    };
    let side = place.name(&database.name);
    if server.database(side).is_some() {
        return Err(PostgresError::from(RestoreError::Exists { database: side.to_owned(), server: server.at.clone() }).into());
    }
    load::select(database, open, tables).await.map_err(|error| match error {
        Unselected::Failed(error) => error.into(),
        Unselected::Lack(lack) => {
            ComponentError::NotHeld { what: format!("table {} of database \"{}\"", lack.table, database.name), advice: lack.advice }
        }
    })
}

/// Flags for `pg_restore`, and what they cost.
pub fn flags(selection: &Selection, server: &Server) -> (Vec<&'static str>, Option<String>) {
    // nothing of the server is created for a look at some tables
    let mut flags = vec!["--no-tablespaces"];
    let missing: Vec<_> = selection.owners.iter().filter(|owner| !server.host.roles.contains(*owner)).map(|o| format!("\"{o}\"")).collect();
    if missing.is_empty() || !server.host.superuser {
        return (flags, None);
    }
    flags.push("--no-owner");
    let verb = if missing.len() == 1 { "is" } else { "are" };
    (flags, Some(format!("role {} {verb} missing: everything belongs to \"{}\"", missing.join(", "), server.host.user)))
}

/// What will be done, in sentences.
pub fn steps(database: &DatabaseContents, place: &Place, server: &Server, selection: &Selection) -> Vec<String> {
    let side = place.name(&database.name);
    let tables: Vec<String> = selection.tables.iter().map(ToString::to_string).collect();
    let bytes = database.data.iter().chain([&database.main]).map(|artifact| artifact.raw_bytes).sum();
    let mut steps = vec![
        format!(
            "Create the new database \"{side}\" with {} of database \"{}\" as they were: definition, rows, indexes, and the types and \
             sequences that they need.",
            tables.join(", "),
            database.name
        ),
        match server.database(&database.name) {
            Some(_) => format!("Database \"{}\" is not touched, and nothing else either.", database.name),
            None => "Nothing else is touched.".to_owned(),
        },
        format!(
            "Up to {} are read for it: the rows of one table lie between those of others, and only the end of an archive tells that it is \
             sound.",
            ByteSize(bytes).display().iec()
        ),
    ];
    if !selection.left_out.is_empty() {
        steps.push(format!("Left out, beside privileges: {}.", some_of(&selection.left_out)));
    } else {
        steps.push("Privileges are left out: only the owners read it.".to_owned());
    }
    steps.extend(afterwards(&database.name, side, selection));
    steps
}

/// How to go on.
fn afterwards(database: &str, side: &str, selection: &Selection) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    // rows go into a partitioned table as a whole
    let whole = |table: &&TableName| selection.partitioned.contains(*table);
    let shown = selection.tables.iter().find(whole).or_else(|| selection.tables.first());
    if let Some(table) = shown {
        let from = if selection.partitioned.contains(table) { format!("(SELECT * FROM {table})") } else { table.to_string() };
        let psql = |database: &str, sql: String| format!("psql -X -d {} -c {}", shell(database), shell(&sql));
        lines.push(format!(
            "To copy rows back: {} | {}",
            psql(side, format!("COPY {from} TO STDOUT")),
            psql(database, format!("COPY {table} FROM STDIN"))
        ));
    }
    lines.push(format!("It stays until you drop it: DROP DATABASE {}", super::sql::ident(side)));
    lines
}

/// What the loaded database `helper`, which is to be `side`, holds.
///
/// # Errors
/// [`PostgresError::Query`], [`PostgresError::Cancelled`].
pub async fn report(
    endpoint: &Endpoint,
    helper: &str,
    (database, side): (&str, &str),
    selection: &Selection,
    cancel: &CancellationToken,
) -> Result<Vec<String>, PostgresError> {
    let client = inspect::connect_to(endpoint, helper).await?;
    let mut lines = Vec::new();
    for table in &selection.tables {
        let sql = format!("SELECT count(*) FROM {table}");
        let counted = tokio::select! {
            () = cancel.cancelled() => return Err(PostgresError::Cancelled),
            counted = client.query_one(&sql, &[]) => counted.map_err(query("count the restored rows"))?,
        };
        lines.push(format!("table {table}: {} row(s)", counted.get::<_, i64>(0)));
    }
    if !selection.left_out.is_empty() {
        lines.push(format!("left out: {}", some_of(&selection.left_out)));
    }
    lines.extend(afterwards(database, side, selection));
    Ok(lines)
}

fn some_of(names: &[String]) -> String {
    let shown = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN { format!("{shown} and {} more", names.len() - SHOWN) } else { shown }
}

/// As one word of a shell's command line.
fn shell(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if !text.is_empty() && !text.starts_with('-') && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_to_paste_mean_what_they_say() {
        let selection = Selection { tables: [TableName::new("s", "it's"), TableName::new("s", "whole")].into(), ..Selection::default() };
        let lines = afterwards("my app", "app_tables_x", &selection);
        assert_eq!(
            lines[0],
            "To copy rows back: psql -X -d app_tables_x -c 'COPY \"s\".\"it'\\''s\" TO STDOUT' | \
             psql -X -d 'my app' -c 'COPY \"s\".\"it'\\''s\" FROM STDIN'"
        );
        assert_eq!(lines[1], "It stays until you drop it: DROP DATABASE \"app_tables_x\"");
        let selection = Selection { partitioned: [TableName::new("s", "whole")].into(), ..selection };
        assert!(afterwards("app", "side", &selection)[0].contains("'COPY (SELECT * FROM \"s\".\"whole\") TO STDOUT'"));
    }

    #[test]
    fn missing_owners_cost_ownership_only() {
        let selection = Selection { owners: ["here".to_owned(), "gone".to_owned()].into(), ..Selection::default() };
        let mut server = Server::default();
        server.host.roles = ["here".to_owned()].into();
        server.host.superuser = true;
        assert_eq!(flags(&selection, &server).0, ["--no-tablespaces", "--no-owner"]);
        assert!(flags(&selection, &server).1.is_some_and(|warning| warning.contains("\"gone\"") && !warning.contains("\"here\"")));
        server.host.roles.insert("gone".to_owned());
        assert_eq!(flags(&selection, &server), (vec!["--no-tablespaces"], None));
    }
}
