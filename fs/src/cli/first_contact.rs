//! The first contact with a network: which peers a node meets after its start, and what the outcome
//! means to the user.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tinyp2p_net::Node;
use tinyp2p_net::config::Listen;
use tinyp2p_net::error::Error;
use tinyp2p_net::membership::Member;
use tinyp2p_net::membership::reachable::is_local;
use tinyp2p_net::model::{Address, DEFAULT_PORT, TcpAddress};
use tinyp2p_net::node::config::Config;

use super::CommandFailure;
use super::options::args::{FirstPeer, NetworkOptions};
use super::options::password::PasswordSource;
use super::output::say;
use super::start::{self, Role};
use super::status_socket::Socket;
use crate::report::status::{NodeLocation, NodeReport};
use crate::search::Searches;

/// Time limit for the peers that the user named to answer; later they count as away. Connecting has
/// 3 s, and a pairing seldom needs another.
const FIRST_CONTACT: Duration = Duration::from_secs(6);

/// Time limit, after the first contact, for dialling named peers and the peers known to those that
/// answered; later they count as away. It is 3 s, as for connecting.
const ACQUAINTANCE: Duration = Duration::from_secs(3);

/// Members that can be found without being named answer multicast within this time.
const DISCOVERY: Duration = Duration::from_millis(2500);

/// When no new member has appeared for this long, the present members know about each other.
const QUIET: Duration = Duration::from_secs(1);

/// Upper limit on the time for which one-shot commands look for members.
const SETTLING: Duration = Duration::from_secs(5);

/// Interval at which the members are checked during the wait.
const POLL: Duration = Duration::from_millis(10);

/// Joins the network for the duration of one question.
///
/// # Errors
/// Exit code 3 as in [`Joined::meet`]; 1 when there is nobody to ask.
pub(super) fn as_guest<T>(
    program: &str,
    options: &NetworkOptions,
    peers: Vec<FirstPeer>,
    source: PasswordSource,
    question: impl FnOnce(&Joined, &[Member]) -> Result<T, CommandFailure>,
) -> Result<T, CommandFailure> {
    let config = start::prepare(options, peers, Role::Guest, &source, None, None)?;
    let password = start::password(&source.read()?)?;
    start::warn(options, &password, program);
    super::logging::start(options)?;
    let joined = Joined::start(config(password))?;
    let outcome = joined.meet().and_then(|()| {
        let members = joined.settled();
        let notices = joined.notices();
        if members.is_empty() {
            return Err(nobody(&notices));
        }
        print_notices(program, &notices);
        question(&joined, &members)
    });
    joined.node.stop();
    outcome
}

/// A running node and what the user sees of it.
#[derive(Debug)]
pub(super) struct Joined {
    pub(super) node: Arc<Node>,
    share: Option<PathBuf>,
    prefers_default_port: bool,
    discovery: bool,
}

impl Joined {
    /// Starts a node.
    pub(super) fn start(config: Config) -> Result<Self, CommandFailure> {
        let share = config.share.as_ref().map(|share| share.directory.clone());
        let prefers_default_port = matches!(config.listen, Listen::Default);
        let discovery = config.discovery;
        Ok(Self {
            node: Node::start(config)?,
            share,
            prefers_default_port,
            discovery,
        })
    }

    /// Waits for the peers that the user named.
    ///
    /// # Errors
    /// Exit code 3 when every peer that answered refused the password.
    pub(super) fn meet(&self) -> Result<(), CommandFailure> {
        let deadline = Instant::now() + FIRST_CONTACT;
        let mut outcomes = self.node.first_contact(deadline);
        while is_put_off(&outcomes) && Instant::now() < deadline {
            thread::sleep(POLL);
            outcomes = self.node.first_contact(deadline);
        }
        match refusal(&outcomes) {
            Some(failure) => Err(failure),
            None => Ok(()),
        }
    }

    /// Waits for the members that the peers know, so that their files can be found from now on.
    pub(super) fn meet_acquaintances(&self) {
        self.node.meet_acquaintances(Instant::now() + ACQUAINTANCE);
    }

    /// Returns notices about the peers that the user named, as of now.
    pub(super) fn notices(&self) -> Vec<String> {
        let outcomes = self.node.first_contact(Instant::now());
        notices(&outcomes, self.others().is_empty())
    }

    /// Returns the members that are present, without this node.
    fn others(&self) -> Vec<Member> {
        let mut members = self.node.present();
        members.retain(|member| member.id != self.node.id());
        members
    }

    /// Describes what is served, under which name, and where.
    pub(super) fn description(&self) -> String {
        let share = match &self.share {
            Some(directory) => format!("sharing {}", directory.display()),
            None => "sharing nothing".to_owned(),
        };
        let port = self.node.port();
        let why = if self.prefers_default_port && port != DEFAULT_PORT {
            format!(" because {DEFAULT_PORT} is taken")
        } else {
            String::new()
        };
        format!(
            "{share} (node {}, port {port}{why})",
            self.node.id().short()
        )
    }

