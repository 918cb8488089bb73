//! Tells systemd how the service fares (`sd_notify(3)`); without `$NOTIFY_SOCKET` nothing happens.

use std::time::Duration;

use sd_notify::NotifyState;

pub fn ready(status: &str) {
    send(&[NotifyState::Ready, NotifyState::Status(status)]);
}

pub fn status(status: &str) {
    send(&[NotifyState::Status(status)]);
}

/// A reload begins; [`ready`] ends it. systemd 253 and newer (`Type=notify-reload`) want the moment too, to tell it from an older one.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(moment) => send(&[NotifyState::Reloading, moment, NotifyState::Status("reading the configuration again")]),
        Err(error) => tracing::warn!(%error, "read the monotonic clock"),
    }
}

pub fn stopping(status: &str) {
    send(&[NotifyState::Stopping, NotifyState::Status(status)]);
}

/// Does nothing when no watchdog was asked for.
pub fn alive() {
    if sd_notify::watchdog_enabled().is_some() {
        send(&[NotifyState::Watchdog]);
    }
}

/// How often systemd wants to hear [`alive`] at least: half of `$WATCHDOG_USEC`, as `sd_watchdog_enabled(3)` advises.
pub fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| limit / 2).filter(|half| !half.is_zero())
}

fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "notify the service manager");
    }
}
