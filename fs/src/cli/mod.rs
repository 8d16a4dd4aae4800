//! The commands: arguments in, exit code out.
//!
//! `options` defines the arguments and what they mean; `process` protects the secret; `output`
//! prints; `mountpoint` checks where to mount; `first_contact` starts the node and evaluates
//! the answers. One file in `commands` for each command does the rest, with `daemon`,
//! `signals` and `status_socket`.

mod commands;
mod daemon;
mod first_contact;
mod get;
mod logging;
mod mountpoint;
mod options;
mod output;
mod process;
mod signals;
mod start;
mod status_socket;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use options::args::{Command, PasswordArgument, Tinyp2pArgs};
use options::password::PasswordSource;
use options::reach::join_reach;
use output::say;

/// Why a command failed: an exit code for the shell and a message for the person.
#[derive(Debug)]
struct CommandFailure {
    code: u8,
    /// One line; empty when it has already been printed.
    message: String,
}

impl CommandFailure {
    /// Exit code 1: a problem in the system, on the network or on disk.
    fn failed(message: impl Into<String>) -> Self {
        let message = message.into();
        Self { code: 1, message }
    }

    /// Exit code 2: the command line is wrong.
    fn usage(message: impl Into<String>) -> Self {
        let message = message.into();
        Self { code: 2, message }
    }

    /// Exit code 3: the members refused the password.
    fn wrong_password(message: impl Into<String>) -> Self {
        let message = message.into();
        Self { code: 3, message }
    }

    /// A failure whose message has already been printed.
    fn told(code: u8) -> Self {
        let message = String::new();
        Self { code, message }
    }
}

impl From<tinyp2p_net::Error> for CommandFailure {
    fn from(error: tinyp2p_net::Error) -> Self {
        Self::failed(error.to_string())
    }
}

/// Runs `tinyp2p-mount`, from its arguments to its exit code.
pub fn tinyp2p_mount(args: Vec<OsString>) -> ExitCode {
    let outcome = match options::mount_options::parse(&join_reach(&args)) {
        Ok((parsed, options)) => secure("tinyp2p-mount", &args, &parsed.password)
            .and_then(|source| commands::mount::run(&args, parsed, options, source)),
        Err(error) => Err(usage_failure(&error, "tinyp2p-mount")),
    };
    finish("tinyp2p-mount", outcome)
}

/// Runs `tinyp2p`, from its arguments to its exit code.
pub fn tinyp2p(args: Vec<OsString>) -> ExitCode {
    let outcome = match Tinyp2pArgs::try_parse_from(join_reach(&args)) {
        Ok(parsed) => run(&args, parsed.command),
        Err(error) => Err(usage_failure(&error, "tinyp2p")),
    };
    finish("tinyp2p", outcome)
}

fn run(args: &[OsString], command: Command) -> Result<(), CommandFailure> {
    let secure = |password| secure("tinyp2p", args, password);
    match command {
        Command::Serve(join) => commands::serve::run(secure(&join.password)?, join),
        Command::Get(command) => get::run(secure(&command.find.password)?, command),
        Command::Search(command) => commands::search::run(secure(&command.find.password)?, command),
        Command::Peers(join) => commands::peers::run(secure(&join.password)?, join),
        Command::Status(command) => commands::status::run(&command),
        Command::Info(command) => commands::info::run(&command),
        Command::Invite(command) => commands::invite::run(&command),
        Command::Unmount(command) => commands::unmount::run(&command.mountpoint),
    }
}

/// Blanks a literal password out of the argument list, isolates the process from the others
/// of this user, and raises its limit on open files. Runs before anything else, while there
/// is only one thread.
fn secure(
    program: &str,
    args: &[OsString],
    password: &PasswordArgument,
) -> Result<PasswordSource, CommandFailure> {
    let source = PasswordSource::new(password);
    if matches!(source, Ok(PasswordSource::Literal(_)) | Err(_))
        && let Err(why) = process::blank_argument(args, password.as_os_str())
    {
        return Err(CommandFailure::failed(format!(
            "cannot blank the password out of the process list ({why}); give it as - or @FILE"
        )));
    }
    if let Err(why) = process::raise_open_files() {
        // The only effect is that fewer connections are allowed.
        let text = format!("warning: cannot raise the number of open files ({why})");
        say(program, &text);
    }
    process::harden()
        .map_err(|why| CommandFailure::failed(format!("cannot forbid core dumps: {why}")))?;
    source
}

/// Prints help and versions in clap's format, but an error in our one line.
fn usage_failure(error: &clap::Error, program: &str) -> CommandFailure {
    match error.kind() {
        ErrorKind::DisplayHelp
        | ErrorKind::DisplayVersion
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let reported = CommandFailure::told(error.exit_code().clamp(0, 2) as u8);
            output::print_help(error).err().unwrap_or(reported)
        }
        _ => CommandFailure::usage(format!(
            "{} (see '{program} --help')",
            one_line(&error.to_string())
        )),
    }
}

/// Returns clap's text up to the point where it repeats the usage.
fn one_line(text: &str) -> String {
    let lines = text
        .lines()
        .map(str::trim)
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information"))
        .filter(|line| !line.is_empty());
    let line = lines.collect::<Vec<_>>().join(" ").replace(" tip: ", "; ");
    line.strip_prefix("error: ").unwrap_or(&line).to_owned()
}

fn finish(program: &str, outcome: Result<(), CommandFailure>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.message.is_empty() {
                say(program, &failure.message);
            }
            ExitCode::from(failure.code)
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn error_line(words: &[&str]) -> String {
        let error = Tinyp2pArgs::try_parse_from(words).unwrap_err();
        usage_failure(&error, "tinyp2p").message
    }

    #[test]
    fn usage_error_is_one_line_naming_help() {
        assert_eq!(
            error_line(&["tinyp2p", "serve"]),
            "the following required arguments were not provided: <PASSWORD> (see 'tinyp2p --help')"
        );
        for words in [
            &["tinyp2p", "nonsense"][..],
            &["tinyp2p", "serve", "pw", "--nonsense"],
            &["tinyp2p", "serve", "pw", "http://box"],
            &["tinyp2p", "search", "pw", "("],
            &["tinyp2p", "serve", "pw", "--listen", "x"],
            &["tinyp2p", "search", "pw", "x", "--hidden"],
            &["tinyp2p", "serve", "pw", "--share", "a", "--no-share"],
        ] {
            let line = error_line(words);
            assert!(
                !line.contains('\n') && line.ends_with("(see 'tinyp2p --help')"),
                "{line}"
            );
        }
    }

    #[test]
    fn both_command_lines_are_consistent() {
        use clap::CommandFactory;
        Tinyp2pArgs::command().debug_assert();
        options::args::MountArgs::command().debug_assert();
    }

    #[test]
    fn options_may_surround_positional_arguments() {
        for words in [
            ["tinyp2p", "get", "-d", "dir", "pw", "pattern", "peer"],
            ["tinyp2p", "get", "pw", "pattern", "peer", "-d", "dir"],
            ["tinyp2p", "get", "pw", "pattern", "-d", "dir", "peer"],
        ] {
            let Command::Get(get) = Tinyp2pArgs::try_parse_from(words).unwrap().command else {
                panic!("not get");
            };
            assert_eq!(get.directory.as_os_str(), "dir");
            assert_eq!(get.find.pattern, "pattern");
            assert_eq!(get.find.peers.len(), 1);
        }
    }
}
