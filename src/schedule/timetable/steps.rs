//! Any sequence of steps of the clock, suspends and restarts, against what is promised: each slot once, and the newest one never left out.

use std::collections::BTreeSet;

use chrono::TimeDelta;
use proptest::prelude::*;

use super::*;
use crate::clock::FixedClock;

/// What happens to a machine, in seconds.
#[derive(Debug, Clone, Copy)]
enum Event {
    /// Time passes; a suspend, or a step forward, is no different.
    Passes(i64),
    /// A correction.
    Nudged(i64),
    /// A step back that is none.
    SteppedBack(i64),
    /// No worker runs for that long; the next one catches up.
    Restarted(i64),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (1i64..600).prop_map(Event::Passes),
        3 => (600i64..86_400).prop_map(Event::Passes),
        1 => (86_400i64..20 * 86_400).prop_map(Event::Passes),
        3 => (1i64..=60).prop_map(Event::Nudged),
        1 => (61i64..3 * 86_400).prop_map(Event::SteppedBack),
        2 => (1i64..5 * 86_400).prop_map(Event::Restarted),
    ]
}

/// A worker with one job, as far as slots go.
struct Machine {
    clock: Arc<FixedClock>,
    schedule: Schedule,
    table: Table,
    triggers: mpsc::Receiver<Trigger>,
    served: BTreeSet<DateTime<Utc>>,
    /// Slots after this are the present worker's to serve.
    since: DateTime<Utc>,
    /// The latest time since the last step back.
    latest: DateTime<Utc>,
}

fn table(clock: &Arc<FixedClock>, schedule: &Schedule) -> (Table, mpsc::Receiver<Trigger>) {
    let (triggers, receiver) = mpsc::channel(8);
    let state = State { seen: clock.now(), rows: HashMap::new() };
    let table = Table { state: Arc::new(Mutex::new(state)), clock: clock.clone(), triggers };
    table.replace([("a".parse().expect("a name"), Errand::Backup, schedule.clone())]);
    (table, receiver)
}

impl Machine {
    fn new(schedule: Schedule) -> Self {
        let clock = Arc::new(FixedClock::at("2026-03-20T10:00:00Z".parse().expect("a time")));
        let (table, triggers) = table(&clock, &schedule);
        let now = clock.now();
        Self { clock, schedule, table, triggers, served: BTreeSet::new(), since: now, latest: now }
    }

    fn meets(&mut self, event: Event) -> Result<(), TestCaseError> {
        match event {
            Event::Passes(seconds) => self.clock.advance(TimeDelta::seconds(seconds)),
            Event::Nudged(seconds) => self.clock.advance(TimeDelta::seconds(-seconds)),
            Event::SteppedBack(seconds) => {
                self.clock.advance(TimeDelta::seconds(-seconds));
                // they lie ahead again, and are run when they come
                let now = self.clock.now();
                self.served.retain(|slot| *slot <= now);
                (self.since, self.latest) = (now, now);
            }
            Event::Restarted(seconds) => {
                self.clock.advance(self.latest - self.clock.now() + TimeDelta::seconds(seconds));
                (self.table, self.triggers) = table(&self.clock, &self.schedule);
                let now = self.clock.now();
                self.since = now;
                // as the worker does with what the targets tell
                if let Some(last) = self.served.last().copied()
                    && let Some(missed) = self.schedule.last_slot_between(last, now)
                {
                    self.since = last;
                    self.serve(missed)?;
                }
            }
        }
        self.latest = self.latest.max(self.clock.now());
        // several looks at one moment: the heartbeat is faster than any schedule
        let mut came = 0;
        for _ in 0..3 {
            for id in self.table.due() {
                self.table.fire(id);
            }
            while let Ok(trigger) = self.triggers.try_recv() {
                came += 1;
                self.serve(trigger.slot)?;
            }
        }
        prop_assert!(came <= 1, "{came} slots at once");
        let newest = self.schedule.previous_slot(self.clock.now()).filter(|slot| *slot > self.since);
        // an older one that was slept through is left out for good, also when a correction makes it the newest
        prop_assert!(newest.is_none_or(|slot| self.served.range(slot..).next().is_some()), "{newest:?} was left out");
        Ok(())
    }

    fn serve(&mut self, slot: DateTime<Utc>) -> Result<(), TestCaseError> {
        prop_assert!(slot <= self.clock.now(), "{slot} lies ahead");
        prop_assert!(self.schedule.previous_slot(slot) == Some(slot), "{slot} is no slot");
        prop_assert!(self.served.insert(slot), "{slot} was served twice");
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn each_slot_is_served_once_and_the_newest_is_never_left_out(
        schedule in prop_oneof![
            Just(("*/7 * * * *", "UTC")), Just(("0 3 * * *", "UTC")), Just(("30 2 * * *", "Europe/Berlin")),
            Just(("0 * * * *", "Europe/Berlin")), Just(("0 0 * * 0", "America/New_York")),
        ],
        events in prop::collection::vec(event(), 1..40)
    ) {
        let mut machine = Machine::new(Schedule::parse(schedule.0, schedule.1).expect("a schedule"));
        for event in events {
            machine.meets(event)?;
        }
    }
}
