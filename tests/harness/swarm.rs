//! A swarm: real nodes on this machine, each with its own address, share, state and log.
//!
//! Every node gets its own loopback address, so no two of them compete for a port. Nodes run in the
//! foreground as children of the test. A node that is dropped is killed and unmounted, even when
//! the test panics; in that case its log is printed. Tests run in parallel, except those that
//! measure time: they have the machine to themselves ([`Swarm::alone`]).

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::harness::hosts::Host;
use crate::harness::process::{Finished, eventually, run, signal, try_signal};

/// The password of every network here, unless a test is about passwords. Hard to guess, so that no
/// warning is mixed into the messages under test.
pub(crate) const PASSWORD: &str = "violet-anchor-teapot-quartz";

/// The port of all nodes here. Not the default: the person who runs the tests may run a node, too.
pub(crate) const PORT: u16 = 15999;

/// Time limit for a node to start. The design demands far less; other tests
/// measure that themselves.
const START: Duration = Duration::from_secs(20);

/// Most tests share the machine; a test that measures time has it to itself.
static MACHINE: RwLock<()> = RwLock::new(());

/// Numbers the loopback addresses assigned so far.
static ADDRESSES: AtomicU16 = AtomicU16::new(1);

enum Turn {
    Shared {
        _held: RwLockReadGuard<'static, ()>,
    },
    Alone {
        _held: RwLockWriteGuard<'static, ()>,
    },
}

/// A directory for one test, and its turn on the machine. Each test creates it
/// once, at its beginning.
pub(crate) struct Swarm {
    directory: TempDir,
    _turn: Turn,
}

impl Swarm {
    /// For tests that other tests may run in parallel with.
    pub(crate) fn new() -> Self {
        Self::with(Turn::Shared {
            _held: MACHINE.read(),
        })
    }

    /// For tests that measure time: nothing else runs at the same time.
    pub(crate) fn alone() -> Self {
        Self::with(Turn::Alone {
            _held: MACHINE.write(),
        })
    }

    fn with(turn: Turn) -> Self {
        assert!(
            Path::new("/dev/fuse").exists(),
            "/dev/fuse is missing: load the kernel module `fuse`, or pass the device into the container"
        );
        let directory = tempfile::Builder::new()
            .prefix("tinyp2p-test-")
            // Next to the build and so on a disk: files in memory (tmpfs) get no content roots.
            .tempdir_in(env!("CARGO_TARGET_TMPDIR"))
            .expect("make a directory for the test");
        Self {
            directory,
            _turn: turn,
        }
    }

    /// Returns a path in this test's own directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Creates a directory in this test's own directory.
    pub(crate) fn directory(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(&path).expect("make a directory");
        path
    }

    /// Creates a node with an empty share, without starting it.
    pub(crate) fn node(&self, name: &str) -> Node {
        let home = self.directory(name);
        let share = home.join("share");
        fs::create_dir(&share).expect("make a share");
        Node {
            name: name.to_owned(),
            address: next_address(),
            runtime: home.clone(),
            home,
            share,
            password: PASSWORD.to_owned(),
            discovery: false,
            log_level: "debug",
            programs: Path::new(MOUNT).parent().expect("a directory").to_owned(),
            host: None,
            is_unprivileged: false,
            everywhere: false,
            port: None,
            options: Vec::new(),
            peers: Vec::new(),
            mounted: false,
            child: None,
        }
    }
}

/// Returns a loopback address that no other test uses; the process id keeps two runs apart.
pub(crate) fn next_address() -> Ipv4Addr {
    let [high, low] = ADDRESSES.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    let run = u8::try_from(std::process::id() % 200).expect("less than 200") + 20;
    Ipv4Addr::new(127, run, high, low)
}

/// Returns a command for `tinyp2p-mount` or `tinyp2p`, in an environment free of
/// the user's settings.
pub(crate) fn program(path: &str, home: &Path, host: Option<&Host>) -> Command {
    let mut command = match host {
        Some(host) => host.command(path),
        None => Command::new(path),
    };
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", home)
        // Keeps its sockets away from those of the user's own nodes.
        .env("XDG_RUNTIME_DIR", home)
        .stdin(Stdio::null());
    command
}