    /// Returns one line that says which relays are contacted, and what a friend types who is behind
    /// another router. `None` if this node does not take part through NATs, or cannot be called.
    pub(super) fn ticket(&self) -> Option<String> {
        let ticket = self.node.ticket()?;
        let relays: Vec<_> = ticket
            .relays
            .iter()
            .map(|access| access.relay.host())
            .collect();
        let contacted = match relays[..] {
            [] => "no relay is contacted".to_owned(),
            ["n0"] => "the public relays of the iroh project (n0) are contacted".to_owned(),
            _ => format!(
                "{} contacted",
                relays.join(" and ") + if relays.len() == 1 { " is" } else { " are" }
            ),
        };
        Some(format!(
            "{contacted}; friends anywhere join by: tinyp2p-mount PASSWORD MOUNTPOINT {ticket}"
        ))
    }

    /// Returns one line to send to a friend: the command that joins from another machine. `None` if
    /// no other machine can dial this node.
    pub(super) fn invitation(&self) -> Option<String> {
        invitation(self.node.reachable_at())
    }

    /// Leaves the current directory, which was needed for relative paths only. Its file system,
    /// often that of the share, would otherwise be busy for as long as this process runs.
    pub(super) fn leave_directory(&self) {
        if let Err(error) = std::env::set_current_dir("/") {
            tracing::debug!(%error, "the current directory stays what it is");
        }
    }

    /// Returns the node's place on this machine.
    pub(super) fn place(&self, mountpoint: Option<&Path>) -> NodeLocation {
        NodeLocation {
            mountpoint: mountpoint.map(Path::to_owned),
            share: self.share.clone(),
        }
    }

    /// Makes the node, at `place`, and the `searches` in its mount visible to `tinyp2p status`
    /// until the socket is dropped. The node runs even if that fails.
    pub(super) fn show(
        &self,
        place: NodeLocation,
        searches: Option<Arc<Searches>>,
    ) -> Option<Socket> {
        let node = Arc::clone(&self.node);
        let socket = Socket::open(move || {
            let troubles = searches.as_ref().map(|searches| searches.troubles());
            let report = NodeReport::new(place.clone(), node.status());
            report.with_searches(troubles.unwrap_or_default())
        });
        socket
            .inspect_err(|why| tracing::warn!("'tinyp2p status' will not see this node: {why}"))
            .ok()
    }

    /// Returns the members, except this node, once those present have found each other.
    pub(super) fn settled(&self) -> Vec<Member> {
        let mut settling = Settling::new(Instant::now(), self.discovery);
        loop {
            let members = self.others();
            let is_busy = self.node.is_getting_acquainted(settling.end());
            let agreement = Agreement {
                is_busy,
                is_agreed: self.node.is_agreed(),
            };
            if settling.is_settled(members.len(), agreement, Instant::now()) {
                return members;
            }
            thread::sleep(POLL);
        }
    }
}

/// Builds the command that joins. It never contains the password.
fn invitation(addresses: &[TcpAddress]) -> Option<String> {
    let peers: Vec<String> = addresses.iter().map(peer_to_type).collect();
    let whose = if addresses.iter().all(|address| is_local(&address.host)) {
        "others on this network"
    } else {
        "others"
    };
    let peers = peers.join(" ");
    (!peers.is_empty())
        .then(|| format!("{whose} join by: tinyp2p-mount PASSWORD MOUNTPOINT {peers}"))
}

/// Formats an address as a PEER argument, with the port if it has to be typed.
fn peer_to_type(address: &TcpAddress) -> String {
    match address.port {
        DEFAULT_PORT => address.host.clone(),
        _ => address.to_string(),
    }
}

/// Prints notices, one per line.
pub(super) fn print_notices(program: &str, notices: &[String]) {
    for notice in notices {
        say(program, notice);
    }
}

/// Explains in one line why there is nobody to ask.
fn nobody(notices: &[String]) -> CommandFailure {
    match notices {
        [] => CommandFailure::failed("no member of the network was found; name one as HOST[:PORT]"),
        notices => CommandFailure::failed(notices.join("; ")),
    }
}

/// The outcomes for the addresses that the user named, without those still unanswered.
type Outcomes = [(Address, Result<(), Error>)];

/// Returns true when no peer has let this node in yet, but one asked it to come back soon enough to
/// wait for the answer.
fn is_put_off(outcomes: &Outcomes) -> bool {
    let soon = |outcome: &Result<(), Error>| {
        matches!(outcome, Err(Error::Later { seconds, .. })
            if Duration::from_secs((*seconds).into()) < FIRST_CONTACT)
    };
    outcomes.iter().all(|(_, outcome)| outcome.is_err())
        && outcomes.iter().any(|(_, outcome)| soon(outcome))
}

