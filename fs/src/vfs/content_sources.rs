//! Who can be asked for the bytes of a content, on behalf of a mount or of `get`.

use std::collections::HashSet;
use std::sync::Arc;

use tinyp2p_net::download::{Availability, FileSource};
use tinyp2p_net::model::{PeerId, RelPath, Root};
use tinyp2p_net::peer::Peer;
use tinyp2p_net::protocol::wire::MAX_SMALL_FILE;

use crate::network::Network;

/// The maximum number of members that are asked whether they have kept blocks of a file.
const MAX_SUPPLIERS: usize = 16;

/// Returns the holders of the content of a file at `path` and, if its `root` is known, members that
/// may have kept blocks of it. `this_node` is read from its own disk.
pub fn of_content(
    network: &dyn Network,
    this_node: Option<PeerId>,
    path: &RelPath,
    holders: impl Iterator<Item = (Arc<dyn Peer>, Availability)>,
    root: Option<Root>,
    size: u64,
) -> Vec<FileSource> {
    let source = |peer: Arc<dyn Peer>, has| FileSource {
        is_local: this_node == Some(peer.id()),
        path: path.clone(),
        peer,
        has,
    };
    let mut sources: Vec<FileSource> = holders.map(|(peer, has)| source(peer, has)).collect();
    if let Some(root) = root
        && size > MAX_SMALL_FILE
    {
        let holders: HashSet<PeerId> = sources.iter().map(|source| source.peer.id()).collect();
        // A server of 2004 gives no blocks of what it does not share.
        let is_other = |peer: &Arc<dyn Peer>| {
            !holders.contains(&peer.id())
                && this_node != Some(peer.id())
                && network.whole(peer.id()).is_none()
        };
        let others = network.peers().into_iter().filter(is_other);
        let mut others: Vec<Arc<dyn Peer>> = others.collect();
        // Different ones for each content, so that in a large network everybody is asked at times.
        let salt = root.as_bytes()[0];
        others.sort_by_key(|peer| peer.id().as_bytes().map(|byte| byte ^ salt));
        let others = others.into_iter().take(MAX_SUPPLIERS);
        sources.extend(others.map(|peer| source(peer, Availability::Blocks)));
    }
    sources
}
