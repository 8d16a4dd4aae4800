//! The command lines of both programs: what can be typed, and what `--help` says about it.
//!
//! Nothing here inspects the system; the sibling modules check the values against it.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use bytesize::ByteSize;
use clap::{ArgAction, Args, Parser, Subcommand};
use tinyp2p_net::legacy;
use tinyp2p_net::model::{Invalid, PeerArgument, TcpAddress};
use tinyp2p_net::protocol::wire::MemberRecord;
use tinyp2p_net::share::check_pattern;

use super::reach::ReachSetting;

/// Describes the password in the help text, wherever a command takes one.
const PASSWORD_HELP: &str = "The network's password: '-' asks for it (or reads the first line of \
    standard input), '@FILE' takes the first line of a file that only its owner can read, of a secret \
    of a container, or of a pipe, anything else is the password itself (it is blanked out of the process list at once, but stays in \
    the shell's history)";

/// `tinyp2p-mount`
#[derive(Parser, Debug)]
#[command(
    name = "tinyp2p-mount",
    version,
    about = "Mount a peer-to-peer network of friends as one read-only directory tree",
    long_about = "Join the network that uses PASSWORD, serve the current directory to it, and show \
        every member's files as one read-only directory tree at MOUNTPOINT.",
    after_long_help = "\
Examples:
  tinyp2p-mount - /mnt/p2p                    join the network of the neighbours on this LAN
  tinyp2p-mount @pw /mnt/p2p box.example.org  ... or the one that this peer is in
  tinyp2p-mount pw /mnt/p2p --share ~/Public
  mount -t fuse.tinyp2p-mount @/etc/tinyp2p.pw /mnt/p2p -o share=/srv/pub,peer=box

In /etc/fstab:
  @/etc/tinyp2p.pw  /mnt/p2p  fuse.tinyp2p-mount  noauto,_netdev,share=/srv/pub,peer=box  0 0

A password that begins with '-' or '@' can be given by '-' or '@FILE'. Unmount with
'tinyp2p unmount MOUNTPOINT', 'umount' or 'fusermount3 -u'.

Exit codes: 0 mounted, 1 failed, 2 wrong usage, 3 wrong password."
)]
pub(crate) struct MountArgs {
    #[arg(help = PASSWORD_HELP)]
    pub(crate) password: PasswordArgument,

    /// An existing empty directory; created, and removed again after the unmount, if its parent
    /// exists and belongs to you
    pub(crate) mountpoint: PathBuf,

    /// A member to begin with: host, host:port or https://host:port[#PEER-ID], a ticket that
    /// 'tinyp2p invite' printed, or with --legacy http://host:port. Without one, the neighbours on
    /// the local network and the members of last time are found
    #[arg(value_name = "PEER", value_parser = parse_peer)]
    pub(crate) peers: Vec<FirstPeer>,

    /// Options in the style of mount(8), separated by commas ('\,' is a comma in a value): exec,
    /// allow_other, peer=PEER (repeatable), and every long option here as name[=value]. The mount
    /// is always ro,nosuid,nodev, and noexec unless 'exec' is given; what mount(8) and fstab(5) add
    /// for themselves (rw, user, noauto, _netdev, x-...) changes nothing
    #[arg(short = 'o', value_name = "OPTS")]
    pub(crate) mount_options: Vec<OsString>,

    /// Stay in the foreground. Without it, the command returns once the mount is usable
    #[arg(short = 'f', long)]
    pub(crate) foreground: bool,

    /// Given by this program to itself: report on standard output when the mount is usable, then
    /// leave the terminal.
    #[arg(long, hide = true)]
    pub(crate) background: bool,

    #[command(flatten)]
    pub(crate) cache: CacheOptions,

    #[command(flatten)]
    pub(crate) network: NetworkOptions,
}

