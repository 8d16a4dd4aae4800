//! Content roots: computed soon, never in the way, and never those of another version.

use std::os::unix::fs::FileExt;

use super::*;
use crate::content::merkle::{SUBTREE_BLOCKS, TreeHasher};
use crate::model::{ByteRange, ContentId, Root};
use crate::testing::eventually;

struct Rooted {
    base: TempDir,
    share: Arc<Share>,
}

impl Rooted {
    fn new(base: TempDir) -> Self {
        let directory = base.path().join("served");
        let _ = fs::create_dir(&directory);
        let config = ShareConfig {
            directory,
            hidden: false,
            excluded: Vec::new(),
        };
        let roots = Roots::open(&base.path().join("roots.redb")).unwrap();
        Self {
            share: Share::open(&config).unwrap().with_roots(roots).unwrap(),
            base,
        }
    }

    /// Writes a file that looks as if nobody had written to it for a while.
    fn write_settled(&self, name: &str, content: &[u8]) {
        let place = self.base.path().join("served").join(name);
        fs::write(&place, content).unwrap();
        age(&place);
    }

    fn root(&self, name: &str) -> Option<Root> {
        let request = StatRequest {
            compare: false,
            watch: false,
            paths: vec![path(name)],
        };
        self.share.stat(&request, Asker::Nobody).unwrap().attributes[0]
            .unwrap()
            .root
    }

    fn root_in_time(&self, name: &str) -> Root {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            if let Some(root) = self.root(name) {
                return root;
            }
            assert!(Instant::now() < deadline, "no root for {name}");
            thread::yield_now();
        }
    }
}

/// Creates a directory that is not in memory: files on tmpfs get no roots.
fn on_disk() -> TempDir {
    let target = concat!(env!("CARGO_MANIFEST_DIR"), "/../target");
    fs::create_dir_all(target).unwrap();
    tempfile::tempdir_in(target).unwrap()
}

fn age(place: &std::path::Path) {
    let past = SystemTime::now() - Duration::from_secs(60);
    fs::File::options()
        .write(true)
        .open(place)
        .unwrap()
        .set_modified(past)
        .unwrap();
}

fn root_of(content: &[u8]) -> Root {
    let mut hasher = TreeHasher::default();
    hasher.update(content);
    hasher.finish().unwrap().root()
}

#[test]
fn file_is_served_before_and_rooted_soon() {
    let share = Rooted::new(on_disk());
    let content = vec![7; 9 << 20];
    share.write_settled("big", &content);
    assert!(share.share.open_file(&path("big"), Asker::Nobody).is_ok());
    let root = share.root_in_time("big");
    assert_eq!(root, root_of(&content));
    for (first, span) in [(0, SUBTREE_BLOCKS), (512, SUBTREE_BLOCKS), (8, 8), (575, 1)] {
        let hashes = share
            .share
            .hashes(&HashesRequest { root, first, span })
            .unwrap();
        assert!(
            hashes
                .prove(ContentId {
                    root,
                    size: 9 << 20
                })
                .is_some(),
            "{first} {span}"
        );
    }
    let behind = HashesRequest {
        root,
        first: 1024,
        span: SUBTREE_BLOCKS,
    };
    assert_eq!(
        share.share.hashes(&behind).unwrap_err().code,
        FaultCode::NotFound
    );
}

#[test]
fn unrequested_file_gets_its_root_too() {
    let base = on_disk();
    fs::create_dir_all(base.path().join("served/deep")).unwrap();
    fs::write(base.path().join("served/deep/file"), "content").unwrap();
    age(&base.path().join("served/deep/file"));
    let share = Rooted::new(base);
    let metadata = share
        .share
        .tree_file(&path("deep/file"))
        .unwrap()
        .attributes();
    let roots = share.share.roots.as_ref().unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while roots.of([metadata.version].into_iter()) != [Some(root_of(b"content"))] {
        assert!(Instant::now() < deadline);
        thread::yield_now();
    }
}

/// Waits for the root of `d/file` without looking it up, which would have it read by its path.
fn survey_finds(share: &Share) {
    let version = share
        .tree_file(&path("d/file"))
        .unwrap()
        .attributes()
        .version;
    let roots = share.roots.as_ref().unwrap();
    eventually("the walk has come there", || {
        roots.of([version].into_iter())[0].is_some()
    });
}

/// Waits until what was written just now is not put off any longer, to be found by its path then.
fn rest() {
    let rested = Instant::now() + Duration::from_millis(2100);
    eventually("it has rested", || Instant::now() > rested);
}

/// Creates a share with `d/file`, which has rested.
fn one_file() -> (TempDir, std::path::PathBuf) {
    let base = on_disk();
    let place = base.path().join("served/d/file");
    fs::create_dir_all(place.parent().unwrap()).unwrap();
    fs::write(&place, "content").unwrap();
    rest();
    (base, place)
}

