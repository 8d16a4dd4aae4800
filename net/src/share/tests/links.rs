//! Symbolic links: served as what they lead to, and never a way out or around.

use super::*;

#[test]
fn relative_links_serve_their_targets() {
    let share = Fixture::new();
    share.write("a/file", "content");
    share.link("a/file", "to-file");
    share.link("../a/file", "b/up");
    share.link("to-file", "to-link");
    share.link("a", "to-dir");
    share.link("./a/.././/a/", "roundabout");
    assert_eq!(share.names("to-dir"), ["file"]);
    let expected = ["a", "b", "roundabout", "to-dir", "to-file", "to-link"];
    assert_eq!(share.names(""), expected);
    let file = share.stat("a/file");
    for same in [
        "to-file",
        "b/up",
        "to-link",
        "to-dir/file",
        "roundabout/file",
    ] {
        assert_eq!(share.stat(same), file, "{same}");
        assert_eq!(share.read(same).unwrap(), b"content", "{same}");
    }
    assert_eq!(share.stat("to-dir"), share.stat("a"));
    let found = share.search("", 10, BUDGET);
    assert_eq!(found, ["a/file", "b/up", "to-file", "to-link"]);
}

#[test]
fn links_leading_outside_are_omitted() {
    let share = Fixture::new();
    let absolute = share.at("file").to_str().unwrap().to_owned();
    share.write("file", "x");
    share.write("sub/file", "x");
    for (target, name) in [
        ("../outside/secret", "escape"),
        ("../outside", "escape-dir"),
        ("../served/file", "out-and-in"),
        ("../../outside/secret", "sub/escape"),
        ("/etc/passwd", "absolute"),
        (absolute.as_str(), "absolute-inside"),
        ("/proc/self/root", "magic"),
        ("/proc/self/cwd", "magic-cwd"),
        ("/dev/fd/0", "magic-fd"),
        ("missing", "dangling"),
        ("file/", "not-a-directory"),
        ("file/..", "through-a-file"),
        ("self", "self"),
        ("ping", "pong"),
        ("pong", "ping"),
    ] {
        share.link(target, name);
        share.assert_absent(name);
    }
    for beyond in ["escape-dir/secret", "magic/etc/passwd", "magic-cwd/x"] {
        share.assert_absent(beyond);
    }
    assert_eq!(share.names(""), ["file", "sub"]);
}

#[test]
fn magic_links_in_proc_are_omitted() {
    let config = ShareConfig {
        directory: "/proc/self".into(),
        hidden: false,
        excluded: Vec::new(),
    };
    let share = Share::open(&config).unwrap();
    for magic in ["root", "cwd", "exe", "fd/0", "ns/mnt", "root/etc/passwd"] {
        assert!(
            share.open_file(&path(magic), Asker::Nobody).is_err(),
            "{magic}"
        );
        let paths = vec![path(magic)];
        let response = share
            .stat(
                &StatRequest {
                    compare: false,
                    paths,
                    watch: false,
                },
                Asker::Nobody,
            )
            .unwrap();
        assert_eq!(response.attributes, [None], "{magic}");
    }
    assert!(share.open_file(&path("status"), Asker::Nobody).is_ok());
}

#[test]
fn link_shows_no_more_than_its_target() {
    let share = Fixture::with(|config| config.excluded = vec![config.directory.join("mnt")]);
    share.write(".hidden/file", "x");
    share.write("mnt/file", "x");
    share.write("file", "x");
    share.link("via/file", "indirect");
    share.link(".hidden", "via");
    for (target, name) in [
        (".hidden", "to-hidden"),
        (".hidden/file", "to-hidden-file"),
        (".hidden/../file", "through-hidden"),
        ("mnt", "to-mnt"),
        ("mnt/file", "to-mnt-file"),
        ("mnt/../file", "through-mnt"),
    ] {
        share.link(target, name);
        share.assert_absent(name);
    }
    for beyond in ["to-hidden/file", "to-mnt/file", "indirect", "via"] {
        share.assert_absent(beyond);
    }
    assert_eq!(share.names(""), ["file"]);
}

#[test]
fn upward_links_are_omitted_so_walks_end() {
    let share = Fixture::new();
    share.write("a/b/file", "x");
    share.write("c/file", "x");
    for (target, name) in [
        (".", "here"),
        ("..", "a/up"),
        ("../..", "a/b/up2"),
        ("../b", "a/b/own"),
        ("../../a", "a/b/parent"),
    ] {
        share.link(target, name);
        share.assert_absent(name);
    }
    // Two directories that link to each other: one step is served, the way back is not.
    share.link("../c", "a/to-c");
    share.link("../a", "c/to-a");
    assert_eq!(share.names("a"), ["b", "to-c"]);
    assert_eq!(share.names("a/to-c"), ["file"]);
    assert_eq!(share.names("c/to-a"), ["b"]);
    share.assert_absent("a/to-c/to-a");
    share.assert_absent("c/to-a/to-c");
    assert_eq!(share.stat("a/to-c/file"), share.stat("c/file"));
}

#[test]
fn long_chains_of_links_end() {
    let share = Fixture::new();
    share.write("0", "x");
    for index in 1..=41 {
        share.link(&(index - 1).to_string(), &index.to_string());
    }
    assert!(share.stat("40").is_some());
    share.assert_absent("41");
    let long = "./".repeat(2000) + "0";
    share.link(&long, "long");
    share.assert_absent("long");
}
