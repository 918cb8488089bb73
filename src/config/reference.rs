//! The configuration told to people and editors: its schema, the commented example, and the reference of every key.

use std::fmt::Write as _;

use serde_json::{Value as Json, json};

use super::keys::{self, Key, Kind};
use super::raw::RawConfig;

/// The JSON Schema of the file.
pub fn schema() -> Json {
    let mut schema = schemars::schema_for!(RawConfig).to_value();
    drop_null(&mut schema);
    schema
}

/// TOML has no null: a key that may be missing is not one that may be null.
fn drop_null(schema: &mut Json) {
    match schema {
        Json::Object(fields) => {
            if let Some(Json::Array(types)) = fields.get_mut("type") {
                types.retain(|t| t != "null");
                if let [only] = types.as_slice() {
                    let only = only.clone();
                    fields.insert("type".into(), only);
                }
            }
            if fields.get("default").is_some_and(Json::is_null) {
                fields.remove("default");
            }
            fields.values_mut().for_each(drop_null);
        }
        Json::Array(items) => items.iter_mut().for_each(drop_null),
        _ => {}
    }
}

/// The commented example that `config init` writes.
pub fn example() -> &'static str {
    include_str!("../../config/backstay.example.toml")
}

/// Every key as Markdown: `docs/configuration.md`.
pub fn reference() -> String {
    let mut page = String::from(HEAD);
    for section in keys::sections() {
        let title = if section.named { format!("[{}.NAME]", section.name) } else { format!("[{}]", section.name) };
        let _ = write!(page, "\n## `{title}`\n\n{}\n", section.doc);
        if let Some(later) = &section.later {
            let _ = write!(page, "\n**Refused**: {later}. Its keys are those of `[targets.NAME]`.\n");
            continue;
        }
        page.push_str("\n| key | type | default | meaning |\n|---|---|---|---|\n");
        for key in &section.keys {
            let _ = writeln!(page, "| `{}` | {} | {} | {} |", key.name, kind(key), default(key), meaning(key));
        }
    }
    page.push_str(TAIL);
    page
}

fn kind(key: &Key) -> String {
    match &key.kind {
        Kind::Text if key.secret => "secret".into(),
        Kind::Text => "string".into(),
        Kind::Choice(words) => words.iter().filter(|w| !w.is_empty()).map(|w| choice(w)).collect::<Vec<_>>().join(", "),
        Kind::Flag => "flag".into(),
        Kind::Number { .. } => "number".into(),
        Kind::List => "list".into(),
    }
}

fn choice(word: &str) -> String {
    if word.parse::<i64>().is_ok() { format!("`{word}`") } else { format!("`\"{word}\"`") }
}

fn default(key: &Key) -> String {
    let unset = [Json::Null, json!(""), json!([]), json!({})].contains(&key.default);
    if unset { String::new() } else { format!("`{}`", key.default) }
}

fn meaning(key: &Key) -> String {
    let mut text = key.doc.replace('\n', " ");
    if let Some(empty) = &key.empty {
        let _ = write!(text, " `\"\"` in the file: {empty}.");
    }
    if let Some(later) = &key.later {
        let _ = write!(text, " **Refused**: {later}.");
    }
    text.replace('|', "\\|")
}

const HEAD: &str = "\
# Configuration

<!-- Generated from src/config/raw.rs by `BACKSTAY_BLESS=1 cargo test --lib config::tests::documents`. Do not edit. -->

The file is TOML: the first found of `--config FILE`, `$BACKSTAY_CONFIG`, `./config/backstay.toml` and `/etc/backstay/backstay.toml`. None is
fine; a file that is named and does not exist is an error. `backstay config init` writes a commented example, `backstay config show` prints
each value with the layer it came from, and `backstay config schema` prints a JSON Schema for editors. An unknown key is an error. All
faults are told at once, each with its place, and the exit code is 78.

## Layers

Later ones win:

1. built-in defaults
2. authentik's environment, `AUTHENTIK_…`, as listed below
3. the file
4. the files of `$CREDENTIALS_DIRECTORY`, for secrets: `postgres.postgres.password`, or with `__` for the dots
5. variables: `BACKSTAY__SECTION__NAME__KEY`, such as `BACKSTAY__JOBS__DEFAULT__KEEP_LAST=14`

In a variable a `-` of a name is written `_`: `BACKSTAY__DIRECTORY__CUSTOM_TEMPLATES__PATH` is `path` of `[directory.custom-templates]`. A
list is written `a, b` or `[\"a\", \"b\"]`.

An empty string counts as unset, in every layer. Only in the file, and only for the keys that say so below, does it mean something: a
variable that a template left empty never switches a schedule off.

The `url` of a PostgreSQL or Redis server, set in one layer, takes away the host, port, user, database and TLS keys of the layers below.

## Secrets

A secret is taken to the letter, unless it is written as one of these, which are read again at every run:

| form | value |
|---|---|
| `file:///path?default` | the content of the file, without one line end at its end; the default if it cannot be read |
| `env://NAME?default` | the variable; the default if it is not set |
| variable `…__KEY_FILE=/path` | as `file:///path`: `BACKSTAY__POSTGRES__POSTGRES__PASSWORD_FILE=/run/secrets/pg` |
| `$CREDENTIALS_DIRECTORY/section.name.key` | as `file://`, for systemd's `LoadCredential=` |

No secret is printed, logged or put into an argument list.
";

const TAIL: &str = "
## authentik's environment

Read as authentik reads it, `env://NAME?default` and `file:///path?default` included. Other `AUTHENTIK_` variables are not looked at.

| variable | becomes |
|---|---|
| `AUTHENTIK_POSTGRESQL__HOST`, `PORT`, `NAME`, `USER`, `PASSWORD`, `SSLMODE`, `SSLROOTCERT`, `SSLCERT`, `SSLKEY` | `[postgres.postgres]`, as soon as one of them is set; unset ones as in authentik, the password as `env://POSTGRES_PASSWORD` |
| `AUTHENTIK_REDIS__HOST`, `PORT`, `USERNAME`, `PASSWORD`, `DB`, `TLS`, `TLS_CA_CERT` | `[redis.redis]`, as soon as one of them is set; without `HOST` it may be absent |
| `AUTHENTIK_POSTGRESQL__S3_BACKUP__BUCKET`, `LOCATION`, `HOST`, `REGION`, `ACCESS_KEY`, `SECRET_KEY`, `INSECURE_SKIP_VERIFY` | `[targets.s3-backup]`, if `BUCKET` is set: `s3://BUCKET/LOCATION`, in place of the built-in `local` |
| `AUTHENTIK_STORAGE__MEDIA__FILE__PATH`, else `AUTHENTIK_STORAGE__FILE__PATH` | `path` of `[directory.media]` |
| `AUTHENTIK_CERT_DISCOVERY_DIR` | `path` of `[directory.certs]` |
| `AUTHENTIK_BLUEPRINTS_DIR` | `path` of `[directory.blueprints]` |
| `AUTHENTIK_EMAIL__TEMPLATE_DIR` | `path` of `[directory.custom-templates]` |
";
