//! The schema, the example and the reference say the same as the code.

use super::super::{example, reference, schema};
use super::*;

/// Takes the `#` from every line that holds a key or a section.
fn uncommented() -> String {
    let commented = |line: &str| {
        line.strip_prefix('#').filter(|rest| rest.starts_with(|c: char| c == '[' || c.is_ascii_lowercase())).map(str::to_owned)
    };
    example().lines().map(|line| commented(line).unwrap_or_else(|| line.into())).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_example_as_it_stands_changes_nothing() {
    let with = Scene::new(example(), &[]).loaded();
    let without = Scene::new("", &[]).loaded();
    let rows = |l: &Loaded| crate::config::show(l).into_iter().map(|r| (r.key, r.value, r.layer)).collect::<Vec<_>>();
    assert_eq!(rows(&with), rows(&without));
}

#[test]
fn every_key_of_the_example_is_right_once_uncommented() {
    Scene::new(&uncommented(), &[("HOME", "/home/x")]).loaded();
}

#[test]
fn the_example_shows_every_key() {
    let text = uncommented();
    let example: toml::Table = toml::from_str(&text).expect("valid TOML");
    for section in super::super::keys::sections().iter().filter(|s| s.later.is_none()) {
        let table = example[&section.name].as_table().expect("a section");
        let shown: Vec<&toml::Table> =
            if section.named { table.values().map(|t| t.as_table().expect("a named section")).collect() } else { vec![table] };
        // a table looks the same in every section
        let anywhere: Vec<&toml::Table> =
            example.values().filter_map(|t| t.as_table()).flat_map(|t| t.values()).filter_map(|t| t.as_table()).collect();
        for key in &section.keys {
            let is_shown = match key.name.split_once('.') {
                Some((table, key)) => anywhere.iter().any(|t| t.get(table).is_some_and(|t| t.get(key).is_some())),
                None => shown.iter().any(|t| t.contains_key(&key.name)),
            };
            assert!(is_shown, "{}.{} is not in the example", section.name, key.name);
        }
    }
}

#[test]
fn the_schema_has_titles_docs_defaults_and_refuses_unknown_keys() {
    let schema = schema();
    assert_eq!(schema["additionalProperties"], false);
    assert_eq!(schema["title"], "Configuration of Backstay");
    for definition in schema["$defs"].as_object().expect("definitions").values() {
        assert_eq!(definition["additionalProperties"], false, "{definition}");
        assert!(definition["title"].is_string(), "{definition}");
        for (name, property) in definition["properties"].as_object().expect("properties") {
            assert!(property["description"].as_str().is_some_and(|d| !d.is_empty()), "{name} has no description");
        }
    }
    assert_eq!(schema["$defs"]["Job"]["properties"]["keep_last"]["default"], 10);
    assert_eq!(schema["$defs"]["Postgres"]["properties"]["port"]["type"], "integer");
    assert!(schema["$defs"]["Target"]["properties"].get("insecure_skip_verify").is_none());
}

/// `BACKSTAY_BLESS=1` writes the page anew.
#[test]
fn the_reference_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    if std::env::var_os("BACKSTAY_BLESS").is_some() {
        std::fs::create_dir_all(path.parent().expect("has a parent")).expect("created");
        std::fs::write(&path, reference()).expect("written");
    }
    let committed = std::fs::read_to_string(&path).expect("docs/configuration.md");
    assert!(committed == reference(), "docs/configuration.md is stale: BACKSTAY_BLESS=1 cargo test --lib config::tests::documents");
}
