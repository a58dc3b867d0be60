use crate::{
    Entry, Epoch, Error, ErrorKind, Result,
    import::StateCounts,
    state::{BACKED_UP, LEASES, META, NAMED, REIGN, RESTORED, RULES, Record, ReignRecord, Stage},
};

/// What the entries of a backup are, once all were looked at.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Contents {
    /// How many there are of each kind, and where timestamps stand.
    pub counts: StateCounts,
    /// The epoch of the last reign.
    pub epoch: Epoch,
    /// Sequences were closed, since the state was restored itself.
    pub closed: bool,
    pub(super) reign: Option<ReignRecord>,
    pub(super) has_counts: bool,
}

impl Contents {
    /// How far the last reign has come, in a word.
    pub fn stage(&self) -> &'static str {
        match self.reign.as_ref().map(|record| record.stage) {
            None => "never begun",
            Some(Stage::Fenced) => "fenced",
            Some(Stage::Open) => "open",
            Some(Stage::Released) => "released",
            Some(Stage::Importing) => "importing",
        }
    }
}

/// Looks at the entries of a backup, in the order of their keys.
#[derive(Debug)]
pub(super) struct Inspector {
    /// Not of a state under rules that are not known: only the order of the keys is looked at then.
    decodes: bool,
    contents: Contents,
    last: Vec<u8>,
    stored: Stored,
}

/// The counts that the state itself keeps.
#[derive(Default, Debug)]
struct Stored {
    keys: u64,
    sessions: u64,
    leases: u64,
    named: u64,
}

impl Inspector {
    pub(super) fn new(rules: u32) -> Self {
        let decodes = rules <= RULES;
        Self { decodes, contents: Contents::default(), last: vec![], stored: Stored::default() }
    }

    /// # Errors
    /// `Corrupt` for an entry that no state has there.
    pub(super) fn look_at(&mut self, entry: &Entry) -> Result<()> {
        let (key, value) = entry;
        if *key <= self.last {
            return Err(corrupt("its entries are out of order"));
        }
        self.last.clone_from(key);
        self.contents.counts.count(std::slice::from_ref(entry));
        if !self.decodes {
            return Ok(());
        }
        if !key.first().is_some_and(|kind| BACKED_UP.contains(kind)) {
            return Err(corrupt("it has an entry that no backup has"));
        }
        match Record::decode(key, value.clone())? {
            Record::Reign(record) if key == REIGN => {
                self.contents.counts.high_water_ms = record.high_water_ms;
                self.contents.epoch = record.epoch;
                self.contents.reign = Some(*record);
            }
            Record::Meta(meta) if key == META => {
                (self.stored.keys, self.stored.sessions) = (meta.keys, meta.sessions);
                self.contents.has_counts = true;
            }
            Record::Leases(leases) if key == LEASES => self.stored.leases = leases.count,
            Record::Next(named) if key == NAMED => self.stored.named = named,
            Record::Restored(_) if key == RESTORED => self.contents.closed = true,
            _ => {}
        }
        Ok(())
    }

    /// # Errors
    /// `Corrupt` if the entries do not make a whole state.
    pub(super) fn finish(self) -> Result<Contents> {
        let (contents, stored) = (self.contents, self.stored);
        if !self.decodes {
            return Ok(contents);
        }
        match &contents.reign {
            None => return Err(corrupt("it says nothing of who reigned")),
            Some(record) if record.stage == Stage::Importing => {
                return Err(corrupt("it is of a copy of another state that was not whole"));
            }
            Some(_) => {}
        }
        let counts = &contents.counts;
        for (what, found, stored) in [
            ("sequences", counts.sequences, stored.keys),
            ("sessions", counts.sessions, stored.sessions),
            ("named requests", counts.named_requests, stored.named),
            ("stamping leases", counts.leases, stored.leases),
        ] {
            if found != stored {
                let what = format!("it has {found} {what}, and says that there are {stored}");
                return Err(corrupt(&what));
            }
        }
        Ok(contents)
    }
}

pub(super) fn corrupt(what: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("the backup is damaged: {what}"))
}
