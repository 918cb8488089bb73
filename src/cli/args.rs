//! What can be typed.

use std::num::NonZeroU32;
use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use ignore::gitignore::GitignoreBuilder;

use super::moment::Moment;
use crate::component::postgres::TableName;
use crate::name::{ComponentName, JobName, TargetName};

/// Backups of PostgreSQL, Redis and directories, streamed to object stores, restorable with stock tools.
#[derive(Debug, Parser)]
#[command(name = "backstay", version, propagate_version = true, after_help = EXIT_CODES)]
pub(super) struct Args {
    #[command(flatten)]
    pub(super) global: Global,
    #[command(subcommand)]
    pub(super) command: Command,
}

const EXIT_CODES: &str = "\
Exit codes:
    0  done
    1  unexpected failure
    2  usage, or not confirmed
    3  incomplete: a component, target or deletion failed
   10  no such backup, target, job or component
   11  busy: another run holds the job or the target
   12  integrity: stored bytes do not match, or a drill's restore differs
   78  invalid configuration
  130  cancelled";

/// Apart from the options of the verb, which are what a reader of its help looks for.
const GLOBAL: &str = "Global options";

/// The live state stays as it is, and the rest of the backup where it is.
const PARTIAL: &str = "Part of a component";

#[derive(Debug, Clone, clap::Args)]
pub(super) struct Global {
    /// Configuration file [default: $BACKSTAY_CONFIG, ./config/backstay.toml, /etc/backstay/backstay.toml]
    #[arg(long, global = true, help_heading = GLOBAL, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Form of the log, which goes to stderr
    #[arg(long, global = true, help_heading = GLOBAL, value_name = "FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub(super) log_format: LogFormat,
    /// Log more; twice for everything
    #[arg(short, long, global = true, help_heading = GLOBAL, action = clap::ArgAction::Count, conflicts_with = "quiet")]
    pub(super) verbose: u8,
    /// Log errors only
    #[arg(short, long, global = true, help_heading = GLOBAL)]
    pub(super) quiet: bool,
    /// Show no progress on a terminal
    #[arg(long, global = true, help_heading = GLOBAL)]
    pub(super) no_progress: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run jobs by their schedules until stopped
    #[command(visible_alias = "daemon")]
    Worker,
    /// Run one job now
    Backup(BackupArgs),
    /// List backups
    #[command(visible_alias = "list")]
    Listbackups(ListArgs),
    /// Restore a backup
    Restore(RestoreArgs),
    /// Read backups back and compare every byte, or restore one for a trial
    Verify(VerifyArgs),
    /// Apply retention now
    Prune(PruneArgs),
    /// Write a backup's plain files into a directory, with the commands that restore them
    Export(ExportArgs),
    /// Copy backups from one target into another, proven on the way
    Copy(CopyArgs),
    /// Check configuration, connections, client versions, space, permissions and next run times
    Check(CheckArgs),
    /// Show the configuration, print its schema, or write an example
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Make an age key pair, or one for signatures
    Keygen(KeygenArgs),
    /// Exit 0 while the worker lives and no job is overdue or failing
    Healthcheck,
    /// Print shell completions
    Completions { shell: Shell },
    /// Print the manual page (roff)
    Man,
}

