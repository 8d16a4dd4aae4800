//! The adapter on a real mount of a network in memory: tests of what only the kernel can show.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tinyp2p_net::config::CALL_DEADLINE;
use tinyp2p_net::download::Engine;
use tinyp2p_net::model::Mode;
use tinyp2p_net::peer::Peer;
use tinyp2p_net::testing::{Behaviour, MemoryPeer};

use super::*;
use crate::network::Network;
use crate::testing::MemoryNetwork;

const SOON: Duration = Duration::from_secs(30);

/// A mount that is removed with its test.
struct Mounted {
    network: Arc<MemoryNetwork>,
    ann: Arc<MemoryPeer>,
    directory: TempDir,
    session: Option<fuser::BackgroundSession>,
}

fn mount() -> Mounted {
    let network = Arc::new(MemoryNetwork::default());
    let ann = network.join("ann", 1);
    let engine = Arc::new(Engine::new(64 << 20, None, Box::new(|_, _| {})).unwrap());
    let shared = Arc::clone(&network) as Arc<dyn Network>;
    let filesystem = Arc::new(Filesystem::new(shared, engine, None));
    let directory = tempfile::tempdir().unwrap();
    let mut config = session_config();
    config.mount_options = vec![fuser::MountOption::RO];
    let session = fuser::spawn_mount(
        adapter(filesystem, None, Arc::default(), true),
        directory.path(),
        &config,
    )
    .unwrap();
    Mounted {
        network,
        ann,
        directory,
        session: Some(session),
    }
}

impl Mounted {
    fn path(&self, path: &str) -> PathBuf {
        self.directory.path().join(path)
    }

    fn names(&self, path: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(path)).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name());
        let mut names: Vec<String> = names.map(|name| name.to_string_lossy().into()).collect();
        names.sort();
        names
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.ann.behave(Behaviour::Honest);
        // Lazily: a failed test may still hold files open.
        let unmounted =
            rustix::mount::unmount(self.directory.path(), rustix::mount::UnmountFlags::DETACH);
        drop(self.session.take());
        if !std::thread::panicking() {
            unmounted.unwrap();
        }
    }
}

fn errno_of(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap()
}

#[test]
fn merged_tree_is_mounted_with_attributes() {
    let mounted = mount();
    mounted
        .ann
        .put("d/hello.txt", "hello", 1_700_000_000_123_456_789);
    mounted.network.join("bob", 2).put("d/other", "bytes", -1);
    assert_eq!(mounted.names("d"), ["hello.txt", "other"]);
    assert_eq!(fs::read(mounted.path("d/hello.txt")).unwrap(), b"hello");
    let file = fs::metadata(mounted.path("d/hello.txt")).unwrap();
    assert_eq!((file.len(), file.blocks(), file.nlink()), (5, 1, 1));
    assert_eq!(
        (file.mtime(), file.mtime_nsec()),
        (1_700_000_000, 123_456_789)
    );
    assert_eq!((file.atime(), file.ctime()), (file.mtime(), file.mtime()));
    assert_eq!(
        (file.permissions().mode(), file.blksize()),
        (0o100_644, 131_072)
    );
    let before_1970 = fs::metadata(mounted.path("d/other")).unwrap();
    assert_eq!(
        (before_1970.mtime(), before_1970.mtime_nsec()),
        (-1, 999_999_999)
    );
    let folder = fs::metadata(mounted.path("d")).unwrap();
    assert_eq!((folder.permissions().mode(), folder.nlink()), (0o40_755, 1));
    assert_eq!(file.uid(), rustix::process::getuid().as_raw());
}

#[test]
fn modes_show_read_and_execute_rights() {
    let mounted = mount();
    for name in ["text", "program", "secret", "closed/x"] {
        mounted.ann.put(name, "#!/bin/sh\nexit 7\n", 1);
    }
    mounted.ann.chmod("program", Mode::Executable);
    mounted.ann.chmod("secret", Mode::Unreadable);
    mounted.ann.chmod("closed", Mode::Unreadable);
    let mode = |name: &str| {
        let metadata = fs::metadata(mounted.path(name)).unwrap();
        metadata.permissions().mode() & 0o7777
    };
    assert_eq!(
        ["text", "program", "secret", "closed"].map(mode),
        [0o644, 0o755, 0, 0]
    );
    // This process may be root, whom mode bits do not stop.
    let opened = fs::read(mounted.path("secret")).unwrap_err();
    let listed = fs::read_dir(mounted.path("closed")).unwrap_err();
    assert_eq!([&opened, &listed].map(errno_of), [libc::EACCES; 2]);
    assert_eq!(mounted.ann.opens(), 0);
    let run = std::process::Command::new(mounted.path("program")).status();
    assert_eq!(run.unwrap().code(), Some(7));
}

