//! Effects of a read on the owner: none, as long as the bytes are there.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::harness::content::{MIB, pattern};
use crate::harness::process::{eventually, run, sh};
use crate::harness::swarm::{Node, Swarm, tinyp2p};
use crate::verified::{settle, xattr};

/// Time until roots are known and written data is shown, on a busy machine.
const SOON: Duration = Duration::from_secs(60);

/// Bytes of a file that is read while an event happens.
const LENGTH: u64 = 60 * MIB;

/// Bytes that are read before the event.
const BEFORE: u64 = 10 * MIB;

/// Slower than everything here, so that most of a file is not in anybody's memory
/// yet: 20 MiB a second.
const STEP: (u64, Duration) = (MIB, Duration::from_millis(50));

/// Starts an owner, and a mount of its files.
fn owner_and_reader(swarm: &Swarm) -> (Node, Node) {
    let owner = swarm.node("owner").serve();
    let reader = swarm
        .node("reader")
        .option("--cache-size=0")
        .peer(&owner)
        .mount();
    (owner, reader)
}

/// The bytes that were read, and the error that ended the read.
type ReadUntil = (Vec<u8>, Option<io::Error>);

/// Reads all of `path` slowly, and calls `act` on the way.
fn read_slowly(path: &Path, act: impl FnOnce()) -> ReadUntil {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) => return (Vec::new(), Some(error)),
    };
    let (mut read, mut act) = (Vec::new(), Some(act));
    let mut chunk = vec![0; STEP.0 as usize];
    loop {
        match file.read(&mut chunk) {
            Ok(0) => return (read, None),
            Ok(count) => read.extend_from_slice(&chunk[..count]),
            Err(error) => return (read, Some(error)),
        }
        if read.len() as u64 >= BEFORE
            && let Some(act) = act.take()
        {
            act();
        }
        thread::sleep(STEP.1);
    }
}

fn has_root(reader: &Node, name: &str) -> bool {
    xattr(&reader.at(name), "user.tinyp2p.root").is_some()
}

type Act = fn(&Path);

/// Applies each of `acts` to its own file while that file is read, all at the same time. Passes the
/// bytes read to `judge`.
fn while_read(
    acts: &'static [(&'static str, Act)],
    is_settled: bool,
    judge: fn(&str, &[u8], ReadUntil),
) {
    let swarm = Swarm::alone();
    let (owner, reader) = owner_and_reader(&swarm);
    let content = Arc::new(pattern(7, LENGTH));
    for (act, _) in acts {
        let path = owner.share().join(act).join("file");
        fs::create_dir_all(path.parent().expect("a parent")).expect("make a directory");
        fs::write(&path, &*content).expect("write");
        if is_settled {
            settle(&path);
        }
    }
    for (act, _) in acts {
        let name = format!("{act}/file");
        eventually(SOON, "the file is there", || {
            reader.at(&name).exists() && (!is_settled || has_root(&reader, &name))
        });
    }
    let readers = acts.iter().map(|(name, act)| {
        let path = reader.at(format!("{name}/file"));
        let at_owner = owner.share().join(name).join("file");
        let content = Arc::clone(&content);
        thread::spawn(move || {
            let read = read_slowly(&path, || act(&at_owner));
            judge(name, &content, read);
        })
    });
    let readers: Vec<JoinHandle<()>> = readers.collect();
    for reader in readers {
        reader.join().expect("a reader that is content");
    }
}

const HARMLESS: &[(&str, Act)] = &[
    ("chmod", |path| {
        fs::set_permissions(path, fs::Permissions::from_mode(0o664)).expect("chmod");
    }),
    ("ln", |path| {
        fs::hard_link(path, path.with_extension("bak")).expect("link");
    }),
    ("setfattr", |path| {
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(path, "user.note", b"1", flags).expect("setxattr");
    }),
    ("touch", |path| {
        let file = File::options().write(true).open(path).expect("open");
        file.set_modified(std::time::SystemTime::now())
            .expect("touch");
    }),
    ("mv", |path| {
        fs::rename(path, path.with_file_name("renamed")).expect("rename");
    }),
    ("mvdir", |path| {
        let directory = path.parent().expect("a parent");
        fs::rename(directory, directory.with_file_name("mvdir.new")).expect("rename");
    }),
    ("append", |path| {
        let mut file = File::options().append(true).open(path).expect("open");
        file.write_all(b"more").expect("append");
    }),
];

