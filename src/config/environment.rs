//! `BACKSTAY__SECTION__NAME__KEY`, and the files of `$CREDENTIALS_DIRECTORY`.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;

use config::{Map, ValueKind};

use super::error::Fault;
use super::keys::{self, Key, Section};
use super::layer::{Layer, Origin, path};
use super::raw::FILE;
use crate::name::ComponentName;

/// What our variables begin with.
pub(super) const PREFIX: &str = "BACKSTAY__";

/// Where systemd puts credentials.
pub(super) const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";

/// Where a variable or a credential points to.
struct Place {
    section: &'static Section,
    /// Empty for a section without names.
    name: String,
    /// With a dot in a table of the section.
    key: String,
}

impl Place {
    fn path(&self, key: &str) -> Vec<String> {
        let mut path = if self.section.named { path(&[&self.section.name, &self.name]) } else { path(&[&self.section.name]) };
        path.extend(key.split('.').map(str::to_owned));
        path
    }

    /// The variable that sets `key` beside this one.
    fn variable(&self, key: &str) -> String {
        format!("BACKSTAY__{}", self.path(key).join("__").replace('-', "_").to_uppercase())
    }
}

/// Finds section, name and key in the lower-case segments of a name.
fn locate(segments: &[&str], shape: fn(&Section) -> String) -> Result<Place, String> {
    let (first, rest) = segments.split_first().expect("a split has a first part");
    let Some(section) = keys::section(first) else {
        if *first == "config" {
            return Err(format!("unknown section (did you mean `{}`?)", super::file::VARIABLE));
        }
        return Err(format!("unknown section `{first}`{}", keys::hint(first, keys::sections().iter().map(|s| s.name.as_str()))));
    };
    match (section.named, rest) {
        // a name may hold `--`, hence `__` here
        (true, [names @ .., key]) if !names.is_empty() => {
            let (names, key) = match names {
                [names @ .., table] if !names.is_empty() && section.has_table(table) => (names, format!("{table}.{key}")),
                _ => (names, (*key).to_owned()),
            };
            let name = names.join("__").replace('_', "-");
            name.parse::<ComponentName>().map_err(|e| e.to_string())?;
            Ok(Place { section, name, key })
        }
        (false, [key]) => Ok(Place { section, name: String::new(), key: (*key).to_owned() }),
        _ => Err(format!("expected `{}`", shape(section))),
    }
}

fn variable_shape(section: &Section) -> String {
    format!("{PREFIX}{}{}__KEY", section.name.to_uppercase(), if section.named { "__NAME" } else { "" })
}

fn credential_shape(section: &Section) -> String {
    format!("{}{}.key", section.name, if section.named { ".name" } else { "" })
}

/// The whole content of a file, as the value of a secret.
fn content_of(file: &str) -> ValueKind {
    ValueKind::Table(Map::from([(FILE.to_owned(), file.into())]))
}

/// Reads the variables that are ours. What is wrong is left out of the layer.
pub(super) fn layer(env: &BTreeMap<String, String>, faults: &mut Vec<Fault>) -> Layer {
    let mut layer = Layer::default();
    for (variable, text) in env {
        let origin = Origin::Variable(variable.clone());
        if let Some(rest) = variable.strip_prefix(PREFIX) {
            let lower = rest.to_lowercase();
            let segments: Vec<&str> = lower.split("__").collect();
            if let Err((key, text)) = set(&mut layer, &segments, text, &origin) {
                faults.push(Fault::new(origin, key, text));
            }
        } else if let Some(meant) = near_miss(variable) {
            faults.push(Fault::new(origin, "", format!("is not read (did you mean `{meant}`?)")));
        }
    }
    layer
}

/// `BACKSTAY_JOBS__X`: one underscore short of ours. Two underscores further on tell it from what Kubernetes sets for a service named `backstay`.
fn near_miss(variable: &str) -> Option<String> {
    let rest = variable.strip_prefix("BACKSTAY_")?;
    let (section, _) = rest.split_once("__")?;
    keys::section(&section.to_lowercase())?;
    Some(format!("{PREFIX}{rest}"))
}

