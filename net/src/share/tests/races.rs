//! Reads of the share while others change it.

use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::*;

/// Runs `change` repeatedly in another thread while `check` runs.
fn while_changing(change: impl Fn() + Sync, check: impl FnOnce()) {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                change();
            }
        });
        // Stop even if `check` panics, or the scope would wait for ever.
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(check));
        stop.store(true, Ordering::Relaxed);
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    });
}

#[test]
fn directory_swapped_for_link_never_leaks() {
    let share = Fixture::new();
    share.write("top/spot/inside", "inside");
    share.link("../../outside", "top/other");
    let (spot, other) = (share.at("top/spot"), share.at("top/other"));
    let swap = || renameat_with(CWD, &spot, CWD, &other, RenameFlags::EXCHANGE).unwrap();
    let (mut served, mut absent) = (0, 0);
    while_changing(swap, || {
        let deadline = Instant::now() + Duration::from_secs(60);
        // Until both states of the path have been met often enough.
        while served < 200 || absent < 200 {
            assert!(Instant::now() < deadline, "{served} {absent}");
            for directory in ["top/spot", "top/other"] {
                match share.pages(directory, 10) {
                    Ok(entries) => {
                        let names: Vec<_> = entries.iter().map(|e| e.name.as_bytes()).collect();
                        assert_eq!(names, [b"inside"]);
                        served += 1;
                    }
                    Err(fault) => {
                        assert_eq!(fault.code, FaultCode::NotFound);
                        absent += 1;
                    }
                }
                let secret = format!("{directory}/secret");
                assert!(share.stat(&secret).is_none() && share.read(&secret).is_err());
                let inside = share.read(format!("{directory}/inside"));
                assert!(inside.is_err() || inside.unwrap() == b"inside");
            }
            let found = share.search("secret", 10, BUDGET);
            assert_eq!(found, [""; 0]);
        }
    });
}

#[test]
fn file_swapped_for_link_or_fifo_is_safe() {
    let share = Fixture::new();
    share.write("file", "inside");
    share.link("../outside/secret", "link");
    let mode = rustix::fs::Mode::from_raw_mode(0o644);
    rustix::fs::mkfifoat(CWD, share.at("fifo"), mode).unwrap();
    let [file, link, fifo] = ["file", "link", "fifo"].map(|name| share.at(name));
    in_time(move || {
        let rotate = || {
            renameat_with(CWD, &file, CWD, &link, RenameFlags::EXCHANGE).unwrap();
            renameat_with(CWD, &file, CWD, &fifo, RenameFlags::EXCHANGE).unwrap();
        };
        let (mut opened, mut refused) = (0, 0);
        while_changing(rotate, || {
            while opened < 100 || refused < 100 {
                match share.share.open_file(&path("file"), Asker::Nobody) {
                    Ok(file) => {
                        opened += 1;
                        let mut content = [0; 16];
                        // Renamed since then: an error is right, other bytes are not.
                        if let Ok(count) = file.read_at(0, &mut content) {
                            assert_eq!(&content[..count], b"inside");
                        }
                    }
                    Err(_) => refused += 1,
                }
            }
        });
    });
}

#[test]
fn file_replaced_before_open_is_rechecked() {
    in_time(replaced_between_finding_and_opening);
}

fn replaced_between_finding_and_opening() {
    let share = Fixture::new();
    let tree = share.share.tree().unwrap();
    let replace = |with: &str| {
        share.write("file", "old");
        let found = tree.find(&path("file")).unwrap();
        fs::rename(share.at(with), share.at("file")).unwrap();
        found
    };
    share.write("new", "newer");
    let (_, state) = tree.open(&replace("new")).unwrap();
    assert_eq!(state.attributes().unwrap().size, 5);

    let mode = rustix::fs::Mode::from_raw_mode(0o644);
    rustix::fs::mkfifoat(CWD, share.at("fifo"), mode).unwrap();
    share.link("../outside/secret", "link");
    let _socket = std::os::unix::net::UnixListener::bind(share.at("socket")).unwrap();
    for special in ["fifo", "link", "socket"] {
        let error = tree.open(&replace(special)).unwrap_err();
        assert!(is_absence(error), "{special}: {error}");
        fs::remove_file(share.at("file")).unwrap();
    }
}

#[test]
fn changing_directory_pages_stay_ordered() {
    let share = Fixture::new();
    for index in 0..300 {
        share.write(format!("stays-{index:03}"), "");
    }
    let place = share.at("");
    let churn = || {
        for index in 0..50 {
            fs::write(place.join(format!("goes-{index}")), "").unwrap();
            fs::rename(
                place.join(format!("goes-{index}")),
                place.join(format!("zz-{index}")),
            )
            .unwrap();
        }
    };
    while_changing(churn, || {
        for _ in 0..30 {
            let entries = share.pages("", 7).unwrap();
            assert!(entries.is_sorted_by(|a, b| a.name < b.name));
            let stays = |e: &&Entry| e.name.as_bytes().starts_with(b"stays");
            assert_eq!(entries.iter().filter(stays).count(), 300);
        }
    });
}
