//! The trees of single members, searches, conflicts, and what is shown of one file.

use super::*;
use crate::report::info::Info;

const PEERS: &str = ".tinyp2p/peers";

impl Setup {
    fn names_of(&self, path: &str) -> Result<Vec<String>, Error> {
        let handle = self.filesystem.opendir(self.find(path)?.inode)?;
        let mut names = Vec::new();
        let mut emit = |entry: DirectoryEntry<'_>| {
            names.push(String::from_utf8_lossy(entry.name).into_owned());
            true
        };
        self.filesystem.readdirplus(handle, 0, wait(), &mut emit)?;
        assert_eq!(names.drain(..2).collect::<Vec<_>>(), [".", ".."]);
        Ok(names)
    }

    fn number(&self, path: &str) -> u64 {
        self.find(path).unwrap().inode
    }

    fn text(&self, path: &str) -> String {
        let handle = self.open(path).unwrap();
        String::from_utf8(self.read(handle, 0, 1 << 20).unwrap()).unwrap()
    }

    fn info(&self, path: &str) -> Info {
        let value = self
            .filesystem
            .xattr(self.number(path), XATTR_INFO, wait())
            .unwrap();
        serde_json::from_slice(&value).unwrap()
    }
}

/// Ann and bob have different contents of `m/a.ogg`, and the same `m/b.ogg`, with roots.
fn two() -> (Setup, Arc<MemoryPeer>) {
    let setup = setup();
    let bob = setup.network.join("bob", 2);
    setup.ann.put_rooted("m/a.ogg", "old", 1);
    bob.put_rooted("m/a.ogg", "newer", 2);
    setup.ann.put_rooted("m/b.ogg", "same", 1);
    bob.put_rooted("m/b.ogg", "same", 5);
    (setup, bob)
}

#[test]
fn number_is_the_same_in_all_trees() {
    let (setup, _bob) = two();
    let found = |path: &str| setup.number(&format!(".tinyp2p/search/ogg/{path}"));
    let of = |who: &str, path: &str| setup.number(&format!("{PEERS}/{who}/{path}"));
    let (plain, other) = (setup.number("m/a.ogg"), setup.number("m/a (ann).ogg"));
    assert_eq!((of("bob", "m/a.ogg"), of("ann", "m/a.ogg")), (plain, other));
    assert_eq!((found("a.ogg"), found("a (ann).ogg")), (plain, other));
    let same = setup.number("m/b.ogg");
    assert_eq!(
        [of("ann", "m/b.ogg"), of("bob", "m/b.ogg"), found("b.ogg")],
        [same; 3]
    );
    let directories = [setup.number("m"), of("ann", "m"), of("bob", "m")];
    assert!(directories[0] != directories[1] && directories[1] != directories[2]);
}

#[test]
fn first_sight_does_not_change_the_number() {
    let (setup, bob) = two();
    let number = setup.number(&format!("{PEERS}/bob/m/b.ogg"));
    assert_eq!(setup.info(&format!("{PEERS}/bob/m/b.ogg")).sources.len(), 1);
    assert_eq!(setup.number("m/b.ogg"), number);
    setup.number(&format!("{PEERS}/bob/m/b.ogg"));
    let sources = setup.info("m/b.ogg").sources;
    assert_eq!(
        sources.len(),
        2,
        "a look through one takes the other not away"
    );
    bob.behave(Behaviour::Gone);
    let handle = setup.open("m/b.ogg").unwrap();
    assert_eq!(setup.read(handle, 0, 99).unwrap(), b"same");
}

#[test]
fn unproven_content_is_its_members_own() {
    let setup = setup();
    setup.ann.put("x", "one", 1);
    setup.network.join("bob", 2).put("x", "two", 1);
    assert_eq!(setup.text("x"), "one");
    assert_eq!(setup.text(&format!("{PEERS}/ann/x")), "one");
    assert_eq!(setup.text(&format!("{PEERS}/bob/x")), "two");
    assert_ne!(setup.number(&format!("{PEERS}/bob/x")), setup.number("x"));
}

#[test]
fn member_tree_has_its_own_names() {
    let (setup, bob) = two();
    bob.behave(Behaviour::Frozen);
    assert_eq!(setup.names_of(PEERS).unwrap(), ["ann", "bob"]);
    assert_eq!(setup.names_of(&format!("{PEERS}/ann")).unwrap(), ["m"]);
    let calls = bob.calls();
    let names = setup.names_of(&format!("{PEERS}/ann/m")).unwrap();
    assert_eq!(names, ["a.ogg", "b.ogg"]);
    assert_eq!(setup.text(&format!("{PEERS}/ann/m/a.ogg")), "old");
    assert_eq!(bob.calls(), calls);
    bob.behave(Behaviour::Honest);
}

