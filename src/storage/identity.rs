//! Credentials that end: asked for when the first request wants them, again well before they end, and by one request for all.
//!
//! Each request asks anew which credentials to sign with, so that those of a long upload change while it goes on. While old ones are still
//! good, nobody waits for a provider that is down: a renewal that fails is a warning, and is tried again a little later. Those that a store takes
//! no more before their end are dropped, and the request is made with new ones ([`renewing`]).

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use object_store::CredentialProvider;
use object_store::aws::AwsCredential;

use super::options::Profile;
use super::owner::since_boot;
use super::retry::Retries;

mod error;
mod grant;
mod helper;
mod ini;
mod profile;
mod renewing;
mod web;

pub(super) use error::{IdentityError, identity_error};
pub(super) use renewing::S3Connector;
pub(super) use web::Web;

/// New credentials are asked for when a third of their life is left, and not before the last quarter of an hour.
const EARLY: Duration = Duration::from_secs(900);
/// What is left of a life is not used: the request has to arrive.
const SPENT: Duration = Duration::from_secs(1);
/// While the old ones are good, a renewal may take so long, and is not tried again before so long.
const RENEWAL: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_secs(30);

/// Credentials as they were given.
#[derive(Debug)]
pub(super) struct Given {
    pub(super) credential: AwsCredential,
    /// How long they are good, counted from the answer; `None`: for ever.
    pub(super) lifetime: Option<Duration>,
}

/// Who gives them.
pub(super) enum Giver {
    Web(Box<Web>),
    Profile(Profile),
}

/// What the requests of one bucket are signed with.
pub(super) struct Identity {
    from: Giver,
    state: Mutex<State>,
    /// Held by whoever asks for new ones.
    asking: tokio::sync::Mutex<()>,
    now: fn() -> Duration,
}

#[derive(Default)]
struct State {
    held: Option<Held>,
    /// How often it was asked in vain while nothing was held, and why the last time.
    failures: u64,
    failure: Option<Arc<IdentityError>>,
}

#[derive(Clone)]
struct Held {
    credential: Arc<AwsCredential>,
    /// On the clock of `now`.
    since: Duration,
    lifetime: Option<Duration>,
    next_renewal: Duration,
}

enum Found {
    Good(Arc<AwsCredential>),
    /// Good, but not for long.
    Due(Arc<AwsCredential>),
    /// With the number of failures so far.
    Nothing(u64),
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").finish_non_exhaustive()
    }
}

impl Giver {
    /// Once.
    async fn ask(&self) -> Result<Given, IdentityError> {
        match self {
            Self::Web(web) => web.ask().await,
            Self::Profile(profile) => profile::ask(profile).await,
        }
    }
}

impl Held {
    fn new(given: Given, now: Duration) -> Self {
        let early = |lifetime: Duration| lifetime - (lifetime / 3).min(EARLY);
        let next_renewal = given.lifetime.map_or(Duration::MAX, |lifetime| now.saturating_add(early(lifetime)));
        Self { credential: Arc::new(given.credential), since: now, lifetime: given.lifetime, next_renewal }
    }

    fn is_over(&self, now: Duration) -> bool {
        self.left(now) < SPENT
    }

    fn left(&self, now: Duration) -> Duration {
        self.lifetime.map_or(Duration::MAX, |lifetime| lifetime.saturating_sub(now.saturating_sub(self.since)))
    }
}

impl Identity {
    pub(super) fn new(from: Giver) -> Self {
        Self { from, state: Mutex::default(), asking: tokio::sync::Mutex::default(), now: since_boot }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self) -> Found {
        let (state, now) = (self.state(), (self.now)());
        match &state.held {
            Some(held) if held.is_over(now) => Found::Nothing(state.failures),
            Some(held) if now >= held.next_renewal => Found::Due(held.credential.clone()),
            Some(held) => Found::Good(held.credential.clone()),
            None => Found::Nothing(state.failures),
        }
    }

