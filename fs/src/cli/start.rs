//! From options to a node's configuration: all decisions that are possible before the node exists.

use std::path::{Path, PathBuf};

use tinyp2p_net::auth::Password;
use tinyp2p_net::budget::DEFAULT_ANSWERS;
use tinyp2p_net::config::{DEFAULT_MEMORY, Listen};
use tinyp2p_net::model::PeerArgument;
use tinyp2p_net::node::config::{Config, LegacyConfig};

use super::CommandFailure;
use super::options::args::{FirstPeer, NetworkOptions, parse_name};
use super::options::cache::{self, base_directory};
use super::options::password::PasswordSource;
use super::options::reach;
use super::options::share::{self, Private, resolved};
use super::output::say;

/// Memory for all answers in a process that only asks. One answer may have 768 MiB of it. That is
/// two million matches with paths of 60 bytes in a search, and a million when they are fetched.
const GUEST_ANSWERS: usize = 2 << 30;

/// Where state is kept in a home directory.
const STATE: &str = ".local/state";

/// How a command takes part in the network.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Role {
    /// A full member, which serves the current directory and can be dialled.
    Member,
    /// A command that asks and exits: it serves nothing and cannot be dialled, unless an
    /// option says otherwise.
    Guest,
}

/// Checks the options against the system and changes nothing. Returns the configuration of the
/// node; the password is read later. `cache_dir` is the directory that the user named.
pub(super) fn prepare(
    options: &NetworkOptions,
    peers: Vec<FirstPeer>,
    role: Role,
    source: &PasswordSource,
    mountpoint: Option<&Path>,
    cache_dir: Option<&Path>,
) -> Result<impl FnOnce(Password) -> Config + use<>, CommandFailure> {
    let (peers, legacy) = begin_with(peers, options.legacy)?;
    let state_dir = state_dir(options)?;
    let password_file = match source {
        PasswordSource::File(path) => path.canonicalize().ok(),
        _ => None,
    };
    let private = Private {
        mountpoint: mountpoint.map(Path::to_owned),
        state_dir: Some(resolved(&state_dir)),
        password_file,
        // Another mount of this user may be filling the default one.
        cache_dirs: [cache_dir.map(Path::to_owned), cache::default_directory()]
            .into_iter()
            .flatten()
            .map(|directory| resolved(&directory))
            .collect(),
        log_file: options.log_file.as_deref().map(resolved),
    };
    let current = match role {
        Role::Member if options.share.is_none() && !options.no_share => {
            Some(std::env::current_dir().map_err(|e| {
                CommandFailure::failed(format!("the current directory cannot be shared: {e}"))
            })?)
        }
        _ => None,
    };
    let share = share::choose(options, current.as_deref(), &private)?;
    let remember_as = match (role, mountpoint, &share) {
        (Role::Guest, ..) => None,
        (_, Some(mountpoint), _) => Some(mountpoint.to_owned()),
        (_, None, share) => share.as_ref().map(|share| resolved(&share.directory)),
    };
    let advertise = options.advertise.clone();
    let name = options.name.clone().unwrap_or_else(host_name);
    let listen = listen(options, role);
    let reach = reach::choose(options.reach.as_ref(), &peers)?;
    let (discovery, watch) = (!options.no_discovery, !options.no_watch);
    Ok(move |password| Config {
        password,
        share,
        listen,
        advertise,
        reach,
        name,
        discovery,
        watch,
        peers,
        legacy,
        state_dir,
        remember_as,
        cache: None,
        memory: DEFAULT_MEMORY,
        answers: match role {
            Role::Guest => GUEST_ANSWERS,
            _ => DEFAULT_ANSWERS,
        },
    })
}