#[derive(Debug, clap::Args)]
pub(super) struct BackupArgs {
    /// The job; may be left out if there is only one, or one named `default`
    pub(super) job: Option<JobName>,
    /// Only these components, separated by commas
    #[arg(long, value_delimiter = ',', value_name = "COMPONENT,…")]
    pub(super) only: Vec<ComponentName>,
    /// Print the result as JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct ListArgs {
    /// Only backups of this job
    #[arg(long)]
    pub(super) job: Option<JobName>,
    /// Only this target
    #[arg(long)]
    pub(super) target: Option<TargetName>,
    /// Print the result as JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct KeygenArgs {
    /// Write the identity into this file, which must not exist, and print the public key; otherwise print the identity
    #[arg(short, long, value_name = "FILE")]
    pub(super) output: Option<PathBuf>,
    /// Make a key that signs backups instead, and the public key that they are trusted by
    #[arg(long)]
    pub(super) signing: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct RestoreArgs {
    /// Changes nothing; authentik's old command had it
    #[arg(short = 'i')]
    pub(super) _interactive: bool,
    /// Name of a backup, or `latest`: the newest complete one
    #[arg(required_unless_present_any = ["before", "resume", "rollback"])]
    pub(super) name: Option<String>,
    /// Go on with a restore that was interrupted
    #[arg(long, conflicts_with_all = ["name", "before", "rollback", "only", "database", "job", "target"])]
    pub(super) resume: bool,
    /// Bring back what was there before a restore that was interrupted
    #[arg(long, conflicts_with_all = ["name", "before", "only", "database", "job", "target"])]
    pub(super) rollback: bool,
    /// Only these components, separated by commas
    #[arg(long, value_delimiter = ',', value_name = "COMPONENT,…")]
    pub(super) only: Vec<ComponentName>,
    /// With `latest`: of this job
    #[arg(long)]
    pub(super) job: Option<JobName>,
    /// With `latest`, or without a name: the newest that was finished before: 2026-11-20, "2026-11-20 03:00" (UTC), RFC 3339, or 3d, 2h ago
    #[arg(long, value_name = "TIME")]
    pub(super) before: Option<Moment>,
    /// Read from this target
    #[arg(long)]
    pub(super) target: Option<TargetName>,
    /// Restore a component elsewhere: `postgres=postgres://host/newname`, `media=/tmp/look`, `redis=file:///tmp/dump.rdb`
    #[arg(long, value_name = "COMPONENT=DESTINATION")]
    pub(super) into: Vec<String>,
    /// Only this database of a PostgreSQL component, and nothing else; repeatable
    #[arg(long, value_name = "NAME", help_heading = PARTIAL)]
    pub(super) database: Vec<String>,
    /// Only this table with its indexes, `schema.table`, into a new database beside the live one; repeatable
    #[arg(long, value_name = "SCHEMA.TABLE", help_heading = PARTIAL)]
    pub(super) table: Vec<TableName>,
    /// Only what this gitignore-style glob matches in a directory, into a new directory beside the live one; repeatable
    #[arg(long, value_name = "GLOB", value_parser = glob, help_heading = PARTIAL, conflicts_with_all = ["database", "table"])]
    pub(super) path: Vec<String>,
    /// PostgreSQL: everything belongs to the user who restores; no roles, tablespaces or privileges of the backup
    #[arg(long)]
    pub(super) no_owner: bool,
    /// PostgreSQL: sessions that load at once [default: 2 to 4, as there are cores and free connections]
    #[arg(long, value_name = "N")]
    pub(super) jobs: Option<NonZeroU32>,
    /// Print what would happen; change nothing
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Keep what is replaced, under another name
    #[arg(long)]
    pub(super) keep_old: bool,
    /// Of a bucket, also delete the objects that the backup does not hold
    #[arg(long)]
    pub(super) delete_extra: bool,
    /// Do not back up first what is replaced
    #[arg(long)]
    pub(super) no_safety_backup: bool,
    /// Do not ask for confirmation
    #[arg(long, visible_alias = "noinput")]
    pub(super) yes: bool,
    /// Print the result as JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// A glob that can match something.
fn glob(text: &str) -> Result<String, String> {
    let valid = GitignoreBuilder::new("").add_line(None, text).map(|_| ()).map_err(|error| error.to_string());
    valid.map(|()| text.to_owned())
}

#[derive(Debug, clap::Args)]
pub(super) struct VerifyArgs {
    /// Name of a backup, or `latest`: the newest complete one
    #[arg(required_unless_present_any = ["all", "before"])]
    pub(super) name: Option<String>,
    /// Every backup
    #[arg(long, conflicts_with_all = ["name", "before"])]
    pub(super) all: bool,
    /// With `latest`, or without a name: the newest that was finished before: 2026-11-20, "2026-11-20 03:00" (UTC), RFC 3339, or 3d, 2h ago
    #[arg(long, value_name = "TIME")]
    pub(super) before: Option<Moment>,
    /// With `latest` and --all: of this job
    #[arg(long)]
    pub(super) job: Option<JobName>,
    /// Only in this target [default: in every target that holds it; with --drill in the first one]
    #[arg(long)]
    pub(super) target: Option<TargetName>,
    /// Really restore it, into throwaway places, compare, and clean up
    #[arg(long, conflicts_with = "all")]
    pub(super) drill: bool,
    /// With --drill: only these components, separated by commas
    #[arg(long, value_delimiter = ',', value_name = "COMPONENT,…", requires = "drill")]
    pub(super) only: Vec<ComponentName>,
    /// Print the result as JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct CopyArgs {
    /// Names of backups
    #[arg(value_name = "NAME", required_unless_present = "all")]
    pub(super) names: Vec<String>,
    /// Every complete backup that the other target does not hold, newest first
    #[arg(long, conflicts_with = "names")]
    pub(super) all: bool,
    /// Only backups of this job
    #[arg(long, requires = "all")]
    pub(super) job: Option<JobName>,
    /// Read from this target
    #[arg(long)]
    pub(super) from: TargetName,
    /// Write to this target
    #[arg(long)]
    pub(super) to: TargetName,
    /// Print the result as JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct ExportArgs {
    /// Name of a backup, or `latest`: the newest complete one
    pub(super) name: String,
    /// The directory to make; it must not exist, or be empty
    pub(super) directory: PathBuf,
    /// Only these components, separated by commas
    #[arg(long, value_delimiter = ',', value_name = "COMPONENT,…")]
    pub(super) only: Vec<ComponentName>,
    /// With `latest`: of this job
    #[arg(long)]
    pub(super) job: Option<JobName>,
    /// With `latest`: the newest that was finished before: 2026-11-20, "2026-11-20 03:00" (UTC), RFC 3339, or 3d, 2h ago
    #[arg(long, value_name = "TIME")]
    pub(super) before: Option<Moment>,
    /// Read from this target
    #[arg(long)]
    pub(super) target: Option<TargetName>,
    /// Print the result as JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct PruneArgs {
    /// Only this job [default: all jobs]
    #[arg(long)]
    pub(super) job: Option<JobName>,
    /// Only this target
    #[arg(long)]
    pub(super) target: Option<TargetName>,
    /// Print what would be kept and removed, and why; remove nothing
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Print the result as JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct CheckArgs {
    /// Only the configuration; connect to nothing
    #[arg(long)]
    pub(super) config_only: bool,
    /// Print the result as JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Print every value and the layer it came from; secrets as ***
    Show {
        /// Print the result as JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the JSON Schema of the configuration
    Schema,
    /// Write a commented example
    Init {
        /// The file to write, which must not exist [default: config/backstay.toml]
        path: Option<PathBuf>,
    },
}