/// The program that mounts.
pub(crate) const MOUNT: &str = env!("CARGO_BIN_EXE_tinyp2p-mount");

/// The program for all other commands.
pub(crate) const TINYP2P: &str = env!("CARGO_BIN_EXE_tinyp2p");

/// One member. Configured by its methods, then started by [`Node::serve`] or [`Node::mount`].
pub(crate) struct Node {
    name: String,
    address: Ipv4Addr,
    home: PathBuf,
    share: PathBuf,
    password: String,
    discovery: bool,
    log_level: &'static str,
    programs: PathBuf,
    host: Option<Host>,
    is_unprivileged: bool,
    everywhere: bool,
    port: Option<u16>,
    options: Vec<OsString>,
    runtime: PathBuf,
    peers: Vec<String>,
    mounted: bool,
    child: Option<Child>,
}

impl Node {
    /// Adds a file to the share, and creates its parent directories.
    pub(crate) fn file(self, name: impl AsRef<[u8]>, content: impl AsRef<[u8]>) -> Self {
        let path = self.share.join(OsStr::from_bytes(name.as_ref()));
        fs::create_dir_all(path.parent().expect("a file has a parent")).expect("make a directory");
        fs::write(path, content).expect("write a file");
        self
    }

    /// Names a peer by its address.
    pub(crate) fn peer(self, other: &Self) -> Self {
        self.peer_at(other.address())
    }

    /// Names a peer as the user would type it.
    pub(crate) fn peer_at(mut self, peer: impl Into<String>) -> Self {
        self.peers.push(peer.into());
        self
    }

    /// Uses a different password from the other nodes.
    pub(crate) fn password(mut self, password: &str) -> Self {
        password.clone_into(&mut self.password);
        self
    }

    /// Adds an option.
    pub(crate) fn option(mut self, option: impl AsRef<OsStr>) -> Self {
        self.options.push(option.as_ref().to_owned());
        self
    }

    /// Runs for the user who owns this runtime directory.
    pub(crate) fn runtime(mut self, directory: &Path) -> Self {
        directory.clone_into(&mut self.runtime);
        self
    }

    /// Changes the log level from the default.
    pub(crate) fn log_level(mut self, level: &'static str) -> Self {
        self.log_level = level;
        self
    }

    /// Uses the programs in this directory instead of those built with the tests.
    pub(crate) fn release(mut self, programs: &Path) -> Self {
        programs.clone_into(&mut self.programs);
        self
    }

    /// Runs on a host of its own, instead of on a loopback address.
    pub(crate) fn on(mut self, host: &Host) -> Self {
        self.host = Some(host.clone());
        self.address = host.address();
        self
    }

    /// Respects permission bits, like every user but root.
    pub(crate) fn unprivileged(mut self) -> Self {
        self.is_unprivileged = true;
        self
    }

    /// Listens on all addresses of its host, including later ones.
    pub(crate) fn everywhere(mut self) -> Self {
        self.everywhere = true;
        self
    }

    /// Listens at another port, beside another node of its host.
    pub(crate) fn at_port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    /// Finds others by mDNS.
    pub(crate) fn discovering(mut self, discovery: bool) -> Self {
        self.discovery = discovery;
        self
    }

    /// Returns the address at which others reach it.
    pub(crate) fn socket(&self) -> SocketAddr {
        SocketAddr::from((self.address, PORT))
    }

    /// Returns its address as a PEER argument.
    pub(crate) fn address(&self) -> String {
        self.socket().to_string()
    }

    /// Returns its share directory.
    pub(crate) fn share(&self) -> &Path {
        &self.share
    }

    /// Returns its state directory.
    pub(crate) fn state(&self) -> PathBuf {
        self.home.join("state")
    }

    /// Returns its cache directory, the default one.
    pub(crate) fn cache(&self) -> PathBuf {
        self.home.join(".cache")
    }

    /// Returns its mountpoint.
    pub(crate) fn mountpoint(&self) -> PathBuf {
        self.home.join("mnt")
    }

