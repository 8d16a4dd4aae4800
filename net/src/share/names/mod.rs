//! The names of the share: listings, searches, and cached directory names.

pub(crate) mod index;
pub(crate) mod listing;
pub(crate) mod name_list;
pub(crate) mod pattern;
pub(crate) mod root_files;
pub(crate) mod search;
pub(crate) mod walk;
