//! Sizes that a listing lacks, because the members of a network of 2004 list names alone.

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
    /// Returns what was `found` in `directory`, with its size. If only its name is known so
    /// far, asks the members that did not name the size. If that would take too long, the
    /// size stays unknown.
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
        let deadline = wait.deadline()?;
        let deadline = deadline.checked_sub(HANDING_OVER).unwrap_or(deadline);
        let name = item.name_at_members();
        let path = directory.join(name).map_err(|_| Error::NameTooLong)?;
        let sources = item.sources.iter().enumerate();
        let measured = sources.filter_map(|(index, source)| {
            let unknown = Attributes {
                kind: Kind::File,
                mode: Mode::Plain,
                size: FileSize::UNKNOWN,
                mtime: item.mtime,
                version: source.version,
                root: None,
            };
            let whole = self.network.whole(source.member.id);
            // A slow member leaves some of the time for the others.
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
                // It was a name with nothing to read, most likely a directory.
                None => NameLookup::Nothing { certain: false },
            },
        )
    }
}

/// Returns when the next of `left` members, asked one after the other, must be done, so that all
/// have had their time by `deadline`.
pub(crate) fn turn(deadline: Instant, left: usize) -> Instant {
    let now = Instant::now();
    let left = u32::try_from(left.max(1)).unwrap_or(u32::MAX);
    now + deadline.saturating_duration_since(now) / left
}