    /// Returns a path in its mount.
    pub(crate) fn at(&self, name: impl AsRef<[u8]>) -> PathBuf {
        self.mountpoint().join(OsStr::from_bytes(name.as_ref()))
    }

    /// Returns the process id while it runs.
    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().expect("the node runs").id()
    }

    /// Returns its log so far, over all its starts.
    pub(crate) fn log(&self) -> String {
        let bytes = fs::read(self.log_path()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn log_path(&self) -> PathBuf {
        self.home.join("log")
    }

    /// Returns the command that mounts this node in the foreground, with its options and arguments.
    pub(crate) fn mount_command(&self) -> Command {
        let mut command = self.program("tinyp2p-mount");
        command.arg("-f").args(self.network_options());
        command.args([OsStr::new(&self.password), self.mountpoint().as_os_str()]);
        command.args(&self.peers);
        command
    }

    fn serve_command(&self) -> Command {
        let mut command = self.program("tinyp2p");
        command.arg("serve").args(self.network_options());
        command.arg(&self.password).args(&self.peers);
        command
    }

    fn program(&self, name: &str) -> Command {
        let path = self.programs.join(name);
        let (home, host) = (&self.home, self.host.as_ref());
        let mut command = if self.is_unprivileged {
            let mut command = program("setpriv", home, host);
            command.args(["--bounding-set=-dac_override,-dac_read_search", "--"]);
            command.arg(&path);
            command
        } else {
            program(&path.to_string_lossy(), home, host)
        };
        command.env("XDG_RUNTIME_DIR", &self.runtime);
        command
    }

    fn network_options(&self) -> Vec<OsString> {
        let mut options: Vec<OsString> = vec![
            "--share".into(),
            self.share.clone().into(),
            "--state-dir".into(),
            self.state().into(),
            "--listen".into(),
            self.listen().into(),
            "--name".into(),
            self.name.clone().into(),
            "--log".into(),
            self.log_level.into(),
        ];
        if !self.discovery {
            options.push("--no-discovery".into());
        }
        options.extend(self.options.iter().cloned());
        options
    }

    fn listen(&self) -> String {
        match (self.port, self.everywhere) {
            (None, true) => format!("[::]:{PORT}"),
            (None, false) => self.socket().to_string(),
            (Some(port), _) => SocketAddr::from((self.address, port)).to_string(),
        }
    }

    /// Starts it as `tinyp2p serve` and waits until it listens.
    pub(crate) fn serve(mut self) -> Self {
        self.mounted = false;
        self.start();
        self
    }

    /// Starts it as `tinyp2p-mount -f` and waits until the mount answers.
    pub(crate) fn mount(mut self) -> Self {
        fs::create_dir_all(self.mountpoint()).expect("make a mountpoint");
        self.mounted = true;
        self.start();
        self
    }

    /// Starts it again in the same way as before.
    pub(crate) fn start(&mut self) {
        self.launch();
        self.wait_until_up();
    }

    /// Starts it without waiting for anything.
    fn launch(&mut self) {
        assert!(self.child.is_none(), "{} runs already", self.name);
        let mut command = if self.mounted {
            self.mount_command()
        } else {
            self.serve_command()
        };
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path())
            .expect("open a log");
        let output = log.try_clone().expect("share the log");
        let child = command.stdout(output).stderr(log).spawn();
        self.child = Some(child.expect("start a node"));
    }

    fn wait_until_up(&mut self) {
        let name = self.name.clone();
        eventually(START, &format!("{name} is up"), || {
            if let Some(status) = self
                .child
                .as_mut()
                .and_then(|c| c.try_wait().ok())
                .flatten()
            {
                panic!("{name} ended at its start: {status}");
            }
            if self.mounted {
                // In this order: a dead mount fails the first, and the bare directory that it
                // leaves the second.
                fs::read_dir(self.mountpoint()).is_ok() && is_mounted(&self.mountpoint())
            } else {
                self.listens()
            }
        });
    }

    /// Returns true if a connection succeeds. For another host, whose network is not
    /// ours, asks the kernel.
    fn listens(&self) -> bool {
        match &self.host {
            Some(host) => host.listens(PORT),
            None => TcpStream::connect(self.socket()).is_ok(),
        }
    }

    /// Kills it without any chance to clean up, and detaches what is left of its mount.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may be stopped, or may have exited.
            let _ = child.kill();
            let _ = child.wait();
        }
        if self.mounted {
            detach(&self.mountpoint());
        }
    }

    /// Kills it and leaves its dead mount where it is, as a crash would.
    pub(crate) fn crash(&mut self) {
        let mut child = self.child.take().expect("the node runs");
        child.kill().expect("kill a node");
        child.wait().expect("wait for a node");
    }

    /// Freezes it: it keeps its connections and answers nothing.
    pub(crate) fn freeze(&self) {
        signal(self.pid(), Signal::STOP);
    }

    /// Resumes it after [`Node::freeze`].
    pub(crate) fn thaw(&self) {
        signal(self.pid(), Signal::CONT);
    }

    /// Waits for it to exit, at most `limit`, and returns the exit code.
    pub(crate) fn wait(&mut self, limit: Duration) -> i32 {
        let mut status = None;
        eventually(limit, &format!("{} ends", self.name), || {
            let child = self.child.as_mut().expect("the node runs");
            status = child.try_wait().expect("wait for a node");
            status.is_some()
        });
        self.child = None;
        status.and_then(|status| status.code()).unwrap_or(-1)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!(
                "--- log of {} ({})\n{}",
                self.name,
                self.address,
                self.log()
            );
        }
    }
}

