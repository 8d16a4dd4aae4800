//! The protocol of 2004, which the first TinyP2P spoke: for networks that still use it.
//!
//! XML-RPC over plain HTTP with one method, `f`, whose first parameter is a token derived from the
//! network's password. Nothing is encrypted: an eavesdropper sees names and contents, can replay
//! what they captured, and can test guesses of the password at leisure. So nothing here runs unless
//! the user enables it (`--legacy`), and nothing of it opens the door to the other protocol.
//!
//! [`token`] makes and checks the tokens; [`bytes`] and [`wire`] read and write the documents,
//! which are bytes rather than text in one direction; [`url`](mod@url) and [`known`] keep the
//! addresses of servers; [`server`] answers calls. `PROTOCOL.md`, section 10, is the description.
//!
//! [`client`] makes calls, [`peer`] presents a server as a member, [`store`] keeps its files, and
//! [`members`] tracks which servers are present.

pub mod bytes;
pub mod client;
pub mod error;
pub mod known;
pub mod members;
pub mod peer;
pub mod server;
pub mod store;
pub mod token;
#[cfg(test)]
mod twin;
pub mod url;
pub mod wire;

use std::net::IpAddr;
use std::time::Instant;

use parking_lot::{Mutex, MutexGuard};

use crate::membership::address::{Scope, canonical, is_of_use_to, scope};

pub use known::KnownServers;
pub use token::TokenKey;
pub use url::Url;

/// The HTTP field in which a node of this program identifies itself to callers with a right token,
/// so that another node need not mistake it for a separate server. Programs of 2004 ignore it.
pub(crate) const NODE_FIELD: &str = "tinyp2p-node";

/// A node's part in a network of 2004: the key, and the known servers. Both sides use it, the one
/// that answers calls and the one that makes them.
#[derive(Debug)]
pub struct Legacy {
    key: TokenKey,
    known: Mutex<KnownServers>,
}

impl Legacy {
    /// Creates the state of a network with this key, in which the user named these servers.
    pub fn new(key: TokenKey, named: Vec<Url>) -> Self {
        Self {
            key,
            known: Mutex::new(KnownServers::new(named)),
        }
    }

    /// Returns the key that makes and checks tokens.
    pub fn key(&self) -> &TokenKey {
        &self.key
    }

    /// Returns the known servers.
    pub(crate) fn known(&self) -> MutexGuard<'_, KnownServers> {
        self.known.lock()
    }

    /// Sets `own` as the URLs of this node: tokens for them are accepted, and no other server is
    /// believed to be there. The first is the one announced to others.
    pub fn announce(&self, own: Vec<Url>) {
        self.known().announce(own);
    }

    /// Notes a server that a caller or server within `source` mentioned; see
    /// [`KnownServers::learn`]. Returns false also for URLs that cannot be meant there: addresses
    /// that cannot be dialled, other spellings of addresses, and those of this host when
    /// mentioned from another.
    pub(crate) fn learn(&self, url: Url, source: Scope, now: Instant) -> bool {
        is_of_use(&url, source) && self.known().learn(url, now)
    }

    /// Returns the servers that are meaningful to a node within `viewer`.
    pub(crate) fn useful_to(&self, viewer: Scope) -> Vec<Url> {
        let mut all = self.all();
        all.retain(|url| is_of_use(url, viewer));
        all
    }

    /// Returns the URL to announce to the server at `url` for this node.
    pub(crate) fn own_for(&self, url: &Url) -> Option<Url> {
        let viewer = scope(&url.address());
        self.own().into_iter().find(|own| is_of_use(own, viewer))
    }

    /// Returns all servers except this node itself; see [`KnownServers::all`].
    pub fn all(&self) -> Vec<Url> {
        self.known().all()
    }

    /// Returns this node's own URLs, the one announced to others first.
    pub fn own(&self) -> Vec<Url> {
        self.known().own().to_vec()
    }
}

fn is_of_use(url: &Url, viewer: Scope) -> bool {
    canonical(&url.address()).is_some_and(|address| is_of_use_to(&address, viewer))
}

/// Returns the URLs of a node that listens on `port`: at the address that it advertises, at the
/// only one that it listens on, and under its host's name.
pub(crate) fn own_urls(
    advertised: Option<&crate::model::TcpAddress>,
    only: Option<IpAddr>,
    host: &str,
    port: u16,
) -> Vec<Url> {
    let advertised = advertised.map(|address| Url::new(&address.host, address.port));
    let only = only.map(|ip| Url::new(&ip.to_string(), port));
    let host = Some(Url::new(host, port));
    let urls = [advertised, only, host].into_iter().flatten();
    // A host name may be anything; one that fits no URL is not one that others could dial.
    let mut urls: Vec<Url> = urls.filter_map(Result::ok).collect();
    urls.dedup();
    urls
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Address;

    #[test]
    fn urls_the_sender_cannot_mean_are_ignored() {
        let now = Instant::now();
        let learns = |text: &str, teller: &str| {
            let legacy = Legacy::new(TokenKey::new(b"pw"), Vec::new());
            legacy.learn(text.parse().unwrap(), scope(&Address::new(teller, 1)), now)
        };
        for nowhere in [
            "http://0.0.0.0:1",
            "http://255.255.255.255:1",
            "http://224.0.0.1:1",
            "http://2130706433:1",
            "http://127.1:1",
            "http://0x7f000001:1",
            "http://[fe80::1]:1",
        ] {
            assert!(!learns(nowhere, "127.0.0.1"), "{nowhere}");
        }
        for here in [
            "http://127.0.0.1:6379",
            "http://localhost:1",
            "http://169.254.169.254:80",
        ] {
            assert!(
                learns(here, "127.0.0.1") && !learns(here, "10.0.0.7"),
                "{here}"
            );
        }
        for anywhere in [
            "http://10.0.0.8:1",
            "http://box:1",
            "http://my_box.example:8000",
        ] {
            assert!(learns(anywhere, "10.0.0.7"), "{anywhere}");
        }
    }

    #[test]
    fn node_announces_a_url_the_peer_can_dial() {
        let legacy = Legacy::new(TokenKey::new(b"pw"), Vec::new());
        let urls = ["http://localhost:1", "http://10.0.0.1:1"];
        legacy.announce(urls.map(|url| url.parse().unwrap()).to_vec());
        let told = |to: &str| legacy.own_for(&to.parse().unwrap()).unwrap().to_string();
        assert_eq!(told("http://10.0.0.2:1"), urls[1]);
        assert_eq!(told("http://127.0.0.1:2"), urls[0]);
    }

    #[test]
    fn first_advertised_url_names_the_node() {
        let ip = Some("10.0.0.1".parse().unwrap());
        let shown = |urls: Vec<Url>| urls.iter().map(Url::to_string).collect::<Vec<_>>();
        let advertised = crate::model::TcpAddress::new("box.example", 80);
        let all = shown(own_urls(Some(&advertised), ip, "box", 7));
        assert_eq!(
            all,
            ["http://box.example:80", "http://10.0.0.1:7", "http://box:7"]
        );
        assert_eq!(shown(own_urls(None, ip, "b x", 7)), ["http://10.0.0.1:7"]);
        assert!(own_urls(None, None, "", 7).is_empty());
        let legacy = Legacy::new(TokenKey::new(b"pw"), own_urls(None, ip, "other", 8));
        legacy.announce(own_urls(None, ip, "box", 8));
        assert_eq!(
            shown(legacy.all()),
            ["http://other:8"],
            "this node is no other"
        );
    }
}
