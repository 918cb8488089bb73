//! The command line: one short function a verb. [`output`] is the only place that prints.

mod args;
mod backup;
mod check;
mod choose;
mod config;
mod copy;
mod drill;
mod export;
mod keygen;
mod legacy;
mod list;
mod moment;
mod output;
mod part;
mod progress;
mod prune;
mod recover;
mod restore;
mod safety;
mod verify;
mod worker;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use rustix::fs::Mode;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::assembly;
use crate::catalog::Catalog;
use crate::chain::{describe, explain};
use crate::config::{JobSettings, LoadOptions, Loaded, Settings, load};
use crate::encryption::Identities;
use crate::error::Error;
use crate::fetch;
use crate::manifest::Manifest;
use crate::name::{JobName, TargetName};
use crate::storage::{self, Access, Target};
use args::{Args, Command, ConfigCommand, Global, LogFormat};

/// Runs the program with `args`, the name first.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    forbid_core_dumps();
    let args: Vec<_> = args.into_iter().collect();
    if storage::is_asked(&args) {
        return storage::answer().map_or(ExitCode::FAILURE, |answer| finish(output::answer(&answer)));
    }
    let args = match Args::try_parse_from(args) {
        Ok(args) => args,
        Err(error) => {
            output::usage(&error);
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    // reqwest is built without a provider of its own, so that no second crypto library comes in; a second call changes nothing
    let _ = rustls::crypto::ring::default_provider().install_default();
    start_logging(&args.global);
    if let Command::Worker = args.command {
        // before any other thread starts: all inherit it
        match load_config(&args.global) {
            Ok(loaded) => loaded.settings.worker.priority.apply().iter().for_each(|trouble| tracing::warn!("{trouble}")),
            Err(error) => return finish(Err(error)),
        }
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(source) => return finish(Err(Error::Io { action: "start the async runtime".into(), source })),
    };
    let result = runtime.block_on(dispatch(args));
    // a stuck blocking read must not keep a finished command alive
    runtime.shutdown_background();
    finish(result)
}

/// A core dump of ours, or of a child's, would hold passwords and data. Whoever needs one lifts the limit with prlimit(1).
fn forbid_core_dumps() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Core).maximum;
    // to lower a soft limit is allowed to everybody
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum });
}

fn finish(result: Result<(), Error>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::failure(&error);
            ExitCode::from(error.exit_code())
        }
    }
}

async fn dispatch(args: Args) -> Result<(), Error> {
    let global = args.global;
    match args.command {
        Command::Worker => worker::run(&global).await,
        Command::Backup(backup) => backup::run(&global, &load_config(&global)?.settings, backup, &cancel_on_signal()).await,
        Command::Listbackups(list) => list::run(&load_config(&global)?.settings, list).await,
        Command::Restore(restore) => restore::run(&global, &load_config(&global)?.settings, restore, &cancel_on_signal()).await,
        Command::Verify(verify) if verify.drill => drill::run(&global, &load_config(&global)?.settings, verify, &cancel_on_signal()).await,
        Command::Verify(verify) => verify::run(&global, &load_config(&global)?.settings, verify, &cancel_on_signal()).await,
        Command::Copy(copy) => copy::run(&global, &load_config(&global)?.settings, copy, &cancel_on_signal()).await,
        Command::Export(export) => export::run(&global, &load_config(&global)?.settings, export, &cancel_on_signal()).await,
        Command::Prune(prune) => prune::run(&load_config(&global)?.settings, prune).await,
        Command::Check(check) => check::run(&load_config(&global)?, check).await,
        Command::Config { command } => match command {
            ConfigCommand::Init { path } => config::init(path.as_deref()),
            ConfigCommand::Schema => config::schema(),
            ConfigCommand::Show { json } => config::show(&load_config(&global)?, json),
        },
        Command::Keygen(keygen) => keygen::run(&keygen),
        Command::Healthcheck => worker::healthcheck(&load_config(&global)?.settings).await,
        Command::Completions { shell } => output::completions(shell, &mut Args::command()),
        Command::Man => output::man(Args::command()),
    }
}

fn load_config(global: &Global) -> Result<Loaded, Error> {
    Ok(load(&LoadOptions::from_process(global.config.clone()))?)
}

