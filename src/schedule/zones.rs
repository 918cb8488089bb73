//! Every change of the clocks in every zone of the tz database from 2026 to 2036: each slot comes exactly once, when a second, plainer way of
//! finding it says so. That one walks through real time minute by minute and looks at the wall clock.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Datelike, NaiveDate, Offset, TimeDelta, TimeZone, Timelike, Utc, Weekday};
use chrono_tz::{TZ_VARIANTS, Tz};

use super::Schedule;

/// A schedule, spelt out.
struct Spelt {
    cron: &'static str,
    days: fn(NaiveDate) -> bool,
    /// Empty: all.
    hours: &'static [u32],
    minutes: &'static [u32],
}

fn daily(_: NaiveDate) -> bool {
    true
}

const SPELT: &[Spelt] = &[
    Spelt { cron: "0 0 * * *", days: daily, hours: &[0], minutes: &[0] },
    Spelt { cron: "30 2 * * *", days: daily, hours: &[2], minutes: &[30] },
    Spelt { cron: "59 23 * * *", days: daily, hours: &[23], minutes: &[59] },
    Spelt { cron: "15 1,2,13 * * *", days: daily, hours: &[1, 2, 13], minutes: &[15] },
    Spelt { cron: "*/20 0-3 * * *", days: daily, hours: &[0, 1, 2, 3], minutes: &[0, 20, 40] },
    Spelt { cron: "0 */6 * * *", days: daily, hours: &[0, 6, 12, 18], minutes: &[0] },
    Spelt { cron: "7 * * * *", days: daily, hours: &[], minutes: &[7] },
    Spelt { cron: "*/30 * * * *", days: daily, hours: &[], minutes: &[0, 30] },
    Spelt { cron: "30 23 * * SAT", days: |day| day.weekday() == Weekday::Sat, hours: &[23], minutes: &[30] },
    Spelt { cron: "0 0 * * SUN", days: |day| day.weekday() == Weekday::Sun, hours: &[0], minutes: &[0] },
    Spelt {
        cron: "30 2 1-7,25-31 3,10 *",
        days: |day| [3, 10].contains(&day.month()) && !(8..25).contains(&day.day()),
        hours: &[2],
        minutes: &[30],
    },
];

/// What is looked at, before and after a change.
const AROUND: TimeDelta = TimeDelta::hours(36);

/// A minute and what the wall clock shows in it.
type Minute = (DateTime<Utc>, chrono::NaiveDateTime);

impl Spelt {
    /// Its slots among `minutes`, which follow each other.
    fn slots(&self, minutes: &[Minute]) -> BTreeSet<DateTime<Utc>> {
        if self.hours.is_empty() {
            let shows = |wall: &chrono::NaiveDateTime| (self.days)(wall.date()) && self.minutes.contains(&wall.minute());
            return minutes.iter().filter(|(_, wall)| shows(wall)).map(|(at, _)| *at).collect();
        }
        let days: BTreeSet<NaiveDate> = minutes.iter().map(|(_, wall)| wall.date()).collect();
        let mut slots = BTreeSet::new();
        for day in days.into_iter().filter(|day| (self.days)(*day)) {
            for (hour, minute) in self.hours.iter().flat_map(|hour| self.minutes.iter().map(move |minute| (*hour, *minute))) {
                let wanted = day.and_hms_opt(hour, minute, 0).expect("a time");
                // the first minute in which the wall clock shows this or has passed it; no change is of three hours
                let skipped = (wanted - minutes[0].1).num_minutes() - 180;
                let mut near = minutes.iter().skip(usize::try_from(skipped).unwrap_or(0));
                slots.extend(near.find(|(_, wall)| *wall >= wanted).map(|(at, _)| *at));
            }
        }
        slots
    }
}

fn utc(year: i32) -> DateTime<Utc> {
    Utc.with_ymd_and_hms(year, 1, 1, 0, 0, 0).single().expect("a time")
}

