//! Every limit on the resources that others may take.
//!
//! A connection costs a file descriptor, so the number of connections follows from this process's
//! limit on descriptors. Half of those are for connections that others make. The rest is for the
//! files sent over them, this node's own connections, its cache and its databases.

use std::time::Duration;

use rustix::process::{Resource, getrlimit};

use super::hello_queue::HelloRates;
use crate::config::SERVER_IDLE;
use crate::fairness::Refill;

/// More connections would gain nothing: this is fifty members with a full pool of connections each,
/// and their small change.
const MAX_MEMBER_CONNECTIONS: usize = 1024;

/// Sockets that have not yet sent enough to be identified. They cost a descriptor and a kilobyte,
/// and an honest one leaves this state after a round trip.
const MAX_UNREAD: usize = 256;

/// Handshakes and pairing runs under way. Each may keep some 20 kB.
const MAX_UNIDENTIFIED: usize = 128;

/// Unencrypted connections, which bring one call each.
const MAX_PLAIN: usize = 16;

/// Places taken away but not left yet: the threads that close them may be busy.
const CLOSING: usize = 64;

#[derive(Debug, Clone)]
pub(super) struct ServerLimits {
    /// Connections in all. More than those below together, so that it limits only connections that
    /// are being closed.
    pub(super) connections: usize,
    /// Connections that have not sent a first record. Half of them are for known networks.
    pub(super) unread: usize,
    /// Connections that have not yet proven to be a member's. Half of them are for known networks.
    pub(super) unidentified: usize,
    /// Connections of members.
    pub(super) member_connections: usize,
    /// The same for one member.
    pub(super) connections_per_member: usize,
    /// Handshakes per second.
    pub(super) hellos: HelloRates,
    /// Blocking threads that work for members at once.
    pub(super) work: usize,
    /// The same for one member. One network has half of all.
    pub(super) work_per_member: usize,
    /// Searches that run at once, for all members together; each keeps a processor busy.
    pub(super) searches: usize,
    /// The same for one member. One network has half of all.
    pub(super) searches_per_member: usize,
    /// From accept to the end of the TLS handshake.
    pub(super) handshake: Duration,
    /// From one request to the whole head of the next; longer than clients keep idle connections.
    pub(super) head: Duration,
    /// For the whole body of a call.
    pub(super) call_body: Duration,
    /// A peer that accepts none of its bytes for this long is cut off.
    pub(super) stall: Duration,
    /// Maximum number of unencrypted connections.
    pub(super) plain: usize,
    /// The same for one IPv4 address or IPv6 /64. Such callers make one call at a time.
    pub(super) plain_per_network: usize,
    /// Blocking threads that work for all of them.
    pub(super) plain_work: usize,
    /// For the head of such a request.
    pub(super) plain_head: Duration,
    /// For its body.
    pub(super) plain_body: Duration,
    /// How long a refused connection may go on talking before it is closed.
    pub(super) drain: Duration,
}

impl ServerLimits {
    /// Returns the limits for a process that may have `descriptors` open files.
    pub(super) fn for_descriptors(descriptors: u64) -> Self {
        let all = MAX_MEMBER_CONNECTIONS + MAX_UNREAD + MAX_UNIDENTIFIED + MAX_PLAIN + CLOSING;
        let half = usize::try_from(descriptors / 2).unwrap_or(usize::MAX);
        let part = |max: usize, least: usize| {
            let scaled = max.saturating_mul(half) / all;
            scaled.clamp(least, max)
        };
        // Two networks and two halves need two places each, or none could be told from another.
        let (unread, unidentified) = (part(MAX_UNREAD, 8), part(MAX_UNIDENTIFIED, 8));
        let (members, plain) = (part(MAX_MEMBER_CONNECTIONS, 16), part(MAX_PLAIN, 2));
        let closing = part(CLOSING, 2);
        Self {
            connections: unread + unidentified + members + plain + closing,
            unread,
            unidentified,
            member_connections: members,
            // Sixteen that idle and as many as a mount has readers; never all for one key.
            connections_per_member: (members / 4).clamp(4, 64),
            plain,
            ..Self::unbounded_by_descriptors()
        }
    }

