//! `tinyp2p serve`: a full member without a mount, which runs until a signal.

use std::sync::mpsc;

use crate::cli::first_contact::{self, Joined};
use crate::cli::options::args::JoinArgs;
use crate::cli::options::password::PasswordSource;
use crate::cli::output::say;
use crate::cli::start::{self, Role};
use crate::cli::{CommandFailure, logging, signals};

const PROGRAM: &str = "tinyp2p";

pub(crate) fn run(source: PasswordSource, args: JoinArgs) -> Result<(), CommandFailure> {
    let config = start::prepare(&args.network, args.peers, Role::Member, &source, None, None)?;
    let password = start::password(&source.read()?)?;
    start::warn(&args.network, &password, PROGRAM);
    logging::start(&args.network)?;
    let joined = Joined::start(config(password))?;
    joined.leave_directory();
    let outcome = until_signal(&joined);
    joined.node.stop();
    outcome
}

fn until_signal(joined: &Joined) -> Result<(), CommandFailure> {
    joined.meet()?;
    first_contact::print_notices(PROGRAM, &joined.notices());
    let (sender, events) = mpsc::channel();
    signals::on_signals(sender)?;
    let _shown = joined.show(joined.place(None), None);
    say(PROGRAM, &joined.description());
    for line in joined.invitation().into_iter().chain(joined.ticket()) {
        say(PROGRAM, &line);
    }
    // The sender lives as long as the process.
    let _ = events.recv();
    Ok(())
}
