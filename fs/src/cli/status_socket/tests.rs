//! Sockets in directories of their own, with well-behaved and misbehaving clients.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use tinyp2p_net::stats::status::Status;

use super::*;
use crate::report::status::NodeLocation;

fn report(name: &str) -> NodeReport {
    let status = Status {
        name: name.to_owned(),
        ..Status::default()
    };
    NodeReport::new(NodeLocation::default(), status)
}

fn directory(path: &Path) -> SocketDirectory {
    SocketDirectory::create(path).unwrap()
}

fn ask_in(path: &Path) -> Vec<Option<Option<String>>> {
    let directory = directory(path);
    let sockets = directory.sockets().into_iter();
    let answers = sockets.map(|(_, name)| ask(&directory, &name));
    answers
        .map(|answer| answer.map(|report| report.map(|(report, _)| report.status.name)))
        .collect()
}

fn names(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name());
    names.map(|name| name.into_string().unwrap()).collect()
}

#[test]
fn socket_reports_now_and_ends_with_owner() {
    let base = tempfile::tempdir().unwrap();
    // Longer than the limit on a socket's address.
    let path = base.path().join("x".repeat(200));
    let count = std::sync::atomic::AtomicU32::new(0);
    let next = move || {
        let number = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        report(&number.to_string())
    };
    let socket = Socket::open_in(directory(&path), next).unwrap();
    let own = format!("{}.sock", std::process::id());
    assert_eq!(names(&path), [own]);
    for number in 0..3 {
        assert_eq!(ask_in(&path), [Some(Some(number.to_string()))]);
    }
    drop(socket);
    assert!(names(&path).is_empty());
}

#[test]
fn stuck_caller_delays_others_in_bounds() {
    let base = tempfile::tempdir().unwrap();
    // More than the socket's own buffers can hold.
    let long = "x".repeat(8 << 20);
    let socket = Socket::open_in(directory(base.path()), move || report(&long)).unwrap();
    let idle = UnixStream::connect(socket.directory.at(&socket.name)).unwrap();
    let since = Instant::now();
    // Its own deadline may have passed before its turn comes.
    while ask_in(base.path()) == [Some(None)] {
        assert!(since.elapsed() < 5 * DEADLINE);
    }
    let idle_again = UnixStream::connect(socket.directory.at(&socket.name)).unwrap();
    let since = Instant::now();
    drop(socket);
    assert!(since.elapsed() < DEADLINE / 2);
    drop((idle, idle_again));
}

#[test]
fn dead_socket_goes_and_silent_one_stays() {
    let base = tempfile::tempdir().unwrap();
    drop(UnixListener::bind(base.path().join("1.sock")).unwrap());
    fs::write(base.path().join("other"), "").unwrap();
    assert_eq!(ask_in(base.path()), [None]);
    assert_eq!(names(base.path()), ["other"]);
    let _silent = UnixListener::bind(base.path().join("2.sock")).unwrap();
    let since = Instant::now();
    assert_eq!(ask_in(base.path()), [Some(None)]);
    assert!(since.elapsed() < 2 * DEADLINE);
    assert_eq!(names(base.path()).len(), 2);
}

#[test]
fn dead_socket_of_equal_pid_is_replaced() {
    let base = tempfile::tempdir().unwrap();
    let name = format!("{}.sock", std::process::id());
    for left in [&name, &format!(".{name}")] {
        drop(UnixListener::bind(base.path().join(left)).unwrap());
    }
    let _socket = Socket::open_in(directory(base.path()), || report("new")).unwrap();
    assert_eq!(ask_in(base.path()), [Some(Some("new".to_owned()))]);
}

#[test]
fn nonsense_is_no_answer() {
    let base = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(base.path().join("1.sock")).unwrap();
    let thread = thread::spawn(move || {
        let (mut caller, _) = listener.accept().unwrap();
        caller.write_all(b"{\"pid\": ").unwrap();
    });
    assert_eq!(ask_in(base.path()), [Some(None)]);
    thread.join().unwrap();
}

#[test]
fn socket_directory_is_private_and_no_link() {
    let base = tempfile::tempdir().unwrap();
    let path = base.path().join("open");
    fs::create_dir(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
    directory(&path);
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o700
    );
    let link = base.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    assert!(SocketDirectory::create(&link).is_err());
    assert!(SocketDirectory::create(&base.path().join("no/parent")).is_err());
}

#[test]
fn only_own_runtime_directory_counts() {
    let base = tempfile::tempdir().unwrap();
    let uid = base.path().metadata().unwrap().uid();
    let (run, usual) = (
        base.path().join("run"),
        base.path().join(format!("run/{uid}")),
    );
    fs::create_dir_all(&usual).unwrap();
    let places = |xdg: Option<&Path>, run: &Path| {
        let xdg = xdg.map(|path| path.as_os_str().to_owned());
        super::places(xdg, run.as_os_str(), Path::new("/tmp"), uid)
    };
    let (usual_place, last) = (
        usual.join("tinyp2p"),
        PathBuf::from(format!("/tmp/tinyp2p-{uid}")),
    );
    let nowhere = Path::new("/nowhere");
    assert_eq!(places(None, nowhere), std::slice::from_ref(&last));
    assert_eq!(places(None, &run), [usual_place.clone(), last.clone()]);
    assert_eq!(
        places(Some(&usual), &run),
        [usual_place.clone(), last.clone()]
    );
    let named = base.path().join("named");
    fs::create_dir(&named).unwrap();
    let named_place = named.join("tinyp2p");
    assert_eq!(
        places(Some(&named), &run),
        [named_place, usual_place, last.clone()]
    );
    for useless in [Path::new("relative"), nowhere] {
        assert_eq!(places(Some(useless), nowhere), std::slice::from_ref(&last));
    }
    let others = super::places(
        Some(named.into_os_string()),
        OsStr::new("/nowhere"),
        Path::new("/tmp"),
        uid + 1,
    );
    assert_eq!(others, [PathBuf::from(format!("/tmp/tinyp2p-{}", uid + 1))]);
}

#[test]
fn foreign_socket_directory_is_not_used() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let base = tempfile::tempdir().unwrap();
    let path = base.path().join("sockets");
    drop(directory(&path));
    std::os::unix::fs::chown(&path, Some(12_345), None).unwrap();
    assert!(SocketDirectory::open(&path).is_err() && SocketDirectory::create(&path).is_err());
    std::os::unix::fs::chown(&path, Some(0), None).unwrap();
    assert!(SocketDirectory::open(&path).is_ok());
}
