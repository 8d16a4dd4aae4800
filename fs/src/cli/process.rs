//! The first steps of the process: it hides the password, and raises its limit on open files.
//!
//! The password is removed from the argument list, which every user can read. Core dumps and
//! debuggers of the same user get nothing at all.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;

use rustix::process::{DumpableBehavior, Resource, Rlimit};

/// Overwrites every argument that equals `secret` with `x`s, where `ps` and `/proc/PID/cmdline`
/// read them. `args` is an earlier copy of this process's arguments. Must be called before
/// [`harden`], which locks `/proc/self/mem` for ordinary users.
pub(super) fn blank_argument(args: &[OsString], secret: &OsStr) -> io::Result<()> {
    let malformed = || io::Error::other("/proc/self/stat has no argument addresses");
    let (start, end) = argument_range(&std::fs::read("/proc/self/stat")?).ok_or_else(malformed)?;
    let length = usize::try_from(end.saturating_sub(start)).map_err(io::Error::other)?;
    let memory = File::options()
        .read(true)
        .write(true)
        .open("/proc/self/mem")?;
    let mut text = vec![0; length];
    memory.read_exact_at(&mut text, start)?;
    if !text.starts_with(args.join(OsStr::new("\0")).as_bytes()) {
        return Err(io::Error::other(
            "the argument list is not where it should be",
        ));
    }
    for offset in offsets(&text, secret.as_bytes()) {
        memory.write_all_at(&vec![b'x'; secret.len()], start + offset as u64)?;
    }
    Ok(())
}

/// Returns where the arguments begin and end in memory: fields 48 and 49 of proc_pid_stat(5). The
/// second field, the program's name, may contain anything but ends with the last `)`.
fn argument_range(stat: &[u8]) -> Option<(u64, u64)> {
    let close = stat.iter().rposition(|b| *b == b')')?;
    let rest = std::str::from_utf8(&stat[close + 1..]).ok()?;
    let mut fields = rest.split_ascii_whitespace().skip(48 - 3);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

/// Returns the offsets of the NUL-terminated strings in `text` that equal `secret`.
fn offsets(text: &[u8], secret: &[u8]) -> Vec<usize> {
    let mut offset = 0;
    let mut found = Vec::new();
    for argument in text.split(|b| *b == 0) {
        if argument == secret {
            found.push(offset);
        }
        offset += argument.len() + 1;
    }
    found
}

/// Disables core dumps and keeps other processes of this user out of this one's memory.
pub(super) fn harden() -> io::Result<()> {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    rustix::process::setrlimit(Resource::Core, none)?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(())
}

/// Raises the limit on open files to what the system allows this user: each connection needs one.
/// The usual soft limit of 1024 exists for programs that use `select(2)`, which this one does not.
pub(super) fn raise_open_files() -> io::Result<()> {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    Ok(rustix::process::setrlimit(Resource::Nofile, raised)?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_arguments_are_blanked() {
        let text = b"prog\0pw\0--name=pw\0pwpw\0pw\0";
        assert_eq!(offsets(text, b"pw"), [5, 23]);
    }

    #[test]
    fn odd_program_name_shifts_no_stat_field() {
        let numbers: Vec<String> = (3..=52).map(|n| n.to_string()).collect();
        let stat = format!("1 (a) b) {}", numbers.join(" "));
        assert_eq!(argument_range(stat.as_bytes()), Some((48, 49)));
        assert_eq!(argument_range(b"1 (a) 3 4"), None);
        assert_eq!(argument_range(b""), None);
    }

    #[test]
    fn own_arguments_are_found_and_kept() {
        let args: Vec<OsString> = std::env::args_os().collect();
        blank_argument(&args, OsStr::new("surely not among the arguments")).unwrap();
        let shown = std::fs::read("/proc/self/cmdline").unwrap();
        assert!(shown.starts_with(args[0].as_bytes()));
        assert!(blank_argument(&[OsString::from("other")], OsStr::new("x")).is_err());
    }
}
