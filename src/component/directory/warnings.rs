//! Warnings, of which there may be one a file: the first are named, the rest counted.

use std::collections::BTreeMap;

/// Warnings of one kind that are named.
const NAMED: usize = 100;

/// Gathers warnings by kind.
#[derive(Debug, Default)]
pub struct Warnings {
    counts: BTreeMap<&'static str, usize>,
    named: Vec<String>,
}

impl Warnings {
    /// Notes one. `kind` says what all of its kind have in common: "vanished while the directory was read".
    pub fn add(&mut self, kind: &'static str, text: impl FnOnce() -> String) {
        let count = self.counts.entry(kind).or_default();
        *count += 1;
        if *count <= NAMED {
            self.named.push(text());
        }
    }

    /// Sentences: the named ones, then how many more there were of each kind.
    pub fn into_sentences(self) -> Vec<String> {
        let more = self.counts.into_iter().filter(|(_, count)| *count > NAMED);
        let more = more.map(|(kind, count)| format!("{} more: {kind}", count - NAMED));
        self.named.into_iter().chain(more).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_hundred_are_named() {
        let mut warnings = Warnings::default();
        for n in 0..250 {
            warnings.add("vanished", || format!("`{n}` vanished"));
        }
        warnings.add("grew", || "`x` grew".to_owned());
        let sentences = warnings.into_sentences();
        assert_eq!(sentences.len(), 102);
        assert_eq!((sentences[0].as_str(), sentences[101].as_str()), ("`0` vanished", "150 more: vanished"));
    }
}
