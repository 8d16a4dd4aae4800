//! Domain names as encoded in messages (RFC 1035, sections 3.1 and 4.1.4).

use std::fmt;

/// The maximum size of a name in bytes, lengths included (RFC 1035, section 2.3.4).
const MAX_NAME: usize = 255;

/// The maximum size of a label in bytes; the two bits above mark a pointer.
const MAX_LABEL: u8 = 63;

/// A name in wire format, uncompressed and in lower case: names that differ only in the case of
/// ASCII letters are equal (RFC 6762, section 16).
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct DnsName(Box<[u8]>);

impl DnsName {
    /// Creates the name of `labels`, each of 1 to 63 bytes and all together fewer than 255.
    pub(super) fn new<'a>(labels: impl IntoIterator<Item = &'a str>) -> Self {
        let mut wire = Vec::new();
        for label in labels {
            let kept = &label.as_bytes()[..label.len().min(MAX_LABEL.into())];
            wire.push(kept.len() as u8);
            wire.extend(kept.iter().map(u8::to_ascii_lowercase));
        }
        wire.push(0);
        Self(wire.into())
    }

    /// Reads the name at `start` of `message`, and returns the position behind it, too; `None` when
    /// the name is cut off, too long, or compressed in a circle.
    ///
    /// A pointer must point before all bytes read for this name so far. So each can be followed
    /// once, and the lengths of a name and of a message bound the work.
    pub(super) fn read(message: &[u8], start: usize) -> Option<(Self, usize)> {
        let mut wire = Vec::with_capacity(64);
        let (mut at, mut lowest, mut behind) = (start, start, None);
        loop {
            let length = *message.get(at)?;
            match length {
                0 => {
                    wire.push(0);
                    return Some((Self(wire.into()), behind.unwrap_or(at + 1)));
                }
                1..=MAX_LABEL => {
                    let end = at + 1 + usize::from(length);
                    let label = message.get(at + 1..end)?;
                    if wire.len() + 1 + label.len() >= MAX_NAME {
                        return None;
                    }
                    wire.push(length);
                    wire.extend(label.iter().map(u8::to_ascii_lowercase));
                    at = end;
                }
                0xc0.. => {
                    let low = *message.get(at + 1)?;
                    let target = usize::from(u16::from_be_bytes([length & 0x3f, low]));
                    if target >= lowest {
                        return None;
                    }
                    behind = behind.or(Some(at + 2));
                    (at, lowest) = (target, target);
                }
                _ => return None,
            }
        }
    }

    /// Returns true for `LABEL.PARENT`.
    pub(super) fn is_child_of(&self, parent: &Self) -> bool {
        let first = usize::from(self.0.first().copied().unwrap_or_default());
        first > 0 && self.0.get(1 + first..) == Some(&*parent.0)
    }

    /// Returns the bytes on the wire.
    pub(super) fn as_wire(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = &*self.0;
        while let [length @ 1..=u8::MAX, behind @ ..] = rest
            && let Some((label, behind)) = behind.split_at_checked(usize::from(*length))
        {
            write!(f, "{}.", label.escape_ascii())?;
            rest = behind;
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_compressed_name_is_read_whole() {
        let message = b"\x05local\0\x04_TCP\xc0\x00\x03box\xc0\x07rest";
        let (name, behind) = DnsName::read(message, 14).unwrap();
        assert_eq!(name, DnsName::new(["box", "_tcp", "local"]));
        assert_eq!(&message[behind..], b"rest");
        assert!(name.is_child_of(&DnsName::new(["_tcp", "local"])));
        assert!(!name.is_child_of(&DnsName::new(["local"])));
        assert_eq!(format!("{name:?}"), "box._tcp.local.");
    }

    #[test]
    fn hostile_names_are_refused() {
        for (message, start) in [
            (&b""[..], 0),
            (b"\x05loc", 0),
            (b"\x05local", 0),
            // To itself, in a circle, forwards, and past the end.
            (b"\xc0\x00", 0),
            (b"\xc0\x02\xc0\x00", 2),
            (b"\x01a\xc0\x00", 2),
            (b"\x01a\xc0\x00", 0),
            (b"\xc0\x02\x01a\0", 0),
            (b"\xc0\xff", 0),
            (b"\xc0", 0),
            // Undefined kinds of labels.
            (b"\x41a\0", 0),
            (b"\x80a\0", 0),
        ] {
            assert_eq!(DnsName::read(message, start), None, "{message:?}");
        }
    }

    #[test]
    fn a_name_has_at_most_255_bytes() {
        let labels = |last: usize| {
            let mut wire = [&[63][..], &[b'a'; 63]].concat().repeat(3);
            wire.push(last as u8);
            wire.extend(vec![b'b'; last]);
            wire.push(0);
            wire
        };
        assert_eq!(labels(61).len(), MAX_NAME);
        assert!(DnsName::read(&labels(61), 0).is_some());
        assert_eq!(DnsName::read(&labels(62), 0), None);
    }

    proptest! {
        #[test]
        fn whatever_is_read_is_bounded_and_ends(
            message in proptest::collection::vec(any::<u8>(), 0..600),
            start in 0usize..600,
        ) {
            if let Some((name, behind)) = DnsName::read(&message, start) {
                prop_assert!(name.as_wire().len() <= MAX_NAME);
                prop_assert!(start < behind && behind <= message.len());
            }
        }

        #[test]
        fn pointers_everywhere_end_too(
            targets in proptest::collection::vec(0u16..200, 1..100),
            start in 0usize..200,
        ) {
            let message: Vec<u8> = targets
                .iter()
                .flat_map(|target| (0xc000 | target).to_be_bytes())
                .collect();
            let _ = DnsName::read(&message, start);
        }
    }
}