/// Cancelled by the first SIGINT or SIGTERM. A second one ends the process at once, with what is under way left to the sweep.
fn cancel_on_signal() -> CancellationToken {
    let cancel = CancellationToken::new();
    let token = cancel.clone();
    tokio::spawn(async move {
        stop_signal().await;
        tracing::warn!("stopping; a second signal stops at once");
        token.cancel();
        stop_signal().await;
        std::process::exit(130);
    });
    cancel
}

/// Work that nothing has to be removed after, such as looking for a backup in a target that does not answer.
async fn or_cancelled<T, E>(cancel: &CancellationToken, work: impl Future<Output = Result<T, E>>) -> Result<T, Error>
where
    Error: From<E>,
{
    tokio::select! {
        biased;
        () = cancel.cancelled() => Err(Error::Cancelled),
        done = work => Ok(done?),
    }
}

/// Waits for SIGINT or SIGTERM.
async fn stop_signal() {
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

fn start_logging(global: &Global) {
    let level = match (global.quiet, global.verbose) {
        (true, _) => "error",
        (false, 0) => "warn,russh_sftp=error,backstay=info",
        (false, 1) => "info,backstay=debug",
        (false, _) => "debug,backstay=trace",
    };
    let filter = EnvFilter::try_from_env("BACKSTAY_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    // a second subscriber is only possible in tests that run the command line twice in one process
    let _ = match global.log_format {
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
        LogFormat::Text => builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).try_init(),
    };
}

/// The job that a command means: the one that was named, or the only one, or `default`.
fn choose_job<'a>(settings: &'a Settings, name: Option<&JobName>) -> Result<&'a JobSettings, Error> {
    let copies = settings.copies.iter().map(|copy| &copy.name);
    let names = || settings.jobs.iter().map(|j| &j.name).chain(copies.clone()).map(JobName::as_str).collect::<Vec<_>>().join(", ");
    match name {
        Some(name) => settings.jobs.iter().find(|j| j.name == *name).ok_or_else(|| Error::NotFound {
            what: format!("there is no job `{name}`"),
            advice: Some(format!("The jobs are: {}.", names())),
        }),
        None if settings.jobs.len() == 1 => Ok(&settings.jobs[0]),
        None => settings
            .jobs
            .iter()
            .find(|j| j.name.as_str() == "default")
            .ok_or_else(|| Error::Usage { what: "which job?".into(), advice: Some(format!("Name one of: {}.", names())) }),
    }
}

/// The targets that a command means: the one that was named, or all.
fn choose_targets<'a>(settings: &'a Settings, name: Option<&'a TargetName>) -> Result<Vec<&'a TargetName>, Error> {
    let all: Vec<&TargetName> = settings.targets.iter().map(|t| &t.name).collect();
    match name {
        None => Ok(all),
        Some(name) if all.contains(&name) => Ok(vec![name]),
        Some(name) => Err(Error::NotFound {
            what: format!("there is no target `{name}`"),
            advice: Some(format!("The targets are: {}.", all.iter().map(|n| n.as_str()).collect::<Vec<_>>().join(", "))),
        }),
    }
}

/// What decrypts that backup; nothing, if it is not encrypted.
async fn identities(settings: &Settings, target: &Target, manifest: &Manifest) -> Result<Identities, Error> {
    if !manifest.is_encrypted() {
        return Ok(Identities::default());
    }
    let identities = settings.encryption.identities()?;
    fetch::unlock(target, manifest, &identities).await?;
    Ok(identities)
}

/// The catalogs to read, and why others cannot be opened. A file target whose directory does not exist yet holds no backups.
async fn open_catalogs(settings: &Settings, target: Option<&TargetName>) -> Result<(Vec<Catalog>, Vec<String>), Error> {
    let (mut catalogs, mut unread) = (Vec::new(), Vec::new());
    for (name, target) in assembly::targets(settings, choose_targets(settings, target)?, Access::Read).await {
        match target {
            Ok(target) => catalogs.push(Catalog::new(target).with(&settings.encryption.trust())),
            Err(error) if error.is_not_found() => tracing::warn!(target = %name, "{}: nothing was backed up there yet", describe(&error)),
            Err(error) => unread.push(explain(&error, error.advice())),
        }
    }
    Ok((catalogs, unread))
}
