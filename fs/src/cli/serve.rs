//! `tinyp2p serve`: a full member without a mount, until a signal.

use std::sync::mpsc;

use super::args::JoinArgs;
use super::join::{self, Role};
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
    join::tell(PROGRAM, &joined.meet()?);
    let (sender, events) = mpsc::channel();
    stop::on_signals(sender)?;
    let _shown = joined.show(joined.place(None), None);
    eprintln!("{PROGRAM}: {}", joined.description());
    // The sender lives as long as the process.
    let _ = events.recv();
    Ok(())
}
