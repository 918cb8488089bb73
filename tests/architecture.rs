//! Holds the import table of ARCHITECTURE.md against the code.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Reads the table: `| room, room | may use |`.
fn table() -> BTreeMap<String, BTreeSet<String>> {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    let rows = text.lines().skip_while(|l| !l.starts_with("| room | may use |")).skip(2).take_while(|l| l.starts_with('|'));
    let words = |cell: &str| -> BTreeSet<String> {
        cell.split(',').map(|w| w.trim().trim_matches('`').to_owned()).filter(|w| !w.is_empty() && w != "nothing of ours").collect()
    };
    let mut table = BTreeMap::new();
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split('|').collect();
        for room in words(cells[0]) {
            table.insert(room, words(cells[1]));
        }
    }
    assert!(!table.is_empty(), "the table `| room | may use |` is missing");
    table
}

/// The rooms that a source text reaches by `crate::`.
fn reached(source: &str) -> BTreeSet<String> {
    let code: String = source.lines().filter(|l| !l.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    let mut rooms = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            let mut depth = 0;
            let mut word = String::new();
            for c in group.chars() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => {
                        rooms.insert(first_word(&word));
                        word.clear();
                        continue;
                    }
                    _ => {}
                }
                word.push(c);
            }
            rooms.insert(first_word(&word));
        } else {
            rooms.insert(first_word(rest));
        }
    }
    rooms.remove("");
    rooms
}

fn first_word(text: &str) -> String {
    text.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

fn sources(dir: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("a source folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn each_room_uses_only_what_the_table_allows() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let table = table();
    let mut files = Vec::new();
    sources(&src, &mut files);
    let mut faults = Vec::new();
    for file in files {
        let below = file.strip_prefix(&src).expect("below src").to_string_lossy().into_owned();
        let room = below.split(['/', '.']).next().unwrap_or_default().to_owned();
        if room == "main" || room == "lib" {
            continue;
        }
        let Some(allowed) = table.get(&room) else {
            faults.push(format!("{below}: the table does not know the room `{room}`"));
            continue;
        };
        let text = std::fs::read_to_string(&file).expect("a source file");
        for used in reached(&text) {
            if used != room && !allowed.contains(&used) {
                faults.push(format!("{below}: `{room}` may not use `{used}`"));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn the_scan_sees_every_form_of_an_import() {
    let text =
        "use crate::name::X;\nuse crate::{catalog::{A, B}, storage, manifest as m};\n// crate::comment\nfn f() { crate::job::run() }";
    let expected: BTreeSet<String> = ["name", "catalog", "storage", "manifest", "job"].map(str::to_owned).into();
    assert_eq!(reached(text), expected);
}
