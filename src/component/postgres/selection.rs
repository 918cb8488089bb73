//! Which entries of an archive make some of its tables (pure): the tables, their rows, indexes and constraints, and what they need to exist.
//!
//! An archive's table of contents says what each entry depends on, see `BuildArchiveDependencies` of PostgreSQL's
//! `src/bin/pg_dump/pg_dump.c`. Two directions are followed from a table: what it needs (its schema, types, functions, sequences), and what
//! belongs to it alone (defaults, indexes, constraints, comments, partitions). What would act on its own or reach elsewhere is left out:
//! triggers, rules, policies, publications, and foreign keys to tables that are not restored. With the policies, privileges are left out
//! too: rows that a policy hides must not be open to whoever has SELECT.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::archive::{Entry, Head, Section};
use super::table_name::TableName;

/// Names that are suggested for one that is not there.
const SUGGESTED: usize = 3;

/// How alike a suggestion is, of 1.
const ALIKE: f64 = 0.8;

/// Some tables of an archive.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// Numbers of the entries.
    pub entries: HashSet<i32>,
    /// Whose rows are restored: those that were asked for, and all partitions of them.
    pub tables: BTreeSet<TableName>,
    /// Of `tables`, those that hold no rows themselves: they have partitions.
    pub partitioned: BTreeSet<TableName>,
    /// Roles that own some of it.
    pub owners: BTreeSet<String>,
    /// What belongs to the tables and is not restored, in sentences' parts: `foreign key "a" of "s"."t"`.
    pub left_out: Vec<String>,
}

/// A table that cannot be selected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lack {
    pub table: TableName,
    /// What may have been meant.
    pub advice: Option<String>,
}

/// A table of contents by number and by what depends on what.
struct Index<'a> {
    entries: HashMap<i32, &'a Entry>,
    tables: BTreeMap<TableName, &'a Entry>,
    /// Partition, and what it is a partition of.
    partitions: HashSet<(i32, i32)>,
}

impl Selection {
    /// Selects `wanted`.
    ///
    /// # Errors
    /// The first that the archive does not hold.
    pub fn of(head: &Head, wanted: &[TableName]) -> Result<Self, Lack> {
        let index = Index::of(head);
        let mut tables = BTreeMap::new();
        for name in wanted {
            let entry = index.tables.get(name).ok_or_else(|| lack(head, &index, name))?;
            tables.insert(entry.id, *entry);
        }
        index.add_partitions(&mut tables);
        let mut selection = Self { tables: tables.values().map(|entry| table_of(entry)).collect(), ..Self::default() };
        let chosen: HashSet<i32> = tables.keys().copied().collect();
        selection.partitioned = index.partitions.iter().filter_map(|(_, parent)| tables.get(parent)).map(|entry| table_of(entry)).collect();
        for (entry, _) in head.sections().filter(|(entry, _)| matches!(entry.kind.as_str(), "ENCODING" | "STDSTRINGS" | "SEARCHPATH")) {
            selection.entries.insert(entry.id);
        }
        chosen.iter().for_each(|id| index.need(*id, &chosen, &mut selection.entries));
        // what belongs to something that came in by this round comes in by the next
        loop {
            let before = selection.entries.len();
            for entry in &head.entries {
                if !selection.entries.contains(&entry.id) && index.belongs(entry, &chosen, &selection.entries) {
                    index.need(entry.id, &chosen, &mut selection.entries);
                }
            }
            if selection.entries.len() == before {
                break;
            }
        }
        let selected = head.entries.iter().filter(|entry| selection.entries.contains(&entry.id));
        selection.owners = selected.filter_map(|entry| entry.owner.clone()).filter(|owner| !owner.is_empty()).collect();
        selection.left_out = index.left_out(head, &chosen, &selection.entries);
        Ok(selection)
    }

    /// Whether the rows of this entry are wanted.
    pub fn has_rows_of(&self, entry: &Entry) -> bool {
        self.tables.contains(&table_of(entry))
    }
}

/// The name of a table's entry, or of that of its rows.
pub fn table_of(entry: &Entry) -> TableName {
    TableName::new(entry.namespace.clone().unwrap_or_default(), entry.tag.clone())
}

impl<'a> Index<'a> {
    fn of(head: &'a Head) -> Self {
        let entries: HashMap<i32, &Entry> = head.entries.iter().map(|entry| (entry.id, entry)).collect();
        let tables: BTreeMap<_, _> = head.entries.iter().filter(|e| e.kind == "TABLE").map(|e| (table_of(e), e)).collect();
        let attached = head.entries.iter().filter(|entry| entry.kind == "TABLE ATTACH");
        let partitions = attached.filter_map(|attach| {
            // its name is that of the partition, and it depends on both
            let child = tables.get(&table_of(attach))?.id;
            let parent = attach.dependencies.iter().copied().find(|id| *id != child && is_table(entries.get(id)))?;
            Some((child, parent))
        });
        let partitions = partitions.collect();
        Self { entries, tables, partitions }
    }

    /// Rows of a partitioned table lie in its partitions, and in theirs.
    fn add_partitions(&self, tables: &mut BTreeMap<i32, &'a Entry>) {
        loop {
            let new = |(child, parent): &&(i32, i32)| tables.contains_key(parent) && !tables.contains_key(child);
            let found: Vec<&Entry> = self.partitions.iter().filter(new).filter_map(|(child, _)| self.entries.get(child).copied()).collect();
            if found.is_empty() {
                return;
            }
            tables.extend(found.into_iter().map(|entry| (entry.id, entry)));
        }
    }