/// What a mount keeps of what it has read.
#[derive(Args, Debug)]
#[command(next_help_heading = "Cache options")]
pub(crate) struct CacheOptions {
    /// Where blocks of files that were read are kept [default: $XDG_CACHE_HOME/tinyp2p, or
    /// ~/.cache/tinyp2p]
    #[arg(long, value_name = "DIR")]
    pub(crate) cache_dir: Option<PathBuf>,

    /// The most that the cache takes on disk, such as 10G or 512MiB; 0 keeps nothing on disk
    /// [default: 10G, or a tenth of the free space if that is less]
    #[arg(long, value_name = "SIZE")]
    pub(crate) cache_size: Option<ByteSize>,

    /// Do not give blocks of the cache to other members; by default, what was read from one member
    /// can be had from here, too, by those who know its content root
    #[arg(long)]
    pub(crate) no_reshare: bool,

    /// The memory for blocks on their way to readers; at least 8MiB
    #[arg(long, value_name = "SIZE", default_value = "128MiB", value_parser = parse_memory)]
    pub(crate) memory: ByteSize,
}

/// `tinyp2p`
#[derive(Parser, Debug)]
#[command(
    name = "tinyp2p",
    version,
    about = "Share, find and fetch files in a peer-to-peer network of friends",
    after_help = "To mount a network, use tinyp2p-mount. \
        Exit codes: 0 done, 1 failed, nothing found or a member did not answer, 2 wrong usage, 3 wrong password.",
    arg_required_else_help = true
)]
pub(crate) struct Tinyp2pArgs {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Share the current directory without mounting, until interrupted
    Serve(JoinArgs),
    /// Download every file whose name matches, from every member
    #[command(mut_arg("share", share_nothing), mut_arg("hidden", fetch_hidden))]
    Get(GetArgs),
    /// List every file whose name matches
    #[command(mut_arg("share", share_nothing), mut_arg("hidden", hidden_needs_share))]
    Search(SearchArgs),
    /// List the members of the network
    #[command(mut_arg("share", share_nothing), mut_arg("hidden", hidden_needs_share))]
    Peers(JoinArgs),
    /// Show what every node of yours on this machine is doing: members, rates, cache, errors
    Status(StatusArgs),
    /// Show what a mount knows of a file: its content root, who has it, what is cached, what
    /// conflicts
    Info(InfoArgs),
    /// Print the ticket by which a friend's node finds the one that runs here, through any router
    Invite(InviteArgs),
    /// Unmount, even when busy
    Unmount(UnmountArgs),
}

/// Changes the help of `--share` for one-shot commands, which share nothing by default.
fn share_nothing(arg: clap::Arg) -> clap::Arg {
    let help = "Serve DIR to the network meanwhile; by default, nothing is";
    arg.help(help).long_help(help)
}

/// Requires a share: hidden names matter only where something is served.
fn hidden_needs_share(arg: clap::Arg) -> clap::Arg {
    arg.requires("share")
}

/// Members serve hidden names only on request, so they are fetched only on request.
fn fetch_hidden(arg: clap::Arg) -> clap::Arg {
    let help = "Fetch names that begin with a dot, too, and serve them if anything is served";
    arg.help(help).long_help(help)
}

/// Who to join, for the commands whose positional arguments are `PASSWORD [PEER]...`.
#[derive(Args, Debug)]
pub(crate) struct JoinArgs {
    #[arg(help = PASSWORD_HELP)]
    pub(crate) password: PasswordArgument,

    /// A member to begin with: host, host:port or https://host:port[#PEER-ID], a ticket that
    /// 'tinyp2p invite' printed, or with --legacy http://host:port
    #[arg(value_name = "PEER", value_parser = parse_peer)]
    pub(crate) peers: Vec<FirstPeer>,

    #[command(flatten)]
    pub(crate) network: NetworkOptions,
}

/// Who to join and what to look for: `PASSWORD PATTERN [PEER]...`.
#[derive(Args, Debug)]
pub(crate) struct FindArgs {
    #[arg(help = PASSWORD_HELP)]
    pub(crate) password: PasswordArgument,

