//! Restores of a part of a backup, elsewhere, or of an earlier one.

mod choice;
mod paths;
mod tables;

use crate::support::Postgres;

/// The databases of `server` beside its own.
fn databases(server: &Postgres) -> Vec<String> {
    server.databases().into_iter().filter(|name| !["postgres", "template0", "template1"].contains(&name.as_str())).collect()
}
