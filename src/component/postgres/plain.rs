//! Plain SQL of `pg_dump`, made fit for an empty database, as a stream (pure, but for its pump).
//!
//! authentik's old backups were made with `--clean`, by `pg_dump`s that go back to 9.6, for a database that is there. What would fail in a
//! new one, or on a newer server, or for a user who is no superuser, is left out: the statements that drop, at the beginning; settings
//! that the server does not know; owners and grantees that it does not have. Rows pass as they are. Lines that speak to psql, which a dump
//! has no use for but `\restrict` (since CVE-2025-8714), are dropped or refused. That is for the operator to read: a hostile script can hide a
//! command in the midst of a line, or behind what only looks like rows. What stops it is psql itself, which is told `\restrict` first, with a
//! key that no script can know.

use std::collections::{BTreeSet, HashSet};

use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::binaries::TRANSACTION_TIMEOUT;
use super::recreate::Host;
use crate::manifest::hex;

/// Bytes that are read at once.
const CHUNK: usize = 256 << 10;

/// Longest statement that is looked at, in bytes; nothing that is left out is longer.
const LINE: usize = 64 << 10;

#[derive(Debug, Error)]
pub enum PlainError {
    #[error("line {0} is a command for psql, which no dump has")]
    Command(u64),
    #[error("read it")]
    Read(#[source] std::io::Error),
    #[error("hand it to psql")]
    Write(#[source] std::io::Error),
}

/// What was left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// Roles that own or may use something in the dump, and cannot here.
    pub roles: BTreeSet<String>,
    /// Comments on extensions, which only their owner may set.
    pub comments: u64,
}

impl LeftOut {
    pub fn sentences(&self, database: &str) -> Vec<String> {
        let roles: Vec<&str> = self.roles.iter().map(String::as_str).collect();
        let owners = format!("database \"{database}\": what belongs or is granted to {} was restored without that", roles.join(", "));
        let comments = format!("database \"{database}\": comments on extensions were left out, which only a superuser may set");
        [(!roles.is_empty(), owners), (self.comments > 0, comments)].into_iter().filter_map(|(is, text)| is.then_some(text)).collect()
    }
}

/// What the server can take.
#[derive(Debug, Clone)]
pub struct Fit {
    pub major: u32,
    pub superuser: bool,
    /// Whom objects may be given to.
    pub owners: HashSet<String>,
    /// Who may be granted something.
    pub grantees: HashSet<String>,
}

impl Fit {
    pub fn new(host: &Host, no_owner: bool) -> Self {
        let (owners, grantees) = if no_owner { Default::default() } else { (host.may_own.clone(), host.roles.clone()) };
        Self { major: host.major, superuser: host.superuser, owners, grantees }
    }
}

enum State {
    /// At the beginning of a line, or in it, as far as it is held.
    Line(Vec<u8>),
    /// In a line that passes, whatever follows.
    Passing,
}

/// Takes a script in pieces.
pub struct Filter {
    fit: Fit,
    state: State,
    line: u64,
    /// Before the first object: where `--clean` drops.
    header: bool,
    rows: bool,
    pub left_out: LeftOut,
}

impl Filter {
    pub fn new(fit: Fit) -> Self {
        Self { fit, state: State::Line(Vec::new()), line: 1, header: true, rows: false, left_out: LeftOut::default() }
    }

    /// Appends what passes of `bytes` to `out`.
    ///
    /// # Errors
    /// [`PlainError::Command`].
    pub fn push(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) -> Result<(), PlainError> {
        while !bytes.is_empty() {
            let end = bytes.iter().position(|b| *b == b'\n');
            let (piece, rest) = bytes.split_at(end.map_or(bytes.len(), |at| at + 1));
            bytes = rest;
            match &mut self.state {
                State::Passing => out.extend_from_slice(piece),
                State::Line(held) if end.is_some() && held.is_empty() => self.decide(piece, out)?,
                State::Line(held) => {
                    held.extend_from_slice(piece);
                    if end.is_some() || held.len() > LINE {
                        let line = std::mem::take(held);
                        if end.is_some() {
                            self.decide(&line, out)?;
                        } else if line.starts_with(b"\\") && !self.rows {
                            return Err(PlainError::Command(self.line));
                        } else {
                            out.extend_from_slice(&line);
                            self.state = State::Passing;
                        }
                    }
                }
            }
            if end.is_some() {
                self.state = State::Line(Vec::new());
                self.line += 1;
            }
        }
        Ok(())
    }