#[test]
fn absent_members_directory_is_an_error() {
    let (setup, bob) = two();
    bob.behave(Behaviour::Gone);
    assert_eq!(setup.names_of(PEERS).unwrap(), ["ann", "bob"]);
    let of_bob = format!("{PEERS}/bob");
    assert!(matches!(setup.names_of(&of_bob), Err(Error::Silent(_))));
    let inside = setup.find(&format!("{of_bob}/m"));
    assert!(matches!(inside, Err(Error::Silent(_))));
    let parent = setup.number(PEERS);
    let looked = setup.filesystem.lookup(parent, b"eve", wait());
    assert_eq!(looked.unwrap(), LookupResult::Absent { certain: false });
    setup.network.leave(bob.id());
    assert_eq!(setup.names_of(PEERS).unwrap(), ["ann"]);
    assert!(matches!(setup.find(&of_bob), Err(Error::NotFound)));
}

#[test]
fn members_and_patterns_need_no_network() {
    let (setup, _bob) = two();
    let calls = setup.network.calls();
    for path in [PEERS, ".tinyp2p/search"] {
        let parent = setup.number(path);
        let inside = setup.filesystem.lookup(parent, b"bob", Wait::No).unwrap();
        let LookupResult::Found(attr) = inside else {
            panic!("{path} has no bob");
        };
        assert_eq!(attr.kind, Kind::Directory);
        let handle = setup.filesystem.opendir(attr.inode).unwrap();
        let listed = setup
            .filesystem
            .readdirplus(handle, 0, Wait::No, &mut |_| true);
        assert!(matches!(listed, Err(Error::NeedsNetwork)));
    }
    assert_eq!(setup.network.calls(), calls);
}

#[test]
fn dot_dot_leads_up_in_every_tree() {
    let (setup, _bob) = two();
    let above = |path: &str| {
        let handle = setup.filesystem.opendir(setup.number(path)).unwrap();
        let page = setup.page(handle, 0, 2);
        (page[0].2.inode, page[1].2.inode)
    };
    for (path, parent) in [
        (".tinyp2p/peers", ".tinyp2p"),
        (".tinyp2p/search", ".tinyp2p"),
        (".tinyp2p/peers/ann", ".tinyp2p/peers"),
        (".tinyp2p/peers/ann/m", ".tinyp2p/peers/ann"),
        (".tinyp2p/search/ogg", ".tinyp2p/search"),
    ] {
        let expected = (setup.number(path), setup.number(parent));
        assert_eq!(above(path), expected, "{path}");
    }
}

#[test]
fn search_is_flat_and_asks_each_once() {
    let (setup, bob) = two();
    bob.put("n/b.ogg", "other", 1);
    let directory = setup.number(".tinyp2p/search/ogg$");
    let calls = setup.network.calls();
    let names = setup.names_of(".tinyp2p/search/ogg$").unwrap();
    let expected = ["a (ann).ogg", "a.ogg", "b (m).ogg", "b (n).ogg"];
    assert_eq!(names, expected);
    for name in expected {
        let looked = setup
            .filesystem
            .lookup(directory, name.as_bytes(), Wait::No);
        assert!(matches!(looked, Ok(LookupResult::Found(_))), "{name}");
    }
    let looked = setup.filesystem.lookup(directory, b"b.ogg", Wait::No);
    assert_eq!(looked.unwrap(), LookupResult::Absent { certain: true });
    assert_eq!(setup.network.calls(), calls + 2);
    assert_eq!(setup.text(".tinyp2p/search/ogg$/a (ann).ogg"), "old");
    assert_eq!(setup.text(".tinyp2p/search/ogg$/b (n).ogg"), "other");
}

#[test]
fn search_shows_answers_that_came_in_time() {
    let (setup, bob) = two();
    bob.behave(Behaviour::Frozen);
    let directory = setup.number(".tinyp2p/search/ogg");
    let handle = setup.filesystem.opendir(directory).unwrap();
    let mut names = Vec::new();
    let mut emit = |entry: DirectoryEntry<'_>| {
        names.push(String::from_utf8_lossy(entry.name).into_owned());
        true
    };
    let soon = Wait::Until(Instant::now() + Duration::from_millis(800));
    setup
        .filesystem
        .readdirplus(handle, 0, soon, &mut emit)
        .unwrap();
    assert_eq!(names[2..], ["a.ogg", "b.ogg"]);
    let looked = setup.filesystem.lookup(directory, b"c.ogg", Wait::No);
    assert_eq!(looked.unwrap(), LookupResult::Absent { certain: false });
    bob.behave(Behaviour::Honest);
}