/// Returns the peers to begin with, and how to join a network of 2004, if at all.
fn begin_with(
    peers: Vec<FirstPeer>,
    legacy: bool,
) -> Result<(Vec<PeerArgument>, Option<LegacyConfig>), CommandFailure> {
    let (mut nodes, mut servers) = (Vec::new(), Vec::new());
    for peer in peers {
        match peer {
            FirstPeer::Node(node) => nodes.push(node),
            FirstPeer::Legacy(url) if legacy => servers.push(url),
            FirstPeer::Legacy(url) => {
                return Err(CommandFailure::usage(format!(
                    "{url} is a server of the protocol of 2004, which is not encrypted; name the peer as host, \
                     host:port or https://host:port, or allow that protocol by --legacy"
                )));
            }
        }
    }
    Ok((nodes, legacy.then_some(LegacyConfig { peers: servers })))
}

/// Decides where to listen. A guest listens only when the requested options make
/// no sense otherwise.
fn listen(options: &NetworkOptions, role: Role) -> Listen {
    match options.listen {
        Some(address) => Listen::At(address),
        None if role == Role::Member || options.share.is_some() || options.advertise.is_some() => {
            Listen::Default
        }
        None => Listen::Nowhere,
    }
}

fn state_dir(options: &NetworkOptions) -> Result<PathBuf, CommandFailure> {
    let directory = match &options.state_dir {
        Some(named) => named.clone(),
        None => base_directory(std::env::var_os("XDG_STATE_HOME"), std::env::home_dir(), STATE)
            .ok_or_else(|| CommandFailure::usage("there is no home directory to keep this node's identity in: name a directory with --state-dir"))?,
    };
    std::path::absolute(&directory).map_err(|e| {
        CommandFailure::failed(format!("state directory {}: {e}", directory.display()))
    })
}

/// Returns the host's name, adapted to the rules for a member's name.
fn host_name() -> String {
    let system = rustix::system::uname();
    // Linux allows no host name of more than 64 bytes.
    match parse_name(&system.nodename().to_string_lossy()) {
        Ok(name) => name,
        Err(_) => "node".to_owned(),
    }
}

/// Converts the typed text to a password.
pub(super) fn password(text: &str) -> Result<Password, CommandFailure> {
    Password::new(text.to_owned()).map_err(|e| CommandFailure::usage(e.to_string()))
}

/// Prints a warning line for each thing that makes the network less safe than people may think: an
/// easily guessed password, and the protocol of 2004.
pub(super) fn warn(options: &NetworkOptions, password: &Password, program: &str) {
    if let Some(warning) = password.weakness() {
        say(program, &format!("warning: {warning}"));
    }
    if options.legacy {
        say(
            program,
            "warning: --legacy speaks the protocol of 2004, which is not safe from eavesdroppers: \
             whoever can listen sees the names and contents of files, and can work out the password",
        );
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::ffi::OsString;

    use super::*;
    use crate::cli::options::args::parse_peer;

    #[test]
    fn servers_of_2004_must_be_allowed() {
        let peers = || {
            ["a", "http://b:8"]
                .map(|text| parse_peer(text).unwrap())
                .to_vec()
        };
        let (nodes, legacy) = begin_with(peers(), true).unwrap();
        assert_eq!((nodes.len(), legacy.unwrap().peers.len()), (1, 1));
        let failure = begin_with(peers(), false).unwrap_err();
        assert_eq!(failure.code, 2);
        assert!(
            failure.message.starts_with("http://b:8 is a server of"),
            "{}",
            failure.message
        );
        assert!(begin_with(Vec::new(), false).unwrap().1.is_none());
    }

    #[test]
    fn state_directory_follows_xdg_rules() {
        let home = || Some(PathBuf::from("/home/x"));
        let path = |xdg: Option<&str>, home| base_directory(xdg.map(OsString::from), home, STATE);
        assert_eq!(path(Some("/s"), home()).unwrap(), Path::new("/s/tinyp2p"));
        for ignored in [None, Some(""), Some("relative")] {
            assert_eq!(
                path(ignored, home()).unwrap(),
                Path::new("/home/x/.local/state/tinyp2p")
            );
        }
        assert_eq!(path(None, None), None);
    }

    #[test]
    fn this_host_has_a_name_that_fits() {
        assert!((1..=64).contains(&host_name().len()));
    }
}