    async fn get(&self) -> Result<Arc<AwsCredential>, Arc<IdentityError>> {
        let failures = match self.find() {
            Found::Good(credential) => return Ok(credential),
            Found::Due(credential) => return Ok(self.renewed(credential).await),
            Found::Nothing(failures) => failures,
        };
        let _turn = self.asking.lock().await;
        // whoever had the turn before asked for all that were waiting
        match self.find() {
            Found::Good(credential) | Found::Due(credential) => return Ok(credential),
            Found::Nothing(now) if now != failures => {
                if let Some(failure) = self.state().failure.clone() {
                    return Err(failure);
                }
            }
            Found::Nothing(_) => {}
        }
        let asked = self.ask().await;
        let mut state = self.state();
        match asked {
            Ok(given) => Ok(self.hold(&mut state, given)),
            Err(error) => {
                let error = Arc::new(error);
                state.failures += 1;
                state.failure = Some(error.clone());
                Err(error)
            }
        }
    }

    /// What a store may take that takes the credentials of this ID no more; `None`: nobody gives others.
    async fn instead_of(&self, id: &str) -> Result<Option<Arc<AwsCredential>>, Arc<IdentityError>> {
        // another request may have been refused before, and new ones be held already
        let dropped = self.state().held.take_if(|held| held.credential.key_id == id);
        if dropped.is_some() {
            tracing::warn!("the store does not take the credentials any more; others are asked for");
        }
        Ok(Some(self.get().await?).filter(|new| new.key_id != id))
    }

    /// With retries.
    async fn ask(&self) -> Result<Given, IdentityError> {
        let mut retries = Retries::new();
        loop {
            let error = match self.from.ask().await {
                Ok(given) => return Ok(given),
                Err(error) => error,
            };
            let Some(pause) = retries.next().filter(|_| error.is_passing()) else { return Err(error) };
            tracing::debug!(%error, ?pause, "credentials are asked for again");
            tokio::time::sleep(pause).await;
        }
    }

    /// New credentials if they can be had at once, else those that are still good.
    async fn renewed(&self, old: Arc<AwsCredential>) -> Arc<AwsCredential> {
        let Ok(_turn) = self.asking.try_lock() else { return old };
        // somebody else may just have been done
        let Found::Due(old) = self.find() else { return old };
        let asked = tokio::time::timeout(RENEWAL, self.from.ask()).await;
        let mut state = self.state();
        let why = match asked {
            Ok(Ok(given)) => return self.hold(&mut state, given),
            Ok(Err(error)) => error.told(),
            Err(_) => "no answer in time".to_owned(),
        };
        let now = (self.now)();
        if let Some(held) = &mut state.held {
            let left = held.left(now);
            held.next_renewal = now + (left / 8).min(PAUSE);
            tracing::warn!(error = %why, left_seconds = left.as_secs(), "credentials could not be renewed; the old ones are still good");
        }
        old
    }

    fn hold(&self, state: &mut State, given: Given) -> Arc<AwsCredential> {
        let held = Held::new(given, (self.now)());
        tracing::debug!(lifetime_seconds = held.lifetime.map(|l| l.as_secs()), "new credentials");
        let credential = held.credential.clone();
        state.held = Some(held);
        credential
    }
}

#[async_trait]
impl CredentialProvider for Identity {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        self.get().await.map_err(|error| object_store::Error::Generic { store: "credentials", source: error.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(lifetime: Option<u64>, at: u64) -> Held {
        let credential = AwsCredential { key_id: "k".into(), secret_key: "s".into(), token: None };
        Held::new(Given { credential, lifetime: lifetime.map(Duration::from_secs) }, Duration::from_secs(at))
    }

    #[test]
    fn credentials_are_renewed_before_they_end() {
        for (lifetime, renewal, end) in [(30, 20, 29), (900, 600, 899), (3600, 2700, 3599), (43_200, 42_300, 43_199)] {
            let held = held(Some(lifetime), 1000);
            assert_eq!(held.next_renewal, Duration::from_secs(1000 + renewal), "{lifetime}");
            assert!(!held.is_over(Duration::from_secs(1000 + end)), "{lifetime}");
            assert!(held.is_over(Duration::from_millis((1000 + end) * 1000 + 1)), "{lifetime}");
        }
        // given when they were over already
        assert!(held(Some(0), 1000).is_over(Duration::from_secs(1000)));
    }

    #[test]
    fn credentials_without_an_end_stay() {
        let held = held(None, 1000);
        assert!(!held.is_over(Duration::from_secs(u64::from(u32::MAX))));
        assert_eq!(held.next_renewal, Duration::MAX);
    }
}
