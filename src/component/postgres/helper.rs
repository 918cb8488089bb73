//! Names of the databases that a restore needs while it is under way: `<name>_backstay_new_<suffix>` is loaded, and
//! `<name>_backstay_old_<suffix>` is what it replaced. One suffix a restore.

use crate::name::RestoreId;

/// PostgreSQL cuts longer names, silently (NAMEDATALEN - 1).
pub const MAX_NAME: usize = 63;

const DIGITS: usize = 8;

/// What a helper database is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    New,
    Old,
}

impl Role {
    fn mark(self) -> &'static str {
        match self {
            Self::New => "_backstay_new_",
            Self::Old => "_backstay_old_",
        }
    }

    /// Whether `name` is that of such a helper, of whichever restore.
    pub fn of(name: &str) -> Option<Self> {
        let (rest, digits) = name.split_at_checked(name.len().checked_sub(DIGITS)?)?;
        let hex = digits.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        [Self::New, Self::Old].into_iter().find(|role| hex && rest.ends_with(role.mark()))
    }
}

/// What of a helper's name no other database has: its role and its suffix.
pub fn mark(helper: &str) -> &str {
    let tail = Role::New.mark().len() + DIGITS;
    helper.len().checked_sub(tail).and_then(|at| helper.get(at..)).unwrap_or(helper)
}

/// The mark of one restore, 8 hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Suffix(u32);

impl From<RestoreId> for Suffix {
    fn from(id: RestoreId) -> Self {
        Self(id.number())
    }
}

impl Suffix {
    /// The helper of `name`: cut at a character so that it stays within 63 bytes, the suffix whole. `at` tells apart two databases whose
    /// names are cut to the same.
    pub fn helper(self, name: &str, role: Role, at: usize) -> String {
        let own = self.0.wrapping_add(u32::try_from(at).unwrap_or(u32::MAX));
        let tail = format!("{}{own:08x}", role.mark());
        let mut room = MAX_NAME - tail.len();
        if name.len() <= room {
            return format!("{name}{tail}");
        }
        while !name.is_char_boundary(room) {
            room -= 1;
        }
        format!("{}{tail}", &name[..room])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_helper_fits_and_is_recognised() {
        for name in ["a", "App \"x\"", &"x".repeat(63), &"ü".repeat(31), "%_"] {
            for role in [Role::New, Role::Old] {
                let helper = Suffix(0xffff_ffff).helper(name, role, 3);
                assert!(helper.len() <= MAX_NAME, "{helper}");
                assert_eq!(Role::of(&helper), Some(role), "{helper}");
                assert_eq!(mark(&helper), format!("{}00000002", role.mark()));
            }
        }
        assert_eq!(Suffix(10).helper("app", Role::New, 0), "app_backstay_new_0000000a");
    }

    #[test]
    fn long_names_with_one_beginning_keep_apart() {
        let (a, b) = (format!("{}a", "x".repeat(62)), format!("{}b", "x".repeat(62)));
        assert_ne!(Suffix(1).helper(&a, Role::New, 0), Suffix(1).helper(&b, Role::New, 1));
    }

    #[test]
    fn other_names_are_not_helpers() {
        for name in
            ["", "app", "app_backstay_new_", "app_backstay_new_0000000G", "app_backstay_new_0000000", "ü0000000", "app_backstay_0000000a"]
        {
            assert_eq!(Role::of(name), None, "{name}");
        }
    }
}
