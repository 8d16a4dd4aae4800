//! What is served and what is left out.

use std::os::unix::net::UnixListener;

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

use super::*;

#[test]
fn names_are_bytes_and_all_of_them_survive() {
    let share = Fixture::new();
    let long = "x".repeat(255);
    let names = [
        &b" lead and trail "[..],
        b"&<>\"'",
        b"\x01\x1b[31m\x7f",
        b"back\\slash",
        b"caf\xe9",
        b"new\nline",
        b"\xc3\xa4",
        b"\xff",
        long.as_bytes(),
    ];
    for name in names {
        share.write(name, "content");
    }
    let entries = share.pages("", 100).unwrap();
    assert_eq!(entries.len(), names.len());
    assert!(entries.is_sorted_by(|a, b| a.name < b.name));
    for name in names {
        let expected = Name::new(name).unwrap();
        let entry = entries.iter().find(|entry| entry.name == expected).unwrap();
        assert_eq!(share.stat(name), Some(entry.attributes));
        assert_eq!(share.read(name).unwrap(), b"content");
    }
    assert_eq!(share.search("", 100, BUDGET).len(), names.len());
}

#[test]
fn added_file_appears_and_goes_at_once() {
    let share = Fixture::new();
    assert_eq!(share.names(""), [""; 0]);
    for _ in 0..100 {
        share.write("new", "x");
        assert_eq!(share.names(""), ["new"]);
        assert_eq!(share.search("new", 1, BUDGET), ["new"]);
        fs::remove_file(share.at("new")).unwrap();
        assert_eq!(share.names(""), [""; 0]);
    }
}

#[test]
fn attributes_are_those_of_the_file() {
    let share = Fixture::new();
    share.write("dir/file", "12345");
    let file = share.stat("dir/file").unwrap();
    let meta = fs::metadata(share.at("dir/file")).unwrap();
    let mtime = meta
        .modified()
        .unwrap()
        .duration_since(SystemTime::UNIX_EPOCH);
    assert_eq!(
        (file.kind, file.size.known(), file.root),
        (Kind::File, Some(5), None)
    );
    assert_eq!(
        file.mtime.in_nanoseconds().cast_unsigned(),
        mtime.unwrap().as_nanos()
    );
    let dir = share.stat("dir").unwrap();
    assert_eq!((dir.kind, dir.size.known()), (Kind::Directory, Some(0)));
    assert_eq!(share.stat("").unwrap().kind, Kind::Directory);
}

#[test]
fn changed_entries_get_a_new_version() {
    let share = Fixture::new();
    share.write("file", "one");
    let list = || {
        let request = ListRequest {
            watch: false,
            directory: RelPath::root(),
            after: None,
            limit: 10,
        };
        page_of(share.share.list(&request, Asker::Nobody).unwrap())
    };
    let (file, listing) = (share.stat("file").unwrap(), list());
    assert_eq!(listing.version, share.stat("").unwrap().version);
    soon(|| {
        share.write(".next", "two");
        fs::rename(share.at(".next"), share.at("file")).unwrap();
        share.stat("file").unwrap().version != file.version && list().version != listing.version
    });
    assert_eq!(share.read("file").unwrap(), b"two");
}

#[test]
fn dot_names_are_served_on_request() {
    for hidden in [false, true] {
        let share = Fixture::with(|config| config.hidden = hidden);
        share.write(".dir/file", "x");
        share.write("dir/.file", "x");
        if hidden {
            assert_eq!(share.names(""), [".dir", "dir"]);
            let found = share.search("file", 10, BUDGET);
            assert_eq!(found, [".dir/file", "dir/.file"]);
        } else {
            assert_eq!(share.names(""), ["dir"]);
            for absent in [".dir", ".dir/file", "dir/.file"] {
                share.assert_absent(absent);
            }
        }
    }
}

#[test]
fn the_excluded_subtree_is_left_out() {
    let share = Fixture::with(|config| config.excluded = vec![config.directory.join("sub/mnt")]);
    share.write("sub/mnt/file", "x");
    share.write("sub/mnt2", "x");
    assert_eq!(share.names("sub"), ["mnt2"]);
    share.assert_absent("sub/mnt");
    share.assert_absent("sub/mnt/file");
}

#[test]
fn special_files_are_omitted_unread() {
    let share = Fixture::new();
    let make = |name: &str, kind, device| {
        let mode = Mode::from_raw_mode(0o644);
        mknodat(CWD, share.at(name), kind, mode, device)
    };
    make("fifo", FileType::Fifo, 0).unwrap();
    let _socket = UnixListener::bind(share.at("socket")).unwrap();
    let mut special = vec!["fifo", "socket"];
    if rustix::process::geteuid().is_root() {
        make("null", FileType::CharacterDevice, makedev(1, 3)).unwrap();
        make("loop", FileType::BlockDevice, makedev(7, 0)).unwrap();
        special.extend(["null", "loop"]);
    }
    for name in special.clone() {
        share.link(name, &format!("to-{name}"));
    }
    share.write("file", "x");
    in_time(move || {
        assert_eq!(share.names(""), ["file"]);
        for name in special {
            share.assert_absent(name);
            share.assert_absent(&format!("to-{name}"));
        }
    });
}

#[test]
fn faults_reveal_nothing_of_this_machine() {
    let share = Fixture::new();
    share.write("file", "x");
    fs::create_dir(share.at("dir")).unwrap();
    let code = |result: Result<Vec<_>, Fault>| result.unwrap_err().code;
    assert_eq!(code(share.pages("file", 1)), FaultCode::NotADirectory);
    assert_eq!(code(share.pages("nothing", 1)), FaultCode::NotFound);
    assert_eq!(code(share.pages("file/below", 1)), FaultCode::NotFound);
    assert_eq!(code(share.pages("", 0)), FaultCode::InvalidParameters);
    let fault = share.read("dir").unwrap_err();
    assert_eq!(fault.code, FaultCode::NotFound);
    let paths = vec![path("file"); StatRequest::MAX_PATHS + 1];
    let fault = share
        .share
        .stat(
            &StatRequest {
                compare: false,
                paths,
                watch: false,
            },
            Asker::Nobody,
        )
        .unwrap_err();
    assert_eq!(fault.code, FaultCode::LimitExceeded);
    let deep = path(&["x"; 2048].join("/"));
    assert!(share.share.open_file(&deep, Asker::Nobody).is_err());
}

#[test]
fn what_cannot_be_shared_says_why() {
    let base = tempfile::tempdir().unwrap();
    let config = ShareConfig {
        directory: base.path().join("nothing"),
        hidden: false,
        excluded: Vec::new(),
    };
    let error = Share::open(&config).unwrap_err().to_string();
    assert!(error.contains("nothing"), "{error}");
    assert!(error.contains("No such file"), "{error}");
}
