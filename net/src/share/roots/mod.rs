//! The content roots of shared files: computed, remembered, and found again when files
//! move or change.

pub(crate) mod by_root;
pub(crate) mod captures;
pub(crate) mod former;
pub(crate) mod hash_queue;
pub(crate) mod hasher;
pub(crate) mod news;
pub(crate) mod relocate;
pub(crate) mod snapshot;
pub(crate) mod store;
pub(crate) mod survey;
pub(crate) mod wishes;
