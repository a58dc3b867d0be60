//! A model of how leadership is taken over: Fence, Wait, Open, Extend and Release.
//!
//! The model is a state machine that [`stateright`] looks through exhaustively, within the bounds
//! of a [scenario](scenario::Scenario). Nodes claim epochs, commit to one shared reign record, keep
//! a reign in memory and answer calls from it. In every state
//!
//! * **G1**: a call sent after another was answered gets a greater timestamp,
//! * **G2**: no timestamp is answered twice,
//! * **G5**: no command is accepted once one of a newer epoch has been.
//!
//! [`holds`] shows that with all clauses in force. [`breaks`] takes the clauses out, one at a
//! time, and shows the promise that breaks; [`clauses::Clause`] tells the interleaving of each.
//!
//! # What may happen
//!
//! * *Commits.* A submitted command takes effect at any later time, or never; its node may be
//!   answered later still, give up on it, or crash. The model keeps to what a driver promises: the
//!   commands of one epoch take effect in the order submitted, and one that timed out never lands
//!   after a later one.
//! * *Pauses and partitions.* A node that takes no step is paused; one whose commits do not land is
//!   cut off. A refusal is never delivered: a leader that does not learn that it was overtaken is
//!   the worst case.
//! * *Claims.* Any node may learn at any time that it leads, with a higher epoch than any before,
//!   even while it leads. It may go on serving its older reign until the new one takes its place.
//! * *Clocks.* Real time moves in ticks, any number of steps apart. Each boot clock has its own zero
//!   and runs 10 or 11 units a tick: the 10 % of G1's assumption. Wall clocks only show at a fence,
//!   and say anything.
//! * *Calls.* A call arrives, loads the reign and passes the lease check in one step, and is granted
//!   and answered in another, with a pause between. Real calls are sent before they arrive and
//!   answered after they are granted, so they overlap more and promise less: what holds here holds
//!   for them. A checked call may be granted from its reign after that was closed or replaced.
//! * *Releases.* A node may give up on its Release and renew its reign instead.
//!
//! # What the model shows beyond the clauses as written
//!
//! * An Open or Extend that changes no field must still be a write with its own log index or
//!   modification revision, or evidence about an earlier one passes for evidence about it.
//! * A late answer to an Open of an older epoch must not start a reign.
//! * A release waits for the commits of its own reign only. Commits of older reigns may still be in
//!   flight, which is safe because their answers raise nothing but their own reign.
//! * Closing a reign need not stop calls that have passed the check already.
//! * A node need not close its older reign before it fences again: the switch to the new one, which
//!   happens when Open is answered, is enough.
//! * Some clauses stand behind one another, and G1 and G2 survive the loss of either: a fence
//!   storing its own lease and Open storing it; the refusal of a second fence and the fresh epoch
//!   after a crash or a release; the refusal of an older fence (which G5 needs anyway) and the order
//!   of an epoch's commits. Tests take out each alone, and both.
//!
//! # How it is bounded
//!
//! What may happen is counted down in the state, so that a scenario's space is finite and is looked
//! through to its end. Nodes make their first claims in the order of their numbers; where they are
//! not alike, scenarios cover both orders.

mod agrees;
mod breaks;
mod clauses;
mod holds;
mod model;
mod node;
mod reached;
mod record;
mod scenario;
mod steps;
