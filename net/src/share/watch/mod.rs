//! Noticing what changes in the share, and keeping it in the order in which it was noticed.

pub(crate) mod inotify;
pub(crate) mod journal;
pub(crate) mod keeper;
mod watch_table;
