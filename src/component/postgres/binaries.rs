//! The client programs of PostgreSQL: which ones are installed, and which fits a server.
//!
//! Rule: the same major version as the server, else the smallest larger one; an older client is refused by the server's newer catalogs, and
//! a newer one writes archives that the server's own `pg_restore` may not read. Always by absolute path: on Debian, `/usr/bin/pg_dump` is
//! `pg_wrapper`, which picks a version by rules of its own.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;

use super::PostgresError;
use super::restore_error::RestoreError;
use crate::process::Command;

/// The first version whose client programs set `transaction_timeout`, which older servers refuse.
pub const TRANSACTION_TIMEOUT: u32 = 17;

/// A program of PostgreSQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tool {
    PgDump,
    PgDumpall,
    PgRestore,
    Psql,
    /// The server itself.
    Postgres,
}

impl Tool {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PgDump => "pg_dump",
            Self::PgDumpall => "pg_dumpall",
            Self::PgRestore => "pg_restore",
            Self::Psql => "psql",
            Self::Postgres => "postgres",
        }
    }

    /// The installed program that fits a server of version `server_major`.
    ///
    /// # Errors
    /// [`PostgresError::NoClient`] names the versions that were found.
    pub async fn find(self, server_major: u32) -> Result<Binary, PostgresError> {
        let found = installed(self, &directories()).await;
        let majors: BTreeSet<u32> = found.iter().map(|b| b.major).collect();
        let wanted = choose(server_major, &majors);
        found.into_iter().find(|b| Some(b.major) == wanted).ok_or_else(|| PostgresError::NoClient {
            tool: self.as_str(),
            server: server_major,
            found: majors.into_iter().collect(),
        })
    }
}

/// An installed program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binary {
    /// Absolute.
    pub path: PathBuf,
    pub major: u32,
    /// As `--version` prints it: `15.18 (Debian 15.18-0+deb12u1)`.
    pub version: String,
}

impl Binary {
    /// Whether it knows `\restrict`, under which psql obeys no command of a script but the one that ends it (CVE-2025-8714: from the minor
    /// versions of August 2025 on).
    pub fn restricts(&self) -> bool {
        let minor = || self.version.split(|c: char| !c.is_ascii_digit()).nth(1).and_then(|minor| minor.parse::<u32>().ok()).unwrap_or(0);
        match self.major {
            18.. => true,
            17 => minor() >= 6,
            16 => minor() >= 10,
            15 => minor() >= 14,
            14 => minor() >= 19,
            13 => minor() >= 22,
            _ => false,
        }
    }

    pub fn command(&self) -> Command {
        Command::new(&self.path)
    }
}

/// The installed `pg_restore` that reads what `pg_dump` of version `dump` wrote, and sends what a server of version `server` understands.
///
/// # Errors
/// [`RestoreError::NoClient`] names the versions that were found.
pub async fn find_restore(dump: u32, server: u32) -> Result<Binary, PostgresError> {
    let found = installed(Tool::PgRestore, &directories()).await;
    let majors: BTreeSet<u32> = found.iter().map(|b| b.major).collect();
    let wanted = choose_restore(dump, server, &majors);
    found
        .into_iter()
        .find(|b| Some(b.major) == wanted)
        .ok_or_else(|| RestoreError::NoClient { dump, server, found: majors.into_iter().collect() }.into())
}

/// The server's own version, else the smallest; never older than the dump (it could not read the archive), and from 17 on only for servers
/// that know `transaction_timeout`, which such a `pg_restore` always sets.
fn choose_restore(dump: u32, server: u32, installed: &BTreeSet<u32>) -> Option<u32> {
    let fits = |major: u32| major >= dump && (server >= TRANSACTION_TIMEOUT || major < TRANSACTION_TIMEOUT);
    let fitting = || installed.iter().copied().filter(|major| fits(*major));
    fitting().find(|major| *major == server).or_else(|| fitting().next())
}

/// The version to use for a server: its own, else the smallest larger one.
fn choose(server: u32, installed: &BTreeSet<u32>) -> Option<u32> {
    installed.range(server..).next().copied()
}

/// Every `tool` in `directories`, in their order, that says its version.
async fn installed(tool: Tool, directories: &[PathBuf]) -> Vec<Binary> {
    let mut found: Vec<Binary> = Vec::new();
    let mut seen = BTreeSet::new();
    for directory in directories {
        let path = directory.join(tool.as_str());
        match path.canonicalize() {
            Ok(real) if !is_wrapper(&real) && seen.insert(real.clone()) => {}
            _ => continue,
        }
        match Command::new(&path).arg("--version").run(&CancellationToken::new()).await {
            Ok(output) => match parse_version(&String::from_utf8_lossy(&output.stdout)) {
                Some((version, major)) => found.push(Binary { path, major, version }),
                None => tracing::debug!(path = %path.display(), "its --version is not understood"),
            },
            Err(error) => tracing::debug!(path = %path.display(), %error, "it does not say its version"),
        }
    }
    found
}

