//! How much of a server a restore may take: connections at once, and memory to build indexes with.

use std::num::NonZeroU32;

use tokio_postgres::Client;

use super::{PostgresError, query};

/// What builds of indexes may take together.
const INDEX_MEMORY: u64 = 512 << 20;

/// What one build may take; more gains little.
const MOST_INDEX_MEMORY: u64 = 256 << 20;

/// What one build gets at least, however many there are; PostgreSQL's own default.
const LEAST_INDEX_MEMORY: u64 = 64 << 20;

/// What a server has to give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Room {
    /// Connections that are not taken, without those kept for superusers.
    connections: u64,
    /// `maintenance_work_mem` in bytes.
    index_memory: u64,
}

/// What a restore takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Workload {
    /// Sessions that load rows, build indexes, analyze; at least 1.
    pub sessions: usize,
    /// A `maintenance_work_mem` in bytes, where the server's is lower.
    pub index_memory: Option<u64>,
}

const ROOM: &str = "SELECT current_setting('max_connections')::int8 - current_setting('superuser_reserved_connections')::int8 \
     - (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'), \
     pg_size_bytes(current_setting('maintenance_work_mem'))";

impl Workload {
    /// For the server behind `client` and for this machine.
    ///
    /// # Errors
    /// [`PostgresError::Query`].
    pub async fn ask(client: &Client) -> Result<Self, PostgresError> {
        let row = client.query_one(ROOM, &[]).await.map_err(query("ask what the server has to give"))?;
        let unsigned = |column| u64::try_from(row.get::<_, i64>(column)).unwrap_or(0);
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        Ok(Self::decide(Room { connections: unsigned(0), index_memory: unsigned(1) }, cores))
    }

    /// As many sessions as there are cores, 2 to 4, of which two more may be needed than load (large objects, ourselves).
    fn decide(room: Room, cores: usize) -> Self {
        let free = usize::try_from(room.connections.saturating_sub(2)).unwrap_or(usize::MAX);
        let sessions = cores.clamp(2, 4).min(free).max(1);
        let index_memory = (INDEX_MEMORY / sessions as u64).min(MOST_INDEX_MEMORY);
        Self { sessions, index_memory: (index_memory > room.index_memory).then_some(index_memory) }
    }

    /// With so many sessions, where the operator said how many.
    #[must_use]
    pub fn with_sessions(self, sessions: Option<NonZeroU32>) -> Self {
        match sessions.and_then(|n| usize::try_from(n.get()).ok()) {
            Some(sessions) => {
                let share = INDEX_MEMORY / sessions as u64;
                Self { sessions, index_memory: self.index_memory.map(|bytes| bytes.min(share.max(LEAST_INDEX_MEMORY))) }
            }
            None => self,
        }
    }

    /// For `PGOPTIONS`.
    pub fn options(&self) -> String {
        self.index_memory.map_or_else(String::new, |bytes| format!(" -c maintenance_work_mem={}kB", bytes >> 10))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restore_takes_what_is_there_and_leaves_something() {
        let check = |connections, index_memory: u64, cores, sessions, memory: Option<u64>| {
            let workload = Workload::decide(Room { connections, index_memory: index_memory << 20 }, cores);
            assert_eq!(workload, Workload { sessions, index_memory: memory.map(|m| m << 20) }, "{connections} {index_memory} {cores}");
        };
        check(90, 64, 1, 2, Some(256));
        check(90, 64, 2, 2, Some(256));
        check(90, 64, 16, 4, Some(128));
        check(90, 1024, 16, 4, None);
        check(90, 256, 2, 2, None);
        check(4, 64, 8, 2, Some(256));
        check(1, 64, 8, 1, Some(256));
        check(0, 64, 8, 1, Some(256));
    }

    #[test]
    fn the_operator_may_say_how_many() {
        let workload = Workload { sessions: 2, index_memory: Some(256 << 20) };
        let with = |n| workload.with_sessions(NonZeroU32::new(n));
        assert_eq!(with(0), workload);
        assert_eq!(with(1), Workload { sessions: 1, index_memory: Some(256 << 20) });
        assert_eq!(with(4), Workload { sessions: 4, index_memory: Some(128 << 20) });
        assert_eq!(with(32), Workload { sessions: 32, index_memory: Some(64 << 20) });
    }
}
