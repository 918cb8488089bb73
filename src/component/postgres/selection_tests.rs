use super::*;

/// `id kind schema.name on,on…`.
fn head(lines: &[&str]) -> Head {
    let entries = lines.iter().map(|line| {
        let mut fields = line.splitn(4, '|').map(str::trim);
        let id = fields.next().and_then(|id| id.parse().ok()).expect("a number");
        let kind = fields.next().expect("a kind").to_owned();
        let (namespace, tag) = fields.next().and_then(|name| name.split_once('.')).expect("a name");
        let dependencies = fields.next().unwrap_or_default().split(',').filter_map(|on| on.trim().parse().ok()).collect();
        let section = match kind.as_str() {
            "ENCODING" | "ACL" | "COMMENT" => Section::None,
            "TABLE DATA" | "SEQUENCE SET" => Section::Data,
            "INDEX" | "CONSTRAINT" | "FK CONSTRAINT" | "TRIGGER" | "POLICY" | "INDEX ATTACH" | "STATISTICS" | "ROW SECURITY" => {
                Section::PostData
            }
            _ => Section::PreData,
        };
        let owner = Some(format!("o{}", id % 2));
        Entry { id, kind, tag: tag.to_owned(), namespace: Some(namespace.to_owned()), section, dependencies, owner, ..Entry::default() }
    });
    Head { minor: 14, compressed: false, server: None, dump: None, entries: entries.collect(), lossy: false, raw: Vec::new() }
}

/// As `pg_restore -l -v` of PostgreSQL 15 shows such tables, shortened.
const LINES: &[&str] = &[
    "1|ENCODING|.ENCODING",
    "7|SCHEMA|.shop",
    "8|SCHEMA|.other",
    "10|TYPE|shop.mood|7",
    "11|FUNCTION|shop.f(integer)|7",
    "20|TABLE|shop.customer|10,7,10",
    "21|SEQUENCE|shop.customer_id_seq|7,20",
    "30|TABLE|shop.fk|11,7",
    "31|SEQUENCE|shop.fk_b_seq|7,30",
    "32|SEQUENCE OWNED BY|shop.fk_b_seq|31",
    "33|DEFAULT|shop.fk b|31,30,30",
    "40|TABLE|shop.purchase|7",
    "41|SEQUENCE|shop.purchase_n_seq|7,40",
    "42|TABLE|shop.purchase_1|41,40,7",
    "43|TABLE|shop.purchase_2|41,40,7",
    "44|TABLE ATTACH|shop.purchase_1|42,40",
    "45|TABLE ATTACH|shop.purchase_2|43,40",
    "46|SEQUENCE OWNED BY|shop.purchase_n_seq|41",
    "50|TABLE|shop.parent|7",
    "51|TABLE|shop.child|7,50",
    "60|VIEW|shop.happy|20,10,7",
    "70|ACL|shop.TABLE \"customer\"|20",
    "71|COMMENT|shop.COLUMN \"customer\".\"a\"|20",
    "72|COMMENT|shop.TYPE \"mood\"|10",
    "73|COMMENT|.SCHEMA \"public\"|5",
    "80|TABLE DATA|shop.customer|20",
    "81|TABLE DATA|shop.fk|30",
    "82|TABLE DATA|shop.purchase_1|42",
    "83|TABLE DATA|shop.purchase_2|43",
    "84|TABLE DATA|shop.parent|50",
    "85|TABLE DATA|shop.child|51",
    "86|SEQUENCE SET|shop.customer_id_seq|21",
    "87|SEQUENCE SET|shop.fk_b_seq|31",
    "88|SEQUENCE SET|shop.purchase_n_seq|41",
    "90|CONSTRAINT|shop.customer customer_pkey|20",
    "91|CONSTRAINT|shop.fk fk_pkey|30",
    "92|CONSTRAINT|shop.purchase purchase_pkey|40,40",
    "93|CONSTRAINT|shop.purchase_1 purchase_1_pkey|42,92,42",
    "94|CONSTRAINT|shop.purchase_2 purchase_2_pkey|92,43,43",
    "95|INDEX|shop.fk_f_idx|30,30,11",
    "96|INDEX ATTACH|shop.purchase_1_pkey|92,93,42,92,42,40",
    "97|INDEX ATTACH|shop.purchase_2_pkey|94,92,43,92,43,40",
    "98|FK CONSTRAINT|shop.fk fk_a_fkey|90,30,20",
    "99|TRIGGER|shop.customer touched|11,20",
    "100|POLICY|shop.customer small|20,20",
    "101|STATISTICS|shop.customer_stats|7,20,20",
    "102|ROW SECURITY|shop.customer|20",
];

