//! Where the bytes of a file come from: who can be asked for them, and what must be fetched before
//! the file can be opened.

use std::sync::Arc;
use std::time::Duration;

use tinyp2p_net::config::{CALL_DEADLINE, READ_DEADLINE};
use tinyp2p_net::download::{Availability, FileSource};
use tinyp2p_net::error::Error as NetError;
use tinyp2p_net::model::{Kind, PeerId, RelPath, Root};
use tinyp2p_net::peer::Purpose;

use super::Filesystem;
use super::content_sources;
use super::control_fs::is_hidden;
use super::inodes::Inode;
use crate::errno::Error;
use crate::view::{Wait, merge, turn};

/// How much longer than other operations an open may take if it must fetch the whole file: as long
/// as a read may, less the way through the kernel.
const WHOLE_FILE: Duration = READ_DEADLINE
    .saturating_sub(CALL_DEADLINE)
    .saturating_sub(Duration::from_secs(1));

impl Filesystem {
    /// Prepares the file `number` to be opened. Does nothing unless the file is at a member
    /// that lists names without sizes: then it is fetched whole, unless it just was. That may
    /// take as long as a read may; a file that has not arrived by then continues to arrive, as
    /// the error says.
    pub fn prepare(&self, number: u64, wait: Wait) -> Result<(), Error> {
        if is_hidden(number) {
            return Ok(());
        }
        let inode = self.inode(number)?;
        let is_other = |(id, has): (PeerId, Availability)| {
            matches!(has, Availability::File(_)) && self.network.whole(id).is_none()
        };
        let sources = inode.sources.iter();
        let wholes = sources.filter_map(|s| Some((self.network.whole(s.member.id)?, s)));
        let wholes: Vec<_> = wholes.collect();
        if wholes.is_empty() || inode.kind() != Kind::File || inode.readable().any(is_other) {
            return Ok(());
        }
        let Wait::Until(deadline) = wait else {
            return Err(Error::NeedsNetwork);
        };
        let deadline = deadline + WHOLE_FILE;
        // They may have different contents under the name, which is not known in advance: any of
        // them will do.
        let mut failure = Error::Replaced;
        for (index, (whole, source)) in wholes.iter().enumerate() {
            let until = turn(deadline, wholes.len() - index);
            match whole.measure(&inode.path, Purpose::Bytes, until) {
                Ok(attributes) if attributes.version == source.version => {
                    let said = vec![(Arc::clone(&source.member), attributes)];
                    let name = inode.path.split().map(|(_, name)| name);
                    let item = name.and_then(|name| merge::name(&name, said, None));
                    if let Some(item) = item {
                        self.inodes.lock().measure(&inode.path, &item);
                    }
                    return Ok(());
                }
                Ok(_) | Err(NetError::NotFound { .. }) => {}
                Err(error) => failure = error.into(),
            }
        }
        if matches!(failure, Error::Replaced) {
            self.invalidate(&inode.path);
        }
        Err(failure)
    }

    /// Returns who can be asked for the bytes of a file: its holders, and members that may have
    /// kept blocks of it.
    pub(super) fn sources(&self, inode: &Inode) -> Vec<FileSource> {
        let holders = inode.readable().filter(|_| !inode.is_replaced);
        let size = inode.size.or_zero();
        self.sources_among(&inode.path, holders, inode.root(), size)
    }

    /// Returns the same for a content at `path` with these `holders`.
    pub(super) fn sources_among(
        &self,
        path: &RelPath,
        holders: impl Iterator<Item = (PeerId, Availability)>,
        root: Option<Root>,
        size: u64,
    ) -> Vec<FileSource> {
        let holders = holders.filter_map(|(id, has)| Some((self.network.peer(id)?, has)));
        let network = &*self.network;
        content_sources::of_content(network, self.this_node, path, holders, root, size)
    }
}
