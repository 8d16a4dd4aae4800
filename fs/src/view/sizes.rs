//! Sizes that a listing does not have, as the members of a network of 2004 list names alone.

use std::sync::Arc;
use std::time::Instant;

use tinyp2p_net::error::Error as NetError;
use tinyp2p_net::model::{Attributes, FileSize, Kind, Mode, RelPath};
use tinyp2p_net::peer::Purpose;

use super::merge::{self, Item};
use super::{NameLookup, View, Wait};
use crate::errno::Error;
use crate::network::HANDING_OVER;

impl View {
    /// What was `found` in `directory`, with its size if only its name is known so far: the members
    /// that did not name it are asked for it. If that would take too long, it stays unknown.
    pub fn measured(
        &self,
        directory: &RelPath,
        found: NameLookup,
        wait: Wait,
    ) -> Result<NameLookup, Error> {
        let item = match found {
            NameLookup::Item(item) if !item.size.is_known() => item,
            other => return Ok(other),
        };
        let Wait::Until(deadline) = wait else {
            return Err(Error::NeedsNetwork);
        };
        let deadline = deadline.checked_sub(HANDING_OVER).unwrap_or(deadline);
        let name = item.name_at_members();
        let path = directory.join(name).map_err(|_| Error::NameTooLong)?;
        let sources = item.sources.iter().enumerate();
        let measured = sources.filter_map(|(index, source)| {
            let unknown = Attributes {
                kind: Kind::File,
                mode: Mode::Plain,
                size: FileSize::Unknown,
                mtime: item.mtime,
                version: source.version,
                root: None,
            };
            let whole = self.network.whole(source.member.id);
            // One that is slow leaves some of the time for the others.
            let until = turn(deadline, item.sources.len() - index);
            let measured = whole.map(|whole| whole.measure(&path, Purpose::Size, until));
            let attributes = match measured {
                Some(Err(NetError::NotFound { .. })) => return None,
                Some(Ok(attributes)) => attributes,
                Some(Err(_)) | None => unknown,
            };
            Some((Arc::clone(&source.member), attributes))
        });
        Ok(
            match merge::name(name, measured.collect(), self.preferred) {
                Some(known) => NameLookup::Item(Item {
                    name: item.name.clone(),
                    original: item.original.clone(),
                    ..known
                }),
                // It was a name and nothing to read: most likely, of a directory.
                None => NameLookup::Nothing { certain: false },
            },
        )
    }
}

/// When the next of `left` who are asked one after the other has to be done, so that all have had
/// their time by `deadline`.
pub(crate) fn turn(deadline: Instant, left: usize) -> Instant {
    let now = Instant::now();
    let left = u32::try_from(left.max(1)).unwrap_or(u32::MAX);
    now + deadline.saturating_duration_since(now) / left
}