#[test]
fn background_hashing_leaves_access_times_alone() {
    let (base, place) = one_file();
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    let times = fs::FileTimes::new().set_accessed(long_ago);
    let file = fs::File::options().write(true).open(&place).unwrap();
    file.set_times(times).unwrap();
    rest();
    let share = Rooted::new(base);
    survey_finds(&share.share);
    let accessed = fs::metadata(&place).unwrap().accessed().unwrap();
    assert_eq!(accessed, long_ago);
}

#[test]
fn restart_opens_no_file_that_has_a_root() {
    let (base, place) = one_file();
    let share = Rooted::new(base);
    survey_finds(&share.share);
    share.share.stop();
    let Rooted { base, share } = share;
    drop(share);
    // The database locks its file until it is closed.
    let database = fs::File::open(base.path().join("roots.redb")).unwrap();
    eventually("it is closed", || database.try_lock().is_ok());
    drop(database);
    let opened = rustix::fs::inotify::init(rustix::fs::inotify::CreateFlags::NONBLOCK).unwrap();
    let events = rustix::fs::inotify::WatchFlags::OPEN;
    rustix::fs::inotify::add_watch(&opened, &place, events).unwrap();
    let after = base.path().join("served/e");
    fs::create_dir_all(&after).unwrap();
    fs::write(after.join("new"), "new").unwrap();
    age(&after.join("new"));
    let share = Rooted::new(base);
    let version = share
        .share
        .anchor
        .look()
        .tree
        .unwrap()
        .find(&path("e/new"))
        .unwrap();
    let version = version.state.version();
    let roots = share.share.roots.as_ref().unwrap();
    eventually("the walk has come behind it", || {
        roots.of([version].into_iter())[0].is_some()
    });
    let mut buffer = [std::mem::MaybeUninit::uninit(); 512];
    let event = rustix::fs::inotify::Reader::new(&opened, &mut buffer)
        .next()
        .err();
    assert_eq!(event, Some(Errno::AGAIN));
}

#[test]
fn changed_file_trades_its_root_at_once() {
    let share = Rooted::new(on_disk());
    share.write_settled("file", b"old content");
    let old = share.root_in_time("file");
    let place = share.base.path().join("served/file");
    fs::File::options()
        .write(true)
        .open(&place)
        .unwrap()
        .write_all_at(b"NEW", 0)
        .unwrap();
    assert_eq!(share.root("file"), None);
    age(&place);
    assert_eq!(share.root_in_time("file"), root_of(b"NEW content"));
    assert_ne!(old, root_of(b"NEW content"));
}

#[test]
fn an_empty_file_has_no_root() {
    let share = Rooted::new(on_disk());
    share.write_settled("empty", b"");
    share.write_settled("full", b"x");
    share.root_in_time("full");
    assert_eq!(share.root("empty"), None);
}

/// A program that stores through `mmap` twice, the second time into a page that is already dirty.
const MAPPED_WRITER: &str = "
import mmap, sys
file = open(sys.argv[1], 'r+b')
view = mmap.mmap(file.fileno(), 0)
view[0:4] = b'AAAA'
print('stored', flush=True)
sys.stdin.readline()
view[0:4] = b'BBBB'
print('stored', flush=True)
sys.stdin.readline()
";

