//! Every setting of a node.

use std::path::PathBuf;

use crate::auth::Password;
use crate::config::{CacheConfig, Listen, ShareConfig};
use crate::legacy::Url;
use crate::model::{PeerArgument, TcpAddress};
use crate::transport::reach::ReachConfig;

/// How a node takes part in the network.
#[derive(Debug)]
pub struct Config {
    /// The network's password. Taken out and stretched at start, then dropped; with `legacy`, the
    /// state that makes tokens of it stays.
    pub password: Password,
    /// What is served; `None` serves nothing.
    pub share: Option<ShareConfig>,
    /// Where to listen.
    pub listen: Listen,
    /// Notice changes in the share, so that others need not ask again.
    pub watch: bool,
    /// The address that others should dial, if it is not the one seen on the wire.
    pub advertise: Option<TcpAddress>,
    /// This member's name for others; 1 to 64 bytes.
    pub name: String,
    /// Use mDNS, announcing and browsing.
    pub discovery: bool,
    /// The bytes that the windows of all open files together aim to stay below.
    pub memory: u64,
    /// Maximum bytes that members' answers, with everything derived from them, may take;
    /// [`DEFAULT_ANSWERS`](crate::budget::DEFAULT_ANSWERS) if nothing is known of the
    /// questions to come.
    pub answers: usize,
    /// Where to keep blocks that were read; `None` keeps them in memory only.
    pub cache: Option<CacheConfig>,
    /// Take part through NATs; `None` uses TCP alone.
    pub reach: Option<ReachConfig>,
    /// The addresses that the user named.
    pub peers: Vec<PeerArgument>,
    /// Also speak the protocol of 2004, which is not encrypted; `None` does not.
    pub legacy: Option<LegacyConfig>,
    /// Directory of the identity and the remembered addresses; created with mode 0700.
    pub state_dir: PathBuf,
    /// What the remembered addresses belong to: the canonical path of the mountpoint or of the
    /// served directory. Never anything derived from the password. `None` remembers nothing.
    pub remember_as: Option<PathBuf>,
}

/// How a node takes part in a network of 2004. It uses the password and the advertised
/// address of [`Config`].
#[derive(Debug, Clone, Default)]
pub struct LegacyConfig {
    /// The servers that the user named.
    pub peers: Vec<Url>,
}