    /// The rest, when nothing follows.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub fn finish(&mut self, out: &mut Vec<u8>) -> Result<(), PlainError> {
        match std::mem::replace(&mut self.state, State::Passing) {
            State::Line(line) if !line.is_empty() => self.decide(&line, out),
            _ => Ok(()),
        }
    }

    fn decide(&mut self, line: &[u8], out: &mut Vec<u8>) -> Result<(), PlainError> {
        if self.rows {
            self.rows = line.trim_ascii_end() != b"\\.";
            out.extend_from_slice(line);
            return Ok(());
        }
        if let Some(command) = line.strip_prefix(b"\\") {
            let known = command.starts_with(b"restrict ") || command.starts_with(b"unrestrict ");
            return if known { Ok(()) } else { Err(PlainError::Command(self.line)) };
        }
        // what is no text is nothing that is looked for
        let text = std::str::from_utf8(line).unwrap_or_default().trim_end();
        self.header &= !text.starts_with("-- Name: ");
        self.rows = text.starts_with("COPY ") && text.ends_with(" FROM stdin;");
        if text == "CREATE SCHEMA public;" {
            // every new database has one
            out.extend_from_slice(b"CREATE SCHEMA IF NOT EXISTS public;\n");
        } else if !self.is_left_out(text) {
            out.extend_from_slice(line);
        }
        Ok(())
    }

    fn is_left_out(&mut self, text: &str) -> bool {
        let drops = text.starts_with("DROP ") || text.starts_with("SELECT pg_catalog.lo_unlink(");
        if drops || (text.starts_with("ALTER ") && text.contains(" DROP ")) {
            return self.header;
        }
        if text.starts_with("SET default_with_oids ") {
            // gone in PostgreSQL 12
            return self.fit.major >= 12;
        }
        if text.starts_with("SET transaction_timeout ") {
            return self.fit.major < TRANSACTION_TIMEOUT;
        }
        if text.starts_with("COMMENT ON EXTENSION ") && !self.fit.superuser {
            self.left_out.comments += 1;
            return true;
        }
        let (role, there) = if text.starts_with("ALTER ")
            && let Some((_, role)) = text.rsplit_once(" OWNER TO ")
        {
            (role, &self.fit.owners)
        } else if text.starts_with("GRANT ")
            && let Some((_, role)) = text.rsplit_once(" TO ")
        {
            (role.trim_end_matches(';').trim_end_matches(" WITH GRANT OPTION"), &self.fit.grantees)
        } else if text.starts_with("REVOKE ")
            && let Some((_, role)) = text.rsplit_once(" FROM ")
        {
            (role, &self.fit.grantees)
        } else {
            return false;
        };
        let role = name(role.trim_end_matches(';'));
        if role == "PUBLIC" || there.contains(&role) {
            return false;
        }
        self.left_out.roles.insert(role);
        true
    }
}

/// An identifier as `pg_dump` writes it: quoted where it must be.
fn name(text: &str) -> String {
    let text = text.trim();
    match text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(quoted) => quoted.replace("\"\"", "\""),
        None => text.to_owned(),
    }
}

