//! One owner, always: who answers for a VIP after every kind of fault, what clients see of it, and
//! what was on the wire meanwhile.

mod bench;
mod death;
mod eligibility;
mod field;
mod handover;
mod hostile;
mod link;
mod membership;
mod moving;
mod planned;
mod restarts;
