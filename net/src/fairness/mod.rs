//! Fair shares of scarce resources among parties that cannot be trusted to take only a share.
//!
//! Keys cost nothing, so a share belongs to a [`SourceNetwork`] first, and to a key within it
//! second. Four mechanisms use that order, and none of them knows about sockets:
//! - [`FairTable`]: a fixed number of places. When all are taken, a holder of more than a fair
//!   share makes room.
//! - [`FairPermits`]: a fixed number of concurrent operations. A freed permit goes to the waiter
//!   who holds the least.
//! - [`TokenBucket`]: a burst, and a rate per second.
//! - [`KnownNetworks`]: the networks and exact addresses where members were seen lately.

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
