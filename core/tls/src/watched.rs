use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::task::spawn_blocking;
use tsoracle_core::{
    BootTime, Certificate, Clock, Finding, Reload, Report, Result, SystemClock, series,
};

use crate::{Credentials, Sources, date, validity::Validity};

/// How often files are read again. A roll-out waits for it, and reading some kilobytes costs next to nothing.
const EVERY: Duration = Duration::from_secs(2);

/// How long before its end a certificate is warned of, and how often.
const AHEAD: Duration = Duration::from_secs(30 * 24 * 3_600);
const DAILY: Duration = Duration::from_secs(24 * 3_600);

/// What is made of certificates and keys, kept up with their files. Cheap to clone.
pub struct Watched<T>(Arc<Inner<T>>);

struct Inner<T> {
    /// What it is for, in a log.
    name: &'static str,
    sources: Sources,
    make: Box<Make<T>>,
    current: ArcSwap<T>,
    state: Mutex<State>,
    clock: Arc<dyn Clock>,
}

/// What to do about certificates.
const REPLACE: &str = "replace it: what is in its file is in use within seconds, without a restart";
const IN_USE_SOON: &str =
    "mend the files: what is in them is in use within seconds, without a restart";

type Make<T> = dyn Fn(&Credentials) -> Result<T> + Send + Sync;

struct State {
    in_use: Credentials,
    validities: Vec<Validity>,
    /// Why what is there now is not in use.
    rejected: Option<Rejected>,
    /// When what runs out was last warned of.
    warned: Option<BootTime>,
}

/// Files are replaced one after the other: between two of them they do not go together, which is no news.
struct Rejected {
    reason: String,
    is_logged: bool,
}

impl<T: Send + Sync + 'static> Watched<T> {
    /// Reads the sources, and has `make` make something of them. `name` says in a log what for.
    ///
    /// # Errors
    /// `Config` if a file cannot be read or a certificate is not valid now, and those of `make`.
    pub fn open(
        name: &'static str,
        sources: Sources,
        make: impl Fn(&Credentials) -> Result<T> + Send + Sync + 'static,
    ) -> Result<Self> {
        Self::open_by(Arc::new(SystemClock), name, sources, Box::new(make))
    }

    pub(crate) fn open_by(
        clock: Arc<dyn Clock>,
        name: &'static str,
        sources: Sources,
        make: Box<Make<T>>,
    ) -> Result<Self> {
        let in_use = sources.read()?;
        let made = make(&in_use)?;
        in_use.check(clock.now().wall_ms)?;
        let validities = in_use.validities()?;
        show_end(name, &validities);
        let state = State { in_use, validities, rejected: None, warned: None };
        let current = ArcSwap::from_pointee(made);
        Ok(Self(Arc::new(Inner { name, sources, make, current, state: state.into(), clock })))
    }

    /// What the files held when they were last of use.
    pub fn current(&self) -> Arc<T> {
        self.0.current.load_full()
    }

    /// Looks at the files from now on, for as long as there is a clone of this. Must be polled within a tokio runtime, by
    /// the caller that notices that it has panicked: without it certificates would expire that were renewed long ago.
    pub fn keep_up(&self, mut reload: Reload) -> impl Future<Output = ()> + Send + use<T> {
        self.0.warn_of_open_key();
        let (watched, clock) = (Arc::downgrade(&self.0), self.0.clock.clone());
        self.0.warn_of_ends();
        async move {
            loop {
                let is_asked = tokio::select! {
                    () = reload.requested() => true,
                    () = clock.sleep(EVERY) => false,
                };
                let Some(watched) = watched.upgrade() else { return };
                let name = watched.name;
                // The disk may hang.
                let looked = spawn_blocking(move || {
                    watched.look(is_asked);
                    watched.warn_of_ends();
                });
                if let Err(error) = looked.await {
                    tracing::error!(of = name, %error, "certificates and keys could not be read again");
                }
            }
        }
    }

    /// The certificates in use, and what is wrong: that the files are not in use, and why; that a certificate runs
    /// out.
    pub fn report(&self) -> Report {
        let (name, wall_ms) = (self.0.name, self.0.clock.now().wall_ms);
        let state = self.0.state();
        let rejected = state.rejected.as_ref().filter(|rejected| rejected.is_logged);
        let rejected = rejected.map(|rejected| {
            let reason = &rejected.reason;
            let what = format!("{name}: older certificates are in use than in the files: {reason}");
            Finding::new("certificates_not_in_use", what, IN_USE_SOON).about(name)
        });
        let ends = state.validities.iter().filter_map(|one| {
            let warning = one.warning(wall_ms, AHEAD)?;
            let (kind, effect) = match one.is_over(wall_ms) {
                true => (
                    "certificate_expired",
                    ", and new connections are refused by those who check it",
                ),
                false => ("certificate_expiring", ""),
            };
            let found = Finding::new(kind, format!("{name}: {warning}{effect}"), REPLACE);
            Some(found.about(format!("{name}, {}", one.what)))
        });
        let certificates = state.validities.iter().map(|one| Certificate {
            used_for: name,
            name: one.what.clone(),
            not_after: one.not_after,
        });
        Report {
            certificates: certificates.collect(),
            findings: rejected.into_iter().chain(ends).collect(),
            ..Report::default()
        }
    }

    #[cfg(test)]
    pub(crate) fn look(&self, is_asked: bool) {
        self.0.look(is_asked);
    }
}

