use super::Leadership;
use crate::LeaderHint;
use tokio::sync::watch;

/// Tells the engine who should try to lead, as far as this node knows, and numbers its claims.
///
/// A node that replicates a log announces that it leads late: when a majority follows it, and all that
/// was decided before is applied. So the first commit of a reign is rarely based on a version that is gone.
#[derive(Debug)]
pub struct Announcer {
    leadership: watch::Sender<Leadership>,
    claims: u64,
}

impl Announcer {
    /// It begins with [`Leadership::Unknown`]. Dropped, it closes the channel: this node will never lead
    /// again.
    pub fn new() -> (Self, watch::Receiver<Leadership>) {
        let (leadership, receiver) = watch::channel(Leadership::Unknown);
        (Self { leadership, claims: 0 }, receiver)
    }

    /// This node leads, under a new claim, which is returned.
    pub fn lead(&mut self) -> u64 {
        self.claims += 1;
        self.announce(Leadership::Leader { claim: self.claims });
        self.claims
    }

    /// Another node leads, if it is known where.
    pub fn follow(&self, leader: Option<LeaderHint>) {
        self.announce(Leadership::Follower { leader });
    }

    /// No node leads, or it is not known which.
    pub fn unknown(&self) {
        self.announce(Leadership::Unknown);
    }

    /// The claim under which this node leads, as announced last.
    pub fn claim(&self) -> Option<u64> {
        match *self.leadership.borrow() {
            Leadership::Leader { claim } => Some(claim),
            Leadership::Follower { .. } | Leadership::Unknown => None,
        }
    }

    fn announce(&self, now: Leadership) {
        self.leadership.send_if_modified(|known| {
            let is_news = *known != now;
            *known = now;
            is_news
        });
    }
}
