//! What an RDB held, as a backup notes it; and whether what was restored is that.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::keys::Keys;
use super::rdb::RdbSummary;
use crate::component::{ComponentError, Detail};

/// Of the form below. A fingerprint of another version is not compared.
const VERSION: u32 = 1;
/// The first RDB version that holds functions: a server that loads an older one keeps its own.
const FUNCTIONS: u32 = 10;

/// A whole RDB, and its keys or why they could not be counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub summary: RdbSummary,
    pub keys: Result<Keys, String>,
}

/// What a backup noted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    version: u32,
    rdb_version: u32,
    /// By number of the database.
    #[serde(skip_serializing_if = "Option::is_none")]
    keys: Option<BTreeMap<u32, u64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    libraries: Option<u64>,
    /// Why there are no counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    not_counted: Option<String>,
    /// The RDB's own checksum; none where the server wrote none, or only counts are noted.
    #[serde(skip_serializing_if = "Option::is_none")]
    crc64: Option<String>,
}

impl Fingerprint {
    /// Of an RDB that passed; `None` if nothing is to be noted.
    pub fn of(found: &Found, detail: Detail) -> Option<Self> {
        let crc64 = (detail == Detail::Full && found.summary.checksum).then(|| format!("{:016x}", found.summary.crc64));
        (detail != Detail::Off).then(|| Self {
            version: VERSION,
            rdb_version: found.summary.version,
            keys: found.keys.as_ref().ok().map(|keys| keys.keys.clone()),
            libraries: found.keys.as_ref().ok().map(|keys| keys.libraries),
            not_counted: found.keys.clone().err(),
            crc64,
        })
    }

    pub fn noted(&self) -> Option<Value> {
        serde_json::to_value(self).ok()
    }

    /// What was noted; `None` if it is of a version that is not known here.
    ///
    /// # Errors
    /// [`ComponentError::Fingerprint`] when it is no fingerprint of an RDB.
    pub fn read(noted: &Value) -> Result<Option<Self>, ComponentError> {
        if noted.get("version").and_then(Value::as_u64).is_some_and(|version| version != u64::from(VERSION)) {
            return Ok(None);
        }
        Self::deserialize(noted).map(Some).map_err(|e| ComponentError::Fingerprint(std::io::Error::other(e)))
    }

    /// What was counted.
    pub fn keys(&self) -> Option<Keys> {
        Some(Keys { keys: self.keys.clone()?, libraries: self.libraries? })
    }

    /// In sentences, how an RDB is not the one that was noted.
    pub fn differences(&self, found: &Found) -> Vec<String> {
        let mut differences = Vec::new();
        if self.rdb_version != found.summary.version {
            differences.push(format!("the RDB has version {} in place of {}", found.summary.version, self.rdb_version));
        }
        if self.crc64.as_ref().is_some_and(|crc| *crc != format!("{:016x}", found.summary.crc64)) {
            differences.push("the RDB has another checksum than was noted".to_owned());
        }
        if let (Some(noted), Ok(keys)) = (self.keys(), &found.keys) {
            differences.extend(unlike(&noted, keys));
        }
        differences
    }
}

fn unlike(noted: &Keys, found: &Keys) -> Vec<String> {
    let databases = noted.keys.keys().chain(found.keys.keys()).collect::<BTreeSet<_>>();
    let count = |keys: &Keys, database: &u32| keys.keys.get(database).copied().unwrap_or_default();
    let mut differences: Vec<_> = (databases.into_iter())
        .map(|database| (database, count(noted, database), count(found, database)))
        .filter(|(_, noted, found)| noted != found)
        .map(|(database, noted, found)| format!("database {database} holds {found} keys in place of {noted}"))
        .collect();
    if noted.libraries != found.libraries {
        differences.push(format!("it holds {} libraries of functions in place of {}", found.libraries, noted.libraries));
    }
    differences
}

/// What a server holds that has just loaded an RDB and is a replica still: as such it keeps keys that have expired.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Held {
    pub keys: Keys,
    /// Keys that it gave up since: evicted, or expired after all.
    pub gone: u64,
    /// Its clients may write, although it is a replica.
    pub writable: bool,
}

/// What a server should hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    pub rdb_version: u32,
    pub keys: Result<Keys, String>,
    /// Keys that the server said to have when it was backed up.
    pub noted: u64,
}

impl Default for Expected {
    fn default() -> Self {
        Self { rdb_version: 0, keys: Err("there is no backup at hand".to_owned()), noted: 0 }
    }
}

