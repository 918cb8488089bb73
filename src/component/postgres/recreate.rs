//! The SQL that makes a database what the backup says it was, beside its contents (pure).
//!
//! The values that the backup recorded apply, not those of a database that is replaced: a restore returns what was backed up. What a
//! server cannot take (a role or a tablespace that it lacks, a parameter that it does not know) is left out, with a warning.

use std::collections::HashSet;

use super::facts::{DatabaseFacts, RoleSettings};
use super::sql::{ident, literal};

/// Parameters whose value is a list of quoted names, to be set as such. `variable_is_guc_list_quote` of PostgreSQL's
/// `src/bin/pg_dump/dumputils.c`.
const NAME_LISTS: [&str; 6] = [
    "local_preload_libraries",
    "search_path",
    "session_preload_libraries",
    "shared_preload_libraries",
    "temp_tablespaces",
    "unix_socket_directories",
];

/// What matters of the server that a database is created on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Host {
    pub major: u32,
    /// Who restores.
    pub user: String,
    pub superuser: bool,
    pub roles: HashSet<String>,
    /// Roles that the user may make an owner.
    pub may_own: HashSet<String>,
    pub tablespaces: HashSet<String>,
}

/// One statement, and what it does, for a warning if it fails: `set parameter "x" of database "y"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    pub doing: String,
    pub sql: String,
}

/// How a database is created.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Creation {
    pub sql: String,
    /// Its owner, as the server has it then.
    pub owner: String,
    pub warnings: Vec<String>,
}

/// Creates `helper`, which is to become `name`.
pub fn create(helper: &str, name: &str, facts: &DatabaseFacts, host: &Host) -> Creation {
    let mut made = Creation { owner: host.user.clone(), ..Creation::default() };
    let mut sql = format!("CREATE DATABASE {} TEMPLATE template0", ident(helper));
    let mut option = |key: &str, value: &Option<String>| {
        if let Some(value) = value {
            sql.push_str(&format!(" {key} {}", literal(value)));
        }
    };
    option("ENCODING", &facts.encoding);
    option("LC_COLLATE", &facts.collate);
    option("LC_CTYPE", &facts.ctype);
    // Servers before 15 know libc only; from 15 on, template0 may have another provider, which must not be inherited.
    if host.major >= 15
        && let Some(provider) = &facts.locale_provider
    {
        option("LOCALE_PROVIDER", &Some(provider.clone()));
        match provider.as_str() {
            "icu" => option("ICU_LOCALE", &facts.locale),
            "builtin" => option("BUILTIN_LOCALE", &facts.locale),
            _ => {}
        }
        if host.major >= 16 && provider == "icu" {
            option("ICU_RULES", &facts.icu_rules);
        }
    }
    match &facts.tablespace {
        Some(space) if space == "pg_default" => {}
        Some(space) if host.tablespaces.contains(space) => sql.push_str(&format!(" TABLESPACE {}", ident(space))),
        Some(space) => {
            made.warnings.push(format!("database \"{name}\": its tablespace \"{space}\" is not on this server; it goes to the default one"))
        }
        None => {}
    }
    match &facts.owner {
        Some(owner) if host.may_own.contains(owner) => made.owner.clone_from(owner),
        Some(owner) if *owner == host.user => {}
        Some(owner) => {
            let why = if host.roles.contains(owner) { "cannot be set by this user" } else { "is not on this server" };
            made.warnings.push(format!("database \"{name}\": its owner \"{owner}\" {why}; \"{}\" owns it now", host.user));
        }
        None => {}
    }
    sql.push_str(&format!(" OWNER {}", ident(&made.owner)));
    made.sql = sql;
    made
}

