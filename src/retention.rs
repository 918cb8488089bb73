//! Which backups to keep. Pure: policy + backups → a plan with a reason for each.
//!
//! Laws: only complete backups count; the newest complete one, and the newest one that passed a drill, are kept whatever the policy says; a partial backup stays until a newer
//! complete one exists; a backup dated in the future (by a wrong clock) is kept and does not count. Days, weeks (ISO 8601), months and years are those of UTC, as the names are.

use std::collections::BTreeSet;
use std::num::NonZeroU32;

use chrono::{DateTime, Datelike, Timelike, Utc};

use crate::name::BackupName;

/// How many backups of a job to keep; a backup that any rule keeps is kept. `None`: the rule is not in use. With no rule in use all
/// are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Policy {
    pub last: Option<NonZeroU32>,
    pub hourly: Option<NonZeroU32>,
    pub daily: Option<NonZeroU32>,
    pub weekly: Option<NonZeroU32>,
    pub monthly: Option<NonZeroU32>,
    pub yearly: Option<NonZeroU32>,
}

/// A backup of one job in one target, as far as retention looks at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub name: BackupName,
    pub complete: bool,
    /// The components that were asked for by `--only`, sorted; empty for a run of the whole job. Backups of different scopes are counted
    /// apart, so that a hand-made backup of one component never pushes out a whole one.
    pub scope: Vec<String>,
    /// It was restored for a trial, and came back as it was backed up.
    pub drilled: bool,
}

/// What happens to one backup, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    pub name: BackupName,
    pub keep: bool,
    /// Such as `last 3 of 10, daily 1 of 7`.
    pub reason: String,
}

type Period = fn(DateTime<Utc>) -> (i32, u32, u32);

