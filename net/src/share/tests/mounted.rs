//! Other file systems mounted below the shared directory. These need root, as CI has it.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;

use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, unmount};

use super::*;

/// A mount that is removed on drop.
pub(super) struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        unmount(&self.0, UnmountFlags::DETACH).unwrap();
    }
}

/// Creates a FUSE mount of the given subtype whose daemon never responds.
pub(super) fn frozen(at: &Path, subtype: &str) -> (Mounted, File) {
    let daemon = File::options()
        .read(true)
        .write(true)
        .open("/dev/fuse")
        .unwrap();
    let options = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0,subtype={subtype}",
        daemon.as_raw_fd()
    );
    let options = CString::new(options).unwrap();
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    mount("frozen", at, "fuse", flags, options.as_c_str()).unwrap();
    (Mounted(at.to_owned()), daemon)
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn own_mounts_are_omitted_and_hang_nothing() {
    if !is_root() {
        return;
    }
    let share = Fixture::new();
    for directory in ["early", "late", "sub/bound"] {
        fs::create_dir_all(share.at(directory)).unwrap();
    }
    share.write("sub/file", "x");
    share.link("early", "link");
    share.link("../early/x", "sub/link");
    let early = frozen(&share.at("early"), "tinyp2p");
    // The first request already needs to know, and a later mount has to be noticed.
    let share = in_time(move || {
        assert_eq!(share.names(""), ["late", "sub"]);
        share
    });
    let late = frozen(&share.at("late"), "tinyp2p");
    mount_bind(share.at("late"), share.at("sub/bound")).unwrap();
    let bound = Mounted(share.at("sub/bound"));
    let share = in_time(move || {
        assert_eq!(share.names(""), ["sub"]);
        assert_eq!(share.names("sub"), ["file"]);
        for absent in [
            "early",
            "late",
            "late/x",
            "link",
            "link/x",
            "sub/link",
            "sub/bound/x",
        ] {
            share.assert_absent(absent);
        }
        assert_eq!(share.search("", 10, BUDGET), ["sub/file"]);
        share
    });
    drop((bound, late, early));
    assert_eq!(share.names(""), ["early", "late", "link", "sub"]);
}

#[test]
fn own_mount_cannot_be_shared() {
    if !is_root() {
        return;
    }
    let base = tempfile::tempdir().unwrap();
    let config = ShareConfig {
        directory: base.path().to_owned(),
        hidden: false,
        excluded: Vec::new(),
    };
    let _mount = frozen(base.path(), "tinyp2p");
    let error = in_time(move || Share::open(&config).unwrap_err().to_string());
    assert!(error.ends_with("it lies in a TinyP2P mount"), "{error}");
}

#[test]
fn other_mounts_belong_to_the_tree() {
    if !is_root() {
        return;
    }
    let share = Fixture::new();
    fs::create_dir_all(share.at("a/tmpfs")).unwrap();
    mount(
        "none",
        share.at("a/tmpfs"),
        "tmpfs",
        MountFlags::empty(),
        None,
    )
    .unwrap();
    let _tmpfs = Mounted(share.at("a/tmpfs"));
    share.write("a/tmpfs/dir/file", "content");
    share.link("tmpfs/dir", "a/link");
    share.link("../../..", "a/tmpfs/up");
    share.write("b/own", "own");
    fs::write(share.at("b/file"), "").unwrap();
    mount_bind(share.at("b/own"), share.at("b/file")).unwrap();
    let _bound_file = Mounted(share.at("b/file"));
    fs::create_dir(share.at("b/all")).unwrap();
    mount_bind(share.at(""), share.at("b/all")).unwrap();
    let _bound_root = Mounted(share.at("b/all"));

    assert_eq!(share.names("a"), ["link", "tmpfs"]);
    assert_eq!(share.names("a/tmpfs"), ["dir"]);
    assert_eq!(share.read("a/tmpfs/dir/file").unwrap(), b"content");
    assert_eq!(share.read("a/link/file").unwrap(), b"content");
    assert_eq!(share.read("b/file").unwrap(), b"own");
    let found = share.search("", 100, BUDGET);
    let expected = [
        "a/tmpfs/dir/file",
        "b/all/b/file",
        "b/all/b/own",
        "b/file",
        "b/own",
    ];
    assert_eq!(found, expected);
}

#[test]
fn file_mounted_over_is_not_opened() {
    if !is_root() {
        return;
    }
    let share = Fixture::new();
    share.write("file", "served");
    let elsewhere = share.base.path().join("outside");
    mount("none", &elsewhere, "tmpfs", MountFlags::empty(), None).unwrap();
    let _tmpfs = Mounted(elsewhere.clone());
    fs::write(elsewhere.join("other"), "of another file system").unwrap();
    let tree = share.share.tree().unwrap();
    let found = tree.find(&path("file")).unwrap();
    assert!(tree.open(&found).is_ok());
    mount_bind(elsewhere.join("other"), share.at("file")).unwrap();
    let _bound = Mounted(share.at("file"));
    assert_eq!(tree.open(&found).err(), Some(Errno::NOENT));
}
