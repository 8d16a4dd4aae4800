//! Mechanisms that several parts share: threads, waits, bounded maps and caches. Except for
//! `peer_pools`, none of them knows what it is used for.

pub(crate) mod backoff;
pub(crate) mod buffer_pool;
pub mod expiring_map;
pub(crate) mod parallel;
pub(crate) mod peer_pools;
pub mod single_flight;
pub(crate) mod stop_signal;
pub mod thread_pool;
pub mod two_generation_cache;
