//! What keys there are, read off the schema of the raw structs, and how a text becomes the value of one.

use std::sync::LazyLock;

use config::{Value, ValueKind};
use serde::de::{DeserializeOwned, Deserializer, Error as _, Visitor};
use serde_json::Value as Json;

use super::raw;

/// Type of a key's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    /// One of a few words, of which some may be numbers.
    Choice(Vec<String>),
    Flag,
    Number {
        min: i64,
        max: i64,
    },
    /// Of texts.
    List,
}

/// One key of a section.
#[derive(Debug, Clone)]
pub(super) struct Key {
    /// With a dot in a table of the section: `web_identity.client_id`.
    pub name: String,
    pub kind: Kind,
    pub doc: String,
    pub default: Json,
    /// Its value is never printed.
    pub secret: bool,
    /// Why a value is refused in this version.
    pub later: Option<String>,
    /// What an empty string in the file means, where it means something other than "unset".
    pub empty: Option<String>,
}

/// One section: `[worker]`, or all of `[jobs.NAME]`.
#[derive(Debug, Clone)]
pub(super) struct Section {
    pub name: String,
    /// `[name.NAME]` rather than `[name]`.
    pub named: bool,
    pub doc: String,
    pub keys: Vec<Key>,
    pub later: Option<String>,
}

/// The sections in the order of [`super::raw::RawConfig`].
pub(super) fn sections() -> &'static [Section] {
    static SECTIONS: LazyLock<Vec<Section>> = LazyLock::new(|| {
        let schema = super::schema();
        fields_of("").iter().map(|name| read_section(&schema, name)).collect()
    });
    &SECTIONS
}

/// The section of that name.
pub(super) fn section(name: &str) -> Option<&'static Section> {
    sections().iter().find(|s| s.name == name)
}

impl Section {
    /// The path of this section; `name` counts only where sections have names.
    pub fn path<'a>(&'a self, name: &'a str) -> Vec<&'a str> {
        if self.named { vec![&self.name, name] } else { vec![&self.name] }
    }

    /// The path of one of its keys.
    pub fn path_of<'a>(&'a self, name: &'a str, key: &'a Key) -> Vec<&'a str> {
        let mut path = self.path(name);
        path.extend(key.name.split('.'));
        path
    }

    /// Whether keys stand in a table of that name.
    pub fn has_table(&self, name: &str) -> bool {
        self.keys.iter().any(|k| k.name.strip_prefix(name).is_some_and(|rest| rest.starts_with('.')))
    }

    /// The names that may stand in the section itself, where `within` is empty, or in the table `within` names with a dot at its end.
    pub fn names(&self, within: &str) -> Vec<&str> {
        let names = self.keys.iter().filter_map(|k| k.name.strip_prefix(within)?.split('.').next());
        let mut names: Vec<&str> = names.collect();
        names.dedup();
        names
    }

    pub fn key(&self, name: &str) -> Option<&Key> {
        self.keys.iter().find(|k| k.name == name)
    }
}

/// The fields of a section's struct, in their order.
fn fields_of(section: &str) -> &'static [&'static str] {
    match section {
        "jobs" => fields::<raw::RawJob>(),
        "targets" => fields::<raw::RawTarget>(),
        "bucket" => fields::<raw::RawBucket>(),
        "web_identity" => fields::<raw::RawWebIdentity>(),
        "postgres" => fields::<raw::RawPostgres>(),
        "redis" => fields::<raw::RawRedis>(),
        "directory" => fields::<raw::RawDirectory>(),
        "encryption" => fields::<raw::RawEncryption>(),
        "worker" => fields::<raw::RawWorker>(),
        "notify" => fields::<raw::RawNotify>(),
        "" => fields::<raw::RawConfig>(),
        _ => &[],
    }
}

/// Asks serde: a struct names its fields to the deserializer before it takes any value.
fn fields<T: DeserializeOwned>() -> &'static [&'static str] {
    struct Asker<'a>(&'a mut &'static [&'static str]);
    impl<'de> Deserializer<'de> for Asker<'_> {
        type Error = serde::de::value::Error;
        fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
            Err(Self::Error::custom("not a struct"))
        }
        fn deserialize_struct<V: Visitor<'de>>(self, _: &str, fields: &'static [&'static str], _: V) -> Result<V::Value, Self::Error> {
            *self.0 = fields;
            Err(Self::Error::custom("asked for the fields only"))
        }
        serde::forward_to_deserialize_any! {
            bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct newtype_struct
            seq tuple tuple_struct map enum identifier ignored_any
        }
    }
    let mut names: &'static [&'static str] = &[];
    // the answer is in `names`; the result is always the error above
    drop(T::deserialize(Asker(&mut names)));
    names
}

fn text_of(value: &Json) -> Option<String> {
    value.as_str().map(str::to_owned)
}

fn read_section(schema: &Json, name: &str) -> Section {
    let property = &schema["properties"][name];
    let named = property.get("additionalProperties").is_some();
    let target = if named { &property["additionalProperties"] } else { property };
    let body = definition(schema, target).unwrap_or(&Json::Null);
    // a JSON object sorts its properties; documentation reads better in the order of the struct
    let keys = read_keys(schema, "", fields_of(name), body);
    Section {
        name: name.to_owned(),
        named,
        doc: text_of(&property["description"]).unwrap_or_default(),
        keys,
        later: text_of(&property["x-later"]),
    }
}

