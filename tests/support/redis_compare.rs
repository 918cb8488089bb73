//! Says whether two Redis servers hold the same, independently of the program.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{SystemTime, UNIX_EPOCH};

use redis::{Cmd, Connection, FromRedisValue, Value, cmd};

use super::pg_compare::differences;
use super::{Redis, Version};

/// How far two readings of the same expiry may lie apart, in milliseconds: a server without PEXPIRETIME only tells the rest.
const EXPIRY_SLACK: u64 = 2_000;

/// All keys of all databases with type, value, expiry, and for streams the groups; and the functions.
#[derive(Debug, Clone)]
pub struct Keyspace {
    facts: BTreeMap<String, String>,
    /// Unix time in milliseconds.
    expiries: BTreeMap<String, u64>,
    version: Version,
}

impl Keyspace {
    pub fn of(server: &Redis) -> Self {
        let mut connection = server.connect();
        let mut space = Self { facts: BTreeMap::new(), expiries: BTreeMap::new(), version: server.version() };
        for database in databases(&mut connection) {
            ask::<()>(&mut connection, cmd("SELECT").arg(database));
            for key in scan(&mut connection) {
                space.add(&mut connection, database, &key);
            }
        }
        if server.version() >= Version::V7_0 {
            let libraries: Value = ask(&mut connection, cmd("FUNCTION").arg("LIST").arg("WITHCODE"));
            space.facts.insert("functions".to_owned(), canonical(&libraries, true));
        }
        space
    }

    pub fn keys(&self) -> usize {
        self.facts.keys().filter(|key| key.starts_with("db")).count()
    }

    fn add(&mut self, connection: &mut Connection, database: u32, key: &[u8]) {
        let name = format!("db{database} {}", key.escape_ascii());
        let kind: String = ask(connection, cmd("TYPE").arg(key));
        let encoding: String = ask(connection, cmd("OBJECT").arg("ENCODING").arg(key));
        // which of the two a short string has depends on how it came to be
        let encoding = if encoding == "embstr" { "raw".to_owned() } else { encoding };
        let mut read = |command: &mut Cmd| -> Value { ask(connection, command) };
        let value = match kind.as_str() {
            "string" => canonical(&read(cmd("GET").arg(key)), false),
            "list" => canonical(&read(cmd("LRANGE").arg(key).arg(0).arg(-1)), false),
            // of hash tables, the order is not part of the value
            "set" => canonical(&read(cmd("SMEMBERS").arg(key)), true),
            "hash" => {
                let pairs: BTreeMap<Vec<u8>, Vec<u8>> = ask(connection, cmd("HGETALL").arg(key));
                pairs.iter().map(|(k, v)| format!("{}={}", k.escape_ascii(), v.escape_ascii())).collect::<Vec<_>>().join(" ")
            }
            "zset" => canonical(&read(cmd("ZRANGE").arg(key).arg(0).arg(-1).arg("WITHSCORES")), false),
            "stream" => {
                let entries = canonical(&read(cmd("XRANGE").arg(key).arg("-").arg("+")), false);
                format!("{entries} {}", groups(&read(cmd("XINFO").arg("STREAM").arg(key).arg("FULL").arg("COUNT").arg(0))))
            }
            other => panic!("{name}: a {other}, which this comparer does not know"),
        };
        self.facts.insert(name.clone(), format!("{kind} {value}"));
        if encoding != "hashtable" {
            // the dump's last ten bytes are the RDB version and a checksum
            let mut dump: Vec<u8> = ask(connection, cmd("DUMP").arg(key));
            dump.truncate(dump.len().saturating_sub(10));
            self.facts.insert(format!("dump of {name}"), format!("{encoding} {}", blake3::hash(&dump)));
        }
        if let Some(at) = expiry(connection, self.version, key) {
            self.expiries.insert(name, at);
        }
    }

    /// What differs, a line each. The dumps themselves are compared between equal versions only: encodings change.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let same_version = self.version == other.version;
        let logical = |facts: &BTreeMap<String, String>| {
            let kept = facts.iter().filter(|(key, _)| same_version || key.starts_with("db"));
            kept.map(|(k, v)| (k.clone(), v.clone())).collect()
        };
        let mut found = differences(&logical(&self.facts), &logical(&other.facts));
        for key in self.expiries.keys().chain(other.expiries.keys()).collect::<BTreeSet<_>>() {
            match (self.expiries.get(key), other.expiries.get(key)) {
                (Some(a), Some(b)) if a.abs_diff(*b) <= EXPIRY_SLACK => {}
                (a, b) => found.push(format!("expiry of {key}: {a:?} -> {b:?}")),
            }
        }
        found
    }
}

/// # Panics
/// If they differ, naming everything that does.
#[track_caller]
pub fn assert_same_keys(before: &Keyspace, after: &Keyspace) {
    let found = before.differences(after);
    assert!(found.is_empty(), "the keys differ:\n{}", found.join("\n"));
}

fn ask<T: FromRedisValue>(connection: &mut Connection, command: &Cmd) -> T {
    command.query(connection).unwrap_or_else(|e| panic!("{:?}: {e}", command.get_packed_command().escape_ascii().to_string()))
}

/// The databases that hold keys.
fn databases(connection: &mut Connection) -> Vec<u32> {
    let info: String = ask(connection, cmd("INFO").arg("keyspace"));
    let number = |line: &str| line.strip_prefix("db")?.split_once(':')?.0.parse().ok();
    info.lines().filter_map(number).collect()
}

fn scan(connection: &mut Connection) -> BTreeSet<Vec<u8>> {
    let mut keys = BTreeSet::new();
    let mut cursor = 0_u64;
    loop {
        let (next, some): (u64, Vec<Vec<u8>>) = ask(connection, cmd("SCAN").arg(cursor).arg("COUNT").arg(1000));
        keys.extend(some);
        cursor = next;
        if cursor == 0 {
            return keys;
        }
    }
}

/// Unix time in milliseconds at which the key expires, and with Redis 7.4 and later its fields are part of the dump.
fn expiry(connection: &mut Connection, version: Version, key: &[u8]) -> Option<u64> {
    if version >= Version::V7_0 {
        let at: i64 = ask(connection, cmd("PEXPIRETIME").arg(key));
        return u64::try_from(at).ok();
    }
    let rest: i64 = ask(connection, cmd("PTTL").arg(key));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis();
    Some(u64::try_from(rest).ok()? + u64::try_from(now).expect("before the year 584,000,000"))
}

/// Consumer groups with consumers and what is pending, and the stream's counters; without what describes memory only.
fn groups(info: &Value) -> String {
    let Value::Array(members) = info else { return canonical(info, false) };
    let about = |name: &Value| !matches!(text(name).as_str(), "radix-tree-keys" | "radix-tree-nodes" | "entries");
    members
        .chunks(2)
        .filter(|pair| about(&pair[0]))
        .map(|pair| format!("{}={}", text(&pair[0]), canonical(&pair[1], false)))
        .collect::<Vec<_>>()
        .join(" ")
}

fn text(value: &Value) -> String {
    match value {
        Value::BulkString(bytes) => bytes.escape_ascii().to_string(),
        Value::SimpleString(text) => text.clone(),
        other => format!("{other:?}"),
    }
}

fn canonical(value: &Value, sorted: bool) -> String {
    match value {
        Value::Array(values) | Value::Set(values) => {
            let mut texts: Vec<_> = values.iter().map(|v| canonical(v, sorted)).collect();
            if sorted {
                texts.sort();
            }
            format!("[{}]", texts.join(" "))
        }
        other => text(other),
    }
}