impl Expected {
    /// Compares; what was compared, as a sentence.
    ///
    /// # Errors
    /// The differences, as sentences.
    pub fn judge(&self, held: &Held) -> Result<String, Vec<String>> {
        let loaded: u64 = held.keys.keys.values().sum();
        let keys = match &self.keys {
            Ok(keys) => keys,
            Err(_) if self.noted > 0 && loaded == 0 => return Err(vec![format!("it holds no keys, but the backup has {}", self.noted)]),
            Err(reason) => {
                return Ok(format!(
                    "{loaded} keys; the backup noted {}; not compared, since its RDB cannot be counted: {reason}",
                    self.noted
                ));
            }
        };
        let expected: u64 = keys.keys.values().sum();
        let missing = keys.keys.iter().map(|(database, n)| n.saturating_sub(held.keys.keys.get(database).copied().unwrap_or_default()));
        let missing: u64 = missing.sum();
        let more = loaded.saturating_add(missing).saturating_sub(expected);
        let mut expected = keys.clone();
        if self.rdb_version < FUNCTIONS {
            expected.libraries = held.keys.libraries;
        }
        let excused = missing <= held.gone && (more == 0 || held.writable);
        if excused {
            expected.keys.clone_from(&held.keys.keys);
        }
        let differences = unlike(&expected, &held.keys);
        if !differences.is_empty() {
            return Err(differences);
        }
        let mut sentence = format!("{}, compared with the backup", keys.sentence());
        if missing > 0 {
            sentence.push_str(&format!("; {missing} of them have expired or were evicted since"));
        }
        if more > 0 {
            sentence.push_str(&format!("; {more} more were written by its clients since"));
        }
        Ok(sentence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(counts: &[(u32, u64)], libraries: u64) -> Keys {
        Keys { keys: counts.iter().copied().collect(), libraries }
    }

    fn found(keys: Keys) -> Found {
        Found { summary: RdbSummary { version: 11, bytes: 100, checksum: true, crc64: 0xab }, keys: Ok(keys) }
    }

    #[test]
    fn what_was_noted_is_read_back_and_every_difference_is_found() {
        let rdb = found(keys(&[(0, 5), (3, 1)], 1));
        let noted = Fingerprint::of(&rdb, Detail::Full).expect("noted");
        let read = Fingerprint::read(&noted.noted().expect("JSON")).expect("read").expect("known");
        assert_eq!((&read, read.differences(&rdb)), (&noted, Vec::new()));
        assert_eq!(Fingerprint::of(&rdb, Detail::Off), None);
        assert_eq!(Fingerprint::read(&serde_json::json!({"version": 2})).expect("a later one"), None);
        assert!(Fingerprint::read(&serde_json::json!({"version": 1})).is_err());
        for (other, told) in [
            (Found { summary: RdbSummary { version: 12, ..rdb.summary }, ..rdb.clone() }, "the RDB has version 12 in place of 11"),
            (Found { summary: RdbSummary { crc64: 1, ..rdb.summary }, ..rdb.clone() }, "the RDB has another checksum than was noted"),
            (found(keys(&[(0, 5), (3, 2)], 1)), "database 3 holds 2 keys in place of 1"),
            (found(keys(&[(0, 5)], 1)), "database 3 holds 0 keys in place of 1"),
            (found(keys(&[(0, 5), (3, 1)], 0)), "it holds 0 libraries of functions in place of 1"),
        ] {
            assert_eq!(noted.differences(&other), [told]);
        }
        let counts = Fingerprint::of(&rdb, Detail::Counts).expect("noted");
        let resaved = Found { summary: RdbSummary { crc64: 1, ..rdb.summary }, ..rdb.clone() };
        assert!(counts.differences(&resaved).is_empty());
        let uncounted = Found { keys: Err("of type 28".to_owned()), ..rdb };
        let noted = Fingerprint::of(&uncounted, Detail::Full).and_then(|noted| noted.noted()).expect("noted");
        assert_eq!(noted["not_counted"], "of type 28");
        assert_eq!(Fingerprint::read(&noted).expect("read").expect("known").keys(), None);
    }

    #[test]
    fn a_server_is_judged_by_what_it_could_not_help() {
        let expected = |counts: &[(u32, u64)], libraries| Expected { rdb_version: 11, keys: Ok(keys(counts, libraries)), noted: 9 };
        let held = |counts: &[(u32, u64)], libraries, gone, writable| Held { keys: keys(counts, libraries), gone, writable };
        for (expected, held, told) in [
            (
                expected(&[(0, 5)], 1),
                held(&[(0, 5)], 1, 0, false),
                Ok("5 keys in 1 database, 1 library of functions, compared with the backup"),
            ),
            (expected(&[], 0), held(&[], 0, 0, false), Ok("0 keys in 0 databases, compared with the backup")),
            (expected(&[(0, 5)], 0), held(&[(0, 4)], 0, 0, false), Err("database 0 holds 4 keys in place of 5")),
            (expected(&[(0, 5)], 0), held(&[(1, 5)], 0, 0, false), Err("database 0 holds 0 keys in place of 5")),
            (expected(&[(0, 5)], 0), held(&[(0, 6)], 0, 9, false), Err("database 0 holds 6 keys in place of 5")),
            (expected(&[(0, 5)], 2), held(&[(0, 5)], 1, 9, true), Err("it holds 1 libraries of functions in place of 2")),
            (
                expected(&[(0, 5)], 0),
                held(&[(0, 3)], 0, 2, false),
                Ok("5 keys in 1 database, compared with the backup; 2 of them have expired or were evicted since"),
            ),
            (
                expected(&[(0, 5)], 0),
                held(&[(0, 6)], 0, 0, true),
                Ok("5 keys in 1 database, compared with the backup; 1 more were written by its clients since"),
            ),
        ] {
            let judged = expected.judge(&held);
            assert_eq!(judged.as_ref().map(String::as_str).map_err(|e| e[0].as_str()), told);
        }
        let old = Expected { rdb_version: 9, ..expected(&[(0, 5)], 0) };
        assert!(old.judge(&held(&[(0, 5)], 3, 0, false)).is_ok(), "an old RDB says nothing of functions");
        let uncounted = Expected { rdb_version: 14, keys: Err("of type 28".to_owned()), noted: 9 };
        assert!(uncounted.judge(&held(&[(0, 5)], 0, 0, false)).is_ok_and(|told| told.contains("not compared")));
        assert!(uncounted.judge(&held(&[], 0, 0, false)).is_err());
    }
}