#[test]
fn replaced_file_is_found_in_every_tree() {
    let setup = setup();
    for path in [".tinyp2p/peers/ann/x", ".tinyp2p/search/x/x"] {
        setup.ann.put("x", "old", 1);
        setup.filesystem.invalidate(&RelPath::new(b"x").unwrap());
        let handle = setup.open(path).unwrap();
        setup.ann.put("x", "brand new", 2);
        assert!(setup.read(handle, 0, 99).is_err());
        assert_eq!(setup.text(path), "brand new", "{path}");
    }
}

#[test]
fn conflicts_are_of_listed_directories() {
    let (setup, _bob) = two();
    let conflicts = || setup.text(".tinyp2p/conflicts");
    assert!(conflicts().starts_with("0 conflicts in"), "{}", conflicts());
    setup.names_of("m").unwrap();
    let text = conflicts();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("1 conflict in"), "{text}");
    assert_eq!(lines[1..], ["m/a.ogg: also a (ann).ogg"]);
    setup.ann.remove("m/a.ogg");
    setup
        .filesystem
        .invalidate(&RelPath::new(b"m/a.ogg").unwrap());
    setup.names_of("m").unwrap();
    assert!(conflicts().starts_with("0 conflicts in"), "{}", conflicts());
}

#[test]
fn member_tree_has_no_conflicts() {
    let (setup, _bob) = two();
    setup.names_of(".tinyp2p/peers/ann/m").unwrap();
    assert!(setup.text(".tinyp2p/conflicts").starts_with("0 conflicts"));
}

#[test]
fn info_is_one_json_object() {
    let (setup, bob) = two();
    let handle = setup.open("m/b.ogg").unwrap();
    setup.read(handle, 0, 99).unwrap();
    let info = setup.info("m/b.ogg");
    assert_eq!((&*info.kind, info.size, info.mtime), ("file", 4, 5));
    assert_eq!(info.root.map(|root| root.len()), Some(64));
    let holders: Vec<&str> = info.sources.iter().map(|s| &*s.name).collect();
    assert_eq!(holders, ["ann", "bob"]);
    assert_eq!(info.sources[1].peer_id, bob.id().to_string());
    assert_eq!((info.cached, info.conflicts.len()), (4, 0));
    for (path, other) in [("m/a.ogg", "a (ann).ogg"), ("m/a (ann).ogg", "a.ogg")] {
        assert_eq!(setup.info(path).conflicts, [other], "{path}");
    }
    let of_ann = setup.info(".tinyp2p/peers/ann/m/a.ogg");
    assert_eq!(of_ann.conflicts, ["a.ogg"]);
    let directory = setup.info("m");
    assert_eq!(
        (&*directory.kind, directory.sources.len()),
        ("directory", 2)
    );
    assert_eq!((directory.root, directory.cached), (None, 0));
    let root = setup.filesystem.xattr(ROOT, XATTR_INFO, Wait::No).unwrap();
    let root: Info = serde_json::from_slice(&root).unwrap();
    assert_eq!((&*root.kind, root.sources.len()), ("directory", 2));
}

#[test]
fn info_shows_what_may_be_the_same() {
    let (setup, bob) = two();
    setup.ann.put("c/x", "one", 1);
    bob.put_rooted("c/x", "one", 1);
    bob.put("c/y", "other", 1);
    setup.ann.put_rooted("c/y", "longer", 1);
    let info = setup.info("c/x");
    assert_eq!((info.conflicts.len(), info.comparing.len()), (1, 1));
    assert_eq!(info.conflicts, info.comparing);
    let info = setup.info("c/y");
    assert_eq!((info.conflicts.len(), info.comparing.len()), (1, 0));
    setup.ann.put_rooted("c/x", "one", 1);
    setup.filesystem.invalidate(&RelPath::new(b"c/x").unwrap());
    let info = setup.info("c/x");
    assert_eq!((info.sources.len(), info.conflicts.len()), (2, 0));
}

#[test]
fn info_waits_only_where_it_may() {
    let (setup, bob) = two();
    let file = setup.number("m/a.ogg");
    let info = |wait| setup.filesystem.xattr(file, XATTR_INFO, wait);
    assert!(matches!(info(Wait::No), Err(Error::NeedsNetwork)));
    setup.ann.behave(Behaviour::Gone);
    bob.behave(Behaviour::Gone);
    let value = info(wait()).unwrap();
    let value: Info = serde_json::from_slice(&value).unwrap();
    assert_eq!((value.size, value.conflicts.len()), (5, 0));
}
