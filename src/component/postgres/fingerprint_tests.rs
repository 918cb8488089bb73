use super::*;

fn objects(count: u64, names: u128, definitions: u128) -> Objects {
    Objects { count, names: hex(names), definitions: hex(definitions) }
}

fn database() -> Database {
    let table = |rows, hash: Option<u128>, tree| Table { rows, hash: hash.map(hex), columns: vec!["a".into()], tree };
    let sequence = |last_value, is_called, increment, cycle| Sequence { last_value, is_called, increment, cycle };
    Database {
        server: 15,
        tables: [
            ("\"s\".\"a\"".into(), table(3, Some(7), false)),
            ("\"s\".\"counted\"".into(), table(5, None, false)),
            ("\"s\".\"tree\"".into(), table(9, None, true)),
        ]
        .into(),
        sequences: [("\"s\".\"q\"".into(), sequence(10, true, 1, false)), ("\"s\".\"down\"".into(), sequence(-10, true, -2, false))].into(),
        large_objects: Some(LargeObjects { count: 2, hash: Some(hex(4)) }),
        schema: [("tables".into(), objects(3, 1, 2)), ("functions".into(), objects(1, 5, 6))].into(),
        ..Database::default()
    }
}

/// What differs once `change` was made to what was restored.
fn differences(change: impl FnOnce(&mut Database)) -> String {
    let mut now = database();
    change(&mut now);
    database().compare(&now, Scope::default()).differences.join("; ")
}

#[test]
fn the_same_is_the_same_and_the_sentence_says_how_much() {
    let compared = database().compare(&database(), Scope::default());
    assert_eq!((compared.differences.len(), compared.left_out.len()), (0, 0), "{compared:?}");
    assert_eq!(
        compared.sentence("\"app\""),
        "database \"app\" is as its fingerprint in the backup: 3 tables with 17 rows (1 by every row), 2 sequences, 2 large objects, \
         4 objects of the schema"
    );
}

#[test]
fn every_difference_is_found_and_named() {
    fn table<'a>(d: &'a mut Database, name: &str) -> &'a mut Table {
        d.tables.get_mut(name).expect("there")
    }
    fn sequence<'a>(d: &'a mut Database, name: &str) -> &'a mut Sequence {
        d.sequences.get_mut(name).expect("there")
    }
    assert_eq!(differences(|d| table(d, "\"s\".\"a\"").rows = 2), "table \"s\".\"a\" has 2 rows, and had 3");
    let changed = differences(|d| table(d, "\"s\".\"a\"").hash = Some(hex(8)));
    assert_eq!(changed, "table \"s\".\"a\" has its 3 rows, but not all are as they were");
    assert_eq!(differences(|d| table(d, "\"s\".\"counted\"").rows = 6), "table \"s\".\"counted\" has 6 rows, and had 5");
    assert_eq!(differences(|d| table(d, "\"s\".\"tree\"").rows = 8), "table \"s\".\"tree\" has 8 rows, and had 9");
    assert_eq!(differences(|d| drop(d.tables.remove("\"s\".\"a\""))), "table \"s\".\"a\" with 3 rows is missing");
    assert_eq!(differences(|d| d.sequences.retain(|name, _| name != "\"s\".\"q\"")), "sequence \"s\".\"q\" is missing");
    let behind = differences(|d| sequence(d, "\"s\".\"q\"").last_value = 9);
    assert_eq!(behind, "sequence \"s\".\"q\" stands at 9, behind the 10 of the backup");
    assert!(differences(|d| sequence(d, "\"s\".\"q\"").is_called = false).contains("behind"));
    assert!(differences(|d| sequence(d, "\"s\".\"down\"").last_value = -8).contains("behind"));
    assert!(differences(|d| d.large_objects = Some(LargeObjects { count: 1, hash: None })).contains("1 large objects"));
    assert!(differences(|d| d.large_objects = Some(LargeObjects { count: 2, hash: Some(hex(5)) })).contains("not all as they were"));
    let kinds: [(Objects, &str); 3] = [
        (objects(0, 0, 0), "the schema has 0 functions, and had 1"),
        (objects(1, 4, 6), "the 1 functions of the schema are others than they were"),
        (objects(1, 5, 7), "the 1 functions of the schema are not all defined as they were"),
    ];
    for (other, expected) in kinds {
        assert_eq!(differences(|d| drop(d.schema.insert("functions".into(), other))), expected);
    }
}

