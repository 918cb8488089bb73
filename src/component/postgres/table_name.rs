//! A table as it is typed, `schema.table`, and as PostgreSQL's programs write it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::sql::ident;

/// A table of a database.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TableName {
    pub schema: String,
    pub table: String,
}

impl TableName {
    pub fn new(schema: impl Into<String>, table: impl Into<String>) -> Self {
        Self { schema: schema.into(), table: table.into() }
    }
}

/// Both parts in double quotes.
impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", ident(&self.schema), ident(&self.table))
    }
}

/// Each part is taken as it is, or in double quotes, doubled within, if a dot or a quote is in it. Nothing is folded to lower case.
impl FromStr for TableName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed = part(text).and_then(|(schema, rest)| {
            let (table, end) = part(rest.strip_prefix('.')?)?;
            end.is_empty().then_some(Self { schema, table })
        });
        parsed.ok_or_else(|| "a table is SCHEMA.TABLE, such as public.users, or '\"My Schema\".\"a.b\"'".to_owned())
    }
}

/// The first part, and what follows it.
fn part(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find('.').unwrap_or(text.len());
        let name = &text[..end];
        return (!name.is_empty() && !name.contains('"')).then(|| (name.to_owned(), &text[end..]));
    };
    let mut name = String::new();
    let mut rest = quoted;
    loop {
        let end = rest.find('"')?;
        name.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix('"') {
            Some(more) => {
                name.push('"');
                rest = more;
            }
            None => return (!name.is_empty()).then_some((name, rest)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_what_was_typed() {
        for (text, schema, table) in [
            ("public.users", "public", "users"),
            ("Shop.Customer", "Shop", "Customer"),
            ("\"a.b\".c", "a.b", "c"),
            ("s.\"we\"\"ird; DROP\"", "s", "we\"ird; DROP"),
            ("a b.ü", "a b", "ü"),
        ] {
            let name: TableName = text.parse().expect(text);
            assert_eq!((name.schema.as_str(), name.table.as_str()), (schema, table));
            assert_eq!(name.to_string().parse(), Ok(name), "as it is printed");
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for text in ["", "users", ".users", "public.", "a.b.c", "\"a.b", "\"a\"b.c", "a.\"b\"c", "\"\".t", "a.b\"c"] {
            assert!(text.parse::<TableName>().is_err(), "{text}");
        }
    }
}