/// Sends what passes of `script` to `sink`, which psql reads, to its end.
///
/// # Errors
/// [`PlainError`].
pub async fn pump(
    script: &mut (impl AsyncRead + Unpin),
    sink: &mut (impl AsyncWrite + Unpin),
    filter: &mut Filter,
) -> Result<(), PlainError> {
    let key: [u8; 20] = rand::random();
    let (mut bytes, mut out) = (vec![0; CHUNK], format!("\\restrict {}\n", hex(&key)).into_bytes());
    loop {
        let read = script.read(&mut bytes).await.map_err(PlainError::Read)?;
        match read {
            0 => filter.finish(&mut out)?,
            read => filter.push(&bytes[..read], &mut out)?,
        }
        sink.write_all(&out).await.map_err(PlainError::Write)?;
        out.clear();
        if read == 0 {
            return sink.shutdown().await.map_err(PlainError::Write);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fit(superuser: bool) -> Fit {
        let roles = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
        Fit { major: 15, superuser, owners: roles(&["authentik"]), grantees: roles(&["authentik", "reader"]) }
    }

    fn filtered(script: &str, superuser: bool, piece: usize) -> (String, LeftOut) {
        let (mut filter, mut out) = (Filter::new(fit(superuser)), Vec::new());
        for bytes in script.as_bytes().chunks(piece) {
            filter.push(bytes, &mut out).expect("a dump");
        }
        filter.finish(&mut out).expect("a dump");
        (String::from_utf8(out).expect("text"), filter.left_out)
    }

    const DUMP: &str = r#"--
-- PostgreSQL database dump
--
\restrict abc
SET default_with_oids = false;
SET transaction_timeout = 0;
SET row_security = off;
ALTER TABLE ONLY public.a DROP CONSTRAINT a_pkey;
DROP TABLE public.a;
DROP SCHEMA public;
--
-- Name: public; Type: SCHEMA; Schema: -; Owner: postgres
--
CREATE SCHEMA public;
ALTER SCHEMA public OWNER TO "post""gres";
COMMENT ON EXTENSION plpgsql IS 'x';
CREATE TABLE public.a (t text);
ALTER TABLE public.a OWNER TO authentik;
COPY public.a (t) FROM stdin;
DROP TABLE public.a;
\\restrict is data
\N
\.
GRANT ALL ON SCHEMA public TO PUBLIC;
GRANT SELECT ON TABLE public.a TO reader WITH GRANT OPTION;
REVOKE ALL ON TABLE public.a FROM nobody;
ALTER TABLE public.a DROP COLUMN kept;
\unrestrict abc
"#;

    const FIT: &str = r#"--
-- PostgreSQL database dump
--
SET row_security = off;
--
-- Name: public; Type: SCHEMA; Schema: -; Owner: postgres
--
CREATE SCHEMA IF NOT EXISTS public;
CREATE TABLE public.a (t text);
ALTER TABLE public.a OWNER TO authentik;
COPY public.a (t) FROM stdin;
DROP TABLE public.a;
\\restrict is data
\N
\.
GRANT ALL ON SCHEMA public TO PUBLIC;
GRANT SELECT ON TABLE public.a TO reader WITH GRANT OPTION;
ALTER TABLE public.a DROP COLUMN kept;
"#;

    #[test]
    fn what_an_empty_database_cannot_take_is_left_out_wherever_the_pieces_end() {
        for piece in [1, 2, 7, 100, 10_000] {
            let (text, left_out) = filtered(DUMP, false, piece);
            assert_eq!(text, FIT, "in pieces of {piece}");
            assert_eq!(left_out.roles.iter().map(String::as_str).collect::<Vec<_>>(), ["nobody", "post\"gres"]);
            assert_eq!(left_out.comments, 1);
        }
        assert!(filtered(DUMP, true, 100).0.contains("COMMENT ON EXTENSION"));
    }

    #[test]
    fn a_row_of_any_length_passes_and_a_last_line_needs_no_end() {
        let script = format!("COPY a (t) FROM stdin;\n{}\n\\.\nSELECT 1;", "x".repeat(3 * LINE));
        assert_eq!(filtered(&script, true, 1000).0, script);
    }

    #[test]
    fn a_command_for_psql_is_refused() {
        let long = format!("\\! rm -rf / #{}", "x".repeat(2 * LINE));
        for script in ["\\! rm -rf /\n", "SELECT 1;\n\\copy a from 'b'\n", "\\", &long] {
            let mut filter = Filter::new(fit(true));
            let refused = filter.push(script.as_bytes(), &mut Vec::new()).and_then(|()| filter.finish(&mut Vec::new()));
            assert!(matches!(refused, Err(PlainError::Command(_))), "{script}");
        }
    }
}
