//! What a database held when it was backed up: the stored form, and its comparison with what a restore made of it (pure).
//!
//! Two accounts of the rows stand in it, which do not depend on each other: how many the server counted in each table inside the dump's
//! snapshot, and, with `full`, a sum of hashes of the rows as `pg_dump` wrote them, taken from the stream while it was stored (see
//! [`super::tap`]). A restore reads its new tables back the same way (see [`super::readback`]) and compares before anything is switched.
//!
//! Not covered: columns that are generated and materialized views (both are computed anew), the rows of foreign tables, owners and
//! privileges, comments. What else was left out of one fingerprint, it says itself.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// Rows are hashed up to this length, in bytes: to read one back, it has to be in memory as a whole.
pub const LONGEST_ROW: u64 = 16 << 20;

/// Differences that are named one by one.
const NAMED: usize = 20;

/// Of a component: `fingerprint` in its manifest. Readers take every member as optional and every value as hostile.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Fingerprint {
    pub databases: BTreeMap<String, Database>,
    /// Names of the roles of the server, without those that PostgreSQL brings along.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<String>,
}

/// One database.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Database {
    /// Major version of the server.
    pub server: u32,
    /// What decides how values are written as text; a restore is read back with the same.
    pub session: Session,
    /// Leaf tables by quoted name with schema. A partitioned table stands for its partitions where a restore may choose others for a row.
    pub tables: BTreeMap<String, Table>,
    /// By quoted name with schema.
    pub sequences: BTreeMap<String, Sequence>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub large_objects: Option<LargeObjects>,
    /// Objects of the schema by kind.
    pub schema: BTreeMap<String, Objects>,
    /// What could not be told, in sentences.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<String>,
}

/// Settings of a session that the text of values depends on and that `pg_dump` leaves as they are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Session {
    pub encoding: String,
    pub bytea_output: String,
    pub lc_monetary: String,
}

/// The rows of a table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Table {
    pub rows: u64,
    /// Sum of the XXH3-128 of every row as COPY writes it, without its line end; modulo 2^128, 32 hex digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
    /// Of a row, in the order of the hash.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<String>,
    /// Rows of all partitions together, since a restore may distribute them in another way.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub tree: bool,
}

/// Where a sequence stood, just before the dump read it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sequence {
    pub last_value: i64,
    pub is_called: bool,
    pub increment: i64,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub cycle: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LargeObjects {
    pub count: u64,
    /// Sum of the XXH3-128 of each: of its number, 4 bytes little endian, and the XXH3-128 of its content, 16 bytes big endian.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
}

/// Objects of one kind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Objects {
    pub count: u64,
    /// Sum of hashes of what identifies each.
    pub names: String,
    /// Sum of hashes of identity and definition, as the server puts it into words: majors differ in that.
    pub definitions: String,
}

/// What of two fingerprints is compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Scope {
    /// Only the rows of tables that are there: a restore of some tables.
    pub some_tables: bool,
}

/// The outcome of a comparison.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Sentences that name what differs, never what is in a row.
    pub differences: Vec<String>,
    pub tables: usize,
    pub rows: u64,
    /// Tables whose rows were compared, and not only counted.
    pub whole: usize,
    pub sequences: usize,
    pub large_objects: u64,
    /// Kinds of objects of the schema, all of whose objects were compared.
    pub objects: u64,
    /// Whether the definitions were compared, too.
    pub definitions: bool,
    /// What was left out, in sentences.
    pub left_out: Vec<String>,
}

/// A 128-bit sum of hashes as it is stored.
pub fn hex(sum: u128) -> String {
    format!("{sum:032x}")
}

impl Database {
    /// `self` is what was backed up, `now` what a restore made of it.
    pub fn compare(&self, now: &Self, scope: Scope) -> Comparison {
        let mut found = Comparison { left_out: self.left_out.clone(), ..Comparison::default() };
        found.left_out.extend(now.left_out.iter().cloned());
        self.compare_tables(now, scope, &mut found);
        if !scope.some_tables {
            self.compare_sequences(now, &mut found);
            self.compare_large_objects(now, &mut found);
            self.compare_schema(now, &mut found);
        }
        let more = found.differences.len().saturating_sub(NAMED);
        if more > 0 {
            found.differences.truncate(NAMED);
            found.differences.push(format!("and {more} more differences"));
        }
        found
    }

