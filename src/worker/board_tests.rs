//! Tests of [`super`]: what is claimed, what waits, what is overdue.

use super::*;
use crate::schedule::Schedule;

fn utc(text: &str) -> DateTime<Utc> {
    format!("2026-06-{text}Z").parse().expect("a time in the test")
}

fn name() -> JobName {
    "a".parse().expect("a name")
}

fn plan(timeout: Option<Duration>, jitter: Duration) -> PlannedJob {
    let schedule = Some(Schedule::parse("0 3 * * *", "UTC").expect("a schedule"));
    PlannedJob { name: name(), schedule, copies: false, follows: Vec::new(), drill: None, catch_up: true, jitter, timeout }
}

/// A board of one daily job (03:00), begun on the first of June at noon.
fn board() -> Board {
    Board::new(vec![plan(None, Duration::ZERO)], utc("01T12:00:00"))
}

fn run(board: &mut Board, slot: &str, outcome: RunOutcome) {
    assert_eq!(board.claim(&name(), Errand::Backup, utc(slot), utc(slot)), Claim::Begins);
    board.ended(&name(), outcome, utc(slot) + TimeDelta::minutes(5));
}

fn reasons(board: &Board, now: &str) -> String {
    board.report(utc(now)).reasons.join("; ")
}

#[test]
fn a_job_without_backups_is_overdue_an_hour_after_its_first_slot() {
    let board = board();
    assert_eq!(reasons(&board, "02T03:59:59"), "");
    assert_eq!(reasons(&board, "02T04:00:00"), "job `a`: overdue, no complete backup since its slot of 2026-06-02T03:00:00Z");
}

#[test]
fn a_job_whose_last_backup_is_older_than_its_newest_slot_is_overdue() {
    let mut board = board();
    board.asked(&name(), Ok(Some(utc("01T02:00:00"))));
    assert!(reasons(&board, "01T12:00:00").contains("overdue"));
    board.asked(&name(), Ok(Some(utc("01T03:00:01"))));
    assert_eq!(reasons(&board, "01T12:00:00"), "");
}

#[test]
fn the_grace_is_the_timeout_and_the_jitter() {
    let plans = vec![plan(Some(Duration::from_secs(600)), Duration::from_secs(60))];
    let board = Board::new(plans, utc("01T12:00:00"));
    assert_eq!(reasons(&board, "02T03:10:59"), "");
    assert!(reasons(&board, "02T03:11:00").contains("overdue"));
}

#[test]
fn a_long_run_is_not_overdue_until_the_next_slot_has_passed_too() {
    let mut board = board();
    board.claim(&name(), Errand::Backup, utc("02T03:00:00"), utc("02T03:00:00"));
    assert_eq!(reasons(&board, "02T23:00:00"), "");
    assert!(reasons(&board, "03T04:00:00").contains("overdue"));
}

#[test]
fn a_failed_or_incomplete_run_is_failing_until_a_complete_one() {
    for outcome in [RunOutcome::Failed("no route".into()), RunOutcome::Incomplete("no route".into())] {
        let mut board = board();
        let word = outcome.word();
        run(&mut board, "02T03:00:00", outcome);
        assert_eq!(reasons(&board, "02T03:06:00"), format!("job `a`: the last run is {word}: no route"));
        run(&mut board, "03T03:00:00", RunOutcome::Complete);
        assert_eq!(reasons(&board, "03T12:00:00"), "");
    }
}

#[test]
fn a_failed_run_does_not_mark_its_slot_done() {
    let mut board = board();
    run(&mut board, "02T03:00:00", RunOutcome::Failed("x".into()));
    assert!(reasons(&board, "02T04:00:00").contains("overdue"));
    assert_eq!(board.last_complete(&name()), None);
}

#[test]
fn a_backup_made_by_hand_mends_a_failing_job() {
    let mut board = board();
    run(&mut board, "02T03:00:00", RunOutcome::Failed("x".into()));
    assert_eq!(board.doubtful(utc("02T03:06:00")), [name()]);
    board.asked(&name(), Ok(Some(utc("02T09:00:00"))));
    assert_eq!(reasons(&board, "02T12:00:00"), "");
    assert!(board.doubtful(utc("02T12:00:00")).is_empty());
}

#[test]
fn busy_is_no_failure() {
    let mut board = board();
    run(&mut board, "02T03:00:00", RunOutcome::Busy);
    assert_eq!(reasons(&board, "02T03:30:00"), "");
    assert!(reasons(&board, "02T04:30:00").contains("overdue"));
}

