//! Every setting of a node.

use std::path::PathBuf;

use crate::auth::Password;
use crate::config::{CacheConfig, Listen, ShareConfig};
use crate::legacy::Url;
use crate::model::{Address, PeerArgument};

/// How a node takes part in the network.
#[derive(Debug)]
pub struct Config {
    /// The network's password. Taken out and stretched at start, then dropped; with `legacy`, what
    /// makes tokens of it stays.
    pub password: Password,
    /// What is served; `None` serves nothing.
    pub share: Option<ShareConfig>,
    /// Where to listen.
    pub listen: Listen,
    /// Notice what changes in the share, so that others need not ask again.
    pub watch: bool,
    /// The address that others should dial, when it is not the one seen on the wire.
    pub advertise: Option<Address>,
    /// How this member is shown to others; 1 to 64 bytes.
    pub name: String,
    /// mDNS, announcing and browsing.
    pub discovery: bool,
    /// The bytes that the windows of all open files together aim to stay below.
    pub memory: u64,
    /// The most bytes that what members say may take, with what is made of it;
    /// [`DEFAULT_ANSWERS`](crate::budget::DEFAULT_ANSWERS) where nothing is known of what
    /// will be asked.
    pub answers: usize,
    /// Where blocks that were read are kept; `None` keeps them in memory only.
    pub cache: Option<CacheConfig>,
    /// The addresses that the user named.
    pub peers: Vec<PeerArgument>,
    /// Speak the protocol of 2004, too, which is not encrypted; `None` does not.
    pub legacy: Option<LegacyConfig>,
    /// Where identity and remembered addresses live; created with mode 0700.
    pub state_dir: PathBuf,
    /// What the remembered addresses belong to: the canonical path of the mountpoint or of the
    /// served directory. Never anything derived from the password. `None` remembers nothing.
    pub remember_as: Option<PathBuf>,
}

/// How a node takes part in a network of 2004. The password and the advertised address are those of
/// [`Config`].
#[derive(Debug, Clone, Default)]
pub struct LegacyConfig {
    /// The servers that the user named.
    pub peers: Vec<Url>,
}
