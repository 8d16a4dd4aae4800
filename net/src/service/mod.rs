//! What a node answers, whoever asks and by whatever way.
//!
//! [`answer`] has one answer for each method, `batch` those for many small files at once. The web
//! server answers members with them, and [`local_peer`] answers this node itself.

pub mod answer;
pub(crate) mod batch;
pub mod local_peer;
pub mod plaintext;

use std::sync::Arc;

use crate::content::cache::DiskCache;
use crate::membership::Members;
use crate::share::Share;
use plaintext::PlaintextProtocol;

/// What a node answers from.
pub struct Service {
    /// What it shares; `None` shares nothing.
    pub share: Option<Arc<Share>>,
    /// What it has read from others and gives to others; `None` gives nothing.
    pub cache: Option<Arc<DiskCache>>,
    /// Whom it knows.
    pub members: Arc<Members>,
    /// What answers connections that are not encrypted; `None` closes them.
    pub plaintext: Option<Arc<dyn PlaintextProtocol>>,
}
