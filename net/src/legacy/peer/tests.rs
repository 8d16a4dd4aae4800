use super::super::twin::Twin;
use super::names::FRESH;
use super::*;
use crate::config::CALL_DEADLINE;
use crate::content::merkle::{HashTree, SUBTREE_BLOCKS, TreeHasher};
use crate::model::ContentId;
use crate::model::FileSize;
use crate::peer::{Room, list, search, stat};
use crate::protocol::wire::HashesRequest;
use crate::testing::eventually;
use crate::transport::dial::TcpDialer;

struct Setup {
    twin: Twin,
    peer: Arc<LegacyPeer>,
    _directory: tempfile::TempDir,
}

fn setup_with(twin: Twin, limit: u64) -> Setup {
    let directory = tempfile::tempdir().unwrap();
    let store = LegacyStore::open(Some(directory.path()), Some(limit)).unwrap();
    let caller = LegacyClient::new(twin.url(), twin.token(), Arc::new(TcpDialer::default()));
    let peer = LegacyPeer::new(caller, store, Box::new(|_| ()));
    Setup {
        twin,
        peer,
        _directory: directory,
    }
}

fn setup() -> Setup {
    setup_with(Twin::start(), 20 << 20)
}

fn soon() -> Instant {
    Instant::now() + CALL_DEADLINE
}

fn path(text: &str) -> RelPath {
    RelPath::new(text.as_bytes()).unwrap()
}

impl Setup {
    fn attributes(&self, name: &str) -> Option<Attributes> {
        stat(&*self.peer, &path(name), soon()).unwrap().answer
    }

    fn measure(&self, name: &str, need: Purpose) -> Result<Attributes, Error> {
        self.peer.measure(&path(name), need, soon())
    }

    fn read(&self, name: &str, attributes: Attributes) -> Result<Vec<u8>, Error> {
        let range = ByteRange::new(0, attributes.size.or_zero());
        let mut stream = self
            .peer
            .open(&path(name), attributes.version, range, soon())?;
        let (mut bytes, mut buffer) = (Vec::new(), vec![0; 5000]);
        loop {
            match stream.read(&mut buffer, soon())? {
                0 => return Ok(bytes),
                count => bytes.extend_from_slice(&buffer[..count]),
            }
        }
    }

    fn names(&self) -> Vec<String> {
        let listing = list(&*self.peer, &RelPath::root(), &Arc::default(), soon()).unwrap();
        let listing = listing.answer.unwrap();
        let entries = listing.entries.iter();
        entries.map(|entry| entry.name.to_string()).collect()
    }

    fn forget_names(&self) {
        self.peer.state.lock().listed = None;
    }
}

#[test]
fn names_lack_sizes_until_fetched() {
    let setup = setup();
    setup.twin.put("a", b"0123456789");
    setup.twin.put("b", b"");
    assert_eq!(setup.names(), ["a", "b"]);
    let before = setup.attributes("a").unwrap();
    assert_eq!((before.size, before.root), (FileSize::UNKNOWN, None));
    let known = setup.measure("a", Purpose::Size).unwrap();
    assert_eq!((known.size.or_zero(), known.version), (10, before.version));
    let mut hasher = TreeHasher::default();
    hasher.update(b"0123456789");
    assert_eq!(known.root, hasher.finish().as_ref().map(HashTree::root));
    assert_eq!(setup.attributes("a"), Some(known));
    let empty = setup.measure("b", Purpose::Bytes).unwrap();
    assert_eq!((empty.size, empty.root), (FileSize::ZERO, None));
    assert_eq!(setup.attributes("missing"), None);
    assert_eq!(setup.attributes("a/b"), None);
    let found = search(&*setup.peer, "^a", &Room::default(), soon()).unwrap();
    assert_eq!(found.files, [(path("a"), known)]);
    assert_eq!(setup.twin.asked(), (2, 1), "downloads and listings");
}

