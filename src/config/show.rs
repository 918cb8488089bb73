//! What `config show` prints: every value with the layer that it came from, secrets as `***`.

use config::ValueKind;
use serde_json::{Value as Json, json};

use super::Loaded;
use super::keys::{self, Key, Kind};
use super::layer::{Merged, Origin};
use super::raw::FILE;
use crate::secret::Secret;

/// One key of the configuration in force.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// `jobs.default.schedule`
    pub key: String,
    /// A string, number, flag or list; `***` in place of a secret.
    pub value: Json,
    /// `default`, a variable, `file:line`, or a credential.
    pub layer: String,
}

impl Row {
    /// The value as TOML would write it, but for a plain secret.
    pub fn text(&self) -> String {
        match &self.value {
            Json::Array(items) => format!("[{}]", items.iter().map(Json::to_string).collect::<Vec<_>>().join(", ")),
            other => other.to_string(),
        }
    }
}

/// Every key that has a value, in the order of the reference.
pub fn show(loaded: &Loaded) -> Vec<Row> {
    let mut rows = Vec::new();
    for section in keys::sections() {
        for name in &loaded.values.names_in(section) {
            rows.extend(section.keys.iter().filter_map(|key| row(&loaded.values, key, &section.path_of(name, key))));
        }
    }
    rows
}

/// The rows as an array of objects with `key`, `value` and `layer`.
pub fn show_json(loaded: &Loaded) -> Json {
    show(loaded).into_iter().map(|row| json!({ "key": row.key, "value": row.value, "layer": row.layer })).collect()
}

fn row(values: &Merged, key: &Key, path: &[&str]) -> Option<Row> {
    let value = match values.value(path) {
        Some(value) => json_of(key, &value.kind),
        None if key.default.is_null() || key.default == "" => return None,
        None => key.default.clone(),
    };
    let layer = values.origin(path).map_or(Origin::Default.layer(), Origin::layer);
    Some(Row { key: path.join("."), value, layer })
}

fn json_of(key: &Key, value: &ValueKind) -> Json {
    match value {
        ValueKind::String(text) if key.secret && !is_plain_url(key, text) => Secret::parse(text).to_string().into(),
        ValueKind::String(text) => text.as_str().into(),
        ValueKind::I64(number) => (*number).into(),
        ValueKind::Boolean(flag) => (*flag).into(),
        ValueKind::Array(_) if key.secret => "***".into(),
        ValueKind::Array(items) => items.iter().map(|i| i.clone().into_string().unwrap_or_default()).collect(),
        ValueKind::Table(table) if key.secret => {
            let file = table.get(FILE).and_then(|f| f.clone().into_string().ok()).unwrap_or_default();
            Secret::File { path: file.into(), default: None }.to_string().into()
        }
        _ => Json::Null,
    }
}

/// A URL that has no place for a password: neither a user nor parameters.
fn is_plain_url(key: &Key, text: &str) -> bool {
    key.name == "url"
        && key.kind == Kind::Text
        && ["redis://", "rediss://", "postgres://", "postgresql://"].iter().any(|s| text.starts_with(s))
        && !text.contains(['@', '?'])
}
