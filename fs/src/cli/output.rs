//! What the commands print. Nothing else writes to standard output or standard error: the standard
//! library's macros panic when a disk is full or the reader is gone, and a mount must not end
//! because of a message.

use std::io::{self, ErrorKind, Write};

use tinyp2p_net::model::text::harmless;

use super::CommandFailure;

/// Prints one line for people on standard error: a notice, a warning or an error. Nothing in the
/// text can drive a terminal. A line that cannot be written is lost, since there is no other
/// place to report it.
pub(super) fn say(program: &str, text: &str) {
    write_or_lose(io::stderr(), line(program, text).as_bytes());
}

/// Writes output that may be lost: a failure is not worth exiting for.
pub(super) fn write_or_lose(mut output: impl Write, bytes: &[u8]) {
    let _ = output.write_all(bytes).and_then(|()| output.flush());
}

fn line(program: &str, text: &str) -> String {
    format!("{program}: {}\n", harmless(text))
}

/// Writes to standard output. A reader that stops early, as in `tinyp2p search |
/// head`, is not an error.
///
/// # Errors
/// Exit code 1: the requested output cannot be written.
pub(super) fn print(text: &[u8]) -> Result<(), CommandFailure> {
    print_unless_closed(text).map(|_| ())
}

/// Does the same for commands that keep writing; returns false once the reader is gone.
pub(super) fn print_unless_closed(text: &[u8]) -> Result<bool, CommandFailure> {
    let mut output = io::stdout().lock();
    is_read(output.write_all(text).and_then(|()| output.flush()))
}

/// Prints help and versions in clap's layout; help that nobody requested is a message.
pub(super) fn print_help(help: &clap::Error) -> Result<(), CommandFailure> {
    let printed = help.print();
    if help.use_stderr() {
        Ok(())
    } else {
        is_read(printed.and_then(|()| io::stdout().flush())).map(|_| ())
    }
}

fn is_read(written: io::Result<()>) -> Result<bool, CommandFailure> {
    match written {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(e) => Err(CommandFailure::failed(format!(
            "cannot write the output: {e}"
        ))),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tinyp2p_net::model::text::HOSTILE;

    use super::*;

    #[test]
    fn quoted_line_drives_no_terminal() {
        for c in HOSTILE {
            let line = line("tinyp2p", &format!("'{c}' is odd"));
            let quoted = line.strip_suffix('\n').unwrap();
            assert!(!quoted.contains(c), "{:?}", c.escape_unicode());
        }
    }

    #[test]
    fn unread_output_is_fine_lost_output_fails() {
        let failing = |kind: ErrorKind| is_read(Err(kind.into()));
        assert!(!failing(ErrorKind::BrokenPipe).unwrap());
        assert_eq!(failing(ErrorKind::StorageFull).unwrap_err().code, 1);
    }
}
