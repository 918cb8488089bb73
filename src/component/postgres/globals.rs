//! Decides what of a `globals.sql` is applied to a server that may be in use.
//!
//! Invariant: nothing that exists is changed. A role or a tablespace that is missing is created with all that belongs to it (attributes,
//! password, settings, comment, memberships, privileges); one that is there already stays as it is. A statement that is none of those
//! which `pg_dumpall --globals-only` writes is never run, whoever put it there.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::script::{Statement, Token};
use super::sql::ident;

/// Roles and tablespaces that a server has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Present {
    pub roles: HashSet<String>,
    pub tablespaces: HashSet<String>,
}

/// What there is to do for a script.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Globals {
    /// To be run in this order, within one transaction.
    pub roles: Vec<Step>,
    /// To be run in this order after `roles`, each by itself: `CREATE TABLESPACE` refuses a transaction.
    pub tablespaces: Vec<Step>,
    /// Roles and tablespaces of the script that are there already.
    pub kept: Vec<Object>,
    /// Oddities of the script, in sentences.
    pub warnings: Vec<String>,
}

/// Something of a whole server.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Object {
    Role(String),
    Tablespace(String),
}

impl Object {
    pub fn name(&self) -> &str {
        match self {
            Self::Role(name) | Self::Tablespace(name) => name,
        }
    }
}

impl std::fmt::Display for Object {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Role(name) => write!(f, "role \"{name}\""),
            Self::Tablespace(name) => write!(f, "tablespace \"{name}\""),
        }
    }
}

/// One statement to run. `sql` may hold a password's hash: not for logs.
#[derive(Clone, PartialEq, Eq)]
pub struct Step {
    /// To be created by an earlier step, or by this one: if that failed, this one is left out.
    pub needs: Object,
    pub does: Does,
    pub sql: String,
    /// To be tried if `sql` fails: the same with less.
    pub otherwise: Option<String>,
    /// Takes a privilege back: a role with privileges cannot be dropped.
    pub undo: Option<String>,
}

/// Without the statement, which may hold a password.
impl std::fmt::Debug for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Step").field("needs", &self.needs).field("does", &self.does).finish_non_exhaustive()
    }
}

/// What a step is for, as far as others must know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Does {
    Create,
    /// Attributes of a new role; `login_without_password` if it cannot log in with a password yet.
    Attributes {
        login_without_password: bool,
    },
    Setting,
    Comment,
    Membership,
    Privilege,
}

impl Does {
    /// What failed, before the name of the object.
    pub fn action(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Attributes { .. } => "set the attributes of",
            Self::Setting => "set a parameter of",
            Self::Comment => "comment on",
            Self::Membership => "set a membership of",
            Self::Privilege => "grant a privilege that belongs to",
        }
    }
}

/// What of the statements is to be done on a server that has `present`.
pub fn decide(statements: &[Statement], present: &Present) -> Globals {
    let mut globals = Globals::default();
    let mut new = HashSet::new();
    let mut odd = 0;
    for statement in statements {
        let Some(meaning) = Meaning::of(statement).filter(|_| statement.exact) else {
            odd += 1;
            continue;
        };
        // The privileges on a tablespace may go to a new role, and a new tablespace to a new owner: roles come first.
        let about_tablespace = meaning.is_about_tablespace();
        let sql = || statement.text.clone();
        let step = match meaning {
            Meaning::Create(object) if present.has(&object) => {
                globals.kept.push(object);
                None
            }
            Meaning::Create(object) => {
                new.insert(object.clone());
                Some(Step { needs: object, does: Does::Create, sql: sql(), otherwise: None, undo: None })
            }
            Meaning::Attributes(object) => new.contains(&object).then(|| {
                let does = Does::Attributes { login_without_password: lacks_password(statement) };
                Step { needs: object, does, sql: without_defaults(statement), otherwise: None, undo: None }
            }),
            Meaning::Of(object, does) => {
                new.contains(&object).then(|| Step { needs: object, does, sql: sql(), otherwise: None, undo: None })
            }
            Meaning::Membership { group, member } => [member, group].into_iter().find(|o| new.contains(o)).map(|needs| {
                let otherwise = without_grantor(statement);
                Step { needs, does: Does::Membership, sql: sql(), otherwise, undo: None }
            }),
            Meaning::Privilege { of, to } => {
                let needs = of.into_iter().chain(to).find(|object| new.contains(object));
                needs.map(|needs| Step { needs, does: Does::Privilege, sql: sql(), otherwise: None, undo: revoke(statement) })
            }
            Meaning::Session => None,
        };
        if about_tablespace { globals.tablespaces.extend(step) } else { globals.roles.extend(step) }
    }
    if odd > 0 {
        globals.warnings.push(format!("globals.sql: {odd} statement(s) were left out: not UTF-8, or not what pg_dumpall writes"));
    }
    globals
}

impl Present {
    fn has(&self, object: &Object) -> bool {
        match object {
            Object::Role(name) => self.roles.contains(name),
            Object::Tablespace(name) => self.tablespaces.contains(name),
        }
    }
}