fn is_content(act: &str, content: &[u8], (read, error): ReadUntil) {
    assert!(error.is_none(), "{act}: {error:?} after {}", read.len());
    // Appended bytes may be read as well.
    let more = if act == "append" { 4 } else { 0 };
    assert!(read.len() <= content.len() + more, "{act}");
    assert!(read.starts_with(content), "{act}: other bytes");
}

#[test]
fn read_survives_byte_preserving_changes() {
    while_read(HARMLESS, true, is_content);
}

#[test]
fn a_read_of_a_new_file_goes_on_as_well() {
    while_read(HARMLESS, false, is_content);
}

const HARMFUL: &[(&str, Act)] = &[
    ("truncate", |path| {
        let file = File::options().write(true).open(path).expect("open");
        file.set_len(MIB).expect("truncate");
    }),
    ("over", |path| {
        fs::write(path, vec![0xff; LENGTH as usize]).expect("write");
    }),
    ("over and more", |path| {
        let file = File::options().write(true).open(path).expect("open");
        let other = vec![0xff; LENGTH as usize + 5000];
        file.write_all_at(&other, 0).expect("write");
    }),
    ("in the middle", |path| {
        let file = File::options().write(true).open(path).expect("open");
        let other = vec![0xff; (LENGTH - 20 * MIB) as usize];
        file.write_all_at(&other, 20 * MIB).expect("write");
    }),
    ("replace", |path| {
        let new = path.with_extension("new");
        fs::write(&new, vec![0xff; LENGTH as usize]).expect("write");
        fs::rename(new, path).expect("rename");
    }),
    ("delete", |path| fs::remove_file(path).expect("remove")),
];

fn is_stale_or_old(act: &str, content: &[u8], (read, error): ReadUntil) {
    assert!(content.starts_with(&read), "{act}: a mixture");
    let error = error.expect("what is not there any more is an error");
    assert_eq!(error.raw_os_error(), Some(libc::ESTALE), "{act}: {error}");
}

#[test]
fn overwritten_file_is_stale_never_a_mix() {
    while_read(HARMFUL, true, is_stale_or_old);
}

/// A log with lines of 100 bytes, and the thread that writes it.
struct Log {
    path: PathBuf,
    lines: Arc<Mutex<u64>>,
    is_over: Arc<AtomicBool>,
    writer: Option<JoinHandle<()>>,
}

impl Log {
    fn new(path: PathBuf, lines: u64) -> Self {
        let log = Self {
            path,
            lines: Arc::default(),
            is_over: Arc::default(),
            writer: None,
        };
        log.append(lines);
        log
    }

    fn append(&self, lines: u64) {
        append(&self.path, &self.lines, lines);
    }

    /// Writes a line each `pause` from now on.
    fn keep_writing(&mut self, pause: Duration) {
        let (path, lines) = (self.path.clone(), Arc::clone(&self.lines));
        let is_over = Arc::clone(&self.is_over);
        self.writer = Some(thread::spawn(move || {
            while !is_over.load(Ordering::SeqCst) {
                append(&path, &lines, 1);
                thread::sleep(pause);
            }
        }));
    }

    fn length(&self) -> u64 {
        *self.lines.lock() * 100
    }
}

fn append(path: &Path, count: &Mutex<u64>, lines: u64) {
    let mut count = count.lock();
    let text: String = (*count..*count + lines).map(line).collect();
    let file = File::options().create(true).append(true).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .expect("append");
    *count += lines;
}

fn line(number: u64) -> String {
    format!("line {number:08} {}\n", "x".repeat(85))
}

/// Panics unless `copy` is the beginning of the log, and at least this long.
#[track_caller]
fn assert_beginning(copy: &[u8], at_least: u64) {
    assert!(copy.len() as u64 >= at_least, "{} bytes", copy.len());
    for (number, found) in (0..).zip(copy.chunks(100)) {
        assert!(line(number).as_bytes().starts_with(found), "line {number}");
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        if let Some(writer) = self.writer.take() {
            // Its panic has already been reported.
            let _ = writer.join();
        }
    }
}