fn name(text: &str) -> TableName {
    text.parse().expect("a name")
}

fn select(tables: &[&str]) -> Selection {
    Selection::of(&head(LINES), &tables.iter().map(|t| name(t)).collect::<Vec<_>>()).expect("they are there")
}

fn check(tables: &[&str], entries: &[i32]) {
    let mut found: Vec<i32> = select(tables).entries.into_iter().collect();
    found.sort_unstable();
    assert_eq!(found, entries, "{tables:?}");
}

#[test]
fn a_table_comes_with_what_it_needs_and_what_belongs_to_it() {
    check(&["shop.customer"], &[1, 7, 10, 20, 21, 71, 72, 80, 86, 90]);
    check(&["shop.fk"], &[1, 7, 11, 30, 31, 32, 33, 81, 87, 91, 95]);
    assert_eq!(
        select(&["shop.customer"]).left_out,
        [
            "policy \"small\" of \"shop\".\"customer\"",
            "statistics \"customer_stats\" of \"shop\".\"customer\"",
            "trigger \"touched\" of \"shop\".\"customer\""
        ]
    );
}

#[test]
fn a_foreign_key_comes_only_with_both_of_its_tables() {
    assert_eq!(select(&["shop.fk"]).left_out, ["foreign key \"fk_a_fkey\" of \"shop\".\"fk\""]);
    let both = select(&["shop.fk", "shop.customer"]);
    assert!(both.entries.contains(&98) && !both.left_out.iter().any(|left| left.contains("foreign")), "{both:?}");
    assert!(!select(&["shop.customer"]).left_out.iter().any(|left| left.contains("foreign")), "it is not the customer's");
}

#[test]
fn a_partitioned_table_is_its_partitions() {
    let whole: Vec<i32> = [1, 7].into_iter().chain(40..=46).chain([82, 83, 88, 92, 93, 94, 96, 97]).collect();
    check(&["shop.purchase"], &whole);
    let selection = select(&["shop.purchase"]);
    assert_eq!(selection.tables, [name("shop.purchase"), name("shop.purchase_1"), name("shop.purchase_2")].into());
    assert_eq!(selection.partitioned, [name("shop.purchase")].into());
    // alone it is a table like any other; the sequence of its default stays whose it was
    check(&["shop.purchase_1"], &[1, 7, 41, 42, 82, 88, 93]);
}

#[test]
fn a_table_that_inherits_needs_its_parent_but_not_its_rows() {
    check(&["shop.child"], &[1, 7, 50, 51, 85]);
    assert_eq!(select(&["shop.child"]).tables, [name("shop.child")].into());
    check(&["shop.parent"], &[1, 7, 50, 84]);
}

#[test]
fn owners_are_those_of_what_is_selected() {
    assert_eq!(select(&["shop.parent"]).owners, ["o0".to_owned(), "o1".to_owned()].into());
}

#[test]
fn what_is_not_there_is_said_with_what_may_be_meant() {
    let lack = |text: &str| Selection::of(&head(LINES), &[name("shop.fk"), name(text)]).expect_err("it is not there");
    assert_eq!(lack("public.customer").table, name("public.customer"));
    assert_eq!(lack("public.customer").advice.as_deref(), Some("Did you mean \"shop\".\"customer\"?"));
    assert!(lack("shop.custmer").advice.is_some_and(|advice| advice.contains("\"shop\".\"customer\"")));
    assert!(lack("shop.happy").advice.is_some_and(|advice| advice.contains("is a view")));
    assert_eq!(lack("x.y").advice, None);
}

#[test]
fn a_circle_is_walked_once() {
    let head = head(&["1|TABLE|s.a|2", "2|FUNCTION|s.f()|1,2", "3|TABLE|s.b|3"]);
    for table in ["s.a", "s.b"] {
        assert!(Selection::of(&head, &[name(table)]).is_ok());
    }
}