#[test]
fn file_is_byte_exact_and_proves_itself() {
    let setup = setup();
    let bytes: Vec<u8> = (0..=255).cycle().take(1_000_000).collect();
    setup.twin.put("bin", &bytes);
    let attributes = setup.measure("bin", Purpose::Bytes).unwrap();
    assert_eq!(setup.read("bin", attributes).unwrap(), bytes);
    let request = HashesRequest {
        root: attributes.root.unwrap(),
        first: 0,
        span: SUBTREE_BLOCKS,
    };
    let answer = setup.peer.call(&Request::Hashes(request), soon()).unwrap();
    let Response::Hashes(subtree) = answer else {
        panic!("no hashes");
    };
    let content = ContentId {
        root: attributes.root.unwrap(),
        size: attributes.size.or_zero(),
    };
    assert!(subtree.prove(content).is_some());
}

#[test]
fn other_contents_get_another_version() {
    let setup = setup();
    setup.twin.put("x", b"old");
    let old = setup.measure("x", Purpose::Bytes).unwrap();
    setup.twin.put("x", b"newer");
    assert_eq!(
        setup.measure("x", Purpose::Bytes).unwrap(),
        old,
        "still fresh"
    );
    let age = |setup: &Setup| {
        let mut state = setup.peer.state.lock();
        let seen = state.names.files.values_mut().next().unwrap();
        seen.fetched.as_mut().unwrap().when = Instant::now().checked_sub(FRESH).unwrap();
    };
    age(&setup);
    assert_eq!(
        setup.measure("x", Purpose::Size).unwrap(),
        old,
        "a size is not worth it"
    );
    let new = setup.measure("x", Purpose::Bytes).unwrap();
    assert_ne!(new.version, old.version);
    assert_eq!(
        (new.size, setup.read("x", new).unwrap()),
        (5.into(), b"newer".to_vec())
    );
    let error = setup.read("x", old).unwrap_err();
    assert!(matches!(error, Error::Changed { .. }), "{error}");
    age(&setup);
    assert_eq!(
        setup.measure("x", Purpose::Bytes).unwrap(),
        new,
        "fetched again, and the same"
    );
}

#[test]
fn names_that_are_not_plain_are_left_out() {
    let setup = setup();
    let long = "x".repeat(256);
    for name in [
        "../x",
        "/etc/passwd",
        "a/b",
        "",
        ".",
        "..",
        ".hidden",
        "nul\0",
        "bell\x07",
        &long,
    ] {
        setup.twin.put(name, b"1");
    }
    setup.twin.put("good one", b"1");
    assert_eq!(setup.names(), ["good one"]);
    for name in ["a/b", ".hidden"] {
        let error = setup.measure(name, Purpose::Bytes).unwrap_err();
        assert!(matches!(error, Error::NotFound { .. }), "{error}");
    }
    assert_eq!(setup.twin.asked().0, 0, "nothing else was asked for");
}

#[test]
fn directories_are_found_sending_no_file() {
    let setup = setup();
    setup.twin.put("file", b"1");
    setup.twin.directory("dir");
    assert_eq!(setup.names(), ["file"]);
    assert_eq!(setup.twin.asked().0, 0);
}

#[test]
fn unreadable_name_is_omitted_for_a_while() {
    let setup = setup();
    setup.twin.put("dir", b"1");
    assert_eq!(setup.names(), ["dir"]);
    setup.twin.remove("dir");
    let error = setup.measure("dir", Purpose::Size).unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
    assert_eq!(setup.names(), Vec::<String>::new());
    assert_eq!(setup.attributes("dir"), None);
}

#[test]
fn evicted_file_is_fetched_again() {
    let setup = setup_with(Twin::start(), 250_000);
    let files = [("a", 1), ("b", 2), ("c", 3)].map(|(name, byte)| (name, vec![byte; 100_000]));
    for (name, bytes) in &files {
        setup.twin.put(name, bytes);
    }
    let known = files
        .each_ref()
        .map(|(name, _)| setup.measure(name, Purpose::Bytes).unwrap());
    for ((name, bytes), known) in files.iter().zip(known) {
        assert_eq!(setup.read(name, known).unwrap(), *bytes);
    }
    // Each was evicted for the next one but one.
    assert_eq!(setup.twin.asked().0, 6);
    setup.twin.put("large", &vec![0; 200_000]);
    setup.forget_names();
    let error = setup.measure("large", Purpose::Bytes).unwrap_err();
    assert!(error.to_string().contains("larger than"), "{error}");
}

