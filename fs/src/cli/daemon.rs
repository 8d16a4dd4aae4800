//! Going into the background without forking a process that has threads.
//!
//! The command that the user typed (the front) starts this program once more, hands it a password
//! that was typed through its standard input and waits until it reports, through its standard
//! output, that the mount is usable. Until then the child belongs to the terminal: its errors are
//! seen, an interrupt reaches it, and it undoes everything when the front has gone. The front's
//! exit code is the child's.

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

/// What the child reports when the mount is usable.
const MOUNTED: &[u8] = b"mounted\n";

/// Every step of a start has its own, shorter deadline; this one is for what nobody thought of.
const START_DEADLINE: Duration = Duration::from_secs(60);

/// How long the child may take to undo everything when the front gives up.
const UNDO_DEADLINE: Duration = Duration::from_secs(5);

/// The front: starts the child with the same arguments, but not with a password among them, and
/// waits for its mount. `typed` is the PASSWORD argument, `password` what it stands for unless the
/// child can read it from the same file.
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

/// True when the child has mounted, false when it has ended.
fn drive(child: &mut Child, password: Option<&str>) -> io::Result<bool> {
    if let (Some(mut stdin), Some(password)) = (child.stdin.take(), password) {
        match stdin
            .write_all(password.as_bytes())
            .and_then(|()| stdin.write_all(b"\n"))
        {
            // It has ended already, and said why.
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

/// Asks the child to undo everything, then ends it.
fn give_up(child: &mut Child) {
    if let Ok(id) = i32::try_from(child.id())
        && let Some(id) = Pid::from_raw(id)
    {
        // The child may have ended by itself meanwhile.
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

/// Where PASSWORD stands among `args`. Other arguments may be the same text, so each of those is
/// replaced in turn until the parser takes the replacement for the password.
fn password_position(args: &[OsString], typed: &OsStr) -> Option<usize> {
    (1..args.len()).filter(|i| args[*i] == typed).find(|i| {
        let mut trial = args.to_vec();
        trial[*i] = OsString::from("replaced");
        mount_options::parse(&trial)
            .is_ok_and(|(parsed, _)| parsed.password.as_os_str() == "replaced")
    })
}

/// The child: its executable was named by a link, so `ps` would show it under the link's name.
pub(super) fn take_name() {
    if let Err(error) = rustix::thread::set_name(c"tinyp2p-mount") {
        tracing::debug!(%error, "the process keeps its name");
    }
}

/// The child: leaves the terminal, then reports to the front that the mount is usable. What would
/// be printed from now on goes to `log`, or nowhere. An error means that the front has gone.
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
