//! Callers that ask exactly once: several requests of a session at a time, each again and again until it is
//! answered, and sometimes at two nodes at once.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::task::JoinSet;
use tsoracle_core::{ErrorKind, Reject, RequestId, Session, state::Capped};

use crate::{
    callers::{Caller, KEYS, Request},
    reached::Reached,
};

/// How often a request is sent again once the run is over.
const PERSEVERANCE: u32 = 100;

/// How many requests of a session are under way at once: no more than the cap of open requests.
const WIDTH: usize = 3;

/// How many requests a session has.
const LENGTH: u64 = 24;

/// A session, as its client knows it.
#[derive(Debug)]
pub(crate) struct Open {
    name: String,
    /// The numbers whose answers are waited for.
    incomplete: Mutex<BTreeSet<u64>>,
    highest: Mutex<u64>,
    /// It was answered, so that some state knows it.
    is_known: AtomicBool,
}

/// The id of one copy of a request. While any copy exists, so does its share in the session.
#[derive(Clone, Debug)]
pub(crate) struct Id {
    pub(crate) session: Arc<Open>,
    pub(crate) number: u64,
    pub(crate) first_incomplete: u64,
    pub(crate) retry: bool,
    pub(crate) close: bool,
}

impl Open {
    fn new(name: String) -> Arc<Self> {
        Arc::new(Self {
            name,
            incomplete: Mutex::default(),
            highest: Mutex::default(),
            is_known: AtomicBool::new(false),
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    fn begin(&self) -> u64 {
        let mut highest = self.highest.lock().unwrap();
        *highest += 1;
        self.incomplete.lock().unwrap().insert(*highest);
        *highest
    }

    /// All answers are waited for until there is one, as the protocol asks for.
    fn id(self: &Arc<Self>, number: u64, retry: bool) -> Id {
        let first_incomplete = match self.is_known.load(Ordering::Relaxed) {
            true => self.incomplete.lock().unwrap().first().copied().unwrap_or(number).min(number),
            false => 1,
        };
        Id { session: self.clone(), number, first_incomplete, retry, close: false }
    }
}

impl Id {
    pub(crate) fn label(&self) -> Arc<str> {
        format!("{}/{}", self.session.name, self.number).into()
    }

    pub(crate) fn to_core(&self) -> RequestId {
        let session = Session::from_text(&self.session.name);
        RequestId {
            retry: self.retry,
            close: self.close,
            ..RequestId::new(session, self.number, self.first_incomplete).unwrap()
        }
    }
}

impl Caller {
    pub(crate) async fn ask_exactly_once(mut self) {
        for generation in 1.. {
            if !self.world().is_open() {
                return;
            }
            let session = Open::new(format!("{} {generation}", self.name()));
            let width = self.rng().between(1..=WIDTH as u64) as usize;
            let (mut requests, mut is_known) = (JoinSet::new(), true);
            for _ in 0..LENGTH {
                let number = session.begin();
                let (twin, session) = (self.twin(), session.clone());
                requests.spawn(async move { twin.until_answered(session, number).await });
                while requests.len() >= width
                    && let Some(known) = requests.join_next().await
                {
                    is_known &= known.expect("callers do not panic");
                }
                self.rest().await;
                if !self.world().is_open() || !is_known {
                    break;
                }
            }
            while let Some(known) = requests.join_next().await {
                known.expect("callers do not panic");
            }
            self.close(session).await;
        }
    }

    /// Opens a session, and asks the same again much later.
    pub(crate) async fn ask_after_a_while(mut self) {
        let session = Open::new(self.name().into());
        let number = session.begin();
        let request = self.request_of(&session, number);
        self.try_until_answered(request.clone(), false).await;
        while self.world().is_open() {
            self.rest().await;
        }
        self.try_until_answered(request, true).await;
    }

    /// Whether the session is still known.
    async fn until_answered(mut self, session: Arc<Open>, number: u64) -> bool {
        let request = self.request_of(&session, number);
        let known = self.try_until_answered(request, false).await;
        session.incomplete.lock().unwrap().remove(&number);
        known
    }

    async fn try_until_answered(&mut self, mut request: Request, mut may_be_done: bool) -> bool {
        let Some(id) = request.id.take() else { return true };
        let (session, number) = (id.session.clone(), id.number);
        drop(id);
        for attempt in 0.. {
            // What may have been carried out must not be by a state that does not know the session.
            request.id = Some(session.id(number, may_be_done));
            let other = self.rng().chance(100).then(|| {
                let (mut other, again) = (self.twin(), request.clone());
                tokio::spawn(async move { other.get_seq(&again).await })
            });
            let answer = self.get_seq(&request).await;
            let other = match other {
                Some(other) => Some(other.await.expect("callers do not panic")),
                None => None,
            };
            request.id = None;
            for answer in [answer].into_iter().chain(other) {
                let Err(error) = answer else {
                    session.is_known.store(true, Ordering::Relaxed);
                    return true;
                };
                match error.kind() {
                    ErrorKind::Rejected(Reject::SessionUnknown) => {
                        if self.world().refusals.has_expired(session.name()) {
                            self.world().reached(Reached::SessionExpired);
                        }
                        return false;
                    }
                    ErrorKind::Rejected(Reject::TooMany { what: Capped::Sessions, .. })
                        if !may_be_done =>
                    {
                        return false;
                    }
                    ErrorKind::Uncertain | ErrorKind::Fatal | ErrorKind::Corrupt => {
                        may_be_done = true;
                    }
                    _ => {}
                }
            }
            self.rest().await;
            // Batches are not given up: which of many of unknown outcome has spent what would be a long
            // search.
            let is_single = request.entries.len() == 1;
            let gives_up = is_single && attempt > 3 && self.rng().chance(100);
            if gives_up || !self.world().is_open() && attempt > PERSEVERANCE {
                return true;
            }
        }
        true
    }

    fn request_of(&mut self, session: &Arc<Open>, number: u64) -> Request {
        let mut keys = KEYS.to_vec();
        while keys.len() > 1 && self.rng().chance(700) {
            let dropped = self.rng().between(0..=keys.len() as u64 - 1) as usize;
            keys.remove(dropped);
        }
        let mut entry = |key| (key, self.rng().between(1..=9) as u32);
        let entries = keys.into_iter().map(&mut entry).collect();
        Request { id: Some(session.id(number, false)), ..Request::plain(entries) }
    }

    /// Closes a session of which no copy of a request is under way: one that came later could be carried out
    /// once more, in a session of the same name.
    async fn close(&mut self, session: Arc<Open>) {
        if Arc::strong_count(&session) > 1 || !self.rng().chance(800) {
            return;
        }
        let number = session.begin();
        let id = Id { close: true, ..session.id(number, false) };
        self.world().refusals.closed(session.name());
        let request = Request { id: Some(id), ..Request::plain(vec![]) };
        if self.get_seq(&request).await.is_ok() {
            self.world().reached(Reached::SessionClosed);
        }
    }
}
