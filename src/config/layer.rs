//! Layers of values, and what they merge to. The merge itself is that of the `config` crate; each value keeps its origin through it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;

use config::{Config, Map, Source, Value, ValueKind};

use super::keys::{self, Section};

/// Where a value came from, in the order in which faults are told.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// Line and column count from 1; both 0: the file as a whole.
    File {
        path: PathBuf,
        line: usize,
        column: usize,
    },
    /// A file in `$CREDENTIALS_DIRECTORY`.
    Credential(String),
    /// An environment variable.
    Variable(String),
    /// What authentik itself assumes when a variable of it is not set.
    AuthentikDefault,
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line: 0, .. } => write!(f, "{}", path.display()),
            Self::File { path, line, column } => write!(f, "{}:{line}:{column}", path.display()),
            Self::Credential(name) => write!(f, "$CREDENTIALS_DIRECTORY/{name}"),
            Self::Variable(name) => f.write_str(name),
            Self::AuthentikDefault => f.write_str("default of authentik"),
            Self::Default => f.write_str("default"),
        }
    }
}

impl Origin {
    /// The layer as `config show` names it: a file without the column.
    pub fn layer(&self) -> String {
        match self {
            Self::File { path, line, .. } => format!("{}:{line}", path.display()),
            other => other.to_string(),
        }
    }

    /// Whether a user of Backstay wrote it, rather than authentik's environment or nobody.
    pub(super) fn is_ours(&self) -> bool {
        match self {
            Self::File { .. } | Self::Credential(_) => true,
            Self::Variable(name) => name.starts_with(super::environment::PREFIX),
            Self::AuthentikDefault | Self::Default => false,
        }
    }
}

/// `["jobs", "default", "schedule"]`; a section has no key.
pub(super) type Path = Vec<String>;

pub(super) fn path(parts: &[&str]) -> Path {
    parts.iter().map(|&p| p.to_owned()).collect()
}

/// One value of a layer, or the mere presence of a section.
#[derive(Clone)]
pub(super) struct Entry {
    pub path: Path,
    pub value: Option<ValueKind>,
    pub origin: Origin,
}

/// The values of one layer.
#[derive(Clone, Default)]
pub(super) struct Layer {
    pub entries: Vec<Entry>,
}

/// Without values: they may be secret.
impl fmt::Debug for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.entries.iter().map(|e| e.path.join("."))).finish()
    }
}

impl Layer {
    pub fn set(&mut self, path: Path, value: ValueKind, origin: Origin) {
        self.entries.push(Entry { path, value: Some(value), origin });
    }

    pub fn section(&mut self, path: Path, origin: Origin) {
        self.entries.push(Entry { path, value: None, origin });
    }

    pub fn get(&self, path: &[&str]) -> Option<&Entry> {
        self.entries.iter().find(|e| e.path == path)
    }

    /// Whether it names any section of that kind.
    pub fn has_section(&self, section: &str) -> bool {
        self.entries.iter().any(|e| e.path.first().is_some_and(|s| s == section))
    }
}

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, config::ConfigError> {
        let mut root = Map::new();
        for Entry { path, value, origin } in &self.entries {
            insert(&mut root, path, value.as_ref().map(|kind| with_origin(kind, &origin.to_string())));
        }
        Ok(root)
    }
}

/// The merge takes tables apart: their values carry the origin too.
fn with_origin(kind: &ValueKind, origin: &String) -> Value {
    let kind = match kind {
        ValueKind::Table(table) => ValueKind::Table(table.iter().map(|(k, v)| (k.clone(), with_origin(&v.kind, origin))).collect()),
        other => other.clone(),
    };
    Value::new(Some(origin), kind)
}

/// Puts a value at `path`; without one, makes the table there.
fn insert(at: &mut Map<String, Value>, path: &[String], value: Option<Value>) {
    let Some((first, rest)) = path.split_first() else { return };
    match value {
        Some(value) if rest.is_empty() => {
            at.insert(first.clone(), value);
        }
        value => {
            let child = at.entry(first.clone()).or_insert_with(|| Value::new(None, ValueKind::Table(Map::new())));
            if let ValueKind::Table(child) = &mut child.kind {
                insert(child, rest, value);
            }
        }
    }
}

/// All layers in one.
pub(super) struct Merged {
    config: Config,
    origins: BTreeMap<String, Origin>,
    sections: BTreeMap<Path, Origin>,
    ours: BTreeSet<Path>,
}

impl fmt::Debug for Merged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Merged").field("sections", &self.sections.keys()).finish_non_exhaustive()
    }
}

impl Merged {
    /// Merges layers, later ones winning.
    ///
    /// # Errors
    /// When the `config` crate refuses a layer; the layers were checked before, so that this does not happen.
    pub fn new(layers: &[Layer]) -> Result<Self, config::ConfigError> {
        let mut builder = Config::builder();
        let (mut origins, mut sections, mut ours) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        for layer in layers {
            builder = builder.add_source(layer.clone());
            for entry in &layer.entries {
                origins.insert(entry.origin.to_string(), entry.origin.clone());
                let section = section_of(&entry.path);
                if entry.origin.is_ours() {
                    ours.insert(section.clone());
                }
                // the header of a section is a better place to point at than one of its values
                if entry.value.is_none() || !sections.contains_key(&section) {
                    sections.insert(section, entry.origin.clone());
                }
            }
        }
        Ok(Self { config: builder.build()?, origins, sections, ours })
    }

    /// The value at `path`.
    pub fn value(&self, path: &[&str]) -> Option<&Value> {
        let mut at = &self.config.cache;
        for &part in path {
            let ValueKind::Table(table) = &at.kind else { return None };
            at = table.get(part)?;
        }
        Some(at)
    }

    /// Where the value at `path` came from.
    pub fn origin(&self, path: &[&str]) -> Option<&Origin> {
        let value = self.value(path)?;
        let own = |value: &Value| value.origin().and_then(|origin| self.origins.get(origin));
        match &value.kind {
            ValueKind::Table(table) => table.values().filter_map(own).min(),
            _ => own(value),
        }
    }

    /// Where a section was first written.
    pub fn section(&self, path: &[&str]) -> Option<&Origin> {
        self.sections.get(&self::path(path))
    }

    /// Whether the file, a credential or a `BACKSTAY__` variable says anything of that section.
    pub fn is_ours(&self, path: &[&str]) -> bool {
        self.ours.contains(&self::path(path))
    }

    /// The names of `[section.NAME]`, sorted.
    pub fn names(&self, section: &str) -> Vec<String> {
        let Some(ValueKind::Table(table)) = self.value(&[section]).map(|v| &v.kind) else { return Vec::new() };
        let mut names: Vec<_> = table.keys().cloned().collect();
        names.sort();
        names
    }

    /// As [`Self::names`]; for a section without names, one that is empty.
    pub fn names_in(&self, section: &Section) -> Vec<String> {
        if section.named { self.names(&section.name) } else { vec![String::new()] }
    }

    /// The values as a struct.
    pub fn deserialize<T: serde::de::DeserializeOwned>(&self) -> Result<T, config::ConfigError> {
        self.config.clone().try_deserialize()
    }
}

/// `["jobs", "default"]` or `["worker"]`: where the value belongs.
fn section_of(path: &Path) -> Path {
    let named = path.first().and_then(|s| keys::section(s)).is_some_and(|s| s.named);
    path.iter().take(if named { 2 } else { 1 }).cloned().collect()
}