#[test]
fn tools_read_a_status_file_whole() {
    let mounted = mount();
    let path = mounted.path(".tinyp2p/status.json");
    // Longer than one of the kernel's requests.
    let name = "n".repeat(400_000);
    mounted.network.join(&name, 2);
    let is_whole = |bytes: &[u8]| {
        let value = serde_json::from_slice::<serde_json::Value>(bytes);
        value.is_ok_and(|value| value["members"][1]["name"] == name.as_str())
    };
    assert!(is_whole(&fs::read(&path).unwrap()));
    let copy = tempfile::NamedTempFile::new().unwrap();
    fs::copy(&path, copy.path()).unwrap();
    assert!(is_whole(&fs::read(copy.path()).unwrap()));
    let (path, copy) = (path.to_str().unwrap(), copy.path().to_str().unwrap());
    let python = "import shutil, sys; shutil.copyfile(sys.argv[1], sys.argv[2])";
    for copier in [
        &["cp", path, copy][..],
        &["cp", "-a", path, copy],
        &["rsync", "-a", path, copy],
        &["python3", "-c", python, path, copy],
        &["sh", "-c", "cat \"$1\" > \"$2\"", "sh", path, copy],
        &["sh", "-c", "grep name \"$1\" > \"$2\"", "sh", path, copy],
        &["sh", "-c", "tail -n 1 \"$1\" > \"$2\"", "sh", path, copy],
        &[
            "dd",
            &format!("if={path}"),
            &format!("of={copy}"),
            "bs=7000",
            "status=none",
        ],
    ] {
        fs::write(copy, "").unwrap();
        let status = std::process::Command::new(copier[0])
            .args(&copier[1..])
            .status();
        assert!(status.unwrap().success(), "{copier:?}");
        assert!(is_whole(&fs::read(copy).unwrap()), "{copier:?}");
    }
}

#[test]
fn control_directory_is_unlisted_on_the_mount() {
    let mounted = mount();
    mounted.ann.put("x", "x", 1);
    assert_eq!(mounted.names(""), ["x"]);
    let own = ["conflicts", "peers", "search", "status", "status.json"];
    assert_eq!(mounted.names(".tinyp2p"), own);
    let mode = |path: &str| {
        fs::metadata(mounted.path(path))
            .unwrap()
            .permissions()
            .mode()
    };
    assert_eq!(mode(".tinyp2p"), 0o40_755);
    assert_eq!(mode(".tinyp2p/status"), 0o100_644);
    let written = fs::write(mounted.path(".tinyp2p/status"), "x").unwrap_err();
    assert_eq!(errno_of(&written), libc::EROFS);
    let missing = File::open(mounted.path(".tinyp2p/x")).unwrap_err();
    assert_eq!(errno_of(&missing), libc::ENOENT);
    assert_eq!(mounted.names(".tinyp2p/.."), ["x"]);
}

#[test]
fn all_trees_share_one_page_cache() {
    let mounted = mount();
    mounted.ann.put_rooted("d/x", vec![7; 300_000], 1);
    let bob = mounted.network.join("bob", 2);
    bob.put_rooted("d/x", vec![7; 300_000], 2);
    let paths = ["d/x", ".tinyp2p/peers/bob/d/x", ".tinyp2p/search/^x$/x"];
    let paths = paths.map(|path| mounted.path(path));
    assert_eq!(fs::read(&paths[0]).unwrap().len(), 300_000);
    let opens = || mounted.ann.opens() + bob.opens();
    let read = opens();
    let number = fs::metadata(&paths[0]).unwrap().ino();
    for path in &paths[1..] {
        assert_eq!(fs::read(path).unwrap(), [7; 300_000]);
        assert_eq!(fs::metadata(path).unwrap().ino(), number);
    }
    assert_eq!(
        opens(),
        read,
        "what is in the page cache is not fetched again"
    );
    let directories = ["d", ".tinyp2p/peers/bob/d", ".tinyp2p/peers/ann/d"];
    let mut numbers = directories.map(|path| fs::metadata(mounted.path(path)).unwrap().ino());
    numbers.sort_unstable();
    assert!(
        numbers.is_sorted_by(|a, b| a < b),
        "the kernel has one name for a directory"
    );
}

#[test]
fn all_trees_can_be_walked_at_once() {
    let mounted = mount();
    mounted.ann.put("d/e/x", "x", 1);
    let within = |path: &str| fs::canonicalize(mounted.path(path)).unwrap();
    for path in ["d/e", ".tinyp2p/peers/ann/d/e", ".tinyp2p/search/x"] {
        let directory = File::open(mounted.path(path)).unwrap();
        let shown = fs::read_link(format!("/proc/self/fd/{}", directory.as_raw_fd())).unwrap();
        assert_eq!(shown, within("").join(path));
        assert_eq!(mounted.names(path), ["x"]);
        let above = mounted.path(&format!("{path}/.."));
        assert!(fs::metadata(above).unwrap().is_dir());
    }
    assert_eq!(mounted.names("d"), ["e"]);
    assert_eq!(mounted.names(".tinyp2p/peers"), ["ann"]);
    assert_eq!(mounted.names(".tinyp2p/search"), Vec::<String>::new());
}

