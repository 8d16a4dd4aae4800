//! What members cannot read themselves, and programs.

use tinyp2p_net::model::Mode;

use super::*;
use crate::errno::errno;

fn refusal<T>(outcome: Result<T, Error>) -> Option<i32> {
    outcome.err().map(|error| errno(&error))
}

#[test]
fn unreadable_file_is_refused_locally() {
    let setup = setup();
    setup.ann.put("x", "content", 1);
    setup.ann.chmod("x", Mode::Unreadable);
    let attr = setup.find("x").unwrap();
    assert_eq!(attr.mode, Mode::Unreadable);
    let calls = setup.ann.calls();
    assert_eq!(refusal(setup.open("x")), Some(libc::EACCES));
    let access = |mask| refusal(setup.filesystem.access(attr.inode, mask));
    assert_eq!(access(libc::R_OK), Some(libc::EACCES));
    assert_eq!(access(libc::F_OK), None);
    // Looking the name up may ask; opening does not.
    assert_eq!(
        (setup.ann.opens(), setup.ann.calls() <= calls + 1),
        (0, true)
    );
}

#[test]
fn read_refuses_what_the_listing_hid() {
    let setup = setup();
    setup.ann.put("x", vec![1; 1 << 20], 1);
    let handle = setup.open("x").unwrap();
    setup.ann.lock("x");
    for _ in 0..5 {
        assert_eq!(refusal(setup.read(handle, 0, 4096)), Some(libc::EACCES));
    }
    assert!(setup.ann.opens() <= 2, "{}", setup.ann.opens());
}

#[test]
fn one_reading_holder_makes_it_readable() {
    let setup = setup();
    let bob = setup.network.join("bob", 2);
    setup.ann.put_rooted("x", "content", 1);
    bob.put_rooted("x", "content", 1);
    setup.ann.chmod("x", Mode::Unreadable);
    assert_eq!(setup.find("x").unwrap().mode, Mode::Plain);
    let handle = setup.open("x").unwrap();
    assert_eq!(setup.read(handle, 0, 7).unwrap(), b"content");
}

#[test]
fn unreadable_directory_hides_its_part_only() {
    let setup = setup();
    let bob = setup.network.join("bob", 2);
    setup.ann.put("d/of ann", "x", 1);
    setup.ann.put("e/of ann", "x", 1);
    bob.put("d/of bob", "x", 1);
    setup.ann.chmod("d", Mode::Unreadable);
    setup.ann.chmod("e", Mode::Unreadable);
    let d = setup.find("d").unwrap();
    assert_eq!(d.mode, Mode::Plain);
    let handle = setup.filesystem.opendir(d.inode).unwrap();
    assert_eq!(setup.names(handle, 9), [".", "..", "of bob"]);
    assert!(matches!(setup.find("d/nothing"), Err(Error::NotFound)));
    let e = setup.find("e").unwrap();
    assert_eq!(e.mode, Mode::Unreadable);
    assert_eq!(
        refusal(setup.filesystem.opendir(e.inode)),
        Some(libc::EACCES)
    );
    assert_eq!(refusal(setup.find("e/of ann")), Some(libc::EACCES));
}

#[test]
fn directory_that_became_unreadable_is_refused() {
    let setup = setup();
    setup.ann.put("d/x", "x", 1);
    let number = setup.find("d").unwrap().inode;
    let handle = setup.filesystem.opendir(number).unwrap();
    setup.ann.chmod("d", Mode::Unreadable);
    let listed = setup
        .filesystem
        .readdirplus(handle, 0, wait(), &mut |_| true);
    assert_eq!(refusal(listed), Some(libc::EACCES));
}

#[test]
fn programs_are_told_apart() {
    let setup = setup();
    setup.ann.put("program", "x", 1);
    setup.ann.put("text", "x", 1);
    setup.ann.chmod("program", Mode::Executable);
    let access = |path: &str| {
        let number = setup.find(path).unwrap().inode;
        refusal(setup.filesystem.access(number, libc::X_OK))
    };
    assert_eq!(
        (access("program"), access("text")),
        (None, Some(libc::EACCES))
    );
}