    /// A regular expression, matched anywhere in a file's name (not in its directory's)
    #[arg(value_parser = parse_pattern)]
    pub(crate) pattern: String,

    /// A member to begin with: host, host:port or https://host:port[#PEER-ID], a ticket that
    /// 'tinyp2p invite' printed, or with --legacy http://host:port
    #[arg(value_name = "PEER", value_parser = parse_peer)]
    pub(crate) peers: Vec<FirstPeer>,

    #[command(flatten)]
    pub(crate) network: NetworkOptions,
}

#[derive(Args, Debug)]
#[command(
    after_help = "Files keep their directories below DIR. What exists there is skipped, never \
    overwritten; a file of the same content gets the modification time of its owner's. What was interrupted is resumed \
    when the command is run again."
)]
pub(crate) struct GetArgs {
    /// Where to put the files; made if it is missing
    #[arg(
        short = 'd',
        long = "directory",
        value_name = "DIR",
        default_value = "."
    )]
    pub(crate) directory: PathBuf,

    #[command(flatten)]
    pub(crate) find: FindArgs,
}

#[derive(Args, Debug)]
pub(crate) struct SearchArgs {
    /// End each path with a NUL and leave it as it is, for 'xargs -0'; otherwise it ends with a
    /// newline, and what is not printable is escaped
    #[arg(short = '0', long)]
    pub(crate) null: bool,

    #[command(flatten)]
    pub(crate) find: FindArgs,
}

#[derive(Args, Debug)]
#[command(
    after_help = "Nodes are the mounts of tinyp2p-mount and 'tinyp2p serve'. One that runs but does not \
    answer is named. Exit codes: 0 all answered, 1 one did not, or none is running."
)]
pub(crate) struct StatusArgs {
    /// Print one JSON object a line for each node
    #[arg(long)]
    pub(crate) json: bool,

    /// Repeat every second until interrupted
    #[arg(long)]
    pub(crate) watch: bool,
}

#[derive(Args, Debug)]
#[command(
    after_help = "Exit codes: 0 done, 1 one of the paths is not in a mount of tinyp2p-mount, or cannot be read."
)]
pub(crate) struct InfoArgs {
    /// Print one JSON object a line for each path
    #[arg(long)]
    pub(crate) json: bool,

    /// Files or directories in a mount
    #[arg(value_name = "PATH", required = true)]
    pub(crate) paths: Vec<PathBuf>,
}

#[derive(Args, Debug)]
#[command(
    after_help = "A friend gives the ticket in place of a PEER, and needs the password, too. With several nodes, \
    each prints a line. Exit codes: 0 done, 1 no node that runs here takes part through routers (--reach)."
)]
pub(crate) struct InviteArgs {
    /// Also print the ticket as a QR code
    #[arg(long)]
    pub(crate) qr: bool,
}

#[derive(Args, Debug)]
pub(crate) struct UnmountArgs {
    /// Where tinyp2p-mount mounted
    pub(crate) mountpoint: PathBuf,
}

/// How to take part; the same for every command that joins a network.
#[derive(Args, Debug)]
#[command(next_help_heading = "Network options")]
pub(crate) struct NetworkOptions {
    /// Serve DIR to the network [default: the current directory, unless that is '/' or the home
    /// directory, which must be named]
    #[arg(long, value_name = "DIR")]
    pub(crate) share: Option<PathBuf>,

    /// Serve nothing
    #[arg(long, conflicts_with_all = ["share", "hidden"])]
    pub(crate) no_share: bool,

    /// Serve names that begin with a dot, too
    #[arg(long)]
    pub(crate) hidden: bool,

    /// Do not watch the share for changes: others see them when they ask again, which is after a
    /// second
    #[arg(long)]
    pub(crate) no_watch: bool,

