//! A row of the table in docs/reliability.md: what was done to the program, how often, and what was lost.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

/// What one test has shown. Made after its last assertion.
#[derive(Debug)]
pub struct Row<'a> {
    pub scenario: &'a str,
    pub faults: &'a str,
    /// Runs of the scenario, each with a fault of its own.
    pub runs: usize,
}

impl Row<'_> {
    /// Prints the row, and keeps it in `target/reliability` for `scripts/reliability-table`.
    ///
    /// # Panics
    /// If docs/reliability.md does not tell of this scenario by this test's command.
    #[expect(clippy::print_stderr, reason = "the row is what is asked for")]
    pub fn print(&self) {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let test = std::thread::current().name().expect("a test has a name").to_owned();
        let row = format!("| {} | {} | {} | 0 | `./test {test}` |", self.scenario, self.faults, self.runs);
        eprintln!("{row}");
        let rows = root.join("target/reliability");
        fs::create_dir_all(&rows).expect("a directory for rows");
        let mut file = File::create(rows.join(test.replace("::", "."))).expect("a file for the row");
        writeln!(file, "{row}").expect("write the row");
        let docs = fs::read_to_string(root.join("docs/reliability.md")).expect("docs/reliability.md");
        let told = docs.lines().any(|line| line.contains(&format!("| {} |", self.scenario)) && line.contains(&format!("`./test {test}`")));
        assert!(
            told || std::env::var_os("BACKSTAY_BLESS").is_some(),
            "docs/reliability.md lacks (./test reliability, then scripts/reliability-table):\n{row}"
        );
    }
}
