//! A moment as it is typed: `2026-11-20`, `2026-11-20 03:00`, RFC 3339, or how long ago it was: `2h`, `3d ago`.

use std::str::FromStr;

use chrono::{DateTime, NaiveDate, NaiveDateTime, TimeDelta, Utc};

/// Forms of a moment without an offset, which is in UTC, as everything that is printed.
const FORMS: [&str; 4] = ["%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"];

/// A moment, or how long ago.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moment {
    At(DateTime<Utc>),
    Ago(TimeDelta),
}

impl Moment {
    /// The moment itself.
    pub(super) fn at(self, now: DateTime<Utc>) -> DateTime<Utc> {
        match self {
            Self::At(at) => at,
            Self::Ago(span) => now.checked_sub_signed(span).unwrap_or(DateTime::<Utc>::MIN_UTC),
        }
    }
}

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        if let Ok(at) = DateTime::parse_from_rfc3339(text) {
            return Ok(Self::At(at.to_utc()));
        }
        let naive = text.strip_suffix("UTC").map_or(text, str::trim_end);
        if let Some(at) = FORMS.iter().find_map(|form| NaiveDateTime::parse_from_str(naive, form).ok()) {
            return Ok(Self::At(at.and_utc()));
        }
        if let Some(at) = NaiveDate::parse_from_str(naive, "%Y-%m-%d").ok().and_then(|day| day.and_hms_opt(0, 0, 0)) {
            return Ok(Self::At(at.and_utc()));
        }
        let span = text.strip_suffix("ago").map_or(text, str::trim_end);
        let span = humantime::parse_duration(span).ok().and_then(|span| TimeDelta::from_std(span).ok());
        span.map(Self::Ago).ok_or_else(|| "a moment is 2026-11-20, \"2026-11-20 03:00\" (UTC), 2026-11-20T03:00:00+01:00, or 3d, 2h".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_understood_as_they_are_typed() {
        let now = "2026-11-22T08:00:00Z".parse().expect("a time");
        for (text, expected) in [
            ("2026-11-20", "2026-11-20T00:00:00Z"),
            ("2026-11-20 03:00", "2026-11-20T03:00:00Z"),
            ("2026-11-20 03:00:07", "2026-11-20T03:00:07Z"),
            ("2026-11-20 03:00:07 UTC", "2026-11-20T03:00:07Z"),
            ("2026-11-20T03:00", "2026-11-20T03:00:00Z"),
            ("2026-11-20T03:00:00+01:00", "2026-11-20T02:00:00Z"),
            ("2026-11-20T03:00:00.5Z", "2026-11-20T03:00:00.5Z"),
            ("2h", "2026-11-22T06:00:00Z"),
            ("3d ago", "2026-11-19T08:00:00Z"),
            ("1h 30m", "2026-11-22T06:30:00Z"),
        ] {
            let expected: DateTime<Utc> = expected.parse().expect("a time");
            assert_eq!(text.parse::<Moment>().map(|m| m.at(now)), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_moment_is_refused() {
        for text in ["", "yesterday", "2026-13-01", "2026-11-20 25:00", "20.11.2026", "3", "latest", "-2h"] {
            assert!(text.parse::<Moment>().is_err(), "{text}");
        }
    }
}
