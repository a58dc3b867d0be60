//! Callers that ask under names which they share: the same name with the same request gets the same blocks, through
//! whatever node, and with another request it is refused.

use std::sync::{Arc, Mutex};

use tsoracle_core::{ErrorKind, Reject, RequestName, state::Capped};

use crate::{
    callers::{Caller, KEYS, Request},
    reached::Reached,
    world::World,
};

/// How many names callers share: more than the cap, together with those of owners.
const NAMES: u64 = 12;

/// How often a request is sent again once the run is over.
const PERSEVERANCE: u32 = 100;

/// The name of a request.
#[derive(Clone, Debug)]
pub(crate) struct Named {
    text: Arc<str>,
    /// Of one that may expire.
    life: Option<Life>,
}

/// What is known of a name that may expire while all machines sleep, when a request is sent under it.
#[derive(Clone, Debug)]
struct Life {
    /// They have slept already.
    slept: bool,
    known: Arc<Mutex<Lives>>,
}

#[derive(Default, Debug)]
struct Lives {
    /// Where the blocks began before they slept, if that was answered.
    first: Option<Vec<u64>>,
    /// It was carried out again.
    has_expired: bool,
    straddling: u32,
}

impl Named {
    pub(crate) fn new(text: String) -> Self {
        Self { text: text.into(), life: None }
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    pub(crate) fn to_core(&self) -> RequestName {
        RequestName::new(&self.text).unwrap()
    }

    /// Which request a call is a copy of: under a name that has expired it is a new one.
    pub(crate) fn label(&self, world: &World, starts: Option<&Vec<u64>>) -> Arc<str> {
        let Some(life) = &self.life else { return self.text.clone() };
        let mut known = life.known.lock().unwrap();
        let slept = world.refusals.have_slept();
        let is_first = match starts {
            _ if known.has_expired => false,
            Some(starts) if !slept => {
                known.first.get_or_insert_with(|| starts.clone());
                true
            }
            Some(starts) if known.first.as_ref() == Some(starts) => true,
            Some(_) => {
                if known.first.is_some() {
                    world.reached(Reached::NameExpired);
                }
                known.has_expired = true;
                false
            }
            None if slept && !life.slept => {
                // It was carried out before, or after the name had expired, or not.
                known.straddling += 1;
                return format!("{}, straddling {}", self.text, known.straddling).into();
            }
            None => !slept,
        };
        if is_first { self.text.clone() } else { format!("{}, again", self.text).into() }
    }
}

impl Caller {
    pub(crate) async fn ask_by_name(mut self) {
        while self.world().is_open() {
            let number = self.rng().between(1..=NAMES);
            let mut entries = request_of(number);
            if self.rng().chance(150) {
                entries.truncate(1);
                entries[0].1 += 10;
            }
            self.ask_until_named(Named::new(format!("order {number}")), entries).await;
            self.rest().await;
        }
    }

    async fn ask_until_named(&mut self, name: Named, entries: Vec<(&'static str, u32)>) {
        let is_single = entries.len() == 1;
        for attempt in 0.. {
            let was_known = self.world().refusals.is_known(&name);
            let request = Request::named(name.clone(), entries.clone());
            let other = self.rng().chance(100).then(|| {
                let (mut other, again) = (self.twin(), request.clone());
                tokio::spawn(async move { other.get_seq(&again).await })
            });
            let answer = self.get_seq(&request).await;
            if let Some(other) = other {
                // What came of it is in the history.
                drop(other.await.expect("callers do not panic"));
            }
            match answer {
                Ok(_) => {
                    if was_known {
                        self.world().reached(Reached::NameKnown);
                    }
                    return;
                }
                Err(error) => {
                    if let ErrorKind::Rejected(
                        Reject::NameReused | Reject::TooMany { what: Capped::Named, .. },
                    ) = error.kind()
                    {
                        return;
                    }
                }
            }
            self.rest().await;
            // As with sessions, batches are not given up.
            let gives_up = is_single && attempt > 3 && self.rng().chance(100);
            if gives_up || !self.world().is_open() && attempt > PERSEVERANCE {
                return;
            }
        }
    }

    /// Asks under one name all the time, which expires while all machines sleep. It is carried out once before, and
    /// once more after: never twice meanwhile.
    pub(crate) async fn ask_under_a_name_that_expires(self) {
        let mut caller = self.without_hurry();
        let known = Arc::<Mutex<Lives>>::default();
        while caller.world().is_open() {
            let slept = caller.world().refusals.have_slept();
            let life = Some(Life { slept, known: known.clone() });
            let name = Named { text: "name that expires".into(), life };
            let request = Request::named(name, vec![(KEYS[0], 5)]);
            // What came of it is in the history.
            let _ = caller.get_seq(&request).await;
            caller.rest().await;
        }
    }
}

/// What is asked for under a name by all who ask for the same.
fn request_of(number: u64) -> Vec<(&'static str, u32)> {
    let chosen = KEYS.iter().zip(0..).filter(|(_, bit)| (number % 7 + 1) >> bit & 1 == 1);
    chosen.map(|(key, bit)| (*key, (number % 5 + bit + 1) as u32)).collect()
}