/// Everything that is set on `helper` after its contents were loaded, without what would keep us out of it (see [`open`]).
pub fn dress(helper: &str, name: &str, facts: &DatabaseFacts, owner: &str, host: &Host) -> (Vec<Statement>, Vec<String>) {
    let mut statements = Vec::new();
    let mut warnings = Vec::new();
    if let Some(comment) = &facts.comment {
        statements.push(Statement {
            doing: format!("comment on database \"{name}\""),
            sql: format!("COMMENT ON DATABASE {} IS {}", ident(helper), literal(comment)),
        });
    }
    for RoleSettings { role, settings } in &facts.settings {
        if let Some(role) = role.as_ref().filter(|role| !host.roles.contains(*role)) {
            warnings.push(format!("database \"{name}\": the parameters of role \"{role}\" in it are left out: there is no such role"));
            continue;
        }
        let whose = match role {
            Some(role) => format!("ALTER ROLE {} IN DATABASE {}", ident(role), ident(helper)),
            None => format!("ALTER DATABASE {}", ident(helper)),
        };
        for (key, value) in settings.iter().filter_map(|s| s.split_once('=')) {
            statements.push(Statement {
                doing: format!("set parameter `{key}` of database \"{name}\""),
                sql: format!("{whose} SET {} TO {}", ident(key), setting_value(key, value)),
            });
        }
    }
    if let Some(acl) = &facts.acl {
        grants(helper, name, acl, facts.owner.as_deref(), owner, host, &mut statements, &mut warnings);
    }
    (statements, warnings)
}

/// What is set on `name` in the transaction that puts it in service.
pub fn open(name: &str, facts: &DatabaseFacts) -> String {
    let limit = facts.connection_limit.filter(|limit| *limit >= 0).unwrap_or(-1);
    let template = if facts.is_template { " IS_TEMPLATE true" } else { "" };
    format!("ALTER DATABASE {} WITH ALLOW_CONNECTIONS true CONNECTION LIMIT {limit}{template}", ident(name))
}

fn setting_value(key: &str, value: &str) -> String {
    if !NAME_LISTS.iter().any(|list| key.eq_ignore_ascii_case(list)) {
        return literal(value);
    }
    let names: Vec<_> = split_names(value).iter().map(|name| literal(name)).collect();
    if names.is_empty() { "''".into() } else { names.join(", ") }
}

/// `SplitGUCList` of PostgreSQL's `src/bin/pg_dump/dumputils.c`: separated by commas, perhaps in double quotes.
fn split_names(value: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut chars = value.chars().peekable();
    loop {
        while chars.next_if(|c| c.is_ascii_whitespace()).is_some() {}
        let mut name = String::new();
        match chars.next_if_eq(&'"') {
            Some(_) => {
                while let Some(c) = chars.next() {
                    if c == '"' && chars.next_if_eq(&'"').is_none() {
                        break;
                    }
                    name.push(c);
                }
            }
            None if chars.peek().is_none() => return names,
            None => {
                while let Some(c) = chars.next_if(|c| *c != ',' && !c.is_ascii_whitespace()) {
                    name.push(c);
                }
            }
        }
        names.push(name);
        while chars.next_if(|c| *c != ',').is_some() {}
        if chars.next().is_none() {
            return names;
        }
    }
}

#[expect(clippy::too_many_arguments, reason = "one step of `dress`, apart for its length only")]
fn grants(
    helper: &str,
    name: &str,
    acl: &[String],
    recorded_owner: Option<&str>,
    owner: &str,
    host: &Host,
    statements: &mut Vec<Statement>,
    warnings: &mut Vec<String>,
) {
    let on = format!("ON DATABASE {}", ident(helper));
    let doing = || format!("set the privileges on database \"{name}\"");
    // A new database has the default privileges, which the recorded ones replace.
    for from in ["PUBLIC".to_owned(), ident(owner)] {
        statements.push(Statement { doing: doing(), sql: format!("REVOKE ALL {on} FROM {from}") });
    }
    for item in acl {
        let Some(item) = AclItem::parse(item) else {
            warnings.push(format!("database \"{name}\": one of its privileges is not understood and left out"));
            continue;
        };
        let to = match item.grantee.as_str() {
            "" => "PUBLIC".to_owned(),
            grantee if Some(grantee) == recorded_owner => ident(owner),
            grantee if host.roles.contains(grantee) => ident(grantee),
            grantee => {
                warnings.push(format!("database \"{name}\": the privileges of \"{grantee}\" on it are left out: there is no such role"));
                continue;
            }
        };
        for (privileges, option) in [(&item.plain, ""), (&item.grantable, " WITH GRANT OPTION")] {
            if !privileges.is_empty() {
                statements.push(Statement { doing: doing(), sql: format!("GRANT {} {on} TO {to}{option}", privileges.join(", ")) });
            }
        }
    }
}

