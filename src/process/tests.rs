//! Against `/bin/sh`.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use tokio_util::sync::CancellationToken;

use super::stderr::STDERR_TAIL;
use super::*;

fn sh(script: &str) -> Command {
    Command::new("/bin/sh").args(["-c", script])
}

async fn read(script: &str) -> (Vec<u8>, io::Result<()>) {
    let mut stream = sh(script).stream(&CancellationToken::new()).expect("started");
    let mut bytes = Vec::new();
    let result = stream.read_to_end(&mut bytes).await.map(|_| ());
    (bytes, result)
}

fn is_alive(pid: u32) -> bool {
    // A zombie has no command line.
    std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

async fn until_gone(pid: u32) {
    let gone = async {
        while is_alive(pid) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), gone).await.expect("it ends");
}

#[tokio::test]
async fn the_end_comes_after_success_only() {
    let (bytes, result) = read("printf abc").await;
    assert_eq!(bytes, b"abc");
    result.expect("an end");
}

#[tokio::test]
async fn a_nonzero_exit_is_an_error_not_an_end() {
    let (bytes, result) = read("printf abc; echo 'the reason' >&2; exit 3").await;
    assert_eq!(bytes, b"abc");
    assert_eq!(result.expect_err("exit 3").to_string(), "sh failed (exit status: 3): the reason");
}

#[tokio::test]
async fn an_error_stays_an_error() {
    let mut stream = sh("exit 1").stream(&CancellationToken::new()).expect("started");
    for _ in 0..2 {
        stream.read(&mut [0; 8]).await.expect_err("no end after an error");
    }
}

#[tokio::test]
async fn a_signal_is_an_error_not_an_end() {
    let (_, result) = read("printf abc; kill -9 $$").await;
    let error = result.expect_err("killed");
    assert!(matches!(ProcessError::of(&error), Some(ProcessError::Failed { .. })), "{error:?}");
    assert!(error.to_string().contains("signal: 9"), "{error}");
}

#[tokio::test]
async fn a_child_that_closed_its_output_has_not_succeeded_yet() {
    let (_, result) = read("exec 1>&-; sleep 0.2; exit 4").await;
    assert!(result.expect_err("exit 4").to_string().contains("exit status: 4"));
}

#[tokio::test]
async fn any_amount_of_stderr_blocks_nothing_and_its_end_is_kept() {
    let (bytes, result) = read("i=0; while [ $i -lt 40000 ]; do echo \"line $i of noise\" >&2; i=$((i+1)); done; printf abc; exit 1").await;
    assert_eq!(bytes, b"abc");
    let error = result.expect_err("exit 1");
    let stderr = ProcessError::of(&error).and_then(ProcessError::stderr).expect("stderr").clone();
    assert_eq!(stderr.lines.last().map(String::as_str), Some("line 39999 of noise"));
    assert!(stderr.lines.iter().all(|l| l.starts_with("line ")), "whole lines only: {:?}", stderr.lines.first());
    assert!(stderr.lines.iter().map(String::len).sum::<usize>() <= STDERR_TAIL);
}

#[tokio::test]
async fn what_follows_success_comes_before_the_end_and_can_refuse_it() {
    let stream = |script: &str| sh(script).stream(&CancellationToken::new()).expect("started");
    let said = Arc::new(Mutex::new(Stderr::default()));
    let keep = Arc::clone(&said);
    let mut good = stream("echo warning >&2").then(move |stderr| {
        *keep.lock().expect("not poisoned") = stderr;
        Box::pin(async { Ok(()) })
    });
    good.read_to_end(&mut Vec::new()).await.expect("an end");
    assert_eq!(said.lock().expect("not poisoned").lines, ["warning"]);
    let mut refused = stream("true").then(|_| Box::pin(async { Err(io::Error::other("no")) }));
    assert_eq!(refused.read_to_end(&mut Vec::new()).await.expect_err("refused").to_string(), "no");
}

