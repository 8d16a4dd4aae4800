//! Questions to many members: [`fanout`] asks everyone once, under a deadline; [`subscriptions`]
//! follows the changes at each. Each content root in an answer is a claim ([`claims`]) that may
//! have been disproved.

pub mod claims;
pub mod fanout;
pub(crate) mod late_listings;
pub(crate) mod slow_peers;
pub mod subscriptions;
