//! What the node is doing: [`ledger`] counts what came from each member, [`status`] is all of it
//! as plain data.

pub mod ledger;
pub mod status;
