//! `RESTORE.md`: the stock commands for the very files that lie beside it.
//!
//! Somebody will paste these lines into a shell, and who wrote the manifest may want something else to be run. So every name is one quoted
//! word, whatever is in it, and what is told in prose is one line.

use std::fmt::Write;

use serde_json::Value;

use super::plain_path;
use crate::manifest::{Artifact, Component, Format, Kind, Manifest};

/// The whole text.
pub(super) fn text(manifest: &Manifest, components: &[&Component]) -> String {
    let mut text = format!(
        "# Restoring {}\n\nMade {} by {} on {}. Plain files: nothing but stock tools is needed. Run the commands in this directory.\n\n\
         ```sh\nsha256sum -c SHA256SUMS\n```\n",
        manifest.name,
        manifest.created.format("%Y-%m-%d %H:%M:%S UTC"),
        told(&manifest.tool),
        told(&manifest.host)
    );
    if manifest.is_encrypted() {
        text.push_str("\nThe backup is encrypted; these files are not any more: keep them where only you can read them, and remove them in the end.\n");
    }
    for component in components {
        match component.kind {
            Kind::Postgres => postgres(component, &mut text),
            Kind::Redis => redis(component, &mut text),
            Kind::Directory => directory(component, &mut text),
            Kind::Bucket => bucket(component, &mut text),
        }
        for warning in &component.warnings {
            let _ = writeln!(text, "\nNoted when it was made: {}", told(warning));
        }
    }
    text
}

fn postgres(component: &Component, text: &mut String) {
    let server = told(fact(component, "server_version").unwrap_or("unknown"));
    let client = told(fact(component, "client_version").unwrap_or("unknown"));
    let _ = write!(
        text,
        "\n## {}: PostgreSQL\n\nThe server was PostgreSQL {server}; `pg_dump` was {client}. Use a `pg_restore` of the server's major version, \
         at least that of `pg_dump`. Stop what uses the database.\n\n```sh\n",
        component.name
    );
    for globals in component.artifacts.iter().filter(|a| a.format == Format::PgGlobals) {
        text.push_str("# roles; \"already exists\" is to be expected, every other error is not\n");
        let _ = writeln!(text, "psql -X -d postgres -f {}", quoted(&plain_path(globals)));
    }
    for main in component.artifacts.iter().filter(|a| a.format == Format::PgCustom && !is_rows(component, a)) {
        let database = main.database.as_deref().unwrap_or("restored");
        let new = quoted(&format!("{database}_restored"));
        let rows: Vec<&Artifact> = component.artifacts.iter().filter(|a| a.database == main.database && is_rows(component, a)).collect();
        let restore = |options: &str, artifact: &Artifact| {
            // one session: several may fail at the indexes of a partitioned table, see `postgres::schema`
            format!("pg_restore --exit-on-error{options} -d {new} {}\n", quoted(&plain_path(artifact)))
        };
        let _ = writeln!(text, "# into a new database beside the old one\ncreatedb -T template0 {new}");
        if rows.is_empty() {
            text.push_str(&restore("", main));
        } else {
            text.push_str(&restore(" --section=pre-data", main));
            text.push_str(&restore(" --section=data", main));
            rows.iter().for_each(|artifact| text.push_str(&restore(" --section=data", artifact)));
            text.push_str(&restore(" --section=post-data", main));
        }
        // nobody renames the database that they are connected to
        let through = if database == "postgres" { "template1" } else { "postgres" };
        let (old, name) = (identifier(&format!("{database}_old")), identifier(database));
        let _ = write!(
            text,
            "vacuumdb --analyze-only -d {new}\n# when all of it succeeded\npsql -X -d {through} \\\n  -c {} \\\n  -c {} \\\n  -c {}\n",
            quoted(&format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = {}", literal(database))),
            quoted(&format!("ALTER DATABASE {name} RENAME TO {old}")),
            quoted(&format!("ALTER DATABASE {} RENAME TO {name}", identifier(&format!("{database}_restored"))))
        );
    }
    text.push_str(
        "```\n\nOwner, settings and privileges of the database itself are among the facts of this component in `manifest.json`. Without the \
         roles of the old server add `--no-owner --no-privileges`.\n",
    );
}

/// Whether an artifact holds only rows of tables that another one of the same database describes.
fn is_rows(component: &Component, artifact: &Artifact) -> bool {
    let Some((stem, digits)) =
        plain_path(artifact).strip_suffix(".dump").and_then(|p| p.rsplit_once(".data-").map(|(a, b)| (a.to_owned(), b.to_owned())))
    else {
        return false;
    };
    !digits.is_empty()
        && digits.bytes().all(|b| b.is_ascii_digit())
        && component.artifacts.iter().any(|a| a.database == artifact.database && plain_path(a) == format!("{stem}.dump"))
}

fn redis(component: &Component, text: &mut String) {
    let version = told(fact(component, "server_version").or_else(|| fact(component, "redis_version")).unwrap_or("unknown"));
    for artifact in component.content() {
        let _ = write!(
            text,
            "\n## {}: Redis\n\nThe server was version {version}; use the same or a newer one. It must not save when it stops, or it overwrites \
             what was restored, and must start once without append-only files, or it ignores the RDB.\n\n```sh\n\
             redis-cli config get dir                        # here: /var/lib/redis\nredis-cli shutdown nosave\n\
             mkdir /var/lib/redis/before && mv /var/lib/redis/dump.rdb /var/lib/redis/appendonlydir /var/lib/redis/before/   # those that exist\n\
             install -o redis -g redis -m 600 {} /var/lib/redis/dump.rdb\n\
             redis-server /etc/redis/redis.conf --appendonly no\n```\n",
            component.name,
            quoted(&plain_path(artifact))
        );
    }
}

fn directory(component: &Component, text: &mut String) {
    let path = fact(component, "path").unwrap_or("/srv/restored");
    for artifact in component.content() {
        let (new, old) = (quoted(&format!("{path}.new")), quoted(&format!("{path}.old")));
        let _ = write!(
            text,
            "\n## {}: directory\n\nAs root; others get the files, but not their owners.\n\n```sh\nmkdir {new}\n\
             tar -x -p --numeric-owner --same-owner --acls --xattrs --xattrs-include='*' -C {new} -f {}\nmv {} {old} && mv {new} {}\n```\n",
            component.name,
            quoted(&plain_path(artifact)),
            quoted(path),
            quoted(path)
        );
    }
}

fn bucket(component: &Component, text: &mut String) {
    let url = fact(component, "url").unwrap_or("s3://restored");
    for artifact in component.content() {
        let new = quoted(&format!("{}.new", component.name));
        let _ = write!(
            text,
            "\n## {}: bucket\n\nEach object is a file; its type is the extended attribute `user.mime_type`, its other headers are `user.s3.*`. A \
             key that is no path is `user.s3.key`. `aws s3 sync` guesses types by suffixes: set those that differ afterwards.\n\n```sh\nmkdir {new}\n\
             tar -x --xattrs --xattrs-include='user.*' -C {new} -f {}\naws s3 sync {new} {}\n```\n",
            component.name,
            quoted(&plain_path(artifact)),
            quoted(url)
        );
    }
}

fn fact<'a>(component: &'a Component, key: &str) -> Option<&'a str> {
    component.facts.get(key).and_then(Value::as_str)
}