/// What `property` refers to, if it is a struct of its own.
fn definition<'a>(schema: &'a Json, property: &Json) -> Option<&'a Json> {
    schema.pointer(property["$ref"].as_str()?.strip_prefix('#')?)
}

fn read_keys(schema: &Json, within: &str, fields: &[&str], body: &Json) -> Vec<Key> {
    let mut keys = Vec::new();
    for &name in fields {
        let Some(property) = body["properties"].get(name) else { continue };
        let full = format!("{within}{name}");
        match definition(schema, property).filter(|d| d["type"] == "object") {
            Some(table) => keys.extend(read_keys(schema, &format!("{full}."), fields_of(name), table)),
            None => keys.push(read_key(&full, property)),
        }
    }
    keys
}

fn read_key(name: &str, property: &Json) -> Key {
    let kind = match (&property["enum"], property["type"].as_str()) {
        (Json::Array(words), _) => Kind::Choice(words.iter().map(|w| text_of(w).unwrap_or_else(|| w.to_string())).collect()),
        (_, Some("boolean")) => Kind::Flag,
        (_, Some("integer")) => {
            let bound = |key: &str, default| property[key].as_i64().unwrap_or(default);
            Kind::Number { min: bound("minimum", i64::MIN), max: bound("maximum", i64::from(u32::MAX)) }
        }
        (_, Some("array")) => Kind::List,
        _ => Kind::Text,
    };
    Key {
        name: name.to_owned(),
        kind,
        doc: text_of(&property["description"]).unwrap_or_default(),
        default: property["default"].clone(),
        secret: property["x-secret"] == true,
        later: text_of(&property["x-later"]),
        empty: text_of(&property["x-empty"]),
    }
}

impl Kind {
    /// The type in words, with its article.
    pub fn words(&self) -> String {
        match self {
            Self::Text => "a string".into(),
            Self::Choice(words) => one_of(words),
            Self::Flag => "true or false".into(),
            Self::Number { .. } => "a whole number".into(),
            Self::List => "a list of strings".into(),
        }
    }
}

fn one_of(words: &[String]) -> String {
    let quoted: Vec<_> = words.iter().filter(|w| !w.is_empty()).map(|w| format!("`{w}`")).collect();
    format!("one of {}", quoted.join(", "))
}

impl Key {
    /// The value of a text from the environment; strings stay to the letter.
    ///
    /// # Errors
    /// What is wrong, without the value of a secret.
    pub fn parse(&self, text: &str) -> Result<ValueKind, String> {
        let wrong = || format!("{} is not {}", self.quote(text), self.kind.words());
        match &self.kind {
            Kind::Text => Ok(ValueKind::String(text.to_owned())),
            Kind::Choice(_) => self.chosen(text),
            Kind::Flag => match text.trim().to_ascii_lowercase().as_str() {
                "true" => Ok(ValueKind::Boolean(true)),
                "false" => Ok(ValueKind::Boolean(false)),
                _ => Err(wrong()),
            },
            Kind::Number { .. } => text.trim().parse().map_err(|_| wrong()).and_then(|n| self.in_range(n)),
            Kind::List => parse_list(text).map(|items| list(items.iter().map(String::as_str))).ok_or_else(wrong),
        }
    }

    /// A word of a [`Kind::Choice`].
    pub fn chosen(&self, text: &str) -> Result<ValueKind, String> {
        let Kind::Choice(words) = &self.kind else { return Ok(ValueKind::String(text.to_owned())) };
        if words.iter().any(|w| w == text) {
            return Ok(ValueKind::String(text.to_owned()));
        }
        let hint = hint(text, words.iter().map(String::as_str));
        Err(format!("{} is not {}{hint}", self.quote(text), one_of(words)))
    }

    /// A number of a [`Kind::Number`].
    pub fn in_range(&self, number: i64) -> Result<ValueKind, String> {
        match self.kind {
            Kind::Number { min, .. } if number < min => Err(format!("{number} is too small (at least {min})")),
            Kind::Number { max, .. } if number > max => Err(format!("{number} is too large (at most {max})")),
            _ => Ok(ValueKind::I64(number)),
        }
    }

    fn quote(&self, text: &str) -> String {
        if self.secret { "the value".into() } else { format!("`{text}`") }
    }
}

/// A list without its empty items.
pub(super) fn list<'a>(items: impl IntoIterator<Item = &'a str>) -> ValueKind {
    ValueKind::Array(items.into_iter().filter(|i| !i.is_empty()).map(|i| Value::new(None, i)).collect())
}

/// `["a", "b"]` as TOML writes it, or `a, b`.
fn parse_list(text: &str) -> Option<Vec<String>> {
    let text = text.trim();
    if text.starts_with('[') {
        #[derive(serde::Deserialize)]
        struct Wrapped {
            list: Vec<String>,
        }
        return toml::from_str::<Wrapped>(&format!("list = {text}")).ok().map(|w| w.list);
    }
    Some(text.split(',').map(|item| item.trim().to_owned()).collect())
}

/// The candidate that was probably meant.
pub(super) fn suggest<'a>(text: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let close =
        |c: &&str| !c.is_empty() && (strsim::damerau_levenshtein(text, c) <= 2.min(c.len() / 2) || strsim::jaro_winkler(text, c) > 0.88);
    candidates.into_iter().filter(close).min_by_key(|c| strsim::damerau_levenshtein(text, c))
}

/// ` (did you mean `x`?)`, or nothing.
pub(super) fn hint<'a>(text: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    suggest(text, candidates).map(|c| format!(" (did you mean `{c}`?)")).unwrap_or_default()
}
