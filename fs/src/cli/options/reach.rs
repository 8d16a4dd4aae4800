//! `--reach`: whether a node takes part through routers, and by which relays.

use std::ffi::{OsStr, OsString};
use std::str::FromStr;

use tinyp2p_net::model::{Invalid, MAX_RELAYS, PeerArgument, RelayAccess};
use tinyp2p_net::transport::reach::ReachConfig;

use crate::cli::CommandFailure;

/// The relays that the user names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ReachSetting(Vec<RelayAccess>);

impl FromStr for ReachSetting {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self(Vec::new()));
        }
        let relays: Result<Vec<RelayAccess>, _> = text.split(',').map(str::parse).collect();
        match relays {
            Ok(relays) if relays.len() > MAX_RELAYS => {
                Err(format!("at most {MAX_RELAYS} relays can be used at a time"))
            }
            relays => relays.map(Self).map_err(|e: Invalid| e.to_string()),
        }
    }
}

/// Joins `--reach` with a value that follows it, as in `--reach=n0`. Its value may be left out, so
/// what follows is taken for one only if it cannot be meant as anything else.
pub(crate) fn join_reach(args: &[OsString]) -> Vec<OsString> {
    let mut joined: Vec<OsString> = Vec::new();
    let mut args = args.iter().peekable();
    while let Some(arg) = args.next() {
        let mut arg = arg.clone();
        if arg == "--" {
            joined.push(arg);
            break;
        }
        if arg == "--reach"
            && let Some(value) = args.next_if(|next| is_value(next))
        {
            arg.push("=");
            arg.push(value);
        }
        joined.push(arg);
    }
    joined.extend(args.cloned());
    joined
}

/// Returns true for what is a value of `--reach` and no password, mountpoint or PEER: a PEER by a
/// URL has nothing but a peer id after `#`, and a relay never has one.
fn is_value(text: &OsStr) -> bool {
    let text = text.to_string_lossy();
    let is_word = matches!(&*text, "n0" | "none") || text.starts_with("n0,");
    is_word || text.starts_with("https://") && text.parse::<ReachSetting>().is_ok()
}

/// Decides how to take part through routers: if the user says so, or has a ticket, with the relays
/// that either names.
pub(crate) fn choose(
    setting: Option<&ReachSetting>,
    peers: &[PeerArgument],
) -> Result<Option<ReachConfig>, CommandFailure> {
    let has_ticket = peers.iter().any(|peer| peer.address.as_reach().is_some());
    if setting.is_none() && !has_ticket {
        return Ok(None);
    }
    let named = setting.into_iter().flat_map(|setting| &setting.0);
    let mut relays: Vec<RelayAccess> = Vec::new();
    for access in named.chain(peers.iter().flat_map(|peer| &peer.relays)) {
        match relays.iter_mut().find(|known| known.relay == access.relay) {
            // One of them may come without the token.
            Some(known) => known.token = known.token.take().or_else(|| access.token.clone()),
            None => relays.push(access.clone()),
        }
    }
    if relays.len() > MAX_RELAYS {
        let message = format!(
            "--reach and the tickets name {} relays; at most {MAX_RELAYS} can be used at a time",
            relays.len()
        );
        return Err(CommandFailure::usage(message));
    }
    Ok(Some(ReachConfig { relays }))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tinyp2p_net::model::{EndpointKey, PeerId, Ticket};

    use super::*;

    const RELAY: &str = "https://relay.example/#token=abc";

    fn joined(words: &[&str]) -> Vec<String> {
        let words: Vec<OsString> = words.iter().map(OsString::from).collect();
        let joined = join_reach(&words).into_iter();
        joined.map(|word| word.into_string().unwrap()).collect()
    }

    #[test]
    fn value_may_follow_after_a_space() {
        for value in ["n0", "none", RELAY, "n0,https://relay.example"] {
            let whole = format!("--reach={value}");
            assert_eq!(joined(&["p", "--reach", value, "pw"]), ["p", &whole, "pw"]);
        }
    }

    #[test]
    fn password_is_not_taken_for_a_value() {
        for words in [
            ["p", "--reach", "pw", "/mnt"],
            ["p", "--reach", "-", "/mnt"],
            ["p", "--", "--reach", "n0"],
        ] {
            assert_eq!(joined(&words), words);
        }
    }

    #[test]
    fn ticket_brings_its_relays() {
        let peer = |relay: &str| -> PeerArgument {
            let ticket = Ticket {
                endpoint: EndpointKey::from_bytes([1; 32]),
                peer: PeerId::from_bytes([2; 32]),
                relays: vec![relay.parse().unwrap()],
                direct: Vec::new(),
            };
            ticket.to_string().parse().unwrap()
        };
        let tcp: PeerArgument = "box".parse().unwrap();
        assert!(choose(None, std::slice::from_ref(&tcp)).unwrap().is_none());
        let relays = |setting: Option<&str>, peers: &[PeerArgument]| {
            let setting = setting.map(|text| text.parse().unwrap());
            choose(setting.as_ref(), peers).unwrap().unwrap().relays
        };
        let access: RelayAccess = RELAY.parse().unwrap();
        assert_eq!(
            relays(None, &[tcp, peer(RELAY)]),
            std::slice::from_ref(&access)
        );
        // The token of a ticket is used although the relay is named without it.
        let bare = Some("https://relay.example");
        assert_eq!(relays(bare, &[peer(RELAY)]), std::slice::from_ref(&access));
        assert_eq!(relays(Some("none"), &[]), []);
        assert_eq!(relays(Some("n0"), &[peer(RELAY)]).len(), 2);
        let many: Vec<_> = (0..5)
            .map(|n| peer(&format!("https://r{n}.example/")))
            .collect();
        assert_eq!(choose(None, &many).unwrap_err().code, 2);
    }
}
