//! A model of how leadership is taken over: Fence, Wait, Open, Extend and Release.
//!
//! The model is a state machine that [`stateright`] looks through exhaustively, within the bounds
//! of a [scenario](scenario::Scenario). Nodes commit to one versioned state that holds the reign record,
//! keep a reign in memory and answer calls from it. In every state
//!
//! * **G1**: a call sent after another was answered gets a greater timestamp,
//! * **G2**: no timestamp is answered twice,
//! * **G5**: nothing of an older epoch is stored once something of a newer one was, and no two fences
//!   write the same epoch.
//!
//! [`holds`] shows that with all clauses in force. [`breaks`] takes the clauses out, one at a
//! time, and shows the promise that breaks; [`clauses::Clause`] tells the interleaving of each.
//!
//! # What may happen
//!
//! * *Commits.* A submitted commit lands at any later time, twice, or never; its node may learn of that
//!   later still, send another one on the same base, claim again, or crash. It is stored if the state is
//!   at its base. A conflict is never delivered: a leader that does not learn that it was overtaken is
//!   the worst case.
//! * *Reads.* A fence is planned from the state as it is, and lands whenever: that covers reads that are
//!   stale. To learn that a commit is stored from a read, or from a conflict with it, is the same as
//!   receiving its answer late. A read of a replica that is behind shows the base of a commit that has
//!   landed already.
//! * *Pauses and partitions.* A node that takes no step is paused; one whose commits do not land is
//!   cut off.
//! * *Claims.* Any node may learn at any time that it should lead, even while it leads, and while others
//!   do.
//! * *Clocks.* Real time moves in ticks, any number of steps apart. Each boot clock has its own zero
//!   and runs 10 or 11 units a tick: the 10 % of G1's assumption. Wall clocks only show at a fence,
//!   and say anything.
//! * *Calls.* A call arrives, loads the reign and passes the lease check in one step, and is granted
//!   and answered in another, with a pause between. Real calls are sent before they arrive and
//!   answered after they are granted, so they overlap more and promise less: what holds here holds
//!   for them. A checked call may be granted from its reign after that was closed or replaced.
//! * *Adoption.* A backup takes the place of the state, and is adopted as a new era, while all nodes go
//!   on with what they have in memory and in flight.
//!
//! # What the model shows beyond the clauses as written
//!
//! * A wait may count from when the state was read that the fence is based on: that is evidence too.
//! * Evidence must be of decided commits, or be told by number *and* name: either is enough.
//! * A late answer to an Open of an older claim must not start a reign, and an answer to one of a node
//!   that is stopping must not either.
//! * Closing a reign must be final, and not a deadline of zero.
//! * Closing a reign need not stop calls that have passed the check already.
//! * A node need not close its older reign before it fences again: the switch to the new one, which
//!   happens when Open is stored, is enough.
//! * A fence writing its own lease and Open writing it are each enough without the other.
//! * What settles an uncertain renewal must not count as one.
//!
//! # How it is bounded
//!
//! What may happen is counted down in the state, so that a scenario's space is finite and is looked
//! through to its end. Nodes make their first claims in the order of their numbers; where they are
//! not alike, scenarios cover both orders. Commits are ordered by their content, names of versions are
//! used again once nothing refers to them, and what can have no effect any more is dropped.

mod agrees;
mod breaks;
mod clauses;
mod commits;
mod holds;
mod model;
mod node;
mod reached;
mod record;
mod scenario;
mod steps;