#[test]
fn everything_that_writes_is_refused() {
    let mounted = mount();
    mounted.ann.put("x", "x", 1);
    let (file, new) = (mounted.path("x"), mounted.path("new"));
    let refusals = [
        fs::write(&file, "y").unwrap_err(),
        fs::write(&new, "y").unwrap_err(),
        fs::create_dir(&new).unwrap_err(),
        fs::remove_file(&file).unwrap_err(),
        fs::rename(&file, &new).unwrap_err(),
        fs::set_permissions(&file, fs::Permissions::from_mode(0o777)).unwrap_err(),
        std::os::unix::fs::symlink("x", &new).unwrap_err(),
        rustix::fs::setxattr(&file, "user.a", b"b", rustix::fs::XattrFlags::empty())
            .unwrap_err()
            .into(),
    ];
    for refusal in &refusals {
        assert_eq!(errno_of(refusal), libc::EROFS);
    }
}

#[test]
fn what_was_read_is_kept_across_opens() {
    let mounted = mount();
    mounted.ann.put("x", vec![7; 300_000], 1);
    assert_eq!(fs::read(mounted.path("x")).unwrap().len(), 300_000);
    let opens = mounted.ann.opens();
    assert_eq!(fs::read(mounted.path("x")).unwrap().len(), 300_000);
    assert_eq!(mounted.ann.opens(), opens);
}

#[test]
fn replaced_file_is_read_anew() {
    let mounted = mount();
    mounted.ann.put("x", vec![1; 1 << 20], 1);
    let old = File::open(mounted.path("x")).unwrap();
    let mut buffer = [0; 4096];
    old.read_exact_at(&mut buffer, 0).unwrap();
    // Same size: only the identity shows that it is another file.
    mounted.ann.put("x", vec![2; 1 << 20], 2);
    let deadline = Instant::now() + SOON;
    loop {
        // Old bytes, an error, or new bytes; never a mixture.
        let read = fs::read(mounted.path("x")).unwrap_or_default();
        assert!(read.iter().all(|byte| *byte == *read.first().unwrap_or(&0)));
        if read.first() == Some(&2) {
            break;
        }
        assert!(Instant::now() < deadline);
        std::thread::yield_now();
    }
    let mut whole = Vec::new();
    if (&old).read_to_end(&mut whole).is_ok() {
        assert!(whole.iter().all(|byte| *byte == 1));
    }
    assert_eq!(old.metadata().unwrap().size(), 1 << 20);
}

