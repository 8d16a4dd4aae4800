//! Members of another kind, beside those in the table.
//!
//! An implementation of [`MemberSource`] finds its members, calls them, and says who is present.
//! Membership gives each a unique name and shows them like any other.

use std::sync::Arc;

use super::MemberHealth;
use crate::error::Error;
use crate::model::{Address, PeerId};
use crate::peer::{Peer, Whole};

/// One member of another kind.
#[derive(Clone)]
pub(crate) struct SourceMember {
    pub(crate) id: PeerId,
    /// The member's own name for itself.
    pub(crate) name: Arc<str>,
    pub(crate) address: Address,
    pub(crate) is_present: bool,
    /// The node of this program that it really is, if known.
    pub(crate) node: Option<PeerId>,
    pub(crate) peer: Arc<dyn Peer>,
}

/// A source of members of another kind. No call waits for the network.
pub(crate) trait MemberSource: Send + Sync {
    /// Starts to look for members.
    ///
    /// # Errors
    /// [`Error::Local`] when no thread can be started.
    fn begin(&self) -> Result<(), Error>;

    /// Ends what [`MemberSource::begin`] started.
    fn stop(&self);

    /// Returns all members that are present, or were and do not answer now.
    fn members(&self) -> Vec<SourceMember>;

    /// Returns a number that grows whenever one comes or goes.
    fn revision(&self) -> u64;

    /// Returns the health of these members.
    fn standings(&self) -> Vec<MemberHealth>;

    /// Returns `member` if it lists names without sizes and is present.
    fn whole(&self, member: PeerId) -> Option<Arc<dyn Whole>>;

    /// Returns the outcome of each address that the user named; `None` while its first try
    /// is under way.
    fn named(&self) -> Vec<(Address, Option<Result<(), Error>>)>;

    /// Reports that a call to `member` failed with `error`.
    fn report(&self, member: PeerId, error: &Error);
}