#[tokio::test]
async fn dropping_the_stream_kills_the_child_and_its_children() {
    let mut stream = sh("sleep 600 & echo $!; wait").stream(&CancellationToken::new()).expect("started");
    let mut line = [0; 32];
    let length = stream.read(&mut line).await.expect("a pid");
    let grandchild: u32 = std::str::from_utf8(&line[..length]).expect("text").trim().parse().expect("a number");
    let child = stream.pid().expect("it runs");
    assert!(is_alive(child) && is_alive(grandchild));
    drop(stream);
    until_gone(child).await;
    until_gone(grandchild).await;
}

#[tokio::test]
async fn cancellation_kills_and_is_an_error() {
    let cancel = CancellationToken::new();
    let mut stream = sh("sleep 600").stream(&cancel).expect("started");
    let child = stream.pid().expect("it runs");
    let mut bytes = Vec::new();
    let read = stream.read_to_end(&mut bytes);
    let (result, ()) = tokio::join!(read, async { cancel.cancel() });
    assert!(matches!(ProcessError::of(&result.expect_err("cancelled")), Some(ProcessError::Cancelled { .. })));
    until_gone(child).await;
    let running = sh("sleep 600").run(&cancel).await;
    assert!(matches!(running, Err(ProcessError::Cancelled { .. })), "{running:?}");
}

#[tokio::test]
async fn the_environment_is_clean() {
    let output = sh("env").env("ASKED", "a b").run(&CancellationToken::new()).await.expect("success");
    let text = String::from_utf8(output.stdout).expect("text");
    let keys: std::collections::BTreeSet<_> = text.lines().filter_map(|l| l.split_once('=')).map(|(k, _)| k).collect();
    let expected = ["ASKED", "LC_ALL", "PATH"];
    assert!(expected.iter().all(|k| keys.contains(k)), "{keys:?}");
    // what a shell itself adds
    assert!(keys.iter().all(|k| expected.contains(k) || ["PWD", "SHLVL", "_", "OLDPWD"].contains(k)), "{keys:?}");
}

#[tokio::test]
async fn input_is_fed_and_output_comes_back() {
    let data: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let output = Command::new("/bin/cat").feed(data.as_slice(), &CancellationToken::new()).await.expect("success");
    assert_eq!(output.stdout, data);
}

#[tokio::test]
async fn a_child_that_stops_reading_and_succeeds_has_succeeded() {
    let data = vec![0; 4 << 20];
    sh("head -c 10 >/dev/null").feed(data.as_slice(), &CancellationToken::new()).await.expect("exit 0");
    let failed = sh("head -c 10 >/dev/null; echo why >&2; exit 1").feed(data.as_slice(), &CancellationToken::new()).await;
    assert_eq!(failed.expect_err("exit 1").to_string(), "sh failed (exit status: 1): why");
}

#[tokio::test]
async fn a_child_that_fails_ends_the_wait_for_its_input() {
    let began = Instant::now();
    let (_open, never) = tokio::io::duplex(1);
    sh("exit 5").feed(never, &CancellationToken::new()).await.expect_err("exit 5");
    assert!(began.elapsed() < Duration::from_secs(30));
}

/// Gives some bytes, then an error.
struct Damaged(bool);

impl AsyncRead for Damaged {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if std::mem::replace(&mut self.0, true) {
            return Poll::Ready(Err(io::Error::other("damaged")));
        }
        buf.put_slice(b"CREATE TABLE half();");
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn damaged_input_is_the_error_and_the_child_never_sees_its_end() {
    let dir = tempfile::tempdir().expect("a directory");
    let mark = dir.path().join("committed");
    let script = format!("cat >/dev/null && touch {}", mark.display());
    let error = sh(&script).feed(Damaged(false), &CancellationToken::new()).await.expect_err("damaged");
    assert!(matches!(&error, ProcessError::Input { source, .. } if source.to_string() == "damaged"), "{error:?}");
    assert!(!mark.exists(), "the child took half for all");
}

#[test]
fn what_is_printed_of_a_command_holds_no_environment() {
    let text = format!("{:?}", Command::new("/bin/x").arg("a").env("PGPASSWORD", "s3cret"));
    assert!(text.contains("PGPASSWORD") && !text.contains("s3cret"), "{text}");
}
