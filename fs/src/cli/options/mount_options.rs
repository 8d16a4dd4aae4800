//! `-o`: the options of mount(8) and of every line of fstab(5), translated.
//!
//! An option that names one of our long options becomes that option, and the command line is parsed
//! again with it. So each option has one definition, with one set of checks and messages.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};

use super::args::{MountArgs, parse_peer};
use crate::mount;

/// Options that mount(8), mount.fuse3(8) and systemd add or read themselves, and options that state
/// what is true anyway. `rw`, `suid` and `dev` are included because mount.fuse3 passes them when
/// the user gave no options.
const WITHOUT_EFFECT: [&str; 21] = [
    "rw", "ro", "suid", "nosuid", "dev", "nodev", "noexec", "defaults", "auto", "noauto", "user",
    "nouser", "users", "owner", "group", "_netdev", "nofail", "async", "atime", "noatime",
    "relatime",
];

/// Parses the command line of `tinyp2p-mount`, mount options included.
pub(crate) fn parse(args: &[OsString]) -> Result<(MountArgs, mount::Options), clap::Error> {
    let mut parsed = MountArgs::try_parse_from(args)?;
    let mut options = mount::Options::default();
    let mut long = Vec::new();
    let mut peers = Vec::new();
    for item in parsed.mount_options.iter().flat_map(|list| split(list)) {
        let (name, value) = match item.iter().position(|b| *b == b'=') {
            Some(equals) => (&item[..equals], Some(&item[equals + 1..])),
            None => (&item[..], None),
        };
        match (name, value) {
            (b"exec", None) => options.exec = true,
            (b"allow_other", None) => options.allow_other = true,
            (b"peer", Some(peer)) => peers.push(String::from_utf8_lossy(peer).into_owned()),
            _ if has_no_effect(name) => {}
            _ if is_long_option(name) => {
                long.push(OsString::from_vec([b"--", &item[..]].concat()));
            }
            _ => {
                return Err(usage(format!(
                    "unknown mount option '{}'",
                    item.escape_ascii()
                )));
            }
        }
    }
    if let Some((program, rest)) = args.split_first().filter(|_| !long.is_empty()) {
        parsed = MountArgs::try_parse_from([program].into_iter().chain(&long).chain(rest))?;
    }
    for peer in peers {
        let peer = parse_peer(&peer).map_err(|why| usage(format!("mount option 'peer': {why}")))?;
        parsed.peers.push(peer);
    }
    Ok((parsed, options))
}

fn usage(message: String) -> clap::Error {
    MountArgs::command().error(ErrorKind::UnknownArgument, message)
}

/// Splits at commas; a backslash makes a comma or a backslash literal, as in libfuse.
fn split(list: &OsStr) -> Vec<Vec<u8>> {
    let mut items = vec![Vec::new()];
    let mut bytes = list.as_bytes().iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        let item = match byte {
            b',' => {
                items.push(Vec::new());
                continue;
            }
            b'\\' => bytes.next_if(|next| matches!(next, b',' | b'\\')),
            _ => None,
        };
        if let Some(last) = items.last_mut() {
            last.push(item.unwrap_or(byte));
        }
    }
    items.retain(|item| !item.is_empty());
    items
}

fn has_no_effect(name: &[u8]) -> bool {
    WITHOUT_EFFECT.iter().any(|word| word.as_bytes() == name)
        || [&b"x-"[..], b"X-", b"comment"]
            .iter()
            .any(|p| name.starts_with(p))
}

