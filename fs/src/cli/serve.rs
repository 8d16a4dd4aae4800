//! `tinyp2p serve`: a full member without a mount, until a signal.

use std::sync::mpsc;

use super::args::JoinArgs;
use super::join::{self, Role};
use super::output::say;
use super::password::Source;
use super::{Failure, logging, stop};

const PROGRAM: &str = "tinyp2p";

pub(super) fn run(source: Source, args: JoinArgs) -> Result<(), Failure> {
    let prepared = join::prepare(&args.network, args.peers, Role::Member, &source, None, None)?;
    let password = join::password(&source.read()?)?;
    join::warn(&args.network, &password, PROGRAM);
    logging::start(&args.network)?;
    let joined = prepared.start(password)?;
    joined.leave_directory();
    let outcome = until_signal(&joined);
    joined.node.stop();
    outcome
}

fn until_signal(joined: &join::Joined) -> Result<(), Failure> {
    joined.meet()?;
    join::tell(PROGRAM, &joined.notices());
    let (sender, events) = mpsc::channel();
    stop::on_signals(sender)?;
    let _shown = joined.show(joined.place(None), None);
    say(PROGRAM, &joined.description());
    if let Some(invitation) = joined.invitation() {
        say(PROGRAM, &invitation);
    }
    // The sender lives as long as the process.
    let _ = events.recv();
    Ok(())
}