fn offset(zone: Tz, at: DateTime<Utc>) -> i32 {
    zone.offset_from_utc_datetime(&at.naive_utc()).fix().local_minus_utc()
}

/// The moments from which on another offset is in force.
fn changes(zone: Tz) -> Vec<DateTime<Utc>> {
    let (mut at, step) = (utc(2026), TimeDelta::hours(12));
    let mut changes = Vec::new();
    while at < utc(2037) {
        let (mut before, mut after) = (at, at + step);
        if offset(zone, before) != offset(zone, after) {
            while after - before > TimeDelta::seconds(1) {
                let middle = before + (after - before) / 2;
                if offset(zone, middle) == offset(zone, before) { before = middle } else { after = middle }
            }
            changes.push(after.with_nanosecond(0).expect("a time"));
        }
        at += step;
    }
    changes
}

#[test]
fn each_slot_comes_exactly_once_over_every_change_of_the_clocks_until_2036() {
    // zones that have changed alike since are one here
    let mut alike: BTreeMap<Vec<(DateTime<Utc>, i32, i32)>, Tz> = BTreeMap::new();
    for zone in TZ_VARIANTS {
        let changes = changes(zone);
        let key = |at: &DateTime<Utc>| (*at, offset(zone, *at - TimeDelta::seconds(1)), offset(zone, *at));
        if !changes.is_empty() {
            alike.entry(changes.iter().map(key).collect()).or_insert(zone);
        }
    }
    let mut tried = 0;
    // an odd number: of every zone some changes forward and some back
    let every = if std::env::var_os("BACKSTAY_THOROUGH").is_some() { 1 } else { 3 };
    for (changes, zone) in &alike {
        for (change, ..) in changes.iter().step_by(every) {
            tried += 1;
            // a day and a half on either side; the first day is of no use to those that look back
            let from = *change - AROUND;
            let minutes: Vec<Minute> = (0..72 * 60)
                .map(|minute| from + TimeDelta::minutes(minute))
                .map(|at| (at, zone.from_utc_datetime(&at.naive_utc()).naive_local()))
                .collect();
            for spelt in SPELT {
                check(spelt, *zone, &minutes, *change);
            }
        }
    }
    assert!(alike.len() >= 25 && tried * every >= 600, "{} zones, {tried} changes", alike.len());
}

fn check(spelt: &Spelt, zone: Tz, minutes: &[Minute], change: DateTime<Utc>) {
    let schedule = Schedule::parse(spelt.cron, zone.name()).expect("a schedule");
    // the day on which the minutes begin has lost its first hours
    let (begin, to) = (change - TimeDelta::hours(12), change + AROUND);
    let expected: Vec<_> = spelt.slots(minutes).into_iter().filter(|at| *at > begin && *at < to).collect();
    let slots = std::iter::successors(schedule.next_after(begin), |at| schedule.next_after(*at));
    let slots: Vec<_> = slots.take_while(|at| *at < to).collect();
    assert_eq!(slots, expected, "{} in {}", spelt.cron, zone.name());
    let near = |pair: &&[DateTime<Utc>]| pair[1] >= change - TimeDelta::hours(3) && pair[0] <= change + TimeDelta::hours(3);
    for pair in slots.windows(2).filter(near) {
        assert_eq!(schedule.previous_slot(pair[0]), Some(pair[0]), "at a slot of {} in {}", spelt.cron, zone.name());
        let middle = pair[0] + (pair[1] - pair[0]) / 2;
        for at in [pair[0] + TimeDelta::milliseconds(1), middle, pair[1] - TimeDelta::milliseconds(1)] {
            assert_eq!(schedule.previous_slot(at), Some(pair[0]), "at {at} of {} in {}", spelt.cron, zone.name());
            assert_eq!(schedule.next_after(at), Some(pair[1]), "at {at} of {} in {}", spelt.cron, zone.name());
        }
    }
}
