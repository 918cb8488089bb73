//! The file: found, and checked against the known keys, with line and column.

use std::io::ErrorKind;
use std::ops::Range;
use std::path::{Path, PathBuf};

use config::ValueKind;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::Fault;
use super::keys::{self, Key, Kind, Section};
use super::layer::{Layer, Origin, path as layer_path};
use crate::name::ComponentName;

/// The variable that names the file.
pub(super) const VARIABLE: &str = "BACKSTAY_CONFIG";

/// A file that was found.
#[derive(Debug)]
pub(super) struct Found {
    pub path: PathBuf,
    pub text: String,
}

/// Reads the first of `--config`, `$BACKSTAY_CONFIG`, `./config/backstay.toml` and `/etc/backstay/backstay.toml` that exists. None is fine,
/// unless it was named.
pub(super) fn find(options: &super::LoadOptions) -> Result<Option<Found>, Fault> {
    let variable = options.env.get(VARIABLE).filter(|v| !v.is_empty()).map(PathBuf::from);
    let named = options.file.clone().map(|f| (f, "--config")).or(variable.map(|f| (f, VARIABLE)));
    if let Some((file, by)) = named {
        return match read(&options.cwd, &file)? {
            Some(found) => Ok(Some(found)),
            None => Err(whole(&file, format!("there is no such file (named by {by})"))),
        };
    }
    match read(&options.cwd, Path::new("config/backstay.toml"))? {
        Some(found) => Ok(Some(found)),
        None => read(&options.cwd, &options.root.join("etc/backstay/backstay.toml")),
    }
}

/// `None` when it does not exist. The path stays as it was written, for messages.
fn read(cwd: &Path, file: &Path) -> Result<Option<Found>, Fault> {
    match std::fs::read_to_string(cwd.join(file)) {
        Ok(text) => Ok(Some(Found { path: file.to_owned(), text })),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(whole(file, format!("cannot be read: {e}"))),
    }
}

fn whole(file: &Path, text: String) -> Fault {
    Fault::new(Origin::File { path: file.to_owned(), line: 0, column: 0 }, "", text)
}

/// The layer of a file.
pub(super) struct Parsed {
    pub layer: Layer,
    pub faults: Vec<Fault>,
    /// It is not TOML: what it means as a whole cannot be judged.
    pub broken: bool,
}

/// Checks sections, keys and types; what is wrong is left out of the layer.
pub(super) fn parse(found: &Found) -> Parsed {
    let (table, errors) = DeTable::parse_recoverable(&found.text);
    let mut reader = Reader { found, layer: Layer::default(), faults: Vec::new() };
    for error in &errors {
        // the message alone: the error as a whole quotes the line, which may hold a secret
        let origin = reader.origin(&error.span().unwrap_or_default());
        reader.faults.push(Fault::new(origin, "", format!("not valid TOML: {}", error.message().replace('\n', ", "))));
    }
    reader.root(table.get_ref());
    Parsed { layer: reader.layer, faults: reader.faults, broken: !errors.is_empty() }
}

struct Reader<'a> {
    found: &'a Found,
    layer: Layer,
    faults: Vec<Fault>,
}