#[test]
fn what_may_differ_is_no_difference() {
    let none = String::new();
    assert_eq!(differences(|d| d.sequences.get_mut("\"s\".\"q\"").expect("there").last_value = 11), none, "read later than we did");
    assert_eq!(differences(|d| d.sequences.get_mut("\"s\".\"down\"").expect("there").last_value = -12), none);
    assert_eq!(differences(|d| d.tables.get_mut("\"s\".\"a\"").expect("there").hash = None), none, "counted only");
    let hidden = |d: &mut Database| {
        d.tables.remove("\"s\".\"a\"");
        d.left_out.push("\"s\".\"a\": permission denied".into());
    };
    assert_eq!(differences(hidden), none);
    assert_eq!(differences(|d| drop(d.schema.remove("functions"))), none, "a kind that this version does not look at");
    // a table that is called like the beginning of another one is not excused by it
    let other = |d: &mut Database| {
        d.tables.remove("\"s\".\"a\"");
        d.left_out.push("\"s\".\"a\"\"b\": permission denied".into());
    };
    assert!(differences(other).contains("is missing"));
}

#[test]
fn across_majors_definitions_are_not_compared_and_that_is_said() {
    let mut now = database();
    now.server = 17;
    now.schema.insert("functions".into(), objects(1, 5, 7));
    let compared = database().compare(&now, Scope::default());
    assert_eq!(compared.differences, Vec::<String>::new());
    assert!(!compared.definitions && compared.left_out[0].contains("PostgreSQL 15 and 17"), "{compared:?}");
    now.schema.insert("functions".into(), objects(1, 4, 7));
    assert_eq!(database().compare(&now, Scope::default()).differences.len(), 1, "names are");
}

#[test]
fn a_sequence_that_starts_over_may_stand_anywhere() {
    let cycle = Sequence { last_value: 9, is_called: true, increment: 1, cycle: true };
    assert!(!Sequence { last_value: 1, ..cycle.clone() }.is_behind(&cycle));
    let extreme = Sequence { last_value: i64::MAX, is_called: true, increment: i64::MAX, cycle: false };
    assert!(Sequence { last_value: i64::MIN, ..extreme.clone() }.is_behind(&extreme), "no overflow");
}

#[test]
fn of_some_tables_only_their_rows_are_compared() {
    let mut now = Database { tables: database().tables, ..Database::default() };
    now.tables.remove("\"s\".\"tree\"");
    let scope = Scope { some_tables: true };
    assert_eq!(database().compare(&now, scope).differences, Vec::<String>::new());
    now.tables.get_mut("\"s\".\"a\"").expect("there").rows = 1;
    assert_eq!(database().compare(&now, scope).differences.len(), 1);
}

#[test]
fn a_long_list_of_differences_is_cut() {
    let many = |rows| {
        let table = |i| (format!("\"s\".\"{i:03}\""), Table { rows, ..Table::default() });
        Database { tables: (0..100).map(table).collect(), ..Database::default() }
    };
    let found = many(1).compare(&many(2), Scope::default()).differences;
    assert_eq!((found.len(), found.last().map(String::as_str)), (NAMED + 1, Some("and 80 more differences")));
}

#[test]
fn the_stored_form_is_read_again_and_what_is_unknown_is_ignored() {
    let mut value =
        serde_json::to_value(Fingerprint { databases: [("app".into(), database())].into(), roles: vec!["r".into()] }).expect("JSON");
    let app = &value["databases"]["app"];
    assert_eq!(app["tables"]["\"s\".\"a\""], serde_json::json!({"rows": 3, "hash": hex(7), "columns": ["a"]}));
    assert_eq!(app["tables"]["\"s\".\"tree\""], serde_json::json!({"rows": 9, "columns": ["a"], "tree": true}));
    value["databases"]["app"]["newer"] = 1.into();
    value["databases"]["app"]["tables"]["\"s\".\"a\""]["newer"] = 1.into();
    let read: Fingerprint = serde_json::from_value(value).expect("read");
    assert_eq!(read.databases["app"], database());
}
