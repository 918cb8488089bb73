//! What verifications and drills found of a backup, and what is known of it then (pure).
//!
//! A verdict is the name of an object beside the backups, so that one listing tells those of all of them:
//! `2026-01-31T030405Z_sound`, `…_damaged`, `…_drilled-42s`, `…_undrilled`.

use std::fmt;

use chrono::{DateTime, NaiveDateTime, Utc};

/// One verification or drill of one copy of a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    pub at: DateTime<Utc>,
    pub found: Found,
}

/// What it found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Every stored byte is as it was written.
    Sound,
    Damaged,
    /// It was restored as a whole, which took so long, and is what was backed up. That reads every byte, too.
    Drilled {
        seconds: u64,
    },
    /// It could not be restored, or what came out is not what was backed up.
    Undrilled,
}

impl Verdict {
    const FORMAT: &str = "%Y-%m-%dT%H%M%SZ";

    /// `None`: no verdict, or one of a later version.
    pub fn parse(text: &str) -> Option<Self> {
        let (at, word) = text.split_once('_')?;
        let at = NaiveDateTime::parse_from_str(at, Self::FORMAT).ok()?.and_utc();
        let found = match word {
            "sound" => Found::Sound,
            "damaged" => Found::Damaged,
            "undrilled" => Found::Undrilled,
            word => Found::Drilled { seconds: word.strip_prefix("drilled-")?.strip_suffix('s')?.parse().ok()? },
        };
        Some(Self { at, found })
    }

    /// Whether nothing that `earlier` says is still of use: a verification does not take back what a drill found, and a drill that failed
    /// does not take back that the bytes were once whole.
    pub fn outdates(&self, earlier: &Self) -> bool {
        match self.found {
            Found::Drilled { .. } => true,
            Found::Sound | Found::Damaged => !earlier.found.is_drill(),
            Found::Undrilled => earlier.found == Found::Undrilled,
        }
    }
}

impl Found {
    fn is_drill(self) -> bool {
        matches!(self, Self::Drilled { .. } | Self::Undrilled)
    }
}

/// As it is stored.
impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_", self.at.format(Self::FORMAT))?;
        match self.found {
            Found::Sound => f.write_str("sound"),
            Found::Damaged => f.write_str("damaged"),
            Found::Drilled { seconds } => write!(f, "drilled-{seconds}s"),
            Found::Undrilled => f.write_str("undrilled"),
        }
    }
}

/// What is known of one copy of a backup.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Known {
    /// The newest that says whether the stored bytes are whole.
    verification: Option<Verdict>,
    /// The newest that says whether it can be restored.
    drill: Option<Verdict>,
}

impl Known {
    /// Takes a verdict, in any order.
    pub fn add(&mut self, verdict: Verdict) {
        let newer = |known: Option<Verdict>| known.is_none_or(|known| known.at <= verdict.at);
        if verdict.found != Found::Undrilled && newer(self.verification) {
            self.verification = Some(verdict);
        }
        if verdict.found.is_drill() && newer(self.drill) {
            self.drill = Some(verdict);
        }
    }

    /// When all of it was last read back and found whole; `None` also when damage was found since.
    pub fn verified(&self) -> Option<DateTime<Utc>> {
        self.verification.filter(|v| v.found != Found::Damaged).map(|v| v.at)
    }

    pub fn is_damaged(&self) -> bool {
        self.verification.is_some_and(|v| v.found == Found::Damaged)
    }

    /// When it was last restored and found equal, and how many seconds that took; `None` also when a drill failed since.
    pub fn drilled(&self) -> Option<(DateTime<Utc>, u64)> {
        self.drill.and_then(|v| match v.found {
            Found::Drilled { seconds } => Some((v.at, seconds)),
            _ => None,
        })
    }

    /// When its last drill failed, if that did.
    pub fn drill_failed(&self) -> Option<DateTime<Utc>> {
        self.drill.filter(|v| v.found == Found::Undrilled).map(|v| v.at)
    }

    /// Whether it passed its last drill and no damage was found since.
    pub fn is_restorable(&self) -> bool {
        self.drilled().is_some() && !self.is_damaged()
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    const DRILLED: Found = Found::Drilled { seconds: 42 };
    const ALL: [Found; 4] = [Found::Sound, Found::Damaged, DRILLED, Found::Undrilled];

    /// The `day`-th verdict.
    fn verdict(day: i64, found: Found) -> Verdict {
        let first: DateTime<Utc> = "2026-01-31T03:04:05Z".parse().expect("a time");
        Verdict { at: first + TimeDelta::days(day), found }
    }

    fn known(verdicts: impl IntoIterator<Item = Verdict>) -> Known {
        let mut known = Known::default();
        verdicts.into_iter().for_each(|v| known.add(v));
        known
    }

    #[test]
    fn a_verdict_is_what_its_key_says() {
        for found in ALL {
            let verdict = verdict(0, found);
            assert_eq!(Verdict::parse(&verdict.to_string()), Some(verdict));
        }
        assert_eq!(verdict(0, DRILLED).to_string(), "2026-01-31T030405Z_drilled-42s");
        for text in ["", "2026-01-31T030405Z", "2026-01-31T030405Z_whole", "yesterday_sound", "2026-01-31T030405Z_drilled-s"] {
            assert_eq!(Verdict::parse(text), None, "{text}");
        }
    }

    #[test]
    fn the_newest_of_each_kind_counts_and_a_passed_drill_is_a_verification() {
        let at = |day| verdict(day, DRILLED).at;
        let passed = known([verdict(2, DRILLED), verdict(1, Found::Damaged)]);
        assert_eq!((passed.verified(), passed.drilled(), passed.is_restorable()), (Some(at(2)), Some((at(2), 42)), true));
        let read = known([verdict(1, DRILLED), verdict(2, Found::Sound)]);
        assert_eq!((read.verified(), read.drilled(), read.is_restorable()), (Some(at(2)), Some((at(1), 42)), true));
        let damaged = known([verdict(1, DRILLED), verdict(2, Found::Damaged)]);
        assert_eq!((damaged.verified(), damaged.is_damaged(), damaged.is_restorable()), (None, true, false));
        let failed = known([verdict(1, DRILLED), verdict(2, Found::Sound), verdict(3, Found::Undrilled)]);
        assert_eq!((failed.drilled(), failed.drill_failed(), failed.verified()), (None, Some(at(3)), Some(at(2))));
        assert!(!failed.is_restorable());
    }

    #[test]
    fn what_is_outdated_would_not_have_changed_what_is_known() {
        for earlier in ALL {
            for other in ALL {
                for newest in ALL {
                    let all = [verdict(1, earlier), verdict(2, other), verdict(3, newest)];
                    let kept = all.into_iter().filter(|v| *v == all[2] || !all[2].outdates(v));
                    assert_eq!(known(kept), known(all), "{earlier:?}, {other:?}, {newest:?}");
                }
            }
        }
    }
}