/// Returns the failure when peers refused the password. A wrong password and an impostor look alike
/// by design, so the text does not claim to know which it was.
fn refusal(outcomes: &Outcomes) -> Option<CommandFailure> {
    let refused: Vec<String> = outcomes
        .iter()
        .filter(|(_, outcome)| matches!(outcome, Err(Error::Refused { .. })))
        .map(|(address, _)| address.to_string())
        .collect();
    let answered = outcomes
        .iter()
        .filter(|(_, outcome)| !matches!(outcome, Err(e) if is_no_answer(e)))
        .count();
    (!refused.is_empty() && refused.len() == answered).then(|| {
        CommandFailure::wrong_password(format!(
            "wrong network password? {} of {answered} peers refused it: {}. (If the password was \
             changed, every member must be restarted with the new one.)",
            refused.len(),
            refused.join(", ")
        ))
    })
}

/// Returns true for errors that say nothing about the password: nobody, or no member, answered.
fn is_no_answer(error: &Error) -> bool {
    error.is_absence()
        || matches!(
            error,
            Error::NotANode { .. }
                | Error::Myself { .. }
                | Error::OtherIdentity { .. }
                | Error::Misbehaved { .. }
                | Error::WrongBytes { .. }
                | Error::Local { .. }
        )
}

/// Returns notices about peers that did not let this node in; `is_alone` if nobody else did either.
fn notices(outcomes: &Outcomes, is_alone: bool) -> Vec<String> {
    let mut notices: Vec<String> = outcomes
        .iter()
        .filter_map(|(_, outcome)| outcome.as_ref().err())
        .filter(|error| !error.is_absence() && !matches!(error, Error::Myself { .. }))
        .map(|error| match error {
            Error::Refused { .. } => format!("{error}; ignored (next try in 1 h)"),
            Error::Later { .. } => format!("{error}; trying again"),
            _ => error.to_string(),
        })
        .collect();
    let away = |outcome: &Result<(), Error>| matches!(outcome, Err(e) if e.is_absence());
    if is_alone && !outcomes.is_empty() && outcomes.iter().all(|(_, outcome)| away(outcome)) {
        let reasons = outcomes
            .iter()
            .filter_map(|(_, outcome)| outcome.as_ref().err());
        let reasons: Vec<String> = reasons.map(Error::to_string).collect();
        notices.push(format!("no peer reachable yet ({})", reasons.join("; ")));
    }
    notices
}

/// What the present members know of others.
#[derive(Clone, Copy, Debug, Default)]
struct Agreement {
    /// A member that they know is being dialled.
    is_busy: bool,
    /// All of them, and this node, know the same members.
    is_agreed: bool,
}

/// Decides when everybody who can be found at once has been found.
#[derive(Debug)]
struct Settling {
    started: Instant,
    /// The wait lasts at least until this time.
    earliest: Instant,
    known: usize,
    changed: Instant,
}

impl Settling {
    fn new(now: Instant, discovery: bool) -> Self {
        let earliest = if discovery { now + DISCOVERY } else { now };
        Self {
            started: now,
            earliest,
            known: 0,
            changed: now,
        }
    }

    /// The time at which the wait ends in any case.
    fn end(&self) -> Instant {
        self.started + SETTLING
    }