    // Its help is no doc comment, in which `[::]` would be a link.
    #[arg(
        long,
        value_name = "ADDR:PORT",
        help = "Listen there and nowhere else [default: [::]:15204, or a free port if that is taken]"
    )]
    pub(crate) listen: Option<SocketAddr>,

    /// The address that others should dial, when it is not the one they see
    #[arg(long, value_name = "HOST[:PORT]")]
    pub(crate) advertise: Option<TcpAddress>,

    /// How this member is shown to others [default: the host name]
    #[arg(long, value_parser = parse_name)]
    pub(crate) name: Option<String>,

    /// Neither announce nor look for members on the local network
    #[arg(long)]
    pub(crate) no_discovery: bool,

    /// Be found, and find members, through routers: by the relays of the iroh project (n0, which is
    /// what --reach alone means), by those at these URLs, or without any (none). Relays learn the
    /// addresses of members and how much they send, but no names and no contents. A PEER that is a
    /// ticket adds its relays. Without this, nothing is sent to anybody but members
    #[arg(
        long,
        value_name = "n0|URL,...|none",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "n0"
    )]
    pub(crate) reach: Option<ReachSetting>,

    /// Also speak the protocol of 2004, with the original TinyP2P: its servers are members, and its
    /// clients can fetch the files at the top of the share. It is not encrypted: whoever can listen
    /// sees names and contents, and can work out a password that is not very long. For networks
    /// that you trust
    #[arg(long)]
    pub(crate) legacy: bool,

    /// Where this node's identity and the addresses of other members are kept [default:
    /// $XDG_STATE_HOME/tinyp2p, or ~/.local/state/tinyp2p]
    #[arg(long, value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,

    /// Log more; repeat for still more
    #[arg(short = 'v', long = "verbose", action = ArgAction::Count, conflicts_with = "log")]
    pub(crate) verbose: u8,

    /// What is logged: error, warn, info, debug or trace, or target=level pairs
    #[arg(long, value_name = "FILTER")]
    pub(crate) log: Option<String>,

    /// Append the log to FILE instead of writing it to standard error
    #[arg(long, value_name = "FILE")]
    pub(crate) log_file: Option<PathBuf>,
}

/// The PASSWORD argument as typed. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct PasswordArgument(OsString);

impl PasswordArgument {
    /// Returns the argument: a password, `-` or `@FILE`.
    pub(crate) fn as_os_str(&self) -> &OsStr {
        &self.0
    }
}

impl From<OsString> for PasswordArgument {
    fn from(text: OsString) -> Self {
        Self(text)
    }
}

impl fmt::Debug for PasswordArgument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// A PEER argument: a member to begin with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum FirstPeer {
    /// A node of this program.
    Node(PeerArgument),
    /// A server of 2004, which only `--legacy` can talk to.
    Legacy(legacy::Url),
}

pub(crate) fn parse_peer(text: &str) -> Result<FirstPeer, String> {
    if text.starts_with("http://") {
        return text.parse().map(FirstPeer::Legacy).map_err(|_| {
            "a server of the protocol of 2004 is named http://host:port, exactly as it was started".to_owned()
        });
    }
    let peer = PeerArgument::from_str(text);
    peer.map(FirstPeer::Node)
        .map_err(|e: Invalid| e.to_string())
}

fn parse_pattern(text: &str) -> Result<String, String> {
    check_pattern(text).map(|()| text.to_owned())
}

/// Parses the memory limit. With less than a few windows, readers would only wait for each other.
fn parse_memory(text: &str) -> Result<ByteSize, String> {
    match text.parse::<ByteSize>()? {
        enough if enough >= ByteSize::mib(8) => Ok(enough),
        _ => Err("at least 8MiB are needed".to_owned()),
    }
}

/// Parses a name that every member can show and use as a directory name.
pub(crate) fn parse_name(text: &str) -> Result<String, String> {
    MemberRecord::is_name(text)
        .then(|| text.to_owned())
        .ok_or_else(|| {
            "a name has 1 to 64 bytes, no '/' and no control or invisible characters".to_owned()
        })
}