#[test]
fn growing_log_is_always_copied_whole() {
    let swarm = Swarm::alone();
    let (owner, reader) = owner_and_reader(&swarm);
    let mut log = Log::new(owner.share().join("app.log"), 800_000);
    log.keep_writing(Duration::from_millis(100));
    let at_reader = reader.at("app.log");
    eventually(SOON, "the log is there", || at_reader.exists());
    let (from, to) = (at_reader.to_string_lossy(), swarm.path("copy"));
    let to = to.to_string_lossy();
    let mount = reader.mountpoint();
    let unpacked = swarm.directory("unpacked");
    for _ in 0..5 {
        let before = log.length();
        sh("cp", &[&from, &to]);
        assert_beginning(&fs::read(&*to).expect("read"), before);
        let before = log.length();
        sh("sh", &["-c", &format!("cat '{from}' > '{to}'")]);
        assert_beginning(&fs::read(&*to).expect("read"), before);
        let (mount, unpacked) = (mount.to_string_lossy(), unpacked.to_string_lossy());
        sh("tar", &["-cf", &to, "-C", &mount, "app.log"]);
        sh("tar", &["-xf", &to, "-C", &unpacked]);
        let copy = fs::read(swarm.path("unpacked/app.log")).expect("read");
        // tar takes as many bytes as the file had when tar checked its size.
        assert_beginning(&copy, before - 100_000);
    }
}

/// `tail` and the lines it prints, with their times.
struct Tail {
    child: Child,
    printed: Arc<Mutex<Vec<(String, Instant)>>>,
}

impl Tail {
    fn start(options: &[&str], path: &Path) -> Self {
        let mut child = Command::new("tail")
            .args(options)
            .arg(path)
            .stdout(Stdio::piped())
            .spawn()
            .expect("start tail");
        let printed: Arc<Mutex<Vec<(String, Instant)>>> = Arc::default();
        let (output, lines) = (child.stdout.take(), Arc::clone(&printed));
        thread::spawn(move || {
            for line in BufReader::new(output.expect("an output")).lines() {
                let line = line.expect("a line");
                lines.lock().push((line, Instant::now()));
            }
        });
        Self { child, printed }
    }

