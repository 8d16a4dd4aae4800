//! Going into the background without forking a process that has threads.
//!
//! The command that the user typed (the front) starts this program once more. It passes a typed
//! password through the child's standard input, and waits until the child reports through its
//! standard output that the mount is usable. Until then the child belongs to the terminal: its
//! errors are visible, an interrupt reaches it, and it undoes everything if the front exits. The
//! front's exit code is the child's.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use super::CommandFailure;
use super::options::mount_options;

/// The line by which the child reports that the mount is usable.
const MOUNTED: &[u8] = b"mounted\n";

/// Every step of a start has its own, shorter deadline; this one covers unforeseen cases.
const START_DEADLINE: Duration = Duration::from_secs(60);

/// How long the child may take to undo everything when the front gives up.
const UNDO_DEADLINE: Duration = Duration::from_secs(5);

/// Runs the front: starts the child with the same arguments, but without a literal password, and
/// waits for its mount. `typed` is the PASSWORD argument; `password` is its value, unless the child
/// can read it from the same file.
pub(super) fn hand_over(
    args: &[OsString],
    typed: &OsStr,
    password: Option<&str>,
) -> Result<(), CommandFailure> {
    let failed =
        |e: io::Error| CommandFailure::failed(format!("cannot go into the background: {e}"));
    let mut args = args.to_vec();
    if password.is_some()
        && let Some(position) = password_position(&args, typed)
    {
        args[position] = OsString::from("-");
    }
    let Some((program, rest)) = args.split_first() else {
        return Err(failed(io::ErrorKind::InvalidInput.into()));
    };
    let mut child = Command::new("/proc/self/exe")
        .arg0(program)
        .arg("--background")
        .args(rest)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let outcome = drive(&mut child, password);
    if outcome.is_err() {
        give_up(&mut child);
    }
    if outcome.map_err(failed)? {
        Ok(())
    } else {
        let status = child.wait().map_err(failed)?;
        let code = status.code().and_then(|code| u8::try_from(code).ok());
        Err(match code {
            Some(code) if code > 0 => CommandFailure::told(code),
            _ => CommandFailure::failed(format!("the background process ended early ({status})")),
        })
    }
}

/// Returns true when the child has mounted, false when it has exited.
fn drive(child: &mut Child, password: Option<&str>) -> io::Result<bool> {
    if let (Some(mut stdin), Some(password)) = (child.stdin.take(), password) {
        match stdin
            .write_all(password.as_bytes())
            .and_then(|()| stdin.write_all(b"\n"))
        {
            // The child has already exited, and has printed the reason.
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => {}
            other => other?,
        }
    }
    let mut stdout = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
    let (sender, report) = mpsc::channel();
    thread::spawn(move || {
        let mut line = Vec::new();
        let read = (&mut stdout)
            .take(MOUNTED.len() as u64)
            .read_to_end(&mut line);
        sender.send(read.map(|_| line))
    });
    match report.recv_timeout(START_DEADLINE) {
        Ok(line) => Ok(line? == MOUNTED),
        Err(_) => Err(io::Error::other(format!(
            "no mount within {} s",
            START_DEADLINE.as_secs()
        ))),
    }
}

/// Asks the child to undo everything, then kills it if it does not exit.
fn give_up(child: &mut Child) {
    if let Ok(id) = i32::try_from(child.id())
        && let Some(id) = Pid::from_raw(id)
    {
        // The child may have exited on its own.
        let _ = rustix::process::kill_process(id, Signal::TERM);
    }
    let deadline = Instant::now() + UNDO_DEADLINE;
    while Instant::now() < deadline {
        match child.try_wait() {
            Ok(None) => thread::sleep(Duration::from_millis(20)),
            _ => return,
        }
    }
    let _ = child.kill();
}

/// Finds the position of PASSWORD in `args`. Other arguments may be the same text, so each is
/// replaced in turn until the parser takes the replacement for the password.
fn password_position(args: &[OsString], typed: &OsStr) -> Option<usize> {
    (1..args.len()).filter(|i| args[*i] == typed).find(|i| {
        let mut trial = args.to_vec();
        trial[*i] = OsString::from("replaced");
        mount_options::parse(&trial)
            .is_ok_and(|(parsed, _)| parsed.password.as_os_str() == "replaced")
    })
}

/// In the child: sets the process name. The executable was started through a link, so `ps` would
/// show the link's name.
pub(super) fn take_name() {
    if let Err(error) = rustix::thread::set_name(c"tinyp2p-mount") {
        tracing::debug!(%error, "the process keeps its name");
    }
}

/// In the child: leaves the terminal, then reports to the front that the mount is usable. Later
/// output goes to `log`, or is discarded. An error means that the front has exited.
pub(super) fn report_mounted(log: Option<&File>) -> io::Result<()> {
    let mut front = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let null = File::options().read(true).write(true).open("/dev/null")?;
    let output = log.unwrap_or(&null);
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(output)?;
    rustix::stdio::dup2_stderr(output)?;
    rustix::process::setsid()?;
    front.write_all(MOUNTED)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(words: &[&str], typed: &str) -> Option<usize> {
        let args: Vec<OsString> = words.iter().map(OsString::from).collect();
        password_position(&args, OsStr::new(typed))
    }

    #[test]
    fn password_found_among_equal_arguments() {
        assert_eq!(position(&["p", "pw", "/mnt"], "pw"), Some(1));
        assert_eq!(
            position(&["p", "--name", "pw", "pw", "/mnt"], "pw"),
            Some(3)
        );
        assert_eq!(
            position(&["p", "-o", "exec", "pw", "pw", "pw"], "pw"),
            Some(3)
        );
        assert_eq!(position(&["p", "--", "-pw", "/mnt"], "-pw"), Some(2));
        assert_eq!(
            position(&["p", "-fv", "--name=x", "pw", "/mnt"], "pw"),
            Some(3)
        );
    }

    #[test]
    fn a_child_that_ends_early_is_no_mount() {
        let mut child = Command::new("true")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{e}"));
        assert!(matches!(drive(&mut child, Some("pw")), Ok(false)));
    }
}
