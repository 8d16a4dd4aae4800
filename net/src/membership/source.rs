//! Members of another kind, which come in beside those that the table knows.
//!
//! Whoever implements [`MemberSource`] finds its members by itself, calls them by itself, and says
//! who is there. Membership gives each a name that nobody else has and shows them like any other.

use std::sync::Arc;

use super::MemberHealth;
use crate::error::Error;
use crate::model::{Address, PeerId};
use crate::peer::{Peer, Whole};

/// One member of another kind.
#[derive(Clone)]
pub(crate) struct SourceMember {
    pub(crate) id: PeerId,
    /// As it calls itself.
    pub(crate) name: Arc<str>,
    pub(crate) address: Address,
    pub(crate) is_present: bool,
    /// The node of this program that it really is, if that is known.
    pub(crate) node: Option<PeerId>,
    pub(crate) peer: Arc<dyn Peer>,
}

/// Where members of another kind come from. No call waits for the network.
pub(crate) trait MemberSource: Send + Sync {
    /// Starts to look for members.
    ///
    /// # Errors
    /// [`Error::Local`]: there is no thread to be had.
    fn begin(&self) -> Result<(), Error>;

    /// Ends what [`MemberSource::begin`] started.
    fn stop(&self);

    /// All that are there, or were and do not answer now.
    fn members(&self) -> Vec<SourceMember>;

    /// Grows whenever one comes or goes.
    fn revision(&self) -> u64;

    /// How they are doing.
    fn standings(&self) -> Vec<MemberHealth>;

    /// `member`, if it tells names and no sizes, and is there.
    fn whole(&self, member: PeerId) -> Option<Arc<dyn Whole>>;

    /// What became of each address that the user named; `None` while the first attempt goes on.
    fn named(&self) -> Vec<(Address, Option<Result<(), Error>>)>;

    /// A call to `member` failed with `error`.
    fn report(&self, member: PeerId, error: &Error);
}