    /// Returns the limits for this process, as it is now.
    pub(super) fn of_this_process() -> Self {
        // Reads as `None` if there is no limit.
        let descriptors = getrlimit(Resource::Nofile).current;
        Self::for_descriptors(descriptors.unwrap_or(u64::MAX))
    }

    fn unbounded_by_descriptors() -> Self {
        Self {
            connections: usize::MAX >> 4,
            unread: MAX_UNREAD,
            unidentified: MAX_UNIDENTIFIED,
            member_connections: MAX_MEMBER_CONNECTIONS,
            connections_per_member: 64,
            hellos: HelloRates {
                // Handshakes cost 0.2 ms each: all strangers together get 3 % of a processor.
                strangers: Refill {
                    burst: 256,
                    per_second: 128,
                },
                stranger: Refill {
                    burst: 64,
                    per_second: 16,
                },
                // In a /64, as many as of two sites, for members who have changed their address.
                neighbours: Refill {
                    burst: 128,
                    per_second: 32,
                },
                // Fifty nodes on one machine, each of which opens eight connections at once.
                known: Refill {
                    burst: 512,
                    per_second: 256,
                },
                // Half a percent of a processor for callers behind one member's NAT, and 3 % for
                // all. The rest of a burst shakes hands on the door, a little later.
                beside_members: Refill {
                    burst: 512,
                    per_second: 128,
                },
                beside_members_of_one: Refill {
                    burst: 128,
                    per_second: 32,
                },
            },
            work: super::BLOCKING_THREADS - 8,
            work_per_member: 8,
            searches: 4,
            searches_per_member: 1,
            handshake: Duration::from_secs(10),
            head: SERVER_IDLE,
            call_body: Duration::from_secs(30),
            stall: Duration::from_secs(30),
            plain: MAX_PLAIN,
            plain_per_network: 4,
            plain_work: 4,
            plain_head: Duration::from_secs(10),
            plain_body: Duration::from_secs(10),
            drain: Duration::from_secs(2),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classes(limits: &ServerLimits) -> usize {
        limits.unread + limits.unidentified + limits.member_connections + limits.plain
    }

    #[test]
    fn connections_take_half_the_descriptors() {
        for descriptors in [256, 1024, 1500, 4096, 20_000, 1 << 20, u64::MAX] {
            let limits = ServerLimits::for_descriptors(descriptors);
            let connections = limits.connections as u64;
            assert!(
                connections <= descriptors / 2,
                "{descriptors}: {connections}"
            );
            assert!(connections >= (descriptors / 2).min(1488) * 9 / 10);
        }
    }

    #[test]
    fn each_class_has_room_at_any_limit() {
        for descriptors in 0..5000 {
            let limits = ServerLimits::for_descriptors(descriptors);
            assert!(limits.unread >= 8 && limits.unidentified >= 8);
            assert!(limits.member_connections >= 16 && limits.plain >= 2);
            assert!(limits.connections_per_member * 4 <= limits.member_connections);
            assert!(limits.connections > classes(&limits));
        }
    }

    #[test]
    fn more_descriptors_never_mean_fewer_slots() {
        let mut before = ServerLimits::for_descriptors(0);
        for descriptors in (0..10_000).step_by(7) {
            let limits = ServerLimits::for_descriptors(descriptors);
            assert!(limits.unread >= before.unread);
            assert!(limits.member_connections >= before.member_connections);
            assert!(limits.connections_per_member >= before.connections_per_member);
            before = limits;
        }
        assert_eq!(before.member_connections, MAX_MEMBER_CONNECTIONS);
    }
}
