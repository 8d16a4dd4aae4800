//! Commands with a deadline, and waits that poll.
//!
//! Anything under test may hang: that is one of the things being tested. So no test waits without a
//! limit, and none sleeps for a state that it could poll.

use std::fmt;
use std::fs;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Interval at which a condition is checked.
const POLL: Duration = Duration::from_millis(10);

/// The results of a command that has ended.
pub(crate) struct Finished {
    /// The command line, for messages.
    pub(crate) command: String,
    pub(crate) status: ExitStatus,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
    pub(crate) took: Duration,
}

impl Finished {
    /// Returns the exit code; death by a signal counts as 128 plus the signal, as in a shell.
    pub(crate) fn code(&self) -> i32 {
        self.status
            .code()
            .unwrap_or_else(|| 128 + self.status.signal().unwrap_or(0))
    }

    /// Returns standard output as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Panics unless the command ended with exit code 0.
    #[track_caller]
    pub(crate) fn expect_success(self) -> Self {
        assert!(self.status.success(), "{self}");
        self
    }
}

impl fmt::Display for Finished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "`{}` ended with {} after {:.1?}\n--- stdout\n{}--- stderr\n{}",
            self.command,
            self.code(),
            self.took,
            self.text(),
            self.stderr
        )
    }
}

/// Runs `command` to its end, which must come within `limit`.
#[track_caller]
pub(crate) fn run(command: &mut Command, limit: Duration) -> Finished {
    let shown = show(command);
    let start = Instant::now();
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => panic!("cannot start `{shown}`: {error}"),
    };
    let stdout = collect(child.stdout.take().expect("stdout is piped"));
    let stderr = collect(child.stderr.take().expect("stderr is piped"));
    let status = loop {
        if let Some(status) = child.try_wait().expect("wait for a child") {
            break status;
        }
        if start.elapsed() > limit {
            child.kill().expect("kill a child");
            panic!(
                "`{shown}` has not ended after {limit:?}\n--- stderr\n{}",
                stderr
                    .recv_timeout(Duration::from_secs(1))
                    .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
                    .unwrap_or_default()
            );
        }
        thread::sleep(POLL);
    };
    let took = start.elapsed();
    // A daemon that the command left behind must not hold its output open.
    let rest = Duration::from_secs(5);
    let closed = "a process that stays behind still holds the standard output or error";
    Finished {
        status,
        stdout: stdout.recv_timeout(rest).expect(closed),
        stderr: String::from_utf8_lossy(&stderr.recv_timeout(rest).expect(closed)).into_owned(),
        took,
        command: shown,
    }
}

/// Formats the command line as one would type it.
fn show(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Reads `pipe` to its end on another thread.
fn collect(mut pipe: impl Read + Send + 'static) -> mpsc::Receiver<Vec<u8>> {
    let (done, collected) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // Output before an error still helps the reader of the message.
        let _ = pipe.read_to_end(&mut bytes);
        let _ = done.send(bytes);
    });
    collected
}

/// Runs a system command by name; panics when it fails or takes longer than a minute.
#[track_caller]
pub(crate) fn sh(program: &str, arguments: &[&str]) -> Finished {
    run(
        Command::new(program).args(arguments),
        Duration::from_secs(60),
    )
    .expect_success()
}

/// Polls until `condition` holds, and returns how long that took; panics when `limit` passes first.
#[track_caller]
pub(crate) fn eventually(
    limit: Duration,
    what: &str,
    mut condition: impl FnMut() -> bool,
) -> Duration {
    let start = Instant::now();
    loop {
        if condition() {
            return start.elapsed();
        }
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}");
        thread::sleep(POLL);
    }
}

/// Runs `work` on its own thread; panics when it has not ended within `limit`.
#[track_caller]
pub(crate) fn within<T: Send + 'static>(
    limit: Duration,
    what: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    let (done, result) = mpsc::channel();
    thread::spawn(move || {
        let _ = done.send(work());
    });
    match result.recv_timeout(limit) {
        Ok(value) => value,
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("not done within {limit:?}: {what}"),
        Err(mpsc::RecvTimeoutError::Disconnected) => panic!("panicked: {what}"),
    }
}

/// Sends `signal` to one process.
pub(crate) fn signal(pid: u32, signal: Signal) {
    try_signal(pid, signal).expect("signal a process");
}

/// Sends `signal` to a process that may have ended.
pub(crate) fn try_signal(pid: u32, signal: Signal) -> rustix::io::Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    kill_process(pid.expect("a process id"), signal)
}

/// Returns the memory that a process holds and the processor time that it has used.
pub(crate) fn usage(pid: u32) -> (u64, Duration) {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let resident = resident.and_then(|text| text.trim().strip_suffix(" kB"));
    let kibibytes: u64 = resident.expect("a size").parse().expect("a number");
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("its stat");
    let (_, fields) = stat.rsplit_once(") ").expect("fields");
    let fields: Vec<&str> = fields.split(' ').collect();
    let ticks = |index: usize| fields[index].parse::<u64>().expect("a number");
    // Linux counts in hundredths of a second, on all common machines.
    let used = Duration::from_millis(10 * (ticks(11) + ticks(12)));
    (kibibytes << 10, used)
}
