//! When jobs run: cron expressions in a time zone, and the timetable that turns them into triggers.
//!
//! A slot is a moment at which a schedule fires. Slots are computed from the expression and the zone's rules each time they are asked
//! for, so that a change of the clocks moves them as the people of that zone expect:
//! - an expression that names hours (`30 2 * * *`, `0 2,14 * * *`, `*/15 1-3 * * *`) means times of the day. One that the change skips fires
//!   at the first moment after the gap, together with all others that fall into it; one that happens twice fires the first time.
//! - one that fires in every hour (`*/30 * * * *`) means intervals: it fires through both hours, and goes on after a gap.
//!
//! croner would take only a single hour, minute and second for a time of the day, and lose a skipped one where the gap ends on a day that
//! does not match (`30 23 * * SAT` where clocks go forward at midnight). So it is asked about the wall clock only, and the zone's rules are
//! applied here.

use std::fmt;

use chrono::{DateTime, MappedLocalTime, NaiveDateTime, SubsecRound, TimeZone, Utc};
use chrono_tz::{GapInfo, Tz};
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use thiserror::Error;

mod timetable;
#[cfg(test)]
mod zones;

pub use timetable::{Errand, Timetable, TimetableError, Trigger};

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
#[derive(Clone)]
pub struct Schedule {
    text: String,
    zone: Tz,
    cron: Cron,
    /// It fires in every hour.
    hourly: bool,
}

impl Schedule {
    /// Five fields, six with leading seconds, or one of `@hourly @daily @midnight @weekly @monthly @yearly @annually`.
    ///
    /// Day of month and day of week, when both are given, are joined by "or" as POSIX says (`crontab`, "Extended description").
    ///
    /// # Errors
    /// [`ScheduleError`], also for a schedule that never fires.
    pub fn parse(text: &str, zone: &str) -> Result<Self, ScheduleError> {
        let zone: Tz = zone.parse().map_err(|_| ScheduleError::Zone(zone.into()))?;
        let cron = CronParser::builder()
            .seconds(Seconds::Optional)
            .year(Year::Disallowed)
            .build()
            .parse(expand_nickname(text))
            .map_err(|e| ScheduleError::Cron(text.into(), e.to_string()))?;
        let hourly = (0..24).all(|hour| cron.pattern.hour_match(hour).unwrap_or(false));
        let schedule = Self { text: text.trim().into(), zone, cron, hourly };
        // years are not part of the expression: what does not fire after this moment never does
        if schedule.next_after(DateTime::UNIX_EPOCH).is_none() {
            return Err(ScheduleError::Never(text.into()));
        }
        Ok(schedule)
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    pub fn zone(&self) -> Tz {
        self.zone
    }

    /// The first slot after `after`.
    pub fn next_after(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let after = after.trunc_subsecs(0);
        if self.hourly {
            return self.cron.find_next_occurrence(&self.local(after), false).ok().map(|t| t.to_utc());
        }
        let mut wall = self.local(after).naive_local();
        loop {
            wall = self.cron.find_next_occurrence(&wall.and_utc(), false).ok()?.naive_utc();
            // in the second of two equal hours, what is named was in the first
            match self.instant(wall)? {
                slot if slot > after => return Some(slot),
                _ => {}
            }
        }
    }

    /// The first `count` slots after `after`.
    pub fn next_n(&self, after: DateTime<Utc>, count: usize) -> Vec<DateTime<Utc>> {
        std::iter::successors(self.next_after(after), |t| self.next_after(*t)).take(count).collect()
    }

    /// The newest slot that is not after `until`.
    pub fn previous_slot(&self, until: DateTime<Utc>) -> Option<DateTime<Utc>> {
        // with a fraction of a second croner finds one that is yet to come, where the first of two equal hours ends
        let until = until.trunc_subsecs(0);
        if self.hourly {
            return self.cron.find_previous_occurrence(&self.local(until), true).ok().map(|t| t.to_utc());
        }
        let mut wall = self.local(until).naive_local();
        if let MappedLocalTime::Ambiguous(first, second) = self.zone.from_local_datetime(&wall)
            && until >= second
        {
            // everything that the wall clock will show again has been
            wall += second - first;
        }
        let mut inclusive = true;
        loop {
            wall = self.cron.find_previous_occurrence(&wall.and_utc(), inclusive).ok()?.naive_utc();
            match self.instant(wall)? {
                slot if slot <= until => return Some(slot),
                _ => inclusive = false,
            }
        }
    }

    /// When the wall clock shows `wall`: the first time of two, and the end of the gap for what it never shows.
    fn instant(&self, wall: NaiveDateTime) -> Option<DateTime<Utc>> {
        match self.zone.from_local_datetime(&wall) {
            MappedLocalTime::Single(moment) | MappedLocalTime::Ambiguous(moment, _) => Some(moment.to_utc()),
            MappedLocalTime::None => GapInfo::new(&wall, &self.zone)?.end.map(|end| end.to_utc()),
        }
    }

    /// The newest slot after `after` and not after `until`: the one that a catch-up runs for.
    pub fn last_slot_between(&self, after: DateTime<Utc>, until: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.previous_slot(until).filter(|slot| *slot > after)
    }

    /// `moment` in the schedule's zone, with its offset: `2026-03-29 03:00:00 +02:00 Europe/Berlin`.
    pub fn show(&self, moment: DateTime<Utc>) -> String {
        format!("{} {}", self.local(moment).format("%Y-%m-%d %H:%M:%S %:z"), self.zone.name())
    }

    fn local(&self, moment: DateTime<Utc>) -> DateTime<Tz> {
        self.zone.from_utc_datetime(&moment.naive_utc())
    }
}

impl fmt::Debug for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Schedule({:?} {})", self.text, self.zone.name())
    }
}