/// Runs `tinyp2p` with the given arguments, without discovery and with its own state.
pub(crate) fn tinyp2p(swarm: &Swarm, arguments: &[&str], limit: Duration) -> Finished {
    run(&mut tinyp2p_command(swarm, arguments), limit)
}

/// Returns the command of [`tinyp2p`] without running it.
pub(crate) fn tinyp2p_command(swarm: &Swarm, arguments: &[&str]) -> Command {
    let home = swarm.directory("command");
    let mut command = program(TINYP2P, &home, None);
    command.args(arguments).arg("--no-discovery");
    command.arg("--state-dir").arg(home.join("state"));
    command
}

/// Returns true when something is mounted exactly there, whether or not it still answers.
pub(crate) fn is_mounted(path: &Path) -> bool {
    mounts().iter().any(|mounted| mounted == path)
}

/// Returns all mountpoints of this mount namespace.
pub(crate) fn mounts() -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").expect("read the mount table");
    table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|field| PathBuf::from(field.replace("\\040", " ")))
        .collect()
}

/// Detaches a mount, whatever its state. Does nothing if nothing is mounted there.
pub(crate) fn detach(path: &Path) {
    while is_mounted(path) {
        if unmount(path, UnmountFlags::DETACH).is_err() {
            // Ordinary users need FUSE's own helper.
            let helper = Command::new("fusermount3")
                .args(["-u", "-z"])
                .arg(path)
                .status();
            assert!(
                helper.is_ok_and(|status| status.success()),
                "cannot unmount {path:?}"
            );
        }
    }
}

/// A mount whose process went into the background; dropping it removes both.
pub(crate) struct Background {
    /// The path of the mount.
    pub(crate) path: PathBuf,
}

impl Background {
    /// Takes charge of any mount at this path, now or later.
    pub(crate) fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// Returns the processes whose command line names this mountpoint.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let wanted = self.path.as_os_str().as_bytes();
        let names_it = |pid: &u32| {
            fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| line.split(|byte| *byte == 0).any(|word| word == wanted))
        };
        fs::read_dir("/proc")
            .expect("list processes")
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter(names_it)
            .collect()
    }

    /// Returns true when nothing is left of it.
    pub(crate) fn ended(&self) -> bool {
        !is_mounted(&self.path) && self.processes().is_empty()
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        for pid in self.processes() {
            // It may just have exited on its own.
            let _ = try_signal(pid, Signal::KILL);
        }
        detach(&self.path);
    }
}
