//! `tinyp2p status`: reports on every node of this user on this machine, ordered by name.

use std::io::{IsTerminal, stdout};
use std::thread;
use std::time::Duration;

use crate::cli::CommandFailure;
use crate::cli::options::args::StatusArgs;
use crate::cli::output::{print, print_unless_closed, say};
use crate::cli::status_socket;
use crate::cli::status_socket::SocketReply;

/// Refresh interval of `--watch`.
const INTERVAL: Duration = Duration::from_secs(1);

/// Escape sequence that clears the terminal and moves to its top.
const CLEAR: &str = "\x1b[H\x1b[J";

const NOBODY: &str = "no node of this user is running on this machine";

/// Prints the status of all nodes; exit code 1 when there is none, or one does not answer.
pub(crate) fn run(args: &StatusArgs) -> Result<(), CommandFailure> {
    if args.watch {
        return watch(args);
    }
    let answers = answers();
    if answers.is_empty() {
        return Err(CommandFailure::failed(NOBODY));
    }
    print(render(&answers, args.json).as_bytes())?;
    if answers.iter().all(|answer| answer.report.is_some()) {
        Ok(())
    } else {
        Err(CommandFailure::told(1))
    }
}

/// Repeats until interrupted, or until the reader is gone.
fn watch(args: &StatusArgs) -> Result<(), CommandFailure> {
    let clear = !args.json && stdout().is_terminal();
    loop {
        let answers = answers();
        let mut text = render(&answers, args.json);
        if answers.is_empty() && !args.json {
            text = format!("{NOBODY}\n");
        }
        if clear {
            text.insert_str(0, CLEAR);
        }
        if !print_unless_closed(text.as_bytes())? {
            return Ok(());
        }
        thread::sleep(INTERVAL);
    }
}

/// Returns the answers by name, followed by the nodes that do not answer.
fn answers() -> Vec<SocketReply> {
    let mut answers = status_socket::ask_all();
    answers.sort_by_cached_key(|answer| {
        let name = answer
            .report
            .as_ref()
            .map(|(report, _)| report.status.name.clone());
        (name.is_none(), name, answer.pid)
    });
    answers
}

/// Renders one paragraph per node, or one JSON object per line. Then names the nodes that do not
/// answer on standard error.
fn render(answers: &[SocketReply], json: bool) -> String {
    let mut paragraphs = Vec::new();
    for SocketReply { pid, report } in answers {
        match report {
            Some((_, line)) if json => paragraphs.push(format!("{line}\n")),
            Some((report, _)) => paragraphs.push(report.text()),
            None if json => say("tinyp2p", &format!("pid {pid} does not answer")),
            None => paragraphs.push(format!("pid {pid} does not answer\n")),
        }
    }
    paragraphs.join(if json { "" } else { "\n" })
}

#[cfg(test)]
mod tests {
    use tinyp2p_net::stats::status::Status;

    use super::*;
    use crate::report::status::{NodeLocation, NodeReport};

    fn answer(pid: u32, name: Option<&str>) -> SocketReply {
        let report = name.map(|name| {
            let status = Status {
                name: name.to_owned(),
                ..Status::default()
            };
            let report = NodeReport::new(NodeLocation::default(), status);
            // A newer node may report fields that this program does not know.
            let line = format!("{{\"name\":\"{name}\",\"new\":1}}");
            (report, line)
        });
        SocketReply { pid, report }
    }

    #[test]
    fn each_node_is_a_paragraph_or_json_line() {
        let answers = [answer(1, Some("a")), answer(2, Some("b")), answer(3, None)];
        let text = render(&answers, false);
        let paragraphs: Vec<&str> = text.split("\n\n").collect();
        assert_eq!(paragraphs.len(), 3, "{text}");
        assert!(paragraphs[0].starts_with("a (node"));
        assert_eq!(paragraphs[2], "pid 3 does not answer\n");
        let lines = "{\"name\":\"a\",\"new\":1}\n{\"name\":\"b\",\"new\":1}\n";
        assert_eq!(render(&answers, true), lines);
    }
}
