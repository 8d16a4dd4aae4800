//! `tinyp2p search`: lists every file whose name matches, with its path as in the mount.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tinyp2p_net::Node;
use tinyp2p_net::budget::Reservation;
use tinyp2p_net::model::{Attributes, RelPath};
use tinyp2p_net::peer::Room;

use crate::cli::options::args::SearchArgs;
use crate::cli::options::password::PasswordSource;
use crate::cli::output::{print_unless_closed, say};
use crate::cli::{CommandFailure, first_contact};

/// Time limit for a search. It walks a whole share, which takes longer than a lookup.
const DEADLINE: Duration = Duration::from_secs(60);

/// The files that each member found.
pub(crate) type FilesByMember = Vec<(Arc<crate::network::MemberRef>, Vec<(RelPath, Attributes)>)>;

/// Bytes allocated for a match besides its path: places in lists.
const LINE_BYTES: usize = 64;

/// Paths per write, enough to be worth the call.
const LINES_AT_ONCE: usize = 1024;

/// The files that were found, and how complete the answer is.
#[derive(Debug)]
pub(crate) struct SearchOutput {
    pub(crate) found: FilesByMember,
    pub(crate) missing: Missing,
    /// The memory reserved for the answers.
    pub(crate) _held: Vec<Reservation>,
}

/// How many members were asked, and how many of them did not answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Missing {
    asked: usize,
    silent: usize,
}

impl Missing {
    /// Returns exit code 1 when a member did not answer, so that a script does not mistake a
    /// part for the whole.
    pub(crate) fn into_result(self) -> Result<(), CommandFailure> {
        match self {
            Self { silent: 0, .. } => Ok(()),
            Self { asked, silent } => Err(CommandFailure::failed(format!(
                "{silent} of {asked} members did not answer; what only they have is missing"
            ))),
        }
    }
}

/// Joins, asks, and prints each path once, sorted by bytes.
pub(crate) fn run(source: PasswordSource, args: SearchArgs) -> Result<(), CommandFailure> {
    let (network, pattern) = (&args.find.network, &args.find.pattern);
    first_contact::as_guest("tinyp2p", network, args.find.peers, source, |joined, _| {
        let answers = ask("tinyp2p", &joined.node, pattern, (0, LINE_BYTES))?;
        let files = answers.found.into_iter().flat_map(|(_, files)| files);
        let mut paths: Vec<RelPath> = files.map(|(path, _)| path).collect();
        if paths.is_empty() {
            return Err(nothing_matches(pattern));
        }
        paths.sort_unstable();
        paths.dedup();
        for some in paths.chunks(LINES_AT_ONCE) {
            if !print_unless_closed(&lines(some, args.null))? {
                break;
            }
        }
        answers.missing.into_result()
    })
}

/// Asks every member for the files whose names match, and names the members that do not answer.
/// Reserves memory for `paths` copies of each match's path and `each` bytes besides.
pub(crate) fn ask(
    program: &str,
    node: &Node,
    pattern: &str,
    (paths, each): (usize, usize),
) -> Result<SearchOutput, CommandFailure> {
    let room = Room {
        budget: Arc::clone(node.budget()),
        paths,
        each,
    };
    let answers = node.search(pattern, room, Instant::now() + DEADLINE);
    // The files that this node itself serves are already here.
    let others = answers
        .into_iter()
        .filter(|answer| answer.member != node.id());
    let (mut found, mut held) = (FilesByMember::new(), Vec::new());
    let mut missing = Missing {
        asked: 0,
        silent: 0,
    };
    let mut seen = HashSet::new();
    for answer in others {
        // A member that fails during the question may appear once more, as absent.
        if !seen.insert(answer.member) {
            continue;
        }
        missing.asked += 1;
        match answer.result {
            Ok(matches) => {
                let member = crate::network::MemberRef {
                    id: answer.member,
                    name: answer.name,
                };
                let (matches, reservation) = matches.into_parts();
                found.push((Arc::new(member), matches.files));
                held.push(reservation);
            }
            Err(error) => {
                missing.silent += 1;
                say(program, &format!("warning: {error}"));
            }
        }
    }
    if found.is_empty() {
        return Err(CommandFailure::failed("no member answered the search"));
    }
    Ok(SearchOutput {
        found,
        missing,
        _held: held,
    })
}

pub(crate) fn nothing_matches(pattern: &str) -> CommandFailure {
    CommandFailure::failed(format!("no file's name matches '{pattern}'"))
}

/// Formats one path per line, escaped so that each name stays on its line and cannot drive a
/// terminal; or the unchanged paths, each followed by a NUL.
fn lines(paths: &[RelPath], null: bool) -> Vec<u8> {
    let mut lines = Vec::new();
    for path in paths {
        if null {
            lines.extend(path.as_bytes());
            lines.push(0);
        } else {
            lines.extend(format!("{path}\n").bytes());
        }
    }
    lines
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_is_missing_is_a_failure() {
        let missing = |silent| Missing { asked: 3, silent };
        assert!(missing(0).into_result().is_ok());
        let failure = missing(1).into_result().unwrap_err();
        assert_eq!(failure.code, 1);
        assert!(failure.message.starts_with("1 of 3 members"));
    }

    #[test]
    fn a_name_is_one_line_whatever_it_holds() {
        let paths = [&b"b\x1b\n"[..], b"a/\xff"].map(|path| RelPath::new(path).unwrap());
        let mut paths = paths.to_vec();
        paths.sort();
        assert_eq!(lines(&paths, false), b"a/\\xff\nb\\u{1b}\\n\n");
        assert_eq!(lines(&paths, true), b"a/\xff\0b\x1b\n\0");
    }
}
