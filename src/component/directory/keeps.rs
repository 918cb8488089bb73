//! What a file system keeps of modes, owners and times. Some (CIFS, FAT, several of FUSE) take them and say nothing, and have something else
//! afterwards; that is asked of them before anything is unpacked.

use std::fmt;
use std::os::fd::BorrowedFd;

use rustix::fs::{Gid, Mode, Stat, Timespec, Timestamps, UTIME_OMIT, Uid, fchmod, fchown, fstat, futimens};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::archive::{Member, MemberKind, Time};

/// Times that every file system in use can hold: from 1970 until 2038.
const COMMON: std::ops::Range<i64> = 0..1 << 31;

/// Times are kept in multiples of one of these: Linux itself, Windows, and coarser ones down to FAT, in nanoseconds.
const GRAINS: [u64; 6] = [1, 100, 1_000, 1_000_000, 1_000_000_000, 2_000_000_000];

/// What a file system keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keeps {
    modes: bool,
    owners: bool,
    times: bool,
}

impl Keeps {
    /// Tries it with an empty directory of ours, which then has the mode 0700 and belongs to us as before.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn of(directory: BorrowedFd<'_>) -> Result<Self, Errno> {
        let before = fstat(directory)?;
        let odd = Timespec { tv_sec: 1_000_000_001, tv_nsec: 123_456_789 };
        let omit = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
        futimens(directory, &Timestamps { last_access: omit, last_modification: odd })?;
        let times = modified(&fstat(directory)?) == Time { seconds: odd.tv_sec, nanos: 123_456_789 };
        fchmod(directory, Mode::from_raw_mode(0o751))?;
        let modes = fstat(directory)?.st_mode & 0o7777 == 0o751;
        fchmod(directory, Mode::RWXU)?;
        let mut owners = true;
        if geteuid().is_root() && fchown(directory, Some(Uid::from_raw(1)), Some(Gid::from_raw(1))).is_ok() {
            owners = fstat(directory)?.st_uid == 1;
            fchown(directory, Some(Uid::from_raw(before.st_uid)), Some(Gid::from_raw(before.st_gid)))?;
        }
        Ok(Self { modes, owners, times })
    }

    /// Whether what was set has to be read back.
    pub fn may_differ(self, member: &Member) -> bool {
        !(self.modes && self.owners && self.times && COMMON.contains(&member.modified.seconds))
    }

    /// What the file system made of `member`, by `stat`; `None` if that is what it should be, or if it is none of its doing.
    pub fn what_it_can(self, member: &Member, stat: &Stat) -> Option<Member> {
        let mut kept = member.clone();
        if !self.modes && !matches!(member.kind, MemberKind::Symlink(_)) {
            kept.mode = stat.st_mode & 0o7777;
        }
        if !self.owners {
            (kept.uid, kept.gid) = (stat.st_uid, stat.st_gid);
        }
        let time = modified(stat);
        if !COMMON.contains(&member.modified.seconds) || (!self.times && is_rounded(member.modified, time)) {
            kept.modified = time;
        }
        (kept != *member).then_some(kept)
    }
}

impl fmt::Display for Keeps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = [(self.modes, "modes"), (self.owners, "owners"), (self.times, "exact times")];
        let missing: Vec<_> = words.iter().filter(|(kept, _)| !kept).map(|(_, word)| *word).collect();
        if missing.is_empty() { f.write_str("its time") } else { f.write_str(&missing.join(", ")) }
    }
}

fn modified(stat: &Stat) -> Time {
    Time { seconds: stat.st_mtime, nanos: u32::try_from(stat.st_mtime_nsec).unwrap_or(0) }
}

/// Whether `got` is `wanted` in a coarser measure, up or down.
fn is_rounded(wanted: Time, got: Time) -> bool {
    let nanos = |time: Time| i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos);
    GRAINS.iter().any(|grain| {
        let grain = i128::from(*grain);
        nanos(got) % grain == 0 && (nanos(wanted) - nanos(got)).abs() < grain
    })
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    fn stat_of(mode: u32, seconds: i64, nanos: i64) -> Stat {
        let mut stat = fstat(tempfile::tempfile().expect("a file").as_fd()).expect("a status");
        stat.st_mode = mode;
        stat.st_mtime = seconds;
        stat.st_mtime_nsec = nanos.try_into().expect("small");
        (stat.st_uid, stat.st_gid) = (7, 7);
        stat
    }

    fn member(seconds: i64, nanos: u32) -> Member {
        Member { mode: 0o640, uid: 1, gid: 2, modified: Time { seconds, nanos }, ..Member::default() }
    }

    #[test]
    fn a_usual_file_system_keeps_everything() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let handle = std::fs::File::open(directory.path()).expect("opened");
        let keeps = Keeps::of(handle.as_fd()).expect("asked");
        assert_eq!(keeps, Keeps { modes: true, owners: true, times: true });
        let stat = fstat(&handle).expect("a status");
        assert_eq!((stat.st_mode & 0o7777, stat.st_uid), (0o700, geteuid().as_raw()));
        assert!(!keeps.may_differ(&member(5, 1)) && keeps.may_differ(&member(-5, 0)) && keeps.may_differ(&member(1 << 31, 0)));
    }

    #[test]
    fn what_a_file_system_made_of_it_is_told_from_what_is_wrong() {
        let all = Keeps { modes: true, owners: true, times: true };
        let stat = stat_of(0o100_755, 5, 0);
        assert_eq!(all.what_it_can(&member(5, 9), &stat), None, "it keeps modes, owners and times, so this is no excuse");
        let none = Keeps { modes: false, owners: false, times: false };
        assert_eq!(none.what_it_can(&member(5, 9), &stat), Some(Member { mode: 0o755, uid: 7, gid: 7, ..member(5, 0) }));
        let kept = Keeps { modes: true, owners: true, times: false }.what_it_can(&member(9, 0), &stat);
        assert_eq!(kept, None, "no file system rounds nine seconds to five");
        let early = all.what_it_can(&member(-1 << 40, 0), &stat_of(0o640, -1 << 31, 0)).expect("a time that it cannot hold");
        assert_eq!(early.modified, Time { seconds: -1 << 31, nanos: 0 });
    }

    #[test]
    fn times_are_rounded_in_steps() {
        let time = |seconds, nanos| Time { seconds, nanos };
        for (wanted, got, rounded) in [
            (time(5, 123_456_789), time(5, 123_456_700), true),
            (time(5, 123_456_789), time(5, 0), true),
            (time(5, 900_000_000), time(4, 0), true),
            (time(5, 900_000_000), time(6, 0), true),
            (time(5, 0), time(7, 0), false),
            (time(5, 123_456_789), time(5, 123_456_780), false),
        ] {
            assert_eq!(is_rounded(wanted, got), rounded, "{wanted:?} {got:?}");
        }
    }
}
