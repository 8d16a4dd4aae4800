//! (to be written)

pub(crate) mod pairing;
