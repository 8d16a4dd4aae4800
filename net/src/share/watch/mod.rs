//! Notices changes in the share and keeps them in the order in which they were noticed.

pub(crate) mod inotify;
pub(crate) mod journal;
pub(crate) mod keeper;
mod watch_table;
