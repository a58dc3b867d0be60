use std::collections::BTreeSet;

use super::{
    Check,
    gaps::{Doubt, Explained, Gap, explain},
    key::{Key, Keys},
    request::Request,
};

/// That blocks have no gaps but those which requests without a definite answer explain.
pub(super) fn check(requests: &[Request<'_>], keys: &Keys<'_>) -> [Check; 3] {
    let mut search = Gapless::new(requests, keys);
    let mut explained = Vec::new();
    for (number, key) in keys.values().enumerate() {
        explained.extend(search.one_key(number, key));
    }
    search.shared_keys(&explained);
    [search.gapless, search.whole, search.refusals]
}

struct Gapless<'a> {
    gapless: Check,
    whole: Check,
    refusals: Check,
    names: Vec<&'a str>,
    last_starts_ns: Vec<u64>,
    doubts: Vec<Doubt>,
}

impl<'a> Gapless<'a> {
    fn new(requests: &[Request<'a>], keys: &Keys<'a>) -> Self {
        let promise = "a key's blocks follow each other from its start on; only calls without a \
                       definite answer fill gaps";
        let mut gapless = Check::new("G3 gapless", promise);
        gapless.saw(keys.values().map(|key| key.pieces.len()).sum());
        let mut whole = Check::new("G3 all or nothing", "a batch advances all of its keys or none");
        whole.saw(requests.iter().filter(|request| request.ask.len() > 1).count());
        let promise = "a call that was definitely refused spends no values";
        let mut refusals = Check::new("G3 refusals", promise);
        refusals.saw(keys.values().map(|key| key.refused.len()).sum());
        let names: Vec<&str> = keys.keys().copied().collect();
        let last_starts_ns = keys.values().map(Key::last_start_ns).collect();
        let doubts = doubts(requests, &names);
        Self { gapless, whole, refusals, names, last_starts_ns, doubts }
    }

    /// Explains the gaps of one key, whatever a batch did to its other keys. Returns those that can
    /// be explained; if not all of them can at once, none.
    fn one_key(&mut self, number: usize, key: &Key<'a>) -> Vec<(usize, Gap<'a>)> {
        let gaps = key.gaps();
        if gaps.is_empty() {
            return Vec::new();
        }
        let alone: Vec<Doubt> = self.doubts.iter().filter_map(|doubt| doubt.only(number)).collect();
        let (gaps, unfillable): (Vec<_>, Vec<_>) =
            gaps.into_iter().partition(|gap| gap.might_be_filled(&alone));
        for gap in unfillable {
            self.unexplained(number, key, &gap);
        }
        let gaps: Vec<_> = gaps.into_iter().map(|gap| (number, gap)).collect();
        match explain(&gaps, &alone, &self.last_starts_ns) {
            Explained::Yes => return gaps,
            Explained::No(gap) => self.unexplained(number, key, &gaps[gap].1),
            Explained::Undecided(gap) => {
                let what = self.undecided(&gaps[gap]);
                self.gapless.violated(&[gaps[gap].1.after], || what);
            }
        }
        Vec::new()
    }

    /// Explains the gaps of all keys that batches without a definite answer may have advanced.
    fn shared_keys(&mut self, gaps: &[(usize, Gap<'_>)]) {
        let batches = self.doubts.iter().filter(|doubt| doubt.parts.len() > 1);
        let keys: BTreeSet<usize> = batches.flat_map(Doubt::keys).collect();
        let gaps: Vec<_> = gaps.iter().filter(|(key, _)| keys.contains(key)).copied().collect();
        let touches = |doubt: &&Doubt| doubt.keys().any(|key| keys.contains(&key));
        let doubts: Vec<Doubt> = self.doubts.iter().filter(touches).cloned().collect();
        match explain(&gaps, &doubts, &self.last_starts_ns) {
            Explained::Yes => {}
            Explained::No(gap) => {
                let what = self.skipped(&gaps[gap]);
                self.whole.violated(&[gaps[gap].1.after], || {
                    format!("{what}, which only a batch that spared some of its keys can have done")
                });
            }
            Explained::Undecided(gap) => {
                let what = self.undecided(&gaps[gap]);
                self.whole.violated(&[gaps[gap].1.after], || what);
            }
        }
    }

    fn unexplained(&mut self, number: usize, key: &Key<'_>, gap: &Gap<'_>) {
        let what = self.skipped(&(number, *gap));
        let around: Vec<_> = gap.before.into_iter().chain([gap.after]).collect();
        self.gapless.violated(&around, || what.clone());
        let spent = key.refused.iter().find(|(count, refused)| {
            u64::from(*count) <= gap.to - gap.from && refused.start_ns <= gap.deadline_ns
        });
        if let Some((_, refused)) = spent {
            self.refusals.violated(&[refused, gap.after], || {
                format!("{what}, and a call that was refused may have spent them")
            });
        }
    }

    fn skipped(&self, (key, gap): &(usize, Gap<'_>)) -> String {
        format!("{}: {} to {} were skipped", self.names[*key], gap.from, gap.to - 1)
    }

    fn undecided(&self, gap: &(usize, Gap<'_>)) -> String {
        let skipped = self.skipped(gap);
        format!("{skipped}; too many calls have no definite answer to find which of them did it")
    }
}

/// The requests that were not answered, or not so that one could tell with what.
fn doubts(requests: &[Request<'_>], names: &[&str]) -> Vec<Doubt> {
    let number = |key: &str| names.binary_search(&key).expect("every key asked for has a name");
    requests
        .iter()
        .filter(|request| request.granted().is_none())
        .map(|request| Doubt {
            parts: request.ask.iter().map(|ask| (number(&ask.key), ask.count)).collect(),
            start_ns: request.start_ns,
        })
        .collect()
}
