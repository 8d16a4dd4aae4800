//! `tinyp2p peers`: lists the present members, one per line: name, peer id, address, and how each
//! is reached.

use std::fmt::Write;

use tinyp2p_net::membership::Member;
use tinyp2p_net::transport::route::Route;

use crate::cli::options::args::JoinArgs;
use crate::cli::options::password::PasswordSource;
use crate::cli::output::print;
use crate::cli::{CommandFailure, first_contact};

/// Joins, waits until the members have found each other, and lists them.
pub(crate) fn run(source: PasswordSource, args: JoinArgs) -> Result<(), CommandFailure> {
    first_contact::as_guest(
        "tinyp2p",
        &args.network,
        args.peers,
        source,
        |_, members| print(table(members).as_bytes()),
    )
}

/// Says how a member is reached: `tcp`, `direct`, `relayed by HOST`.
fn way(member: &Member) -> String {
    match member.peer.route().map(|state| state.route) {
        Some(Route::Tcp) => "tcp".to_owned(),
        Some(Route::Direct) => "direct".to_owned(),
        Some(Route::Relayed(host)) => format!("relayed by {host}"),
        None => "-".to_owned(),
    }
}

/// Names are aligned for people; tabs separate the columns for programs.
fn table(members: &[Member]) -> String {
    let width = members.iter().map(|m| m.name.chars().count()).max();
    let mut rows: Vec<&Member> = members.iter().collect();
    rows.sort_by(|a, b| a.name.cmp(&b.name));
    let mut table = String::new();
    for member in rows {
        let address = member.address.as_ref().map(ToString::to_string);
        // Writing to a String cannot fail.
        let _ = writeln!(
            table,
            "{:width$}\t{}\t{}\t{}",
            member.name,
            member.id,
            address.as_deref().unwrap_or("-"),
            way(member),
            width = width.unwrap_or(0),
        );
    }
    table
}