    /// Updates the state: `known` members are present. Returns true when the wait is over.
    fn is_settled(&mut self, known: usize, agreement: Agreement, now: Instant) -> bool {
        if known != self.known {
            self.known = known;
            self.changed = now;
        }
        let Agreement { is_busy, is_agreed } = agreement;
        let is_quiet = now >= self.earliest && now >= self.changed + QUIET;
        now >= self.end() || (!is_busy && (is_agreed || is_quiet))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn outcome(host: &str, result: Result<(), Error>) -> (Address, Result<(), Error>) {
        (Address::new(host, 7), result)
    }

    fn who(host: &str) -> String {
        format!("{host}:7")
    }

    fn refused(host: &str) -> (Address, Result<(), Error>) {
        outcome(host, Err(Error::Refused { who: who(host) }))
    }

    fn away(host: &str) -> (Address, Result<(), Error>) {
        outcome(host, Err(Error::Timeout { who: who(host) }))
    }

    fn later(host: &str, seconds: u16) -> (Address, Result<(), Error>) {
        let who = who(host);
        outcome(host, Err(Error::Later { who, seconds }))
    }

    fn limited(host: &str) -> (Address, Result<(), Error>) {
        later(host, 60)
    }

    #[test]
    fn unanimous_refusal_means_wrong_password() {
        for outcomes in [vec![refused("a")], vec![refused("a"), away("b")]] {
            let failure = refusal(&outcomes).unwrap();
            assert_eq!(failure.code, 3);
            assert!(
                failure
                    .message
                    .starts_with("wrong network password? 1 of 1 peers refused it: a:7. ")
            );
        }
        assert!(
            refusal(&[refused("a"), refused("b")])
                .unwrap()
                .message
                .contains("2 of 2 peers refused it: a:7, b:7.")
        );
    }

    #[test]
    fn lone_refusal_proves_no_wrong_password() {
        for outcomes in [
            vec![],
            vec![away("a")],
            vec![outcome("a", Ok(()))],
            vec![refused("a"), outcome("b", Ok(()))],
            vec![refused("a"), limited("b")],
        ] {
            assert!(refusal(&outcomes).is_none(), "{outcomes:?}");
        }
    }

    #[test]
    fn short_pause_is_waited_for_when_alone() {
        assert!(is_put_off(&[later("a", 1), refused("b")]));
        assert!(!is_put_off(&[later("a", 1), outcome("b", Ok(()))]));
        assert!(!is_put_off(&[later("a", 60)]));
        assert!(!is_put_off(&[refused("a")]));
        assert!(!is_put_off(&[]));
    }

    #[test]
    fn each_odd_peer_gets_one_line() {
        let said = notices(
            &[refused("a"), outcome("b", Ok(())), limited("c"), away("d")],
            false,
        );
        assert_eq!(
            said,
            [
                "a:7 uses another password or is not a member; ignored (next try in 1 h)",
                "c:7 takes no new members for 60 s (too many wrong passwords lately); trying again",
            ]
        );
        assert_eq!(
            notices(&[away("a"), away("b")], true),
            ["no peer reachable yet (a:7 did not answer in time; b:7 did not answer in time)",]
        );
        assert!(notices(&[], true).is_empty());
    }

    #[test]
    fn absent_peers_go_unnamed_when_one_answers() {
        let said = notices(&[away("a"), away("b")], false);
        assert!(said.is_empty(), "{said:?}");
    }

    #[test]
    fn an_invitation_is_the_command_to_type() {
        let address = TcpAddress::new;
        assert_eq!(invitation(&[]), None);
        assert_eq!(
            invitation(&[address("192.0.2.7", DEFAULT_PORT)]).unwrap(),
            "others join by: tinyp2p-mount PASSWORD MOUNTPOINT 192.0.2.7"
        );
        let both = [address("192.168.1.7", 9), address("10.0.0.5", 9)];
        assert_eq!(
            invitation(&both).unwrap(),
            "others on this network join by: tinyp2p-mount PASSWORD MOUNTPOINT 192.168.1.7:9 10.0.0.5:9"
        );
        for typed in [
            address("2001:db8::1", DEFAULT_PORT),
            address("2001:db8::1", 9),
        ] {
            let read: TcpAddress = peer_to_type(&typed).parse().unwrap();
            assert_eq!(read, typed);
        }
    }

    const UNKNOWN: Agreement = Agreement {
        is_busy: false,
        is_agreed: false,
    };
    const BUSY: Agreement = Agreement {
        is_busy: true,
        ..UNKNOWN
    };

    #[test]
    fn agreement_ends_the_wait_at_once() {
        let start = Instant::now();
        let agreed = |is_busy| Agreement {
            is_busy,
            is_agreed: true,
        };
        let mut settling = Settling::new(start, true);
        assert!(!settling.is_settled(1, agreed(true), start));
        assert!(settling.is_settled(1, agreed(false), start));
    }

    #[test]
    fn network_settles_when_nobody_comes() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut settling = Settling::new(start, false);
        assert!(!settling.is_settled(1, UNKNOWN, at(100)));
        assert!(!settling.is_settled(3, UNKNOWN, at(900)));
        assert!(!settling.is_settled(3, UNKNOWN, at(1800)));
        assert!(settling.is_settled(3, UNKNOWN, at(1900)));
    }

    #[test]
    fn network_is_unsettled_while_dialling() {
        let start = Instant::now();
        let mut settling = Settling::new(start, false);
        assert!(!settling.is_settled(1, BUSY, start + SETTLING / 2));
        assert!(settling.is_settled(1, BUSY, start + SETTLING));
    }

    #[test]
    fn local_network_gets_time_to_answer() {
        let start = Instant::now();
        let mut settling = Settling::new(start, true);
        assert!(!settling.is_settled(0, UNKNOWN, start + DISCOVERY / 2));
        assert!(settling.is_settled(0, UNKNOWN, start + DISCOVERY));
    }

    #[test]
    fn ever_changing_network_is_taken_as_it_is() {
        let start = Instant::now();
        let mut settling = Settling::new(start, true);
        let settled = (0..100).find(|i| {
            settling.is_settled(*i, UNKNOWN, start + *i as u32 * Duration::from_millis(100))
        });
        assert_eq!(settled, Some(50));
    }
}
