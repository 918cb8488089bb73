//! Which server loads which RDB. A server that gets one it does not know may stop, or lose what it had, so it is asked of this table first.

use std::fmt;

/// A server's family and version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    family: Family,
    version: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    Redis,
    Valkey,
}

/// Valkey took its own numbers from here on; the ones between are Redis', which it rejects.
const VALKEY_OWN: u32 = 80;
/// The last version that Redis and Valkey share.
const SHARED: u32 = 11;

impl Server {
    pub fn redis(version: &str) -> Self {
        Self { family: Family::Redis, version: version.to_owned() }
    }

    pub fn valkey(version: &str) -> Self {
        Self { family: Family::Valkey, version: version.to_owned() }
    }

    /// `redis` or `valkey`.
    pub fn family(&self) -> &'static str {
        match self.family {
            Family::Redis => "redis",
            Family::Valkey => "valkey",
        }
    }

    pub fn version(&self) -> &str {
        &self.version
    }

    /// Major and minor; zeros where the text has none.
    pub fn number(&self) -> (u32, u32) {
        let mut parts = self.version.split('.').map(|part| part.parse().unwrap_or(0));
        (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
    }

    /// The newest RDB version that it may read, which is the one that it writes (`RDB_VERSION` in rdb.h of each release). Between and after
    /// the releases that are known here, an upper bound: what such a server was seen to write decides.
    fn newest(&self) -> u32 {
        match (self.family, self.number()) {
            (Family::Valkey, n) if n > (9, 2) => u32::MAX,
            (Family::Valkey, n) if n > (9, 0) => 81,
            (Family::Valkey, (9, 0)) => 80,
            (Family::Valkey, _) => SHARED,
            (Family::Redis, n) if n > (8, 10) => u32::MAX,
            (Family::Redis, n) if n > (8, 6) => 15,
            (Family::Redis, n) if n > (8, 2) => 13,
            (Family::Redis, n) if n >= (7, 4) => 12,
            (Family::Redis, n) if n >= (7, 2) => 11,
            (Family::Redis, n) if n >= (7, 0) => 10,
            (Family::Redis, n) if n >= (5, 0) => 9,
            (Family::Redis, n) if n >= (4, 0) => 8,
            (Family::Redis, _) => 7,
        }
    }

    /// Whether it loads that RDB version; `writes` is the version that it was seen to write, if it was.
    pub fn loads(&self, rdb: u32, writes: Option<u32>) -> bool {
        let newest = writes.unwrap_or_else(|| self.newest());
        let foreign = match self.family {
            Family::Valkey => rdb > SHARED && rdb < VALKEY_OWN,
            Family::Redis => rdb >= VALKEY_OWN,
        };
        rdb <= newest && !foreign
    }

    /// In words, what it loads.
    pub fn reads(&self, writes: Option<u32>) -> String {
        let newest = writes.unwrap_or_else(|| self.newest());
        match self.family {
            Family::Valkey if newest >= VALKEY_OWN => format!("1 to {SHARED} and {VALKEY_OWN} to {newest}"),
            _ => format!("1 to {newest}"),
        }
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = match self.family {
            Family::Redis => "Redis",
            Family::Valkey => "Valkey",
        };
        write!(f, "{family} {}", self.version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_loads_its_own_version_and_older_ones() {
        for (version, rdb) in [("6.2.14", 9), ("7.0.15", 10), ("7.2.1", 11), ("7.4.0", 12), ("8.2.3", 12), ("8.6.0", 13), ("8.10.1", 15)] {
            let server = Server::redis(version);
            assert!(server.loads(rdb, None) && server.loads(1, None) && !server.loads(rdb + 1, None), "{version}");
        }
    }

    #[test]
    fn valkey_rejects_the_numbers_that_redis_took() {
        for (version, loads, not) in [
            ("8.1.0", vec![9, 11], vec![12, 79, 80]),
            ("7.2.4", vec![9, 11], vec![12, 80]),
            ("9.0.1", vec![11, 80], vec![12, 15, 79, 81]),
            ("9.2.0", vec![11, 80, 81], vec![12, 15, 79, 82]),
        ] {
            let server = Server::valkey(version);
            assert!(loads.iter().all(|&v| server.loads(v, None)), "{version}");
            assert!(!not.iter().any(|&v| server.loads(v, None)), "{version}");
        }
        assert!(!Server::redis("99.0.0").loads(80, Some(99)), "Redis cannot read Valkey's");
    }

    #[test]
    fn what_a_server_was_seen_to_write_wins_over_the_table() {
        let between = Server::redis("8.8.0");
        assert!(between.loads(14, None) && between.loads(14, Some(14)) && !between.loads(15, Some(14)));
        let future = Server::redis("9.0.0");
        assert!(future.loads(20, None) && !future.loads(20, Some(19)) && !future.loads(80, None));
    }
}
