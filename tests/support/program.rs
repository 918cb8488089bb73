//! The program itself, run as an operator would: a process with arguments, an environment, and an answer.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::{Major, Scratch, tools};

/// `backstay` with a configuration file, in an environment that holds nothing but what a test gives.
#[derive(Debug)]
pub struct Backstay {
    scratch: Scratch,
    env: Vec<(OsString, OsString)>,
}

impl Backstay {
    /// With this configuration, in TOML.
    pub fn new(config: &str) -> Self {
        let scratch = Scratch::new();
        scratch.write("backstay.toml", config);
        Self { scratch, env: vec![("PATH".into(), tools::path_with(&Major::ALL))] }
    }

    #[must_use]
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.retain(|(known, _)| known != key.as_ref());
        self.env.push((key.as_ref().into(), value.as_ref().into()));
        self
    }

    /// With a clock of its own, as libfaketime is told in `time`: `+600` seconds, `@2026-03-29 00:59:57`.
    #[must_use]
    pub fn with_clock(self, time: &str) -> Self {
        self.with_any_clock().env("FAKETIME", time)
    }

    /// With a clock that a test may set while the program runs: what `file` says, it says.
    #[must_use]
    pub fn with_clock_of(self, file: &Path) -> Self {
        self.with_any_clock().env("FAKETIME_TIMESTAMP_FILE", file).env("FAKETIME_NO_CACHE", "1")
    }

    fn with_any_clock(self) -> Self {
        let preloaded = self.env("LD_PRELOAD", tools::faketime()).env("TZ", "UTC").env("NO_FAKE_STAT", "1");
        preloaded.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("DONT_FAKE_MONOTONIC", "1")
    }

    /// Replaces the configuration.
    pub fn configure(&self, config: &str) {
        self.scratch.write("backstay.toml", config);
    }

    /// The directory that it runs in; the configuration is `backstay.toml` there.
    pub fn dir(&self) -> &Path {
        self.scratch.path()
    }

    /// To be run with these arguments, behind `--config`.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_backstay"));
        command
            .env_clear()
            .env("TMPDIR", std::env::temp_dir())
            .env("STATE_DIRECTORY", self.dir())
            .envs(self.env.iter().map(|(k, v)| (k, v)))
            .env("HOME", self.dir());
        command.current_dir(self.dir()).arg("--config").arg(self.scratch.join("backstay.toml")).args(args).stdin(Stdio::null());
        command
    }

    /// Runs it to its end.
    pub fn run(&self, args: &[&str]) -> Outcome {
        Outcome::of(self.spawn(args))
    }

    /// Runs it to its end.
    ///
    /// # Panics
    /// If its exit code is not 0.
    #[track_caller]
    pub fn succeed(&self, args: &[&str]) -> Outcome {
        self.run(args).expect_code(0)
    }

    /// Starts it; its output is piped.
    pub fn spawn(&self, args: &[&str]) -> Child {
        self.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("start backstay")
    }

    /// Makes a backup and returns its name.
    #[track_caller]
    pub fn backup(&self) -> String {
        let answer = self.succeed(&["backup", "--json"]).json();
        answer["name"].as_str().expect("the answer names the backup").to_owned()
    }
}

/// What a run of the program said.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// None: a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Outcome {
    /// Waits for a process that was started by [`Backstay::spawn`].
    pub fn of(child: Child) -> Self {
        let output = child.wait_with_output().expect("wait for backstay");
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).expect("an answer in UTF-8"),
            stderr: String::from_utf8(output.stderr).expect("messages in UTF-8"),
        }
    }

    /// # Panics
    /// If the exit code is another.
    #[track_caller]
    pub fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "exit code\nstdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }

    /// # Panics
    /// If no message holds `text`.
    #[track_caller]
    pub fn expect_message(self, text: &str) -> Self {
        assert!(self.stderr.contains(text), "`{text}` is not in:\n{}", self.stderr);
        self
    }

    /// The answer.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("not JSON ({e}): {}", self.stdout))
    }
}