    /// Waits until it has printed `line`, and returns how long that took since `begun`.
    fn time_to(&self, line: &str, begun: Instant) -> Duration {
        let mut took = None;
        eventually(SOON, "tail prints the line", || {
            let printed = self.printed.lock();
            let found = printed.iter().find(|(text, _)| text == line.trim_end());
            took = found.map(|(_, at)| at.saturating_duration_since(begun));
            took.is_some()
        });
        took.expect("a time")
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        // It may have exited already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn tail_shows_appends_within_two_seconds() {
    let swarm = Swarm::alone();
    let (owner, reader) = owner_and_reader(&swarm);
    let log = Log::new(owner.share().join("app.log"), 200_000);
    eventually(SOON, "the log has its root", || {
        has_root(&reader, "app.log")
    });
    for options in [&["-f", "-n", "1"], &["-F", "-n", "1"]] {
        let tail = Tail::start(options, &reader.at("app.log"));
        let last = line(*log.lines.lock() - 1);
        tail.time_to(&last, Instant::now());
        for _ in 0..5 {
            let (begun, next) = (Instant::now(), line(*log.lines.lock()));
            log.append(1);
            let took = tail.time_to(&next, begun);
            assert!(took < Duration::from_secs(2), "{options:?}: {took:?}");
        }
        // All lines, in order, and each once.
        let printed = tail.printed.lock();
        let distinct: HashSet<&String> = printed.iter().map(|(line, _)| line).collect();
        assert_eq!(printed.len(), distinct.len(), "{options:?}");
        assert!(printed.is_sorted(), "{options:?}");
    }
}

#[test]
fn tail_follows_a_rotated_log() {
    let swarm = Swarm::alone();
    let (owner, reader) = owner_and_reader(&swarm);
    let path = owner.share().join("app.log");
    let log = Log::new(path.clone(), 1000);
    eventually(SOON, "the log is there", || reader.at("app.log").exists());
    let tail = Tail::start(&["-F", "-n", "1"], &reader.at("app.log"));
    tail.time_to(&line(999), Instant::now());
    log.append(1);
    tail.time_to(&line(1000), Instant::now());
    fs::rename(&path, path.with_extension("log.1")).expect("rotate");
    // More than the old file had: judging by its size alone, it could be the old one.
    fs::write(&path, "first of the new\n".repeat(20_000)).expect("write");
    tail.time_to("first of the new", Instant::now());
    let news = tail.printed.lock();
    let news = news.iter().filter(|(line, _)| line == "first of the new");
    assert!(news.count() <= 20_000);
}

#[test]
fn an_open_file_shows_how_it_grows() {
    let swarm = Swarm::alone();
    let (owner, reader) = owner_and_reader(&swarm);
    let log = Log::new(owner.share().join("app.log"), 1000);
    eventually(SOON, "the log is there", || reader.at("app.log").exists());
    let file = File::open(reader.at("app.log")).expect("open");
    let before = file.metadata().expect("fstat");
    assert_eq!(before.size(), 100_000);
    log.append(10);
    eventually(Duration::from_secs(3), "fstat tells the new size", || {
        file.metadata().is_ok_and(|now| now.size() == 101_000)
    });
    let by_name = fs::metadata(reader.at("app.log")).expect("stat");
    assert_eq!((by_name.ino(), by_name.size()), (before.ino(), 101_000));
    let mut bytes = vec![0; 200_000];
    let count = file.read_at(&mut bytes, 0).expect("read");
    assert_beginning(&bytes[..count], 101_000);
}

#[test]
fn get_fetches_a_log_that_is_written_to() {
    let swarm = Swarm::alone();
    let owner = swarm.node("owner").serve();
    let mut log = Log::new(owner.share().join("app.log"), 800_000);
    log.keep_writing(Duration::from_millis(200));
    for number in 0..3 {
        let (into, before) = (swarm.directory(&format!("got{number}")), log.length());
        let fetched = tinyp2p(
            &swarm,
            &[
                "get",
                "-d",
                &into.to_string_lossy(),
                crate::harness::swarm::PASSWORD,
                "log$",
                &owner.address(),
            ],
            SOON,
        );
        fetched.expect_success();
        let copy = fs::read(into.join("app.log")).expect("read");
        // At least what the file had when the owner was asked.
        assert_beginning(&copy, before);
    }
}

#[test]
fn backup_after_a_remount_rereads_nothing() {
    let swarm = Swarm::alone();
    let owner = swarm.node("owner");
    for number in 0..50 {
        let path = owner.share().join(format!("d{}/f{number}", number % 5));
        fs::create_dir_all(path.parent().expect("a parent")).expect("make a directory");
        fs::write(&path, pattern(number, 100_000)).expect("write");
        settle(&path);
    }
    let owner = owner.serve();
    let mut reader = swarm.node("reader").peer(&owner).mount();
    for number in 0..50 {
        let name = format!("d{}/f{number}", number % 5);
        eventually(SOON, "roots are known", || has_root(&reader, &name));
    }
    let repository = swarm.path("repository");
    let restic = |arguments: &[&str]| {
        let mut command = Command::new("restic");
        command
            .env("RESTIC_PASSWORD", "x")
            .env("HOME", swarm.path("home"));
        command.arg("--repo").arg(&repository).args(arguments);
        run(&mut command, SOON).expect_success().text()
    };
    let mount = reader.mountpoint();
    let mount = mount.to_string_lossy();
    restic(&["init"]);
    assert!(restic(&["backup", &mount]).contains("50 new"));
    reader.kill();
    reader.start();
    eventually(SOON, "the files are there", || {
        fs::read_dir(reader.at("d0")).is_ok_and(|entries| entries.count() == 10)
    });
    let second = restic(&["backup", &mount]);
    assert!(second.contains("50 unmodified"), "{second}");
}

#[test]
fn inode_order_copy_saves_round_trips() {
    let swarm = Swarm::alone();
    let owner = swarm.node("owner");
    let directory = owner.share().join("many");
    fs::create_dir(&directory).expect("make a directory");
    for number in 0..2000 {
        let path = directory.join(format!("{number:05}"));
        fs::write(&path, pattern(number, 4096)).expect("write");
        settle(&path);
    }
    let (owner, swarm) = (owner.serve(), &swarm);
    let reader = swarm.node("reader").peer(&owner).mount();
    eventually(SOON, "roots are known", || {
        has_root(&reader, "many/00000") && has_root(&reader, "many/01999")
    });
    let (from, to) = (reader.at("many"), swarm.path("copy"));
    sh(
        "cp",
        &["-r", &from.to_string_lossy(), &to.to_string_lossy()],
    );
    let singles = owner.log().matches("path=\"/files/").count();
    assert!(singles < 100, "{singles} files came one by one");
    assert_eq!(fs::read_dir(to).expect("list").count(), 2000);
}