#[test]
fn many_who_want_one_file_make_one_call() {
    let setup = setup();
    setup.twin.put("x", &vec![7; 3_000_000]);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| assert_eq!(setup.measure("x", Purpose::Bytes).unwrap().size, 3_000_000));
        }
    });
    assert_eq!(setup.twin.asked(), (1, 1));
}

/// Creates a server whose contents begin and then stall.
fn stuck(names: &[&str]) -> Setup {
    use std::io::Write;
    let setup = setup_with(
        Twin::raw(|mut stream| {
            let head = b"HTTP/1.0 200 OK\r\n\r\n<methodResponse><params><param><value><string>";
            let _ = stream.write_all(head);
            std::thread::sleep(Duration::from_secs(30));
        }),
        1 << 20,
    );
    let names = names.iter().map(|name| name.as_bytes().to_vec()).collect();
    let inner = &setup.peer;
    inner.apply(&mut inner.state.lock(), names);
    setup
}

impl Setup {
    fn is_idle(&self) -> bool {
        self.peer.state.lock().fetch.is_none()
    }

    /// Requests the bytes and is told to come back.
    fn begin_to_fetch(&self, name: &str) {
        let deadline = Instant::now() + Duration::from_millis(200);
        let error = self.peer.measure(&path(name), Purpose::Bytes, deadline);
        let error = error.unwrap_err();
        assert!(matches!(error, Error::Unfinished { .. }), "{error}");
    }
}

#[track_caller]
#[test]
fn late_file_is_still_under_way() {
    let setup = stuck(&["x"]);
    let deadline = Instant::now() + Duration::from_millis(400);
    let looked = setup
        .peer
        .measure(&path("x"), Purpose::Size, deadline)
        .unwrap();
    assert_eq!(looked.size, FileSize::UNKNOWN);
    eventually("what nobody waits for ends", || setup.is_idle());
    let begun = Instant::now();
    setup.measure("x", Purpose::Size).unwrap();
    let took = begun.elapsed();
    assert!(
        took < Duration::from_secs(1),
        "nobody looks twice: {took:?}"
    );
    setup.begin_to_fetch("x");
    assert!(!setup.is_idle(), "it goes on");
    assert_eq!(setup.names(), ["x"], "the names are those of before");
}

#[test]
fn mere_lookup_waits_for_no_other_file() {
    let setup = stuck(&["large", "other"]);
    setup.begin_to_fetch("large");
    let begun = Instant::now();
    let looked = setup.measure("other", Purpose::Size).unwrap();
    assert_eq!(looked.size, FileSize::UNKNOWN);
    assert!(begun.elapsed() < Duration::from_secs(1));
}

#[test]
fn slow_fetch_is_not_repeated_soon() {
    let setup = setup();
    setup.twin.put("x", b"film");
    let known = setup.measure("x", Purpose::Bytes).unwrap();
    let mut state = setup.peer.state.lock();
    let seen = state.names.files.values_mut().next().unwrap();
    let fetched = seen.fetched.as_mut().unwrap();
    fetched.took = Duration::from_secs(60);
    fetched.when = Instant::now().checked_sub(10 * FRESH).unwrap();
    drop(state);
    assert_eq!(setup.measure("x", Purpose::Bytes).unwrap(), known);
    assert_eq!(setup.twin.asked().0, 1);
}

#[test]
fn evicted_content_is_refetched_for_hashes() {
    let setup = setup_with(Twin::start(), 300_000);
    for (name, byte) in [("a", 1), ("b", 2), ("c", 3)] {
        setup.twin.put(name, &vec![byte; 130_000]);
    }
    let known = setup.measure("a", Purpose::Bytes).unwrap();
    for name in ["b", "c"] {
        setup.measure(name, Purpose::Bytes).unwrap();
    }
    let request = HashesRequest {
        root: known.root.unwrap(),
        first: 0,
        span: SUBTREE_BLOCKS,
    };
    let answer = setup.peer.call(&Request::Hashes(request), soon()).unwrap();
    let Response::Hashes(subtree) = answer else {
        panic!("no hashes");
    };
    let content = ContentId {
        root: known.root.unwrap(),
        size: known.size.or_zero(),
    };
    assert!(subtree.prove(content).is_some());
    assert_eq!(setup.twin.asked().0, 4);
}
