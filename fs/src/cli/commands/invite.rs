//! `tinyp2p invite`: prints the ticket of the node that runs here.

use qrcode::QrCode;
use qrcode::render::unicode::Dense1x2;

use crate::cli::CommandFailure;
use crate::cli::options::args::InviteArgs;
use crate::cli::output::{print, say};
use crate::cli::status_socket;
use crate::report::status::NodeReport;

const PROGRAM: &str = "tinyp2p";

/// Prints the ticket of each node of this user that can be found through NATs.
pub(crate) fn run(args: &InviteArgs) -> Result<(), CommandFailure> {
    let answers = status_socket::ask_all();
    let reports: Vec<_> = answers.into_iter().filter_map(|one| one.report).collect();
    let mut tickets: Vec<(&NodeReport, &str)> = Vec::new();
    for (report, _) in &reports {
        let ticket = report
            .status
            .reach
            .as_ref()
            .and_then(|reach| reach.ticket.as_deref());
        tickets.extend(ticket.map(|ticket| (report, ticket)));
    }
    if tickets.is_empty() {
        return Err(CommandFailure::failed(why_none(reports.len())));
    }
    for (report, ticket) in &tickets {
        if tickets.len() > 1 {
            let place = report.mountpoint.as_ref().or(report.share.as_ref());
            let place = place.map_or("a node", String::as_str);
            say(PROGRAM, &format!("the ticket of {place}:"));
        }
        print(format!("{ticket}\n").as_bytes())?;
        if args.qr {
            print(code(ticket)?.as_bytes())?;
        }
    }
    say(
        PROGRAM,
        "a friend who knows the password joins by: tinyp2p-mount PASSWORD MOUNTPOINT TICKET",
    );
    Ok(())
}

fn why_none(nodes: usize) -> &'static str {
    match nodes {
        0 => "no node of this user is running on this machine; start one with --reach",
        _ => "no node that runs here takes part through routers; start it with --reach",
    }
}

/// Draws `ticket` for a telephone's camera. In capitals, it takes fewer dots.
fn code(ticket: &str) -> Result<String, CommandFailure> {
    let code = QrCode::new(ticket.to_ascii_uppercase());
    let code = code.map_err(|why| CommandFailure::failed(format!("no QR code: {why}")))?;
    let mut picture = code.render::<Dense1x2>().build();
    picture.push('\n');
    Ok(picture)
}