#[test]
fn mapped_store_gives_the_file_a_new_root() {
    use std::io::{BufRead, BufReader, Write};
    use std::process::{Command, Stdio};

    let share = Rooted::new(on_disk());
    let place = share.base.path().join("served/mapped");
    fs::write(&place, [b'.'; 20_000]).unwrap();
    let mut writer = Command::new("python3")
        .args(["-c", MAPPED_WRITER])
        .arg(&place)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3");
    let mut said = BufReader::new(writer.stdout.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    let content = fs::read(&place).unwrap();
    assert_eq!(share.root_in_time("mapped"), root_of(&content));
    writer
        .stdin
        .as_mut()
        .unwrap()
        .write_all(b"go on\n")
        .unwrap();
    said.read_line(&mut line).unwrap();
    let content = fs::read(&place).unwrap();
    assert!(content.starts_with(b"BBBB"));
    assert_eq!(share.root("mapped"), None);
    assert_eq!(share.root_in_time("mapped"), root_of(&content));
    drop(writer.stdin.take());
    writer.wait().unwrap();
}

/// Returns the bytes of the file that is found by `root`.
fn content_of(share: &Share, root: Root) -> Option<Vec<u8>> {
    let until = Instant::now() + Duration::from_secs(5);
    match share.open_content(root, 0, until).ok()? {
        SharedContent::File(file) => {
            let mut bytes = vec![0; file.size() as usize];
            file.read_at(0, &mut bytes).unwrap();
            Some(bytes)
        }
        SharedContent::Former(file) => {
            let all = ByteRange::new(0, file.content().size);
            file.read(all).unwrap()
        }
    }
}

#[test]
fn file_is_found_by_present_content_only() {
    let share = Rooted::new(on_disk());
    share.write_settled("file", b"old");
    let old = share.root_in_time("file");
    assert_eq!(content_of(&share.share, old).unwrap(), b"old");
    assert_eq!(content_of(&share.share, root_of(b"another")), None);
    share.write_settled("file", b"new");
    assert_eq!(content_of(&share.share, old), None);
    let new = share.root_in_time("file");
    assert_eq!(content_of(&share.share, new).unwrap(), b"new");
    fs::remove_file(share.base.path().join("served/file")).unwrap();
    assert_eq!(content_of(&share.share, new), None);
}

#[test]
fn second_copy_is_found_once_opened() {
    let share = Rooted::new(on_disk());
    share.write_settled("one", b"content");
    let root = share.root_in_time("one");
    share.write_settled("two", b"content");
    share.root_in_time("two");
    share.write_settled("two", b"other");
    assert_eq!(content_of(&share.share, root), None);
    share.share.open_file(&path("one"), Asker::Nobody).unwrap();
    eventually("the other copy", || {
        content_of(&share.share, root).as_deref() == Some(b"content")
    });
}

#[test]
fn moved_content_is_found_after_a_restart() {
    let share = Rooted::new(on_disk());
    fs::create_dir(share.base.path().join("served/before")).unwrap();
    share.write_settled("before/file", b"content");
    let root = share.root_in_time("before/file");
    let (before, after) = ("served/before", "served/after");
    fs::rename(
        share.base.path().join(before),
        share.base.path().join(after),
    )
    .unwrap();
    assert_eq!(content_of(&share.share, root).unwrap(), b"content");
    share.share.stop();
    let Rooted { base, share } = share;
    let stopped = Arc::downgrade(&share);
    drop(share);
    eventually("the thread has ended", || stopped.strong_count() == 0);
    let share = Rooted::new(base);
    eventually("the walk has found it", || {
        content_of(&share.share, root).is_some()
    });
}

#[test]
fn unserved_file_is_not_found_by_content() {
    let share = Rooted::new(on_disk());
    share.write_settled("file", b"content");
    let root = share.root_in_time("file");
    let at = |name: &str| share.base.path().join("served").join(name);
    fs::create_dir(at(".hidden")).unwrap();
    fs::rename(at("file"), at(".hidden/file")).unwrap();
    assert_eq!(content_of(&share.share, root), None);
    std::os::unix::fs::symlink("/etc/hostname", at("file")).unwrap();
    assert_eq!(content_of(&share.share, root), None);
}

/// Creates a sparse file that would take minutes to read.
fn huge(share: &Rooted) -> std::path::PathBuf {
    let place = share.base.path().join("served/huge");
    let file = fs::File::create(&place).unwrap();
    file.set_len(crate::share::roots::hasher::MAX_HASHED + 1)
        .unwrap();
    age(&place);
    place
}

#[test]
fn unhashably_large_file_holds_up_nobody() {
    let share = Rooted::new(on_disk());
    huge(&share);
    share.share.open_file(&path("huge"), MEMBER).unwrap();
    share.write_settled("small", b"x");
    share.root_in_time("small");
    assert_eq!(share.root("huge"), None);
}

#[test]
fn unrootable_file_does_not_jump_the_queue() {
    let share = Rooted::new(on_disk());
    huge(&share);
    let file = share.share.open_file(&path("huge"), MEMBER).unwrap();
    eventually("its turn", || share.share.wanted.is_fruitless(file.id()));
    for _ in 0..3 {
        share.share.open_file(&path("huge"), MEMBER).unwrap();
        assert!(!share.share.wanted.is_opened());
    }
    // A member that opens another file gets it at the front.
    share.write_settled("small", b"x");
    share.share.open_file(&path("small"), MEMBER).unwrap();
    share.root_in_time("small");
}

const MEMBER: Asker = Asker::Member(crate::model::PeerId::from_bytes([7; 32]));

#[test]
fn listed_files_are_hashed_before_the_rest() {
    let share = Rooted::new(on_disk());
    // The hasher is stopped, so that its next step can be checked.
    share.share.stop();
    let stopped = Arc::clone(&share.share);
    for name in ["a", "b", "c"] {
        share.write_settled(name, b"content");
    }
    let wished = |name: &str, asker| {
        let request = StatRequest {
            compare: false,
            watch: false,
            paths: vec![path(name)],
        };
        stopped.stat(&request, asker).unwrap();
    };
    wished("a", Asker::Nobody);
    wished("b", MEMBER);
    share.share.open_file(&path("c"), MEMBER).unwrap();
    let mut order = Vec::new();
    while let Some(wish) = stopped.wanted.next(Duration::ZERO) {
        order.push(wish.path.to_string());
    }
    let own = order.iter().filter(|name| *name != "a").collect::<Vec<_>>();
    assert_eq!(own, ["c", "b"]);
    assert_eq!(order.last().map(String::as_str), Some("a"));
}