impl Reader<'_> {
    /// Line and column of the first byte of `span`, counted in characters from 1.
    fn origin(&self, span: &Range<usize>) -> Origin {
        let before = self.found.text.get(..span.start).unwrap_or(&self.found.text);
        let start = before.rfind('\n').map_or(0, |at| at + 1);
        let column = before.get(start..).map_or(0, |line| line.chars().count()) + 1;
        Origin::File { path: self.found.path.clone(), line: before.matches('\n').count() + 1, column }
    }

    fn fault(&mut self, span: &Range<usize>, key: &[&str], text: impl Into<String>) {
        let origin = self.origin(span);
        self.faults.push(Fault::new(origin, key.join("."), text));
    }

    fn root(&mut self, root: &DeTable<'_>) {
        for (name, value) in root {
            let (span, name) = (name.span(), name.get_ref().as_ref());
            match (keys::section(name), value.get_ref()) {
                (Some(section), DeValue::Table(table)) if section.named => self.named(section, table),
                (Some(section), DeValue::Table(table)) => {
                    self.layer.section(layer_path(&[name]), self.origin(&span));
                    self.keys(section, &[name], "", table);
                }
                (Some(section), _) => {
                    let expected = if section.named { format!("[{name}.NAME]") } else { format!("[{name}]") };
                    self.fault(&span, &[name], format!("expected a section {expected}"));
                }
                (None, DeValue::Table(_)) => {
                    let hint = keys::hint(name, keys::sections().iter().map(|s| s.name.as_str()));
                    self.fault(&span, &[name], format!("unknown section{hint}"));
                }
                (None, _) => self.fault(&span, &[name], "unknown key; keys stand in a section, such as [jobs.default]"),
            }
        }
    }

    fn named(&mut self, section: &Section, table: &DeTable<'_>) {
        for (name, value) in table {
            let (span, name) = (name.span(), name.get_ref().as_ref());
            let path = [section.name.as_str(), name];
            let DeValue::Table(table) = value.get_ref() else {
                self.fault(&span, &path, format!("expected a section [{}.NAME]", section.name));
                continue;
            };
            if let Err(e) = name.parse::<ComponentName>() {
                self.fault(&span, &path, e.to_string());
                continue;
            }
            self.layer.section(layer_path(&path), self.origin(&span));
            self.keys(section, &path, "", table);
        }
    }

    /// `within`: see [`Section::names`].
    fn keys(&mut self, section: &Section, parent: &[&str], within: &str, table: &DeTable<'_>) {
        for (name, value) in table {
            let path: Vec<&str> = parent.iter().copied().chain([name.get_ref().as_ref()]).collect();
            let full = format!("{within}{}", name.get_ref());
            if section.has_table(&full) {
                match value.get_ref() {
                    DeValue::Table(table) => self.keys(section, &path, &format!("{full}."), table),
                    DeValue::String(text) if text.is_empty() => {}
                    other => self.fault(&value.span(), &path, format!("expected a table, found {}", found_words(other))),
                }
                continue;
            }
            let Some(key) = section.key(&full) else {
                let hint = keys::hint(name.get_ref(), section.names(within));
                self.fault(&name.span(), &path, format!("unknown key{hint}"));
                continue;
            };
            match read_value(key, value) {
                Ok(Some(kind)) => self.layer.set(layer_path(&path), kind, self.origin(&value.span())),
                Ok(None) => {}
                Err((span, text)) => self.fault(&span, &path, text),
            }
        }
    }
}

/// The value of a key; `None` when it is empty and therefore unset.
fn read_value(key: &Key, value: &Spanned<DeValue<'_>>) -> Result<Option<ValueKind>, (Range<usize>, String)> {
    let at = |text: String| (value.span(), text);
    let wrong = || at(format!("expected {}, found {}{}", key.kind.words(), found_words(value.get_ref()), advice(key, value.get_ref())));
    match (&key.kind, value.get_ref()) {
        (Kind::Text | Kind::Choice(_), DeValue::String(text)) if text.is_empty() => {
            Ok(key.empty.as_ref().map(|_| ValueKind::String(String::new())))
        }
        // an empty number or flag is what `key = "$UNSET"` of a template becomes
        (_, DeValue::String(text)) if text.is_empty() => Ok(None),
        (Kind::Text, DeValue::String(text)) => Ok(Some(ValueKind::String(text.to_string()))),
        (Kind::Choice(_), DeValue::String(text)) => key.chosen(text).map(Some).map_err(at),
        (Kind::Choice(words), DeValue::Integer(number)) if words.iter().any(|w| w.parse::<i64>().is_ok()) => {
            key.chosen(number.as_str()).map(Some).map_err(at)
        }
        (Kind::Flag, DeValue::Boolean(flag)) => Ok(Some(ValueKind::Boolean(*flag))),
        (Kind::Number { .. }, DeValue::Integer(number)) => {
            let number = i64::from_str_radix(number.as_str(), number.radix()).map_err(|_| at("the number is too large".into()))?;
            key.in_range(number).map(Some).map_err(at)
        }
        (Kind::List, DeValue::Array(items)) => {
            let mut texts = Vec::new();
            for item in items.iter() {
                let DeValue::String(text) = item.get_ref() else {
                    return Err((item.span(), format!("expected a string, found {}", found_words(item.get_ref()))));
                };
                texts.push(text.as_ref());
            }
            Ok(Some(keys::list(texts)))
        }
        _ => Err(wrong()),
    }
}

fn found_words(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

fn advice(key: &Key, found: &DeValue<'_>) -> &'static str {
    match (&key.kind, found) {
        (Kind::Text | Kind::Choice(_), DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_) | DeValue::Datetime(_)) => {
            ": write it in quotes"
        }
        (Kind::Number { .. } | Kind::Flag, DeValue::String(_)) => ": write it without quotes",
        (Kind::List, DeValue::String(_)) => ": write it in brackets",
        _ => "",
    }
}
