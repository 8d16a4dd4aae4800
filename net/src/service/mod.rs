//! A node's answers, for any caller by any route.
//!
//! [`answer`] has one answer for each method, `batch` those for many small files at once. The web
//! server uses them to answer members, and [`local_peer`] to answer this node itself.

pub mod answer;
pub(crate) mod batch;
pub mod local_peer;
pub mod plaintext;

use std::sync::Arc;

use crate::content::cache::DiskCache;
use crate::membership::Members;
use crate::share::Share;
use plaintext::PlaintextProtocol;

/// The sources of a node's answers.
pub struct Service {
    /// The files that it shares; `None` shares nothing.
    pub share: Option<Arc<Share>>,
    /// The bytes read from others and supplied to others; `None` supplies nothing.
    pub cache: Option<Arc<DiskCache>>,
    /// The members that it knows.
    pub members: Arc<Members>,
    /// Answers unencrypted connections; `None` closes them.
    pub plaintext: Option<Arc<dyn PlaintextProtocol>>,
}
