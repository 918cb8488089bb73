//! Slots as they come out of a running timetable.

use std::time::Duration;

use super::*;
use crate::clock::FixedClock;
use tokio::time::timeout;

fn utc(text: &str) -> DateTime<Utc> {
    text.parse().expect("a time in the test")
}

fn job(name: &str, cron: &str, zone: &str) -> (JobName, Errand, Schedule) {
    (name.parse().expect("a name"), Errand::Backup, Schedule::parse(cron, zone).expect("a schedule"))
}

async fn next(receiver: &mut mpsc::Receiver<Trigger>) -> (String, DateTime<Utc>) {
    let trigger = timeout(Duration::from_secs(30), receiver.recv()).await.expect("a trigger in time").expect("a running timetable");
    (trigger.job.to_string(), trigger.slot)
}

/// Waits until the timetable has looked at the clock as it stands now, so that "no trigger" means "none was made".
async fn looked(timetable: &Timetable, clock: &FixedClock) {
    clock.advance(TimeDelta::milliseconds(1));
    let now = clock.now();
    timeout(Duration::from_secs(30), async {
        while timetable.table.lock().seen != now {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("a heartbeat");
}

async fn started(now: &str, jobs: Vec<(JobName, Errand, Schedule)>) -> (Arc<FixedClock>, Timetable, mpsc::Receiver<Trigger>) {
    let clock = Arc::new(FixedClock::at(utc(now)));
    let (timetable, receiver) = Timetable::start(jobs, clock.clone()).await.expect("a timetable");
    (clock, timetable, receiver)
}

#[tokio::test]
async fn a_thousand_jobs_at_one_instant_all_fire_once() {
    let jobs = (0..1000).map(|n| job(&format!("job-{n}"), "0 3 * * *", "UTC")).collect();
    let (clock, timetable, mut receiver) = started("2026-06-01T02:59:59Z", jobs).await;
    clock.advance(TimeDelta::seconds(1));
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..1000 {
        let (job, slot) = next(&mut receiver).await;
        assert_eq!(slot, utc("2026-06-01T03:00:00Z"));
        assert!(seen.insert(job), "fired twice");
    }
    looked(&timetable, &clock).await;
    looked(&timetable, &clock).await;
    assert!(receiver.try_recv().is_err(), "fired twice");
}

#[tokio::test]
async fn an_activation_that_a_full_channel_lost_is_made_again() {
    let jobs = (0..40).map(|n| job(&format!("job-{n}"), "0 3 * * *", "UTC")).collect();
    let clock = Arc::new(FixedClock::at(utc("2026-06-01T03:00:00Z") - TimeDelta::seconds(1)));
    let (timetable, mut receiver) = Timetable::start_with(jobs, clock.clone(), 4).await.expect("a timetable");
    clock.advance(TimeDelta::seconds(1));
    // the triggers of a heartbeat are made before the next one looks: two heartbeats offer more than the queue holds
    for _ in 0..4 {
        looked(&timetable, &clock).await;
    }
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..40 {
        assert!(seen.insert(next(&mut receiver).await.0), "fired twice");
    }
}

#[tokio::test]
async fn the_hour_follows_the_zone_through_a_change_of_the_clocks() {
    let (clock, _timetable, mut receiver) = started("2026-03-28T01:29:59Z", vec![job("a", "30 2 * * *", "Europe/Berlin")]).await;
    for slot in ["2026-03-28T01:30:00Z", "2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"] {
        clock.advance(utc(slot) - clock.now());
        assert_eq!(next(&mut receiver).await, ("a".into(), utc(slot)));
    }
}

#[tokio::test]
async fn a_clock_that_steps_far_back_does_not_stall_the_jobs() {
    let (clock, timetable, mut receiver) = started("2030-06-01T02:59:59Z", vec![job("a", "0 3 * * *", "UTC")]).await;
    clock.advance(TimeDelta::seconds(1));
    assert_eq!(next(&mut receiver).await.1, utc("2030-06-01T03:00:00Z"));
    clock.advance(utc("2026-06-01T12:00:00Z") - clock.now());
    looked(&timetable, &clock).await;
    clock.advance(utc("2026-06-02T03:00:00Z") - clock.now());
    assert_eq!(next(&mut receiver).await.1, utc("2026-06-02T03:00:00Z"));
}

#[tokio::test]
async fn a_clock_that_is_corrected_by_seconds_does_not_repeat_a_slot() {
    let (clock, timetable, mut receiver) = started("2026-06-01T02:59:59Z", vec![job("a", "0 3 * * *", "UTC")]).await;
    clock.advance(TimeDelta::seconds(1));
    next(&mut receiver).await;
    looked(&timetable, &clock).await;
    clock.advance(TimeDelta::seconds(-5));
    looked(&timetable, &clock).await;
    clock.advance(TimeDelta::seconds(10));
    looked(&timetable, &clock).await;
    looked(&timetable, &clock).await;
    assert!(receiver.try_recv().is_err(), "the slot fired again");
}

#[tokio::test]
async fn of_several_slots_slept_through_only_the_newest_fires() {
    let (clock, timetable, mut receiver) = started("2026-06-01T12:00:00Z", vec![job("a", "0 3 * * *", "UTC")]).await;
    clock.advance(TimeDelta::days(4));
    assert_eq!(next(&mut receiver).await.1, utc("2026-06-05T03:00:00Z"));
    looked(&timetable, &clock).await;
    looked(&timetable, &clock).await;
    assert!(receiver.try_recv().is_err(), "an older slot fired too");
}

#[tokio::test]
async fn replaced_jobs_keep_a_slot_that_has_just_come_and_removed_ones_do_not_fire() {
    let jobs = || vec![job("kept", "0 3 * * *", "UTC"), job("removed", "0 3 * * *", "UTC"), job("moved", "0 3 * * *", "UTC")];
    let (clock, timetable, mut receiver) = started("2026-06-01T02:59:59Z", jobs()).await;
    let other = vec![job("kept", "0 3 * * *", "UTC"), job("moved", "0 4 * * *", "UTC"), job("new", "30 3 * * *", "UTC")];
    clock.advance(TimeDelta::seconds(1));
    timetable.replace(other);
    assert_eq!(next(&mut receiver).await, ("kept".into(), utc("2026-06-01T03:00:00Z")));
    clock.advance(TimeDelta::minutes(30));
    assert_eq!(next(&mut receiver).await, ("new".into(), utc("2026-06-01T03:30:00Z")));
    assert_eq!(timetable.next(&"moved".parse().expect("a name")), Some(utc("2026-06-01T04:00:00Z")));
    assert_eq!(timetable.next(&"removed".parse().expect("a name")), None);
}

#[tokio::test]
async fn nothing_fires_after_stop() {
    let (clock, timetable, mut receiver) = started("2026-06-01T02:59:59Z", vec![job("a", "0 3 * * *", "UTC")]).await;
    let table = timetable.table.clone();
    timetable.stop().await;
    clock.advance(TimeDelta::seconds(1));
    assert_eq!(table.due(), Vec::<Uuid>::new());
    assert!(receiver.try_recv().is_err());
}
