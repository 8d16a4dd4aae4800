//! Every limit on a message: anything larger is refused before it is decoded.

use crate::protocol::xmlrpc::DocumentLimits;

/// The largest call in bytes: a hello that names a network of hundreds, or a batch of 256 paths.
pub const MAX_CALL_BYTES: usize = 1 << 20;

/// The largest response in bytes. The longest page (1024 paths of 4095 bytes) takes 5.6 MiB.
pub const MAX_RESPONSE_BYTES: usize = 8 << 20;

/// The limits of a call. The longest text in one is a path.
pub(super) const CALL_LIMITS: DocumentLimits = DocumentLimits {
    bytes: MAX_CALL_BYTES,
    depth: 16,
    values: 32_768,
    string_bytes: 16 << 10,
    members: 64,
};

/// The limits of a response. The longest value in one is a column of paths.
pub(super) const RESPONSE_LIMITS: DocumentLimits = DocumentLimits {
    bytes: MAX_RESPONSE_BYTES,
    string_bytes: 6 << 20,
    ..CALL_LIMITS
};