/// What a statement of such a script says.
enum Meaning {
    /// About the session that reads the script; ours needs none of it.
    Session,
    Create(Object),
    Attributes(Object),
    Of(Object, Does),
    Membership {
        group: Object,
        member: Object,
    },
    Privilege {
        of: Option<Object>,
        to: Option<Object>,
    },
}

impl Meaning {
    fn is_about_tablespace(&self) -> bool {
        let tablespace = |object: &Object| matches!(object, Object::Tablespace(_));
        match self {
            Self::Create(object) | Self::Attributes(object) | Self::Of(object, _) => tablespace(object),
            Self::Privilege { of, .. } => of.as_ref().is_some_and(tablespace),
            Self::Session | Self::Membership { .. } => false,
        }
    }

    fn of(s: &Statement) -> Option<Self> {
        let role = |at: usize| s.token(at).and_then(Token::ident).map(|name| Object::Role(name.to_owned()));
        let tablespace = |at: usize| s.token(at).and_then(Token::ident).map(|name| Object::Tablespace(name.to_owned()));
        if s.begins(&["set"]) || s.begins(&["reset"]) {
            return Some(Self::Session);
        }
        if s.begins(&["create", "role"]) {
            return Some(Self::Create(role(2)?));
        }
        if s.begins(&["create", "tablespace"]) {
            return Some(Self::Create(tablespace(2)?));
        }
        if s.begins(&["alter", "role"]) {
            // The settings of a role in one database belong to that database, see `settings.rs`.
            return match s.token(3)? {
                t if t.is("in") => Some(Self::Session),
                t if t.is("set") => Some(Self::Of(role(2)?, Does::Setting)),
                t if t.is("with") => Some(Self::Attributes(role(2)?)),
                _ => None,
            };
        }
        if s.begins(&["alter", "tablespace"]) {
            return Some(Self::Of(tablespace(2)?, Does::Setting));
        }
        if s.begins(&["comment", "on", "role"]) {
            return Some(Self::Of(role(3)?, Does::Comment));
        }
        if s.begins(&["comment", "on", "tablespace"]) {
            return Some(Self::Of(tablespace(3)?, Does::Comment));
        }
        if s.begins(&["security", "label"]) {
            let about = |kind: &str| s.after(&["on", kind]);
            return about("role")
                .and_then(role)
                .or_else(|| about("tablespace").and_then(tablespace))
                .map(|object| Self::Of(object, Does::Comment));
        }
        if s.begins(&["grant"]) || s.begins(&["revoke"]) {
            let to = s.after(&["to"]).or_else(|| s.after(&["from"])).and_then(role);
            if let Some(at) = s.after(&["on", "tablespace"]) {
                return Some(Self::Privilege { of: Some(tablespace(at)?), to });
            }
            if s.after(&["on", "parameter"]).is_some() {
                return Some(Self::Privilege { of: None, to });
            }
            if s.begins(&["grant"]) && s.token(2)?.is("to") {
                return Some(Self::Membership { group: role(1)?, member: role(3)? });
            }
        }
        None
    }
}

/// Attributes that a new role has anyway are not set: naming some of them takes a superuser even where nothing changes.
fn without_defaults(statement: &Statement) -> String {
    const DEFAULTS: [&str; 6] = ["nosuperuser", "nocreaterole", "nocreatedb", "nologin", "noreplication", "nobypassrls"];
    statement.without(|at, token| at > 3 && DEFAULTS.iter().any(|d| token.is(d)))
}

fn lacks_password(statement: &Statement) -> bool {
    let has = |word| statement.tokens.iter().skip(4).any(|(token, _)| token.is(word));
    has("login") && !has("password")
}

/// The grantor may not exist here, or have no right to grant: then it is us.
fn without_grantor(statement: &Statement) -> Option<String> {
    let by = statement.after(&["granted", "by"])?;
    Some(statement.without(|at, _| (by - 2..=by).contains(&at)))
}

/// What takes back `GRANT privileges ON object TO role`.
fn revoke(statement: &Statement) -> Option<String> {
    let role = statement.after(&["to"]).filter(|_| statement.begins(&["grant"]))?;
    let privileges = &statement.text[statement.tokens[0].1.end..statement.tokens[role - 1].1.start];
    Some(format!("REVOKE{privileges}FROM {}", ident(statement.token(role)?.ident()?)))
}

#[cfg(test)]
mod tests {
    use super::super::script::statements;
    use super::*;

