//! SIGTERM, SIGINT and SIGHUP as orders.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// What somebody outside wants of the worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Drain and end; a second one: end at once.
    Stop,
    /// Read the configuration again.
    Reload,
}

/// Orders from the process's signals, from now on.
///
/// # Errors
/// When a handler cannot be set.
pub fn orders() -> io::Result<mpsc::Receiver<Order>> {
    let (sender, receiver) = mpsc::channel(8);
    for (kind, order) in
        [(SignalKind::terminate(), Order::Stop), (SignalKind::interrupt(), Order::Stop), (SignalKind::hangup(), Order::Reload)]
    {
        let mut stream = signal(kind)?;
        let sender = sender.clone();
        tokio::spawn(async move {
            while stream.recv().await.is_some() {
                if sender.send(order).await.is_err() {
                    break;
                }
            }
        });
    }
    Ok(receiver)
}