impl PartialEq for Schedule {
    fn eq(&self, other: &Self) -> bool {
        (&self.text, self.zone) == (&other.text, other.zone)
    }
}

impl Eq for Schedule {}

/// croner knows the other nicknames of Vixie cron.
fn expand_nickname(text: &str) -> &str {
    if text.trim().eq_ignore_ascii_case("@midnight") { "@daily" } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::TimeDelta;

    fn utc(text: &str) -> DateTime<Utc> {
        text.parse().expect("a time in the test")
    }

    fn schedule(text: &str, zone: &str) -> Schedule {
        Schedule::parse(text, zone).expect("a schedule in the test")
    }

    /// The slots after `from`, told in the zone.
    fn check(text: &str, zone: &str, from: &str, expected: &[&str]) {
        let schedule = schedule(text, zone);
        let slots: Vec<_> = schedule.next_n(utc(from), expected.len()).into_iter().map(|t| schedule.local(t).to_rfc3339()).collect();
        assert_eq!(slots, expected, "{text} {zone}");
    }

    #[test]
    fn five_fields_six_fields_and_nicknames() {
        let from = "2026-01-01T10:00:00Z";
        check("0 0 * * *", "UTC", from, &["2026-01-02T00:00:00+00:00", "2026-01-03T00:00:00+00:00"]);
        check("*/20 * * * * *", "UTC", from, &["2026-01-01T10:00:20+00:00", "2026-01-01T10:00:40+00:00"]);
        check("@hourly", "UTC", from, &["2026-01-01T11:00:00+00:00"]);
        check("@daily", "Asia/Kolkata", from, &["2026-01-02T00:00:00+05:30"]);
        check("@midnight", "UTC", from, &["2026-01-02T00:00:00+00:00"]);
        check(" @Midnight ", "UTC", from, &["2026-01-02T00:00:00+00:00"]);
        check("@weekly", "UTC", from, &["2026-01-04T00:00:00+00:00"]);
        check("@monthly", "UTC", from, &["2026-02-01T00:00:00+00:00"]);
        check("@yearly", "UTC", from, &["2027-01-01T00:00:00+00:00"]);
        check("@annually", "UTC", from, &["2027-01-01T00:00:00+00:00"]);
    }

    #[test]
    fn day_of_month_and_day_of_week_are_joined_by_or() {
        let days = ["2026-06-01T02:00:00+00:00", "2026-06-08T02:00:00+00:00", "2026-06-15T02:00:00+00:00"];
        check("0 2 1 * MON", "UTC", "2026-05-30T00:00:00Z", &days);
        check("0 2 1 * MON", "UTC", "2026-06-29T12:00:00Z", &["2026-07-01T02:00:00+00:00", "2026-07-06T02:00:00+00:00"]);
    }

    #[test]
    fn what_is_no_schedule_is_refused_with_the_text_in_the_message() {
        for bad in ["", "   ", "0 0 * *", "0 0 0 * * * 2026", "61 * * * *", "0 24 * * *", "every day", "@reboot", "0 0 * * * * * *"] {
            let e = Schedule::parse(bad, "UTC").expect_err(bad);
            assert!(matches!(e, ScheduleError::Cron(..)), "{bad}: {e}");
            assert!(e.to_string().starts_with(&format!("`{bad}`")), "{e}");
        }
        for zone in ["", "Mars/Olympus", "CEST", "+02:00"] {
            assert!(matches!(Schedule::parse("@daily", zone), Err(ScheduleError::Zone(_))), "{zone}");
        }
    }

    #[test]
    fn a_schedule_that_never_fires_is_refused() {
        for never in ["0 0 30 2 *", "0 0 31 4,6,9,11 *", "0 0 0 31 2 *"] {
            assert!(matches!(Schedule::parse(never, "Europe/Berlin"), Err(ScheduleError::Never(_))), "{never}");
        }
        check("0 0 29 2 *", "UTC", "2026-01-01T00:00:00Z", &["2028-02-29T00:00:00+00:00", "2032-02-29T00:00:00+00:00"]);
    }

    #[test]
    fn a_time_in_the_gap_fires_at_the_first_moment_after_it() {
        let days = ["2026-03-28T02:30:00+01:00", "2026-03-29T03:00:00+02:00", "2026-03-30T02:30:00+02:00"];
        check("30 2 * * *", "Europe/Berlin", "2026-03-27T12:00:00Z", &days);
    }

    #[test]
    fn a_fixed_time_in_the_overlap_fires_once() {
        let days = ["2026-10-24T02:30:00+02:00", "2026-10-25T02:30:00+02:00", "2026-10-26T02:30:00+01:00"];
        check("30 2 * * *", "Europe/Berlin", "2026-10-23T12:00:00Z", &days);
    }

    #[test]
    fn an_interval_fires_through_both_hours_of_the_overlap_and_jumps_the_gap() {
        let overlap = [
            "2026-10-25T02:00:00+02:00",
            "2026-10-25T02:30:00+02:00",
            "2026-10-25T02:00:00+01:00",
            "2026-10-25T02:30:00+01:00",
            "2026-10-25T03:00:00+01:00",
        ];
        check("*/30 * * * *", "Europe/Berlin", "2026-10-24T23:45:00Z", &overlap);
        let gap = ["2026-03-29T01:30:00+01:00", "2026-03-29T03:00:00+02:00", "2026-03-29T03:30:00+02:00"];
        check("*/30 * * * *", "Europe/Berlin", "2026-03-29T00:15:00Z", &gap);
    }

    #[test]
    fn every_day_of_two_years_has_exactly_one_slot() {
        for (text, zone) in [("30 2 * * *", "Europe/Berlin"), ("30 1 * * *", "America/New_York"), ("15 2 * * *", "Australia/Lord_Howe")] {
            let schedule = schedule(text, zone);
            let slots = schedule.next_n(utc("2026-01-01T12:00:00Z"), 730);
            let days: std::collections::BTreeSet<_> = slots.iter().map(|t| schedule.local(*t).date_naive()).collect();
            assert_eq!(days.len(), 730, "{text} {zone}");
            let span = *days.last().expect("730 days") - *days.first().expect("730 days");
            assert_eq!(span.num_days(), 729, "{text} {zone}");
        }
    }

    #[test]
    fn the_previous_slot_is_the_last_one_that_next_after_gave() {
        let texts = ["30 2 * * *", "*/30 * * * *", "0 3 * * *", "0 2 1 * MON", "*/7 1-3 * * *", "15,45 2 * * SUN"];
        for zone in ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"] {
            for text in texts {
                let schedule = schedule(text, zone);
                for month in ["2026-03-07T00:00:00Z", "2026-03-27T00:00:00Z", "2026-10-23T00:00:00Z", "2026-10-31T00:00:00Z"] {
                    for pair in schedule.next_n(utc(month), 200).windows(2) {
                        let just_before = pair[1] - TimeDelta::milliseconds(1);
                        assert_eq!(schedule.previous_slot(pair[0]), Some(pair[0]), "at a slot of {text} {zone}");
                        assert_eq!(schedule.previous_slot(just_before), Some(pair[0]), "before {} of {text} {zone}", pair[1]);
                    }
                }
            }
        }
    }

    #[test]
    fn fractions_of_a_second_neither_repeat_nor_lose_a_slot() {
        let daily = schedule("@daily", "UTC");
        let midnight = utc("2026-01-02T00:00:00Z");
        assert_eq!(daily.next_after(midnight - TimeDelta::nanoseconds(1)), Some(midnight));
        assert_eq!(daily.next_after(midnight), Some(midnight + TimeDelta::days(1)));
        assert_eq!(daily.next_after(midnight + TimeDelta::nanoseconds(1)), Some(midnight + TimeDelta::days(1)));
        assert_eq!(daily.previous_slot(midnight + TimeDelta::nanoseconds(1)), Some(midnight));
        assert_eq!(daily.previous_slot(midnight - TimeDelta::nanoseconds(1)), Some(midnight - TimeDelta::days(1)));
    }

    #[test]
    fn only_the_newest_missed_slot_is_named() {
        let daily = schedule("0 3 * * *", "Europe/Berlin");
        let last_run = utc("2026-06-01T01:00:07Z");
        assert_eq!(daily.last_slot_between(last_run, utc("2026-06-02T00:59:59Z")), None);
        assert_eq!(daily.last_slot_between(last_run, utc("2026-06-02T01:00:00Z")), Some(utc("2026-06-02T01:00:00Z")));
        assert_eq!(daily.last_slot_between(last_run, utc("2026-06-09T17:00:00Z")), Some(utc("2026-06-09T01:00:00Z")));
    }

    #[test]
    fn a_moment_is_shown_in_the_zone_with_its_offset() {
        let berlin = schedule("@daily", "Europe/Berlin");
        assert_eq!(berlin.show(utc("2026-03-29T01:00:00Z")), "2026-03-29 03:00:00 +02:00 Europe/Berlin");
    }
}
