//! Secrets: values that are never printed, and places from which they are read anew at every run.
//!
//! `file:///path?default` reads a file (one line end at its end is dropped), `env://NAME?default` a variable; anything else is taken
//! literally. The spelling is authentik's own.

use std::fmt;
use std::path::PathBuf;

use thiserror::Error;
use zeroize::Zeroizing;

/// A secret's text. Wiped on drop; `Debug` prints `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Revealed(Zeroizing<String>);

impl Revealed {
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// The text itself. Must not reach a log, an error, an argument list or a manifest.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Revealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Where a secret comes from. `Debug` and `Display` never show a literal.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    Literal(Revealed),
    File { path: PathBuf, default: Option<Revealed> },
    Env { name: String, default: Option<Revealed> },
}

/// Why a secret cannot be read. Names the place, never the value.
#[derive(Debug, Error)]
pub enum SecretError {
    #[error("read secret file {path}")]
    File {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("read secret from the environment: {0} is not set")]
    Env(String),
}

impl Secret {
    /// Understands `file://` and `env://`; everything else is the secret itself, to the letter.
    pub fn parse(text: &str) -> Self {
        let split = |rest: &str| match rest.split_once('?') {
            Some((place, default)) => (place.to_owned(), Some(Revealed::new(default))),
            None => (rest.to_owned(), None),
        };
        if let Some(rest) = text.strip_prefix("file://") {
            let (path, default) = split(rest);
            Self::File { path: path.into(), default }
        } else if let Some(rest) = text.strip_prefix("env://") {
            let (name, default) = split(rest);
            Self::Env { name, default }
        } else {
            Self::Literal(Revealed::new(text))
        }
    }

    /// Reads the secret as it is now.
    ///
    /// # Errors
    /// [`SecretError`] when its file cannot be read or its variable is not set, and no default was given.
    pub fn reveal(&self) -> Result<Revealed, SecretError> {
        match self {
            Self::Literal(text) => Ok(text.clone()),
            Self::File { path, default } => match (std::fs::read_to_string(path), default) {
                (Ok(text), _) => Ok(Revealed::new(without_line_end(&text))),
                (Err(_), Some(default)) => Ok(default.clone()),
                (Err(source), None) => Err(SecretError::File { path: path.clone(), source }),
            },
            Self::Env { name, default } => match (std::env::var(name), default) {
                (Ok(text), _) if !text.is_empty() => Ok(Revealed::new(text)),
                (_, Some(default)) => Ok(default.clone()),
                _ => Err(SecretError::Env(name.clone())),
            },
        }
    }
}

fn without_line_end(text: &str) -> &str {
    let text = text.strip_suffix('\n').unwrap_or(text);
    text.strip_suffix('\r').unwrap_or(text)
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Literal(_) => f.write_str("***"),
            Self::File { path, .. } => write!(f, "*** (file {})", path.display()),
            Self::Env { name, .. } => write!(f, "*** (variable {name})"),
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_literal_is_taken_to_the_letter_and_never_printed() {
        for text in ["0123456", "1e10", "a $ = # \" ' b", " x ", "true", "pa?ss://"] {
            let secret = Secret::parse(text);
            assert_eq!(secret.reveal().expect("a literal").expose(), text);
            assert_eq!(format!("{secret} {secret:?} {:?}", secret.reveal()), "*** *** Ok(***)");
        }
    }

    #[test]
    fn a_file_loses_one_line_end_only() {
        let dir = tempfile::tempdir().expect("a directory");
        for (written, read) in [("s\n", "s"), ("s\r\n", "s"), ("s\n\n", "s\n"), (" s ", " s "), ("", "")] {
            let path = dir.path().join("secret");
            std::fs::write(&path, written).expect("written");
            let secret = Secret::parse(&format!("file://{}", path.display()));
            assert_eq!(secret.reveal().expect("readable").expose(), read);
        }
    }

    #[test]
    fn what_is_missing_has_a_default_or_an_error_without_it() {
        assert_eq!(Secret::parse("env://BACKSTAY_NOT_SET?d").reveal().expect("default").expose(), "d");
        assert!(Secret::parse("env://BACKSTAY_NOT_SET").reveal().is_err());
        assert_eq!(Secret::parse("file:///nonexistent/s?d").reveal().expect("default").expose(), "d");
        assert!(Secret::parse("file:///nonexistent/s").reveal().is_err());
    }
}
