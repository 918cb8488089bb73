//! The only place that prints: answers on stdout, everything else on stderr.

use std::io::{self, BufRead, IsTerminal, Write};

use clap_complete::Shell;
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use crate::chain::describe;
use crate::error::Error;

/// One line of an answer.
pub(super) fn answer(text: &str) -> Result<(), Error> {
    written(writeln!(io::stdout().lock(), "{text}"))
}

/// An answer for scripts.
pub(super) fn json(value: &impl Serialize) -> Result<(), Error> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Error::Io { action: "write JSON".into(), source: e.into() })?;
    answer(&text)
}

/// An answer for people. Nothing is printed in place of no rows but the heading.
pub(super) fn table(heading: &[&str], rows: Vec<Vec<String>>) -> Result<(), Error> {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled).set_header(heading);
    for row in rows {
        table.add_row(row);
    }
    let text = table.to_string();
    let lines: Vec<&str> = text.lines().map(str::trim_end).map(|l| l.strip_prefix(' ').unwrap_or(l)).collect();
    answer(&lines.join("\n"))
}

/// One line of the story.
pub(super) fn story(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Replaces the last line of a terminal; nothing elsewhere.
pub(super) fn status(text: &str) {
    let mut stderr = io::stderr().lock();
    let _ = write!(stderr, "\r\x1b[K{text}");
    let _ = stderr.flush();
}

pub(super) fn stderr_is_terminal() -> bool {
    io::stderr().is_terminal()
}

/// What failed, why, and what to do.
pub(super) fn failure(error: &Error) {
    let text = match error {
        // one line a fault
        Error::Config(error) => format!("invalid configuration\n{error}"),
        error => describe(error),
    };
    story(&format!("error: {text}"));
    if let Some(advice) = error.advice() {
        story(&format!("  {advice}"));
    }
}

/// What clap has to say: help goes to stdout, a mistake to stderr.
pub(super) fn usage(error: &clap::Error) {
    let _ = error.print();
}

/// Asks, on a terminal. `None`: there is none to ask on.
pub(super) fn confirm(question: &str) -> Option<bool> {
    if !io::stdin().is_terminal() {
        return None;
    }
    let mut stderr = io::stderr().lock();
    let _ = write!(stderr, "{question} [y/N] ");
    let _ = stderr.flush();
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line).ok()?;
    Some(matches!(line.trim().to_lowercase().as_str(), "y" | "yes"))
}

pub(super) fn completions(shell: Shell, command: &mut clap::Command) -> Result<(), Error> {
    let mut script = Vec::new();
    clap_complete::generate(shell, command, "backstay", &mut script);
    written(io::stdout().lock().write_all(&script))
}

pub(super) fn man(command: clap::Command) -> Result<(), Error> {
    let mut page = Vec::new();
    clap_mangen::Man::new(command).render(&mut page).map_err(|source| Error::Io { action: "write the manual page".into(), source })?;
    written(io::stdout().lock().write_all(&page))
}

/// `1.5 GiB`; exact below a KiB.
pub(super) fn size(bytes: u64) -> String {
    bytesize::ByteSize::b(bytes).display().iec().to_string()
}

/// A reader that went away (`| head`) is no failure of ours.
fn written(result: io::Result<()>) -> Result<(), Error> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|source| Error::Io { action: "write the answer".into(), source }),
    }
}