impl Policy {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn rules(&self) -> [(&'static str, Option<NonZeroU32>, Option<Period>); 6] {
        [
            ("last", self.last, None),
            ("hourly", self.hourly, Some(|t| (t.year(), t.ordinal(), t.hour()))),
            ("daily", self.daily, Some(|t| (t.year(), t.ordinal(), 0))),
            ("weekly", self.weekly, Some(|t| (t.iso_week().year(), t.iso_week().week(), 0))),
            ("monthly", self.monthly, Some(|t| (t.year(), t.month(), 0))),
            ("yearly", self.yearly, Some(|t| (t.year(), 0, 0))),
        ]
    }
}

/// Decides over all backups of a job in one target; newest first.
pub fn plan(policy: &Policy, backups: &[Candidate], now: DateTime<Utc>) -> Vec<Decision> {
    let (ahead, backups): (Vec<&Candidate>, Vec<&Candidate>) = backups.iter().partition(|b| b.name.is_ahead(now));
    let scopes: BTreeSet<&[String]> = backups.iter().map(|b| b.scope.as_slice()).collect();
    let mut decisions: Vec<Decision> =
        scopes.iter().flat_map(|scope| plan_scope(policy, backups.iter().copied().filter(|b| b.scope == **scope).collect())).collect();
    let uncounted = |b: &Candidate| Decision { name: b.name.clone(), keep: true, reason: "dated in the future, not counted".into() };
    decisions.extend(ahead.into_iter().map(uncounted));
    decisions.sort_by(|a, b| b.name.cmp(&a.name));
    decisions
}

fn plan_scope(policy: &Policy, mut backups: Vec<&Candidate>) -> Vec<Decision> {
    backups.sort_by(|a, b| b.name.cmp(&a.name));
    let complete: Vec<&Candidate> = backups.iter().copied().filter(|b| b.complete).collect();
    let newest = complete.first().map(|b| &b.name);
    let proven = complete.iter().find(|b| b.drilled).map(|b| &b.name);
    let reasons = |candidate: &Candidate| -> Vec<String> {
        let mut reasons = Vec::new();
        if newest == Some(&candidate.name) {
            reasons.push("newest complete".to_owned());
        }
        if proven == Some(&candidate.name) {
            reasons.push("newest that passed a drill".to_owned());
        }
        if policy.is_empty() {
            reasons.push("no rule is set".to_owned());
        }
        for (rule, count, period) in policy.rules() {
            let Some(count) = count else { continue };
            let kept = kept_by(&complete, period);
            if let Some(rank) = kept.iter().take(count.get() as usize).position(|b| b.name == candidate.name) {
                reasons.push(format!("{rule} {} of {count}", rank + 1));
            }
        }
        reasons
    };
    backups
        .iter()
        .map(|candidate| {
            let (keep, reason) = if candidate.complete {
                let reasons = reasons(candidate);
                (!reasons.is_empty(), if reasons.is_empty() { "no rule keeps it".into() } else { reasons.join(", ") })
            } else if newest.is_some_and(|newest| *newest > candidate.name) {
                (false, "partial, and a newer complete one exists".into())
            } else {
                (true, "partial, and no newer complete one exists".into())
            };
            Decision { name: candidate.name.clone(), keep, reason }
        })
        .collect()
}

/// The newest backup of each period, newest first; every backup where there is no period.
fn kept_by<'a>(complete: &[&'a Candidate], period: Option<Period>) -> Vec<&'a Candidate> {
    let mut last = None;
    complete
        .iter()
        .copied()
        .filter(|b| {
            let Some(period) = period else { return true };
            let this = Some(period(b.name.created()));
            let first = this != last;
            last = this;
            first
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn backup(time: &str) -> Candidate {
        Candidate { name: format!("job-{time}").parse().expect("a name"), complete: true, scope: Vec::new(), drilled: false }
    }

    fn partial(time: &str) -> Candidate {
        Candidate { complete: false, ..backup(time) }
    }

    fn only(time: &str, component: &str) -> Candidate {
        Candidate { scope: vec![component.into()], ..backup(time) }
    }

    fn policy(set: impl FnOnce(&mut Policy)) -> Policy {
        let mut policy = Policy::default();
        set(&mut policy);
        policy
    }

    #[track_caller]
    fn check(policy: Policy, backups: &[Candidate], kept: &[&str]) {
        let now = "2026-06-01T00:00:00Z".parse().expect("a time");
        let plan = plan(&policy, backups, now);
        assert_eq!(plan.len(), backups.len());
        let got: Vec<String> = plan.iter().filter(|d| d.keep).map(|d| d.name.to_string().replacen("job-", "", 1)).collect();
        assert_eq!(got, kept, "{plan:#?}");
    }

    #[test]
    fn the_last_n_are_kept_newest_first() {
        let all = [backup("2026-01-01-000000"), backup("2026-01-03-000000"), backup("2026-01-02-000000")];
        check(policy(|p| p.last = NonZeroU32::new(2)), &all, &["2026-01-03-000000", "2026-01-02-000000"]);
        let now = "2026-06-01T00:00:00Z".parse().expect("a time");
        let reasons: Vec<String> = plan(&policy(|p| p.last = NonZeroU32::new(2)), &all, now).into_iter().map(|d| d.reason).collect();
        assert_eq!(reasons, ["newest complete, last 1 of 2", "last 2 of 2", "no rule keeps it"]);
    }

    #[test]
    fn partial_backups_neither_count_nor_outlive_a_newer_complete_one() {
        let all = [partial("2026-01-01-000000"), backup("2026-01-02-000000"), backup("2026-01-03-000000"), partial("2026-01-04-000000")];
        check(policy(|p| p.last = NonZeroU32::new(2)), &all, &["2026-01-04-000000", "2026-01-03-000000", "2026-01-02-000000"]);
        check(policy(|p| p.last = NonZeroU32::new(2)), &all[..1], &["2026-01-01-000000"]);
    }

    #[test]
    fn a_backup_of_one_component_never_pushes_out_a_whole_one() {
        let all = [backup("2026-01-01-000000"), only("2026-01-02-000000", "redis"), only("2026-01-03-000000", "redis")];
        check(policy(|p| p.last = NonZeroU32::new(1)), &all, &["2026-01-03-000000", "2026-01-01-000000"]);
    }

    #[test]
    fn a_backup_dated_in_the_future_pushes_out_nothing() {
        let all = [backup("2026-01-01-000000"), backup("2026-01-02-000000"), partial("2026-05-01-000000"), backup("2031-01-01-000000")];
        check(policy(|p| p.last = NonZeroU32::new(1)), &all, &["2031-01-01-000000", "2026-05-01-000000", "2026-01-02-000000"]);
    }

    #[test]
    fn each_period_keeps_its_newest() {
        let all = [
            backup("2025-12-31-230000"),
            backup("2026-01-01-000000"),
            backup("2026-01-01-120000"),
            backup("2026-01-01-123000"),
            backup("2026-02-01-000000"),
        ];
        check(policy(|p| p.hourly = NonZeroU32::new(2)), &all, &["2026-02-01-000000", "2026-01-01-123000"]);
        check(policy(|p| p.daily = NonZeroU32::new(3)), &all, &["2026-02-01-000000", "2026-01-01-123000", "2025-12-31-230000"]);
        // 31 December 2025 and 1 January 2026 lie in one ISO week
        check(policy(|p| p.weekly = NonZeroU32::new(9)), &all, &["2026-02-01-000000", "2026-01-01-123000"]);
        check(policy(|p| p.monthly = NonZeroU32::new(9)), &all, &["2026-02-01-000000", "2026-01-01-123000", "2025-12-31-230000"]);
        check(policy(|p| p.yearly = NonZeroU32::new(9)), &all, &["2026-02-01-000000", "2025-12-31-230000"]);
    }

    #[test]
    fn no_rule_keeps_everything() {
        check(Policy::default(), &[backup("2026-01-01-000000"), backup("2026-01-02-000000")], &["2026-01-02-000000", "2026-01-01-000000"]);
    }

    #[test]
    fn the_newest_that_passed_a_drill_is_kept_in_each_scope() {
        let drilled = |backup: Candidate| Candidate { drilled: true, ..backup };
        let all = [
            drilled(backup("2026-01-01-000000")),
            drilled(backup("2026-01-02-000000")),
            backup("2026-01-03-000000"),
            backup("2026-01-04-000000"),
            drilled(only("2026-01-05-000000", "redis")),
            only("2026-01-06-000000", "redis"),
            drilled(partial("2025-12-31-000000")),
        ];
        let one = policy(|p| p.last = NonZeroU32::new(1));
        check(one, &all, &["2026-01-06-000000", "2026-01-05-000000", "2026-01-04-000000", "2026-01-02-000000"]);
        let now = "2026-06-01T00:00:00Z".parse().expect("a time");
        let kept = plan(&one, &all, now).into_iter().find(|d| d.name == all[1].name).expect("decided");
        assert_eq!(kept.reason, "newest that passed a drill");
    }

    proptest! {
        #[test]
        fn whatever_the_policy_the_newest_complete_and_drilled_stay_and_the_last_n_stay(
            seconds in proptest::collection::btree_set(0i64..400_000_000, 1..40),
            complete in proptest::collection::vec(any::<bool>(), 40),
            drilled in proptest::collection::vec(any::<bool>(), 40),
            last in 0u32..6, daily in 0u32..6,
        ) {
            let all: Vec<Candidate> = seconds.iter().zip(complete).zip(drilled).map(|((s, complete), drilled)| Candidate {
                name: BackupName::new("job".parse().expect("a name"), DateTime::from_timestamp(1_600_000_000 + s, 0).expect("in range")),
                complete,
                scope: Vec::new(),
                drilled,
            }).collect();
            let policy = Policy { last: NonZeroU32::new(last), daily: NonZeroU32::new(daily), ..Policy::default() };
            let plan = plan(&policy, &all, DateTime::from_timestamp(2_000_000_000, 0).expect("in range"));
            let kept = |c: &Candidate| plan.iter().any(|d| d.keep && d.name == c.name);
            let wanted = all.iter().rev().filter(|c| c.complete).take(last.max(1) as usize);
            let proven = all.iter().rev().find(|c| c.complete && c.drilled);
            for candidate in wanted.chain(proven) {
                prop_assert!(kept(candidate));
            }
        }
    }
}
