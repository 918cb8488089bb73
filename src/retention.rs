//! Which backups to keep. Pure: policy + backups + now → a plan with a reason for each.

use std::num::NonZeroU32;

/// How many backups of a job to keep; a backup that any rule keeps is kept. `None`: the rule is not in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Policy {
    pub last: Option<NonZeroU32>,
    pub hourly: Option<NonZeroU32>,
    pub daily: Option<NonZeroU32>,
    pub weekly: Option<NonZeroU32>,
    pub monthly: Option<NonZeroU32>,
    pub yearly: Option<NonZeroU32>,
}
