//! Fair shares of what is scarce, for whoever cannot be trusted to take only a share.
//!
//! Keys cost nothing, so a share belongs to a [`SourceNetwork`] first, and to a key within it
//! second. Four mechanisms use that order, and none of them knows a socket:
//! - [`FairTable`]: a fixed number of places. When all are taken, whoever holds more than a fair
//!   share makes room.
//! - [`FairPermits`]: a fixed number of things done at once. What is freed goes to the one who
//!   waits and has the least.
//! - [`TokenBucket`]: so much at once, and so much per second.
//! - [`KnownNetworks`]: where members were seen lately, and at which addresses exactly.

mod known_networks;
mod permits;
mod source_network;
mod table;
mod token_bucket;

pub(crate) use known_networks::{Familiarity, KnownNetworks};
pub(crate) use permits::{FairPermit, FairPermits, PermitBounds};
pub(crate) use source_network::{Claimant, HolderKey, SourceNetwork};
pub(crate) use table::{FairTable, PlaceId};
pub(crate) use token_bucket::{Refill, TokenBucket};