#[test]
fn kernel_remembers_certain_absence_briefly() {
    let mounted = mount();
    for _ in 0..100 {
        let error = fs::metadata(mounted.path(".hidden")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }
    assert!(
        mounted.network.calls() < 10,
        "{} calls",
        mounted.network.calls()
    );
    mounted.ann.put(".hidden", "x", 1);
    let deadline = Instant::now() + SOON;
    while fs::metadata(mounted.path(".hidden")).is_err() {
        assert!(Instant::now() < deadline);
        std::thread::yield_now();
    }
}

#[test]
fn xattrs_are_readable_but_not_listed() {
    let mounted = mount();
    mounted.ann.put("x", "x", 1);
    let get = |name: &str| {
        let mut value = [0; 256];
        let length = rustix::fs::getxattr(mounted.path("x"), name, &mut value)?;
        Ok::<_, rustix::io::Errno>(String::from_utf8_lossy(&value[..length]).into_owned())
    };
    let sources = format!("ann {}", mounted.ann.id());
    assert_eq!(get("user.tinyp2p.sources").unwrap(), sources);
    assert_eq!(get("user.tinyp2p.root"), Err(rustix::io::Errno::NODATA));
    assert_eq!(get("security.selinux"), Err(rustix::io::Errno::OPNOTSUPP));
    let mut small = [0; 3];
    let short = rustix::fs::getxattr(mounted.path("x"), "user.tinyp2p.sources", &mut small);
    assert_eq!(short, Err(rustix::io::Errno::RANGE));
    let size = rustix::fs::getxattr_query(mounted.path("x"), "user.tinyp2p.sources");
    assert_eq!(size, Ok(sources.len()));
    let mut list = [0; 256];
    let listed = rustix::fs::listxattr(mounted.path("x"), &mut list);
    assert_eq!(listed, Err(rustix::io::Errno::OPNOTSUPP));
}

#[test]
fn frozen_member_blocks_no_cached_answer() {
    let mounted = mount();
    mounted.ann.put("a/x", "x", 1);
    mounted.ann.put("b/y", "y", 1);
    let open = File::open(mounted.path("a/x")).unwrap();
    mounted.ann.behave(Behaviour::Frozen);
    let (done, wait) = channel();
    for name in ["b", "b/y", "c", "d", "e"] {
        let (path, done) = (mounted.path(name), done.clone());
        std::thread::spawn(move || {
            let _ = done.send(fs::metadata(path).is_ok());
        });
    }
    // More lookups are waiting than there are event loops; an open file still answers at once.
    let begun = Instant::now();
    for _ in 0..100 {
        open.metadata().unwrap();
        rustix::fs::fstatfs(&open).unwrap();
    }
    assert!(begun.elapsed() < CALL_DEADLINE);
    for _ in 0..5 {
        wait.recv_timeout(CALL_DEADLINE + Duration::from_secs(2))
            .unwrap();
    }
}

#[test]
fn waiting_reads_leave_event_loops_free() {
    const FILES: usize = 4 * WAITING_LOOPS;
    let mounted = mount();
    let size = FILES << 20;
    mounted.ann.put("frozen", vec![7; size], 1);
    let bob = mounted.network.join("bob", 2);
    bob.put("other", vec![9; size], 1);
    let open = |name| {
        let file = File::open(mounted.path(name)).unwrap();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Random).unwrap();
        file
    };
    let other = open("other");
    let frozen: Vec<File> = (0..FILES).map(|_| open("frozen")).collect();
    mounted.ann.behave(Behaviour::Frozen);
    for (index, file) in frozen.into_iter().enumerate() {
        std::thread::spawn(move || file.read_at(&mut [0; 4096], ((index << 20) + 4096) as u64));
    }
    let deadline = Instant::now() + SOON;
    while mounted.ann.opens() < FILES {
        assert!(
            Instant::now() < deadline,
            "{} reads wait",
            mounted.ann.opens()
        );
        std::thread::yield_now();
    }
    let begun = Instant::now();
    for index in 0..FILES {
        let mut buffer = [0; 4096];
        other
            .read_exact_at(&mut buffer, (index << 20) as u64)
            .unwrap();
        assert_eq!(buffer, [9; 4096]);
    }
    assert!(begun.elapsed() < CALL_DEADLINE, "{:?}", begun.elapsed());
}

#[test]
fn waiting_process_dies_within_the_deadline() {
    let mounted = mount();
    mounted.ann.put("x", vec![7; 1 << 20], 1);
    let path = mounted.path("x");
    fs::metadata(&path).unwrap();
    mounted.ann.behave(Behaviour::Frozen);
    let mut cat = std::process::Command::new("cat")
        .arg(&path)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + SOON;
    while mounted.ann.opens() == 0 {
        assert!(Instant::now() < deadline);
        std::thread::yield_now();
    }
    cat.kill().unwrap();
    let begun = Instant::now();
    cat.wait().unwrap();
    assert!(begun.elapsed() < tinyp2p_net::config::READ_DEADLINE + Duration::from_secs(2));
}

#[test]
fn frozen_read_fails_by_its_deadline() {
    let mounted = mount();
    mounted.ann.put("x", vec![7; 1 << 20], 1);
    mounted.network.join("bob", 2).put("y", "y", 1);
    let (x, y) = (mounted.path("x"), mounted.path("y"));
    let open = File::open(&x).unwrap();
    fs::metadata(&y).unwrap();
    mounted.ann.behave(Behaviour::Frozen);
    let begun = Instant::now();
    let reader = std::thread::spawn(move || open.read_exact_at(&mut [0; 4096], 0));
    assert_eq!(fs::read(&y).unwrap(), b"y");
    assert!(begun.elapsed() < CALL_DEADLINE + Duration::from_secs(1));
    let error = reader.join().unwrap().unwrap_err();
    assert_eq!(errno_of(&error), libc::EIO);
    assert!(
        begun.elapsed() < tinyp2p_net::config::READ_DEADLINE + Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
}

#[test]
fn open_uses_another_holder_at_once() {
    let mounted = mount();
    mounted.ann.put("x", "same", 1);
    mounted.network.join("bob", 2).put("x", "same", 1);
    fs::metadata(mounted.path("x")).unwrap();
    mounted.network.leave(mounted.ann.id());
    assert_eq!(fs::read(mounted.path("x")).unwrap(), b"same");
}

#[test]
fn statfs_is_never_zero() {
    let mounted = mount();
    let figures = rustix::fs::statfs(mounted.directory.path()).unwrap();
    assert!(figures.f_blocks > 0 && figures.f_bsize > 0 && figures.f_files > 0);
    assert_eq!((figures.f_bavail, figures.f_namelen), (0, 255));
}