fn is_long_option(name: &[u8]) -> bool {
    MountArgs::command().get_arguments().any(|argument| {
        !argument.is_hide_set()
            && argument.get_id() != "foreground"
            && argument
                .get_long()
                .is_some_and(|long| long.as_bytes() == name)
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::cli::options::args::FirstPeer;

    fn parse_words(words: &[&str]) -> Result<(MountArgs, mount::Options), clap::Error> {
        let args: Vec<OsString> = words.iter().map(OsString::from).collect();
        parse(&args)
    }

    fn with(list: &str) -> Result<(MountArgs, mount::Options), clap::Error> {
        parse_words(&["tinyp2p-mount", "@pw", "/mnt", "-o", list])
    }

    fn shown(peer: &FirstPeer) -> String {
        match peer {
            FirstPeer::Node(node) => node.address.to_string(),
            FirstPeer::Legacy(url) => url.to_string(),
        }
    }

    #[test]
    fn mount_and_fstab_extras_are_ignored() {
        let list =
            "rw,dev,suid,noauto,_netdev,user,user=joe,x-systemd.automount,x-gvfs-show,defaults,,";
        let (_, options) = with(list).unwrap();
        assert!(!options.exec && !options.allow_other);
    }

    #[test]
    fn every_long_option_can_be_a_mount_option() {
        let (args, options) = with(
            "exec,allow_other,share=/srv/pub,hidden,listen=127.0.0.1:7,advertise=box:9,name=me,\
             no-discovery,state-dir=/s,log=warn\\,fuser=off,log-file=/l,cache-dir=/c,cache-size=2G,\
             no-reshare,memory=64M,legacy,reach=n0\\,https://relay.example/#token=a,peer=a,peer=b:7,peer=http://c:8",
        )
        .unwrap();
        assert!(options.exec && options.allow_other);
        assert_eq!(args.cache.cache_dir.as_deref(), Some(Path::new("/c")));
        assert_eq!(args.cache.cache_size.unwrap().as_u64(), 2_000_000_000);
        assert_eq!(args.cache.memory.as_u64(), 64_000_000);
        assert!(args.cache.no_reshare);
        let network = args.network;
        assert_eq!(network.share.as_deref(), Some(Path::new("/srv/pub")));
        assert!(network.hidden && network.no_discovery && network.legacy);
        assert_eq!(network.listen.unwrap().to_string(), "127.0.0.1:7");
        assert_eq!(network.advertise.unwrap().to_string(), "box:9");
        assert_eq!(network.name.as_deref(), Some("me"));
        assert_eq!(network.state_dir.as_deref(), Some(Path::new("/s")));
        assert_eq!(network.log.as_deref(), Some("warn,fuser=off"));
        assert_eq!(network.log_file.as_deref(), Some(Path::new("/l")));
        let relays = "n0,https://relay.example/#token=a".parse().unwrap();
        assert_eq!(network.reach, Some(relays));
        let peers: Vec<String> = args.peers.iter().map(shown).collect();
        assert_eq!(peers, ["a:15204", "b:7", "http://c:8"]);
        let bare = with("reach").unwrap().0.network.reach;
        assert_eq!(bare, Some("n0".parse().unwrap()));
    }

    #[test]
    fn options_may_stand_anywhere() {
        let (args, options) = parse_words(&[
            "tinyp2p-mount",
            "-o",
            "exec",
            "--name",
            "me",
            "pw",
            "--hidden",
            "/mnt",
            "a",
            "-f",
            "b",
            "-o",
            "allow_other",
            "-vv",
        ])
        .unwrap();
        assert_eq!(args.password.as_os_str(), "pw");
        assert_eq!(args.mountpoint, Path::new("/mnt"));
        assert_eq!((args.peers.len(), args.network.verbose), (2, 2));
        assert!(args.foreground && options.exec && options.allow_other);
    }

    #[test]
    fn mount_options_stop_at_two_dashes() {
        let (args, _) = parse_words(&["p", "-o", "name=me", "--", "-pw", "/mnt"]).unwrap();
        assert_eq!(args.password.as_os_str(), "-pw");
        assert_eq!(args.network.name.as_deref(), Some("me"));
    }

    #[test]
    fn mistakes_are_refused() {
        for bad in [
            "nonsense",
            "sharex=/a",
            "share",
            "hidden=yes",
            "peer",
            "peer=http://box",
            "peer=a b",
            "share=/a,share=/b",
            "share=/a,no-share",
            "foreground",
            "background",
            "listen=nowhere",
            "help",
            "exec=1",
        ] {
            assert!(with(bad).is_err(), "{bad}");
        }
    }
}
