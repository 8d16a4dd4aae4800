//! Directories of small files are read without a round trip for each file.

use std::fs;

use crate::harness::content::{join, pattern};
use crate::harness::process::sh;
use crate::harness::swarm::{Node, Swarm};

/// Number of files: copying them takes a while, and creating them not much longer.
const FILES: u64 = 2000;

/// Returns how many requests for content a node has answered so far.
fn requests(node: &Node) -> usize {
    let log = node.log();
    let answered = log.lines().filter(|line| line.contains("answered"));
    let is_content = |line: &&str| line.contains("/batch") || line.contains("/files/");
    answered.filter(is_content).count()
}

/// Creates small files of many sizes, the largest slightly larger than the limit for a batch.
fn shelve(node: &Node, directory: &str) {
    let directory = join(node.share(), directory.as_bytes());
    fs::create_dir(&directory).expect("make a directory");
    for number in 0..FILES {
        let size = match number % 500 {
            499 => 65_537,
            rest => rest * 17,
        };
        let name = format!("file {number:04}");
        fs::write(directory.join(name), pattern(number, size)).expect("write a file");
    }
}

#[test]
fn small_files_cost_far_fewer_requests() {
    let swarm = Swarm::new();
    let a = swarm.node("a");
    shelve(&a, "small");
    let a = a.serve();
    let b = swarm.node("b").peer(&a).mount();
    let copy = swarm.path("copy");
    let paths = [b.at("small"), copy.clone()].map(|path| path.to_string_lossy().into_owned());
    sh("cp", &["-r", &paths[0], &paths[1]]);
    let original = join(a.share(), b"small");
    sh("diff", &["-r", &original.to_string_lossy(), &paths[1]]);
    assert_eq!(fs::read_dir(&copy).expect("list").count() as u64, FILES);
    let requests = requests(&a);
    assert!(
        (1..200).contains(&requests),
        "{requests} requests for {FILES} files"
    );
}

#[test]
fn lone_small_file_read_brings_no_others() {
    let swarm = Swarm::new();
    let a = swarm.node("a");
    shelve(&a, "small");
    let a = a.serve();
    let b = swarm.node("b").peer(&a).mount();
    sh("ls", &["-l", &b.at("small").to_string_lossy()]);
    let read = fs::read(b.at("small/file 0007")).expect("read");
    assert!(read == pattern(7, 7 * 17));
    assert_eq!(requests(&a), 1);
}
