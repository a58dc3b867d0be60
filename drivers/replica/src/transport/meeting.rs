//! The first frame of a session in each direction: who meets whom, and what a node learns of being refused.

use std::mem;

use bytes::Bytes;
use prost::Message as _;
use tonic::{Code, Status};
use tsoracle_core::{Clock as _, ErrorKind, SystemClock};

use super::{
    Inner, Sender,
    formation::{Meeting, Refused},
    peer_ids::Directory,
    presence::{Ask, Conflict},
    proto::{Frame, Refusal, refusal::Reason},
};

/// All that a stranger is told.
pub(super) const REFUSED: &str = "refused; the log of this node says why";

impl Inner {
    /// What this node says first to node `to`, which it calls.
    pub(super) fn hello(&self, to: u32) -> Result<Frame, Status> {
        let introduction = self.formation.introduction(to, SystemClock.now().boot);
        let frame = self.envelope.introduce(to, introduction);
        frame.map_err(|error| Status::internal(format!("{error:#}")))
    }

    /// What it answers `caller` first: to one that it knows also whom else it knows.
    pub(super) fn welcome(&self, caller: Sender) -> Result<Frame, Status> {
        let ids = &self.envelope.ids;
        let known = match ids.directory(caller) {
            Directory::Its => ids.news(0).map(|(known, _)| known).unwrap_or_default(),
            _ => vec![],
        };
        Ok(Frame { known, ..self.hello(caller.node)? })
    }

    /// A node has called.
    pub(super) fn meet_caller(&self, hello: Frame) -> Result<(Sender, Meeting), Status> {
        self.meet(hello, false).map_err(|refused| self.turn_away(refused, vec![]))
    }

    /// The session of a process that speaks for `node` is to stand. Returns its number.
    pub(super) fn enter(&self, node: u32, process: (u64, &str), ask: Ask) -> Result<u64, Status> {
        self.presence.enter(node, process, ask).map_err(|conflict| match conflict {
            Conflict::Unclear => {
                let context = "another process has spoken for this node, and may still be there";
                Status::unavailable(context)
            }
            Conflict::Duplicate { first, second } => {
                let log = format!("node {node} runs at {first} already, and also at {second}");
                let refused = Refused { reason: Reason::Duplicate, knows_cluster: true, log };
                self.turn_away(refused, vec![first, second])
            }
        })
    }

    /// Node `node` has answered with that.
    pub(super) fn meet_called(&self, node: u32, welcome: Frame) -> Result<Meeting, Status> {
        let met = self.meet(welcome, true);
        let (sender, meeting) = met.map_err(|refused| {
            Status::failed_precondition(format!("its answer is refused: {}", refused.log))
        })?;
        match sender.node == node {
            true => Ok(meeting),
            false => {
                Err(Status::failed_precondition(format!("node {} answers there", sender.node)))
            }
        }
    }

    fn meet(&self, mut frame: Frame, is_called: bool) -> Result<(Sender, Meeting), Refused> {
        let stranger = |log| Refused { reason: Reason::Stranger, knows_cluster: false, log };
        let known = mem::take(&mut frame.known);
        let knows_this = self.envelope.is_known_by(&frame);
        let clock_ms = frame.clock_ms;
        let introduction = frame.introduction.take();
        let (sender, _) = self.envelope.open(frame).map_err(stranger)?;
        let Some(introduction) = introduction else {
            return Err(stranger(format!("node {} does not introduce itself", sender.node)));
        };
        let now = SystemClock.now().boot;
        let met = self.formation.meet(sender, &introduction, (knows_this, is_called), &known, now);
        let meeting = met?;
        if meeting == Meeting::Stands {
            self.envelope.ids.learn(known);
            self.note_clock(sender.node, clock_ms);
        }
        Ok((sender, meeting))
    }

    /// Refuses a caller. Only one that knows the id of the cluster learns who it is that refuses it.
    fn turn_away(&self, refused: Refused, addresses: Vec<String>) -> Status {
        self.refuse(&refused.log);
        let identity = match refused.knows_cluster {
            true => Bytes::copy_from_slice(&self.envelope.id.0.to_be_bytes()),
            false => Bytes::new(),
        };
        let refusal = Refusal { reason: refused.reason.into(), identity, addresses };
        let details = refusal.encode_to_vec().into();
        Status::with_details(Code::FailedPrecondition, REFUSED, details)
    }

    /// Refuses a node that was removed while its session stood.
    pub(super) fn turn_away_removed(&self, sender: Sender) -> Status {
        let log = format!("node {} was removed from this cluster", sender.node);
        self.turn_away(Refused { reason: Reason::Removed, knows_cluster: true, log }, vec![])
    }

    /// Node `node`, which was called, has refused this one. Returns why, as far as it says.
    pub(super) fn note_refusal(&self, node: u32, status: Status) -> Status {
        if status.code() != Code::FailedPrecondition {
            return status;
        }
        let Ok(refusal) = Refusal::decode(status.details()) else { return status };
        let own = self.envelope.node;
        let known =
            self.envelope.ids.get(node).map(|id| Bytes::copy_from_slice(&id.0.to_be_bytes()));
        // By the word of a stray node at its address nothing is lost: this one belongs to no cluster yet.
        let is_new = !self.formation.is_formed();
        let is_believed = is_new || known.is_some_and(|known| known == refusal.identity);
        let reason = match refusal.reason() {
            Reason::NotAMember if is_new && !self.formation.joins() => {
                self.formation.note_refusal(node, SystemClock.now().boot);
                format!(
                    "node {own} has a new directory, and the others belong to a cluster of which it is no member: \
                     if node {own} was one, its directory was wiped or replaced, and what it had \
                     promised is lost; remove node {own} from the cluster, and add it again under a new id with \
                     join=true"
                )
            }
            Reason::Removed => format!(
                "node {own} was removed from the cluster; to take it in again, start it with an empty directory, \
                 join=true and an id that was never used, and add it by `tsoracle cluster add`"
            ),
            Reason::Duplicate => {
                let addresses = refusal.addresses.iter().take(2).map(|at| limited(at));
                let addresses = addresses.collect::<Vec<_>>().join(", and this one at ");
                format!(
                    "another process runs under the identity of node {own}, at {addresses}: stop one of the two, \
                     and never start a copy of a node's directory"
                )
            }
            _ => return status,
        };
        if is_believed {
            self.envelope.disowned.vote(node, &reason);
        }
        Status::failed_precondition(reason)
    }
}

/// As much of what another node says as is logged.
fn limited(text: &str) -> String {
    text.chars().filter(|char| !char.is_control()).take(80).collect()
}

/// Whether an error of the driver is one that will not change by itself.
pub(super) fn is_lasting(error: &tsoracle_core::Error) -> bool {
    *error.kind() == ErrorKind::Config
}
