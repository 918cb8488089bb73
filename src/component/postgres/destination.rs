//! Where a restore of PostgreSQL goes: `--into COMPONENT=NAME` is another name on the configured server,
//! `--into COMPONENT=postgres://[user[:password]@]host[:port][/NAME]` another server.

use super::connect::Endpoint;
use super::helper::{self, MAX_NAME};
use super::restore_error::RestoreError;
use super::{PostgresError, PostgresOptions};
use crate::component::{Destination, RestoreOptions};

/// A server, and the name under which the only database of the backup goes there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub endpoint: Endpoint,
    /// `None`: every database keeps its name.
    pub rename: Option<String>,
}

impl Place {
    /// What `to` means for a backup of `databases`.
    ///
    /// # Errors
    /// [`RestoreError::Destination`], and those of [`Endpoint`].
    pub fn of(to: &Destination, options: &PostgresOptions, databases: &[&str]) -> Result<Self, PostgresError> {
        let text = match to {
            Destination::Configured | Destination::Beside => return Ok(Self { endpoint: Endpoint::from_options(options)?, rename: None }),
            Destination::Into(text) | Destination::Throwaway(text) => text,
        };
        let place = if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            let (endpoint, rename) = Endpoint::from_url(text, options)?;
            Self { endpoint, rename }
        } else if text.contains("://") {
            return Err(RestoreError::Destination("it is neither postgres://… nor the name of a database".into()).into());
        } else {
            Self { endpoint: Endpoint::from_options(options)?, rename: Some(text.clone()) }
        };
        if let Some(name) = &place.rename {
            check_name(name, databases)?;
        }
        Ok(place)
    }

    /// As [`Self::of`], for all that is asked for: single tables go into a database of their own.
    ///
    /// # Errors
    /// As [`Self::of`].
    pub fn chosen(asked: &RestoreOptions, options: &PostgresOptions, databases: &[&str]) -> Result<Self, PostgresError> {
        let mut place = Self::of(&asked.to, options, databases)?;
        if !asked.tables.is_empty() && place.rename.is_none() {
            place.rename = databases.first().map(|database| for_tables(database, &asked.stamp));
        }
        Ok(place)
    }

    /// The name that `database` gets.
    pub fn name<'a>(&'a self, database: &'a str) -> &'a str {
        self.rename.as_deref().unwrap_or(database)
    }
}

/// `app_tables_20260131-030405`, its first part cut so that it is a name.
fn for_tables(database: &str, stamp: &str) -> String {
    let tail = format!("_tables_{stamp}");
    let mut room = database.len().min(MAX_NAME.saturating_sub(tail.len()));
    while !database.is_char_boundary(room) {
        room -= 1;
    }
    format!("{}{tail}", &database[..room])
}

fn check_name(name: &str, databases: &[&str]) -> Result<(), RestoreError> {
    let fault = |why: String| Err(RestoreError::Destination(why));
    if databases.len() > 1 {
        return fault(format!(
            "one name for {} databases ({}): leave the name out, and they keep theirs",
            databases.len(),
            databases.join(", ")
        ));
    }
    if name.is_empty() || name.len() > MAX_NAME || name.contains('\0') {
        return fault(format!("a database's name is 1 to {MAX_NAME} bytes"));
    }
    if name == "template0" || helper::Role::of(name).is_some() {
        return fault(format!("\"{name}\" is no name for a database of yours"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, databases: &[&str], good: bool) {
        assert_eq!(check_name(name, databases).is_ok(), good, "{name} for {databases:?}");
    }

    #[test]
    fn a_database_for_tables_is_told_by_its_name() {
        assert_eq!(for_tables("app", "20260131-030405"), "app_tables_20260131-030405");
        let long = for_tables(&"ü".repeat(31), "20260131-030405");
        assert!(long.len() <= MAX_NAME && long.ends_with("ü_tables_20260131-030405"), "{long}");
    }

    #[test]
    fn a_name_is_for_one_database_only() {
        check("new", &["app"], true);
        check("We \"ird; DROP", &["app"], true);
        check("new", &["app", "other"], false);
        check("", &["app"], false);
        check(&"x".repeat(64), &["app"], false);
        check("template0", &["app"], false);
        check("app_backstay_new_0123abcd", &["app"], false);
    }
}