/// An `aclitem` of a database: `grantee=privileges/grantor`, `*` after a privilege that can be granted on. `aclitemout` of PostgreSQL's
/// `src/backend/utils/adt/acl.c`. An empty grantee is everybody. Everything is granted by the owner, whoever granted it before.
#[derive(Debug, PartialEq, Eq)]
struct AclItem {
    grantee: String,
    plain: Vec<&'static str>,
    grantable: Vec<&'static str>,
}

impl AclItem {
    fn parse(text: &str) -> Option<Self> {
        let mut chars = text.chars().peekable();
        let mut grantee = String::new();
        let mut quoted = false;
        loop {
            match chars.next()? {
                '"' if quoted && chars.next_if_eq(&'"').is_some() => grantee.push('"'),
                '"' => quoted = !quoted,
                '=' if !quoted => break,
                c => grantee.push(c),
            }
        }
        let mut item = Self { grantee, plain: Vec::new(), grantable: Vec::new() };
        loop {
            let privilege = match chars.next()? {
                'C' => "CREATE",
                'T' => "TEMPORARY",
                'c' => "CONNECT",
                '/' => return Some(item),
                _ => return None,
            };
            let list = if chars.next_if_eq(&'*').is_some() { &mut item.grantable } else { &mut item.plain };
            list.push(privilege);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> Host {
        let set = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<HashSet<_>>();
        Host {
            major: 17,
            user: "root".into(),
            superuser: true,
            roles: set(&["root", "app", "we\"ird"]),
            may_own: set(&["root", "app", "we\"ird"]),
            tablespaces: set(&["pg_default", "fast"]),
        }
    }

    fn facts() -> DatabaseFacts {
        DatabaseFacts {
            encoding: Some("UTF8".into()),
            collate: Some("C".into()),
            ctype: Some("de_DE.utf8".into()),
            locale_provider: Some("libc".into()),
            owner: Some("app".into()),
            tablespace: Some("fast".into()),
            ..DatabaseFacts::default()
        }
    }

    #[test]
    fn a_database_is_created_as_recorded() {
        let made = create("h", "n", &facts(), &host());
        assert_eq!(
            made.sql,
            "CREATE DATABASE \"h\" TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'de_DE.utf8' LOCALE_PROVIDER 'libc' \
             TABLESPACE \"fast\" OWNER \"app\""
        );
        assert_eq!(made.warnings, Vec::<String>::new());
        let old = create("h", "n", &facts(), &Host { major: 14, ..host() });
        assert!(!old.sql.contains("PROVIDER"), "{}", old.sql);
    }

    #[test]
    fn every_provider_has_its_own_words() {
        let of = |provider: &str, major| {
            let facts = DatabaseFacts {
                locale_provider: Some(provider.into()),
                locale: Some("x".into()),
                icu_rules: Some("r".into()),
                ..DatabaseFacts::default()
            };
            create("h", "n", &facts, &Host { major, ..host() }).sql
        };
        assert!(of("icu", 15).contains(" LOCALE_PROVIDER 'icu' ICU_LOCALE 'x' OWNER"));
        assert!(of("icu", 16).contains(" LOCALE_PROVIDER 'icu' ICU_LOCALE 'x' ICU_RULES 'r' OWNER"));
        assert!(of("builtin", 17).contains(" LOCALE_PROVIDER 'builtin' BUILTIN_LOCALE 'x' OWNER"));
    }

    #[test]
    fn what_the_server_lacks_is_said() {
        let facts = DatabaseFacts { owner: Some("gone".into()), tablespace: Some("slow".into()), ..facts() };
        let made = create("h", "n", &facts, &host());
        assert!(made.sql.ends_with(" OWNER \"root\""), "{}", made.sql);
        assert_eq!((made.owner.as_str(), made.warnings.len()), ("root", 2));
    }

    #[test]
    fn hostile_names_stay_names() {
        let facts = DatabaseFacts {
            encoding: Some("x'; DROP DATABASE y; --".into()),
            comment: Some("it's \\".into()),
            settings: vec![RoleSettings { role: None, settings: vec!["a\"b; X=1'; Y".into()] }],
            ..DatabaseFacts::default()
        };
        assert!(create("h\"", "n", &facts, &host()).sql.starts_with("CREATE DATABASE \"h\"\"\" TEMPLATE template0 ENCODING 'x''; DROP"));
        let (statements, _) = dress("h", "n", &facts, "root", &host());
        let sql: Vec<_> = statements.iter().map(|s| s.sql.as_str()).collect();
        assert_eq!(sql, ["COMMENT ON DATABASE \"h\" IS  E'it''s \\\\'", "ALTER DATABASE \"h\" SET \"a\"\"b; X\" TO '1''; Y'"]);
    }

    #[test]
    fn parameters_are_set_as_pg_dump_sets_them() {
        let check = |key: &str, value: &str, sql: &str| assert_eq!(setting_value(key, value), sql, "{key}={value}");
        check("work_mem", "64MB", "'64MB'");
        check("search_path", "\"$user\", public, \"We \"\"ird\"", "'$user', 'public', 'We \"ird'");
        check("search_path", "", "''");
        check("search_path", "\"\"", "''");
        check("Search_Path", "a,b", "'a', 'b'");
        check("DateStyle", "ISO, DMY", "'ISO, DMY'");
    }

    #[test]
    fn parameters_of_a_missing_role_are_left_out() {
        let settings = |role: &str| RoleSettings { role: Some(role.into()), settings: vec!["a=1".into()] };
        let facts = DatabaseFacts { settings: vec![settings("we\"ird"), settings("gone")], ..DatabaseFacts::default() };
        let (statements, warnings) = dress("h", "n", &facts, "root", &host());
        assert_eq!(statements.len(), 1);
        assert_eq!(statements[0].sql, "ALTER ROLE \"we\"\"ird\" IN DATABASE \"h\" SET \"a\" TO '1'");
        assert_eq!(warnings.len(), 1);
    }

    #[test]
    fn privileges_are_granted_as_recorded() {
        let acl = ["=T/app", "app=C*T*c*/app", "\"we\"\"ird\"=c*C/app", "gone=c/app", "root=x/app"].map(str::to_owned).to_vec();
        let facts = DatabaseFacts { acl: Some(acl), owner: Some("app".into()), ..DatabaseFacts::default() };
        let (statements, warnings) = dress("h", "n", &facts, "app", &host());
        let sql: Vec<_> = statements.iter().map(|s| s.sql.as_str()).collect();
        assert_eq!(
            sql,
            [
                "REVOKE ALL ON DATABASE \"h\" FROM PUBLIC",
                "REVOKE ALL ON DATABASE \"h\" FROM \"app\"",
                "GRANT TEMPORARY ON DATABASE \"h\" TO PUBLIC",
                "GRANT CREATE, TEMPORARY, CONNECT ON DATABASE \"h\" TO \"app\" WITH GRANT OPTION",
                "GRANT CREATE ON DATABASE \"h\" TO \"we\"\"ird\"",
                "GRANT CONNECT ON DATABASE \"h\" TO \"we\"\"ird\" WITH GRANT OPTION",
            ]
        );
        assert_eq!(warnings.len(), 2);
    }

    #[test]
    fn what_would_keep_us_out_is_set_last() {
        let facts = DatabaseFacts { connection_limit: Some(0), ..DatabaseFacts::default() };
        assert_eq!(open("n", &facts), "ALTER DATABASE \"n\" WITH ALLOW_CONNECTIONS true CONNECTION LIMIT 0");
        assert!(open("n", &DatabaseFacts::default()).contains("CONNECTION LIMIT -1"));
    }
}