#[test]
fn targets_that_cannot_be_asked_are_a_reason() {
    let mut board = board();
    board.asked(&name(), Err("connection refused".into()));
    assert_eq!(reasons(&board, "01T12:01:00"), "job `a`: its last backup cannot be found out: connection refused");
    board.asked(&name(), Ok(None));
    assert_eq!(reasons(&board, "01T12:01:00"), "");
}

#[test]
fn a_removed_job_is_neither_reported_nor_planned_but_its_run_is_known() {
    let mut board = board();
    board.claim(&name(), Errand::Backup, utc("02T03:00:00"), utc("02T03:00:00"));
    board.replace(Vec::new());
    assert!(board.plan(&name()).is_none() && board.running() == [&name()]);
    assert!(board.report(utc("05T03:00:00")).ready);
    board.replace(vec![plan(None, Duration::ZERO)]);
    assert_eq!(board.running(), [&name()], "a job that came back still runs");
    board.replace(Vec::new());
    board.ended(&name(), RunOutcome::Complete, utc("02T03:10:00"));
    assert!(board.running().is_empty());
}
fn drill(board: &mut Board, slot: &str, outcome: DrillOutcome) {
    assert_eq!(board.claim(&name(), Errand::Drill, utc(slot), utc(slot)), Claim::Begins);
    board.drilled(&name(), outcome, utc(slot) + TimeDelta::seconds(42));
}

#[test]
fn a_drill_that_failed_is_an_alert_until_one_passes() {
    let backup = || "a-2026-06-02-030000".parse().expect("a name");
    for (outcome, words) in
        [(DrillOutcome::Failed("no".into()), "failed: no"), (DrillOutcome::Unable("no".into()), "could not be carried out: no")]
    {
        let mut board = board();
        drill(&mut board, "01T13:00:00", outcome);
        let report = board.report(utc("01T14:00:00"));
        assert_eq!(report.reasons, [format!("job `a`: the last drill {words}")]);
        assert!(report.jobs[0].failing && report.jobs[0].last_drill_seconds == Some(42), "{report:?}");
        // neither says that the backup can be restored
        drill(&mut board, "01T15:00:00", DrillOutcome::Cancelled);
        drill(&mut board, "01T16:00:00", DrillOutcome::NoBackup);
        assert!(!board.report(utc("01T17:00:00")).ready);
        drill(&mut board, "01T18:00:00", DrillOutcome::Passed(backup()));
        assert!(board.report(utc("01T19:00:00")).ready);
    }
}

#[test]
fn a_backup_and_a_drill_wait_for_each_other_and_the_backup_goes_first() {
    let mut board = board();
    let at = |hour: u32| utc(&format!("02T{hour:02}:00:00"));
    assert_eq!(board.claim(&name(), Errand::Drill, at(2), at(2)), Claim::Begins);
    assert_eq!(board.next_waiting(&name()), None);
    assert_eq!(board.claim(&name(), Errand::Backup, at(3), at(3)), Claim::Waits);
    assert_eq!(board.claim(&name(), Errand::Drill, at(4), at(4)), Claim::LeftOut);
    assert_eq!(board.next_waiting(&name()), None, "the drill goes on");
    assert!(reasons(&board, "02T04:00:00").contains("overdue"), "a drill is no backup");
    board.drilled(&name(), DrillOutcome::NoBackup, at(5));
    assert_eq!(board.next_waiting(&name()), Some((Errand::Backup, at(3))));
    assert_eq!(board.claim(&name(), Errand::Backup, at(3), at(5)), Claim::Begins);
    assert_eq!(board.claim(&name(), Errand::Drill, at(6), at(6)), Claim::Waits);
    assert_eq!(board.claim(&name(), Errand::Backup, at(7), at(7)), Claim::LeftOut);
    board.ended(&name(), RunOutcome::Complete, at(8));
    assert_eq!(board.next_waiting(&name()), Some((Errand::Drill, at(6))));
    assert_eq!(board.next_waiting(&name()), None, "once");
}

#[test]
fn what_a_job_that_copies_has_failed_at_only_a_run_of_its_own_mends() {
    let copying = PlannedJob { copies: true, ..plan(None, Duration::ZERO) };
    let mut board = Board::new(vec![copying], utc("01T12:00:00"));
    run(&mut board, "02T03:00:00", RunOutcome::Incomplete("one is damaged".into()));
    board.asked(&name(), Ok(Some(utc("02T03:20:00"))));
    assert!(reasons(&board, "02T03:30:00").contains("one is damaged"));
    run(&mut board, "02T03:30:00", RunOutcome::Busy);
    assert!(reasons(&board, "02T03:40:00").contains("one is damaged"));
    run(&mut board, "02T03:50:00", RunOutcome::Complete);
    assert_eq!(reasons(&board, "02T04:10:00"), "");
}