impl<T> Inner<T> {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the files, and takes up what has changed if it is of use.
    fn look(&self, is_asked: bool) {
        let found = self.sources.read();
        let mut state = self.state();
        if found.as_ref().is_ok_and(|found| *found == state.in_use) {
            state.rejected = None;
            return;
        }
        match found.and_then(|found| self.made_of(found)) {
            Ok((made, in_use, validities)) => {
                self.current.store(Arc::new(made));
                show_end(self.name, &validities);
                let first = validities.iter().min_by_key(|one| one.not_after);
                let expires = first.map(|first| date(first.not_after));
                *state = State { in_use, validities, rejected: None, warned: None };
                drop(state);
                tracing::info!(of = self.name, expires, "new certificates are in use");
                self.warn_of_open_key();
            }
            Err(error) => {
                let reason = format!("{error:#}");
                let before = state.rejected.take().filter(|before| before.reason == reason);
                let is_logged = before.as_ref().is_some_and(|before| before.is_logged);
                let logs = is_asked || (before.is_some() && !is_logged);
                if logs {
                    tracing::warn!(
                        of = self.name,
                        reason,
                        "the new certificates cannot be used; the old ones stay in use"
                    );
                }
                state.rejected = Some(Rejected { reason, is_logged: is_logged || logs });
            }
        }
    }

    fn made_of(&self, found: Credentials) -> Result<(T, Credentials, Vec<Validity>)> {
        let made = (self.make)(&found)?;
        found.check(self.clock.now().wall_ms)?;
        let validities = found.validities()?;
        Ok((made, found, validities))
    }

    fn warn_of_open_key(&self) {
        if let Some(key) = self.sources.open_key() {
            tracing::warn!(
                of = self.name,
                %key,
                "every user of this machine may read the private key; take that right away (chmod o= FILE)"
            );
        }
    }

    /// Warns of certificates that run out, once a day.
    fn warn_of_ends(&self) {
        let now = self.clock.now();
        let mut state = self.state();
        if state.warned.is_some_and(|warned| now.boot.since(warned) < DAILY) {
            return;
        }
        for end in state.validities.iter().filter_map(|one| one.warning(now.wall_ms, AHEAD)) {
            tracing::warn!(of = self.name, "{end}; replace it");
        }
        state.warned = Some(now.boot);
    }
}

/// Shows when the first of them expires. What they are for is all of the name but `TLS of`.
fn show_end(name: &str, validities: &[Validity]) {
    if let Some(first) = validities.iter().map(|one| one.not_after).min() {
        let of = name.trim_start_matches("TLS of ");
        series::CERTIFICATE_EXPIRY.gauge_of(&[of]).set(first as f64);
    }
}

impl<T> Clone for Watched<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> fmt::Debug for Watched<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched")
            .field("name", &self.0.name)
            .field("sources", &self.0.sources)
            .finish_non_exhaustive()
    }
}