fn set(layer: &mut Layer, segments: &[&str], text: &str, origin: &Origin) -> Result<(), (String, String)> {
    let dotted = || segments.join(".");
    let place = locate(segments, variable_shape).map_err(|text| (dotted(), text))?;
    let (key, is_file) = find_key(&place).ok_or_else(|| {
        let known = place.section.keys.iter().map(|k| k.name.as_str());
        let hint = keys::suggest(&place.key, known).map(|k| format!(" (did you mean `{}`?)", place.variable(k))).unwrap_or_default();
        (dotted(), format!("unknown key{hint}"))
    })?;
    let at = place.path(&key.name);
    let fault = |text: String| (at.join("."), text);
    if text.is_empty() {
        return Ok(());
    }
    if text.contains(char::REPLACEMENT_CHARACTER) {
        return Err(fault("the value is not UTF-8".into()));
    }
    if layer.entries.iter().any(|e| e.path == at) {
        return Err(fault(format!("the same key is also set by `{}`", place.variable(&key.name))));
    }
    let value = if is_file { content_of(text) } else { key.parse(text).map_err(fault)? };
    layer.set(at, value, origin.clone());
    Ok(())
}

/// The key itself, or the secret of which a file is named.
fn find_key(place: &Place) -> Option<(&'static Key, bool)> {
    if let Some(key) = place.section.key(&place.key) {
        return Some((key, false));
    }
    let key = place.section.key(place.key.strip_suffix("_file")?)?;
    (key.secret && key.kind == keys::Kind::Text).then_some((key, true))
}

/// Reads the names, not the contents, of systemd's credentials: `postgres.postgres.password`, also with `__` for the dots. One that does
/// not begin with a section of ours is somebody else's.
pub(super) fn credentials(env: &BTreeMap<String, String>, faults: &mut Vec<Fault>) -> Layer {
    let mut layer = Layer::default();
    let Some(directory) = env.get(CREDENTIALS).filter(|d| !d.is_empty()) else { return layer };
    let mut names = match std::fs::read_dir(directory) {
        Ok(entries) => entries.filter_map(|e| e.ok()?.file_name().into_string().ok()).collect::<Vec<_>>(),
        Err(e) if e.kind() == ErrorKind::NotFound => return layer,
        Err(e) => {
            faults.push(Fault::new(Origin::Variable(CREDENTIALS.into()), "", format!("cannot list {directory}: {e}")));
            return layer;
        }
    };
    names.sort();
    for name in names {
        let lower = name.to_lowercase();
        let segments: Vec<&str> = if lower.contains("__") { lower.split("__").collect() } else { lower.split('.').collect() };
        if segments.len() < 2 || keys::section(segments[0]).is_none() {
            continue;
        }
        let origin = Origin::Credential(name.clone());
        match locate(&segments, credential_shape).and_then(|place| credential(&place)) {
            Ok(at) if layer.entries.iter().any(|e| e.path == at) => {
                faults.push(Fault::new(origin, at.join("."), "another credential sets the same key"));
            }
            Ok(at) => {
                let file = Path::new(directory).join(&name).display().to_string();
                layer.set(at, content_of(&file), origin);
            }
            Err(text) => faults.push(Fault::new(origin, segments.join("."), text)),
        }
    }
    layer
}

fn credential(place: &Place) -> Result<Vec<String>, String> {
    let secrets: Vec<&Key> = place.section.keys.iter().filter(|k| k.secret && k.kind == keys::Kind::Text).collect();
    match place.section.key(&place.key) {
        Some(key) if secrets.iter().any(|s| s.name == key.name) => Ok(place.path(&key.name)),
        Some(key) => Err(format!("`{}` is not a secret: set it in the file or as `{}`", key.name, place.variable(&key.name))),
        None => Err(format!("unknown key{}", keys::hint(&place.key, secrets.iter().map(|k| k.name.as_str())))),
    }
}
