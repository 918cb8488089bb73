//! The worker over HTTP: `/healthz` (does it live?) and `/readyz` (is every job as it should be?), both with a JSON [`Report`].
//!
//! [`Report`]: super::board::Report

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, Response, StatusCode, header};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::time::Instant;

use super::board::{Board, Report};
use crate::clock::Clock;

/// The main loop beats every [`super::Pace::beat`]; when it has not for this long, it hangs.
const HANGS_AFTER: Duration = Duration::from_secs(60);

/// What the worker shares with its HTTP server.
#[derive(Clone)]
pub struct Shared {
    board: Arc<Mutex<Board>>,
    beat: Arc<Mutex<Instant>>,
    clock: Arc<dyn Clock>,
}

impl Shared {
    pub fn new(board: Board, clock: Arc<dyn Clock>) -> Self {
        Self { board: Arc::new(Mutex::new(board)), beat: Arc::new(Mutex::new(Instant::now())), clock }
    }

    /// Reads or changes the board.
    pub fn board<T>(&self, f: impl FnOnce(&mut Board) -> T) -> T {
        f(&mut self.board.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The main loop lives.
    pub fn beat(&self) {
        *self.beat.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn hangs(&self) -> bool {
        self.beat.lock().unwrap_or_else(PoisonError::into_inner).elapsed() > HANGS_AFTER
    }

    fn report(&self) -> Report {
        let now = self.clock.now();
        self.board(|board| board.report(now))
    }
}

/// Answers until it is aborted.
pub async fn serve(listener: TcpListener, shared: Shared) {
    let router = Router::new().route("/healthz", get(healthz)).route("/readyz", get(readyz)).with_state(shared);
    if let Err(error) = axum::serve(listener, router).await {
        tracing::error!(%error, "the HTTP server ended");
    }
}

async fn healthz(State(shared): State<Shared>) -> Response<Body> {
    answer(!shared.hangs(), &shared.report())
}

async fn readyz(State(shared): State<Shared>) -> Response<Body> {
    let report = shared.report();
    answer(report.ready && !shared.hangs(), &report)
}

fn answer(good: bool, report: &Report) -> Response<Body> {
    let (mut status, body) = match serde_json::to_vec(report) {
        Ok(body) => (if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, body),
        Err(error) => {
            tracing::error!(%error, "write the report as JSON");
            (StatusCode::INTERNAL_SERVER_ERROR, Vec::new())
        }
    };
    let mut response = Response::new(Body::from(body));
    std::mem::swap(response.status_mut(), &mut status);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