    const SCRIPT: &str = r#"
\restrict k
SET default_transaction_read_only = off;
SET standard_conforming_strings = on;
CREATE ROLE g;
ALTER ROLE g WITH NOSUPERUSER INHERIT NOCREATEROLE NOCREATEDB NOLOGIN NOREPLICATION NOBYPASSRLS;
COMMENT ON ROLE g IS 'it''s';
CREATE ROLE postgres;
ALTER ROLE postgres WITH SUPERUSER INHERIT CREATEROLE CREATEDB LOGIN REPLICATION BYPASSRLS PASSWORD 'x';
CREATE ROLE "we""ird";
ALTER ROLE "we""ird" WITH NOSUPERUSER INHERIT NOCREATEROLE CREATEDB LOGIN NOREPLICATION NOBYPASSRLS PASSWORD 'NOLOGIN';
ALTER ROLE g SET statement_timeout TO '0';
ALTER ROLE "we""ird" SET search_path TO 'x', 'y z';
GRANT g TO "we""ird" WITH ADMIN OPTION GRANTED BY postgres;
GRANT pg_monitor TO postgres GRANTED BY postgres;
GRANT SET ON PARAMETER work_mem TO g;
CREATE TABLESPACE ts OWNER g LOCATION '/ts';
ALTER TABLESPACE ts SET (random_page_cost=1.5);
GRANT ALL ON TABLESPACE ts TO "we""ird";
GRANT ALL ON TABLESPACE old TO g;
\unrestrict k
"#;

    fn decided(script: &str, roles: &[&str], tablespaces: &[&str]) -> Globals {
        let set = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
        let present = Present { roles: set(roles), tablespaces: set(tablespaces) };
        decide(&statements(script.as_bytes()).expect("a script"), &present)
    }

    fn sql(steps: &[Step]) -> Vec<&str> {
        steps.iter().map(|s| s.sql.as_str()).collect()
    }

    #[test]
    fn what_exists_is_left_alone() {
        let globals = decided(SCRIPT, &["g", "postgres", "we\"ird", "pg_monitor"], &["ts", "old"]);
        assert_eq!((sql(&globals.roles), sql(&globals.tablespaces)), (vec![], vec![]));
        assert_eq!(globals.kept.len(), 4);
        assert_eq!(globals.warnings, Vec::<String>::new());
    }

    #[test]
    fn a_missing_role_comes_with_all_that_belongs_to_it() {
        let globals = decided(SCRIPT, &["postgres", "we\"ird", "pg_monitor"], &["ts", "old"]);
        assert_eq!(
            sql(&globals.roles),
            [
                "CREATE ROLE g",
                "ALTER ROLE g WITH  INHERIT     ",
                "COMMENT ON ROLE g IS 'it''s'",
                "ALTER ROLE g SET statement_timeout TO '0'",
                "GRANT g TO \"we\"\"ird\" WITH ADMIN OPTION GRANTED BY postgres",
                "GRANT SET ON PARAMETER work_mem TO g",
            ]
        );
        assert_eq!(globals.roles[4].otherwise.as_deref().map(str::trim_end), Some("GRANT g TO \"we\"\"ird\" WITH ADMIN OPTION"));
        assert_eq!(globals.roles[5].undo.as_deref(), Some("REVOKE SET ON PARAMETER work_mem FROM \"g\""));
        assert_eq!(sql(&globals.tablespaces), ["GRANT ALL ON TABLESPACE old TO g"]);
    }

    #[test]
    fn a_password_survives_and_its_text_is_no_attribute() {
        let globals = decided(SCRIPT, &["postgres", "g"], &["ts", "old"]);
        assert_eq!(globals.roles[1].sql, "ALTER ROLE \"we\"\"ird\" WITH  INHERIT  CREATEDB LOGIN   PASSWORD 'NOLOGIN'");
        assert_eq!(globals.roles[1].does, Does::Attributes { login_without_password: false });
        assert!(!format!("{globals:?}").contains("PASSWORD"));
    }

    #[test]
    fn a_missing_tablespace_comes_after_the_roles() {
        let globals = decided(SCRIPT, &["postgres", "g", "we\"ird"], &["old"]);
        assert_eq!(sql(&globals.roles), Vec::<&str>::new());
        assert_eq!(
            sql(&globals.tablespaces),
            [
                "CREATE TABLESPACE ts OWNER g LOCATION '/ts'",
                "ALTER TABLESPACE ts SET (random_page_cost=1.5)",
                "GRANT ALL ON TABLESPACE ts TO \"we\"\"ird\"",
            ]
        );
    }

    #[test]
    fn a_login_without_a_password_is_noticed() {
        let globals = decided("CREATE ROLE a; ALTER ROLE a WITH LOGIN NOSUPERUSER;", &[], &[]);
        assert_eq!(globals.roles[1].does, Does::Attributes { login_without_password: true });
    }

    #[test]
    fn what_pg_dumpall_does_not_write_is_never_run() {
        for script in [
            "DROP ROLE a;",
            "ALTER SYSTEM SET archive_command TO 'x';",
            "CREATE ROLE a; ALTER ROLE a RENAME TO b;",
            "COPY t FROM PROGRAM 'x';",
            "GRANT ALL ON DATABASE a TO b;",
            "CREATE TABLE t ();",
        ] {
            let globals = decided(script, &["b"], &[]);
            assert!(sql(&globals.roles).iter().all(|s| *s == "CREATE ROLE a"), "{script}");
            assert_eq!(globals.warnings.len(), 1, "{script}");
        }
    }
}
