//! What is wrong with a configuration: every fault, with the place it came from.

use std::fmt;

use thiserror::Error;

use super::layer::Origin;

/// Every fault of a configuration, one a line. Never holds the value of a secret.
#[derive(Debug, Error)]
#[error("{}", lines(.faults))]
pub struct ConfigError {
    faults: Vec<Fault>,
}

impl ConfigError {
    /// Puts the faults in the order in which a reader meets them: the file from its top, then variables by name.
    pub(super) fn new(mut faults: Vec<Fault>) -> Self {
        faults.sort();
        faults.dedup();
        Self { faults }
    }

    pub fn faults(&self) -> &[Fault] {
        &self.faults
    }

    /// What the operator can do about it, as a sentence.
    pub fn advice(&self) -> Option<String> {
        Some(
            "`backstay config show` prints each value with the layer it came from, `backstay config init` writes a commented example."
                .into(),
        )
    }
}

fn lines(faults: &[Fault]) -> String {
    faults.iter().map(Fault::to_string).collect::<Vec<_>>().join("\n")
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    /// `None`: no layer gave it; it is missing.
    pub(super) origin: Option<Origin>,
    /// `jobs.default.schedule`; empty for a fault of a file as a whole.
    pub(super) key: String,
    pub(super) text: String,
}

impl Fault {
    pub(super) fn new(origin: impl Into<Option<Origin>>, key: impl Into<String>, text: impl Into<String>) -> Self {
        Self { origin: origin.into(), key: key.into(), text: text.into() }
    }

    /// The key in question, such as `jobs.default.schedule`; empty for a fault of a file as a whole.
    pub fn key(&self) -> &str {
        &self.key
    }
}

/// `file:line:column: key: what is wrong`, or `VARIABLE: what is wrong`; with the key, unless the variable spells it.
impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { origin, key, text } = self;
        if let Some(origin) = origin.as_ref().filter(|o| !matches!(o, Origin::Default | Origin::AuthentikDefault)) {
            write!(f, "{origin}: ")?;
            if matches!(origin, Origin::Credential(_)) || spells(origin, key) {
                return f.write_str(text);
            }
        }
        if key.is_empty() { f.write_str(text) } else { write!(f, "{key}: {text}") }
    }
}

/// Whether a variable is the one of that key, or of a file for it.
fn spells(origin: &Origin, key: &str) -> bool {
    let Origin::Variable(name) = origin else { return false };
    let plain = |text: &str| text.to_lowercase().replace(['.', '-'], "_").replace("__", "_");
    name.strip_prefix(super::environment::PREFIX).is_some_and(|rest| plain(rest).starts_with(&plain(key)))
}