    /// Adds an entry and all that must exist before it.
    fn need(&self, id: i32, chosen: &HashSet<i32>, found: &mut HashSet<i32>) {
        let mut waiting = vec![id];
        while let Some(id) = waiting.pop() {
            let Some(entry) = self.entries.get(&id) else { continue };
            if !found.insert(id) {
                continue;
            }
            waiting.extend(entry.dependencies.iter().filter(|on| self.is_needed(entry, **on, chosen)));
        }
    }

    fn is_needed(&self, entry: &Entry, on: i32, chosen: &HashSet<i32>) -> bool {
        let Some(other) = self.entries.get(&on) else { return false };
        if chosen.contains(&on) {
            return true;
        }
        if other.kind == "TABLE" {
            // a partition is a table of its own; a sequence is only owned by a table
            return !self.partitions.contains(&(entry.id, on)) && entry.kind != "SEQUENCE";
        }
        // an index of a partition depends on the index of the whole, of which it is a part only once it is attached
        other.section != Section::PostData
    }

    /// Whether an entry belongs to the `chosen` tables, and to nothing that is not `found`.
    fn belongs(&self, entry: &Entry, chosen: &HashSet<i32>, found: &HashSet<i32>) -> bool {
        let has = |id: &i32| found.contains(id);
        let on = || entry.dependencies.iter().filter(|id| self.entries.contains_key(id));
        let tables = || on().filter(|id| is_table(self.entries.get(id)));
        let of_chosen = || tables().next().is_some() && tables().all(|id| chosen.contains(id));
        match entry.kind.as_str() {
            "TABLE DATA" | "DEFAULT" | "INDEX" | "CONSTRAINT" | "CHECK CONSTRAINT" | "SEQUENCE" => of_chosen(),
            "TABLE ATTACH" | "INDEX ATTACH" | "FK CONSTRAINT" => of_chosen() && on().all(has),
            // it depends on the sequence alone, which depends on its table
            "SEQUENCE OWNED BY" => {
                let sequences = || on().filter_map(|id| self.entries.get(id));
                on().all(has) && sequences().flat_map(|s| &s.dependencies).any(|id| chosen.contains(id))
            }
            "SEQUENCE SET" | "COMMENT" => on().next().is_some() && on().all(has),
            _ => false,
        }
    }

    fn left_out(&self, head: &Head, chosen: &HashSet<i32>, found: &HashSet<i32>) -> Vec<String> {
        let mut left = Vec::new();
        for entry in head.entries.iter().filter(|entry| !found.contains(&entry.id)) {
            let what = match entry.kind.as_str() {
                "FK CONSTRAINT" => "foreign key",
                "TRIGGER" => "trigger",
                "RULE" => "rule",
                "POLICY" => "policy",
                "STATISTICS" => "statistics",
                _ => continue,
            };
            let tables: Vec<&&Entry> =
                entry.dependencies.iter().filter_map(|id| self.entries.get(id)).filter(|e| e.kind == "TABLE").collect();
            // the tag of what has no name of its own in its schema is `table name`
            let of = |table: &&&&Entry| chosen.contains(&table.id) && entry.tag.starts_with(&format!("{} ", table.tag));
            let mine =
                tables.iter().find(of).or_else(|| tables.iter().find(|table| chosen.contains(&table.id) && entry.kind == "STATISTICS"));
            if let Some(table) = mine {
                let name = entry.tag.strip_prefix(&format!("{} ", table.tag)).unwrap_or(&entry.tag);
                left.push(format!("{what} \"{name}\" of {}", table_of(table)));
            }
        }
        left.sort();
        left
    }
}

fn is_table(entry: Option<&&Entry>) -> bool {
    entry.is_some_and(|entry| entry.kind == "TABLE")
}

fn lack(head: &Head, index: &Index<'_>, wanted: &TableName) -> Lack {
    const OTHERS: [&str; 4] = ["VIEW", "MATERIALIZED VIEW", "FOREIGN TABLE", "SEQUENCE"];
    let other = head.entries.iter().find(|entry| OTHERS.contains(&entry.kind.as_str()) && table_of(entry) == *wanted);
    let advice = match other {
        Some(entry) => Some(format!("{wanted} is a {}, which holds no rows of its own to restore.", entry.kind.to_lowercase())),
        None => {
            let likeness = |name: &TableName| {
                let whole = strsim::jaro_winkler(&name.to_string(), &wanted.to_string());
                if name.table == wanted.table { 1.0 } else { whole }
            };
            let mut alike: Vec<(f64, &TableName)> = index.tables.keys().map(|name| (likeness(name), name)).collect();
            alike.retain(|(likeness, _)| *likeness >= ALIKE);
            alike.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
            let names: Vec<String> = alike.iter().take(SUGGESTED).map(|(_, name)| name.to_string()).collect();
            (!names.is_empty()).then(|| format!("Did you mean {}?", names.join(" or ")))
        }
    };
    Lack { table: wanted.clone(), advice }
}

#[cfg(test)]
#[path = "selection_tests.rs"]
mod tests;