    fn compare_tables(&self, now: &Self, scope: Scope, found: &mut Comparison) {
        for (name, table) in &self.tables {
            let Some(other) = now.tables.get(name) else {
                if !scope.some_tables && !is_left_out(&now.left_out, name) {
                    found.differences.push(format!("table {name} with {} rows is missing", table.rows));
                }
                continue;
            };
            found.tables += 1;
            found.rows += table.rows;
            if table.rows != other.rows {
                found.differences.push(format!("table {name} has {} rows, and had {}", other.rows, table.rows));
                continue;
            }
            if let (Some(hash), Some(other)) = (&table.hash, &other.hash) {
                found.whole += 1;
                if hash != other {
                    found.differences.push(format!("table {name} has its {} rows, but not all are as they were", table.rows));
                }
            }
        }
    }

    fn compare_sequences(&self, now: &Self, found: &mut Comparison) {
        for (name, sequence) in &self.sequences {
            match now.sequences.get(name) {
                None if is_left_out(&now.left_out, name) => {}
                None => found.differences.push(format!("sequence {name} is missing")),
                Some(other) => {
                    found.sequences += 1;
                    if other.is_behind(sequence) {
                        let (now, then) = (other.last_value, sequence.last_value);
                        found.differences.push(format!("sequence {name} stands at {now}, behind the {then} of the backup"));
                    }
                }
            }
        }
    }

    fn compare_large_objects(&self, now: &Self, found: &mut Comparison) {
        let (Some(then), Some(now)) = (&self.large_objects, &now.large_objects) else { return };
        found.large_objects = then.count;
        if then.count != now.count {
            found.differences.push(format!("there are {} large objects, and there were {}", now.count, then.count));
        } else if let (Some(a), Some(b)) = (&then.hash, &now.hash)
            && a != b
        {
            found.differences.push(format!("the {} large objects are not all as they were", then.count));
        }
    }

    fn compare_schema(&self, now: &Self, found: &mut Comparison) {
        found.definitions = self.server == now.server;
        let kinds: BTreeSet<_> = self.schema.keys().chain(now.schema.keys()).collect();
        let none = Objects { names: hex(0), definitions: hex(0), ..Objects::default() };
        // a kind that only one of the two knows is one that an older or newer version of ours did not look at
        let both = |kind: &&String| self.schema.contains_key(*kind) && now.schema.contains_key(*kind);
        for kind in kinds.into_iter().filter(both) {
            let (then, is) = (self.schema.get(kind).unwrap_or(&none), now.schema.get(kind).unwrap_or(&none));
            found.objects += then.count;
            if then.count != is.count {
                found.differences.push(format!("the schema has {} {kind}, and had {}", is.count, then.count));
            } else if then.names != is.names {
                found.differences.push(format!("the {} {kind} of the schema are others than they were", then.count));
            } else if found.definitions && then.definitions != is.definitions {
                found.differences.push(format!("the {} {kind} of the schema are not all defined as they were", then.count));
            }
        }
        if !found.definitions && !self.schema.is_empty() {
            let (then, is) = (self.server, now.server);
            found.left_out.push(format!("definitions of the schema: PostgreSQL {then} and {is} put them into other words"));
        }
    }
}

/// Whether a sentence is about `name`.
fn is_left_out(left_out: &[String], name: &str) -> bool {
    left_out.iter().any(|sentence| sentence.strip_prefix(name).is_some_and(|rest| rest.starts_with(':')))
}

impl Sequence {
    /// Whether it would give out a value that `then` had given out already. One that starts over may stand anywhere.
    pub fn is_behind(&self, then: &Self) -> bool {
        let next = |s: &Self| i128::from(s.last_value) + if s.is_called { i128::from(s.increment) } else { 0 };
        let ahead = next(self) - next(then);
        !then.cycle && if then.increment < 0 { ahead > 0 } else { ahead < 0 }
    }
}

impl Comparison {
    /// What was compared, in a sentence; `database` is quoted.
    pub fn sentence(&self, database: &str) -> String {
        let mut parts = vec![match self.whole {
            whole if whole == self.tables => format!("{} with {}", count(self.tables as u64, "table"), count(self.rows, "row")),
            0 => format!("{} with {}, counted only", count(self.tables as u64, "table"), count(self.rows, "row")),
            whole => format!("{} with {} ({whole} by every row)", count(self.tables as u64, "table"), count(self.rows, "row")),
        }];
        let more = [(self.sequences as u64, "sequence"), (self.large_objects, "large object"), (self.objects, "object")];
        let more =
            more.into_iter().filter(|(n, _)| *n > 0).map(|(n, of)| count(n, of) + if of == "object" { " of the schema" } else { "" });
        parts.extend(more);
        format!("database {database} is as its fingerprint in the backup: {}", parts.join(", "))
    }
}

fn count(n: u64, of: &str) -> String {
    format!("{n} {of}{}", if n == 1 { "" } else { "s" })
}

#[cfg(test)]
#[path = "fingerprint_tests.rs"]
mod tests;
