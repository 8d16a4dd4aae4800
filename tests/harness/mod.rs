//! Helpers for all topics: `swarm` (nodes), `process` (commands and waits), `content` (shared
//! files and their comparison), `raw_peer` (TLS peers of our own making), `slow_link`, `hosts`
//! (network namespaces) and `nat` (homes behind routers, and a relay).

pub(crate) mod content;
pub(crate) mod hosts;
pub(crate) mod nat;
pub(crate) mod process;
pub(crate) mod raw_peer;
pub(crate) mod slow_link;
pub(crate) mod swarm;