/// Which versions were found, for an error.
pub fn list_majors(found: &[u32]) -> String {
    match found {
        [] => "none was found".into(),
        found => format!("found only {}", found.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")),
    }
}

fn is_wrapper(real: &Path) -> bool {
    real.file_name().is_some_and(|name| name == "pg_wrapper")
}

/// Where distributions put the programs of each version, newest first, then `PATH`.
fn directories() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = Vec::new();
    for (parent, prefix) in
        [("/usr/lib/postgresql", ""), ("/usr", "pgsql-"), ("/usr/libexec", "postgresql"), ("/opt/homebrew/opt", "postgresql@")]
    {
        let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
        found.extend(entries.filter(|e| e.file_name().to_string_lossy().starts_with(prefix)).map(|e| e.path()));
    }
    let with_bin = found.iter().map(|d| d.join("bin"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut all: Vec<PathBuf> = with_bin.chain(found.iter().cloned()).collect();
    all.sort_unstable_by(|a, b| b.cmp(a));
    all.extend(std::env::split_paths(&path).filter(|d| d.is_absolute()));
    all
}

/// `pg_dump (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)` → version and major; 9.6 and older count as 9.
fn parse_version(line: &str) -> Option<(String, u32)> {
    let version = line.trim().split_once("(PostgreSQL) ")?.1;
    let digits: String = version.chars().take_while(char::is_ascii_digit).collect();
    Some((version.to_owned(), digits.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_own_version_comes_first_then_the_smallest_larger_one() {
        let check = |server, installed: &[u32], expected| assert_eq!(choose(server, &installed.iter().copied().collect()), expected);
        check(16, &[15, 16, 17], Some(16));
        check(14, &[13, 16, 15], Some(15));
        check(18, &[15, 17], None);
        check(15, &[], None);
    }

    #[test]
    fn a_pg_restore_reads_the_archive_and_is_understood_by_the_server() {
        let check = |dump, server, installed: &[u32], expected| {
            let found = choose_restore(dump, server, &installed.iter().copied().collect());
            assert_eq!(found, expected, "dump {dump}, server {server}, installed {installed:?}");
        };
        check(15, 15, &[15, 16, 17, 18], Some(15));
        check(15, 17, &[15, 16, 17, 18], Some(17));
        check(15, 17, &[15, 18], Some(15));
        check(15, 17, &[18], Some(18));
        check(16, 15, &[15, 16, 17], Some(16));
        check(15, 15, &[17, 18], None);
        check(18, 18, &[15, 17], None);
        check(17, 16, &[17], None);
    }

    #[test]
    fn versions_are_read_as_the_programs_print_them() {
        let check = |line, expected: Option<(&str, u32)>| assert_eq!(parse_version(line), expected.map(|(v, m)| (v.to_owned(), m)));
        check("pg_dump (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n", Some(("15.18 (Debian 15.18-0+deb12u1)", 15)));
        check("psql (PostgreSQL) 17.10", Some(("17.10", 17)));
        check("pg_dump (PostgreSQL) 18beta1", Some(("18beta1", 18)));
        check("something else 17", None);
    }

    #[tokio::test]
    async fn a_wrapper_and_a_program_that_lies_are_passed_over() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let dir = tempfile::tempdir().expect("a directory");
        let script = |path: &str, text: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("created");
            std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("written");
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("executable");
        };
        script("share/pg_wrapper", "echo 'pg_dump (PostgreSQL) 99.1'");
        script("bad/pg_dump", "echo 'pg_dump (PostgreSQL) 98.1'; exit 3");
        script("good/pg_dump", "echo 'pg_dump (PostgreSQL) 16.4'");
        std::fs::create_dir(dir.path().join("bin")).expect("created");
        symlink("../share/pg_wrapper", dir.path().join("bin/pg_dump")).expect("linked");
        let directories: Vec<_> = ["bin", "bad", "none", "good", "good"].map(|d| dir.path().join(d)).into();
        let found = installed(Tool::PgDump, &directories).await;
        assert_eq!(found.iter().map(|b| (b.major, b.path.clone())).collect::<Vec<_>>(), [(16, dir.path().join("good/pg_dump"))]);
    }
}
