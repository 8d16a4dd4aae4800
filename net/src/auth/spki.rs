//! An Ed25519 key as TLS carries it: its SubjectPublicKeyInfo, in one encoding.

use crate::model::PeerId;

/// The prefix of the 32 bytes of an Ed25519 key in its SubjectPublicKeyInfo (RFC 8410, section 4).
const SPKI_PREFIX: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

/// Returns the only accepted encoding of a key.
pub(super) fn spki(id: PeerId) -> [u8; 44] {
    let mut bytes = [0; 44];
    bytes[..12].copy_from_slice(&SPKI_PREFIX);
    bytes[12..].copy_from_slice(id.as_bytes());
    bytes
}

/// Returns the key in this encoding; `None` for anything else.
pub(super) fn parse_spki(bytes: &[u8]) -> Option<PeerId> {
    let key = bytes.strip_prefix(&SPKI_PREFIX)?;
    Some(PeerId::from_bytes(key.try_into().ok()?))
}