/// For prose: on one line, and no beginning of a block of commands.
fn told(text: &str) -> String {
    text.chars().map(|c| if c.is_control() || c == '`' { ' ' } else { c }).collect()
}

/// For a shell: as it is, or between single quotes.
fn quoted(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/._-+:@%".contains(&b);
    if !text.is_empty() && !text.starts_with('-') && text.bytes().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

/// For SQL, as a name.
fn identifier(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}

/// For SQL, as a text.
fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_where_a_shell_or_a_server_would_take_them_apart() {
        for (text, expected) in
            [("media/media.tar", "media/media.tar"), ("a b", "'a b'"), ("it's", "'it'\\''s'"), ("", "''"), ("-d", "'-d'")]
        {
            assert_eq!(quoted(text), expected);
        }
        assert_eq!(identifier("a\"b"), "\"a\"\"b\"");
        assert_eq!(literal("it's"), "'it''s'");
    }

    /// A shell that is given the whole block runs the stock commands, with these names as words of theirs, and nothing else.
    #[test]
    fn no_name_becomes_a_command() {
        let hostile = "x\nSQL\ntouch /tmp/pwned\n```\n```sh\n'; touch /tmp/pwned; $(touch /tmp/pwned) \"";
        let component = serde_json::json!({
            "name": "postgres", "kind": "postgres", "status": "complete", "seconds": 0, "warnings": [hostile],
            "facts": {"server_version": hostile, "client_version": hostile},
            "artifacts": [{"path": "postgres/x.dump", "format": "pg-custom", "encoding": "none", "database": hostile,
                "raw_bytes": 1, "stored_bytes": 1, "sha256": "", "blake3": ""}]
        });
        let component: Component = serde_json::from_value(component).expect("a component");
        let mut text = String::new();
        postgres(&component, &mut text);
        let block = text.split_once("```sh\n").expect("commands").1.rsplit_once("```").expect("its end").0;
        let stock = "createdb() { :; }; pg_restore() { :; }; vacuumdb() { :; }; psql() { :; }; touch() { echo pwned; }\n";
        let output = std::process::Command::new("sh").args(["-c", &format!("{stock}{block}")]).output().expect("a shell");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "");
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(!told(hostile).contains(['\n', '`']));
    }
}
