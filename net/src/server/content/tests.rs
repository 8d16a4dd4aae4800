//! Content by its root, as a member sees it: from the share, from the cache, and from neither.

use std::cell::RefCell;
use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::FileExt;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::super::ServerLimits;
use super::super::harness::{Raw, RawResponse, TestNode, caller};
use super::*;
use crate::content::cache::harness;
use crate::content::cache::harness::{Content, content};
use crate::content::merkle::Subtree;
use crate::model::{CallSource, PeerId, RelPath};
use crate::protocol::wire;
use crate::protocol::wire::{Fault, FaultCode, HashesRequest};
use crate::service::answer::answer;
use crate::share::{Roots, Share};
use crate::testing::eventually;

const MIB: u64 = 1 << 20;

/// Cache space for much more than any of these tests keeps.
const ROOM: u64 = 64 * MIB;

fn with_roots(share: Share, state: &std::path::Path) -> Arc<Share> {
    let roots = Roots::open(&state.join("roots")).unwrap();
    share.with_roots(roots).unwrap()
}

/// Returns a node with a share and a cache, and a connection of one member to it.
fn node() -> (TestNode, Raw) {
    offering(|share, state| {
        let cache = harness::open(&state.join("cache"), ROOM);
        (Some(with_roots(share, state)), Some(Arc::new(cache)))
    })
}

/// Does the same as `node`, without a share.
fn node_with_cache_only() -> (TestNode, Raw) {
    offering(|_, state| {
        let cache = harness::open(&state.join("cache"), ROOM);
        (None, Some(Arc::new(cache)))
    })
}

fn offering(
    offer: impl FnOnce(Share, &std::path::Path) -> (Option<Arc<Share>>, Option<Arc<DiskCache>>),
) -> (TestNode, Raw) {
    let node = TestNode::offering(1, ServerLimits::default(), offer);
    let member = caller(1);
    node.befriend(&member);
    let raw = node.raw(&member);
    (node, raw)
}

impl TestNode {
    /// Shares a file whose root is known; returns the root.
    fn put_rooted(&self, name: &str, bytes: &[u8]) -> Root {
        fs::write(self.path().join(name), bytes).unwrap();
        let share = self.service.share.as_ref().unwrap();
        share.learn(&RelPath::new(name.as_bytes()).unwrap())
    }

    /// Caches these runs of blocks (first, count) of `content`, and waits until they are on disk.
    fn keep(&self, content: &Content, runs: &[(u64, u64)]) {
        let cache = self.service.cache.as_ref().unwrap();
        for (first, count) in runs {
            content.put(cache, *first, *count);
            let range = ByteRange::new(first * BLOCK, first * BLOCK + 1);
            eventually("written", || {
                !cache.held(content.tree.root(), range).is_empty()
            });
        }
    }

    fn hashes(&self, root: Root, first: u64, span: u64) -> Result<Subtree, Fault> {
        let request = wire::Request::Hashes(HashesRequest { root, first, span });
        let (member, remote) = (PeerId::from_bytes([1; 32]), Ipv4Addr::LOCALHOST);
        match answer(
            &self.service,
            member,
            CallSource::Tcp(IpAddr::V4(remote)),
            request,
        )? {
            wire::Response::Hashes(subtree) => Ok(subtree),
            _ => panic!("another response"),
        }
    }

    /// Flips a bit of the file that holds cached pieces.
    fn damage(&self, at: u64) {
        let path = harness::file(&self.state().join("cache"), "large");
        let file = File::options().read(true).write(true).open(path).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    }
}

fn get(raw: &mut Raw, root: Root, fields: &str) -> RawResponse {
    raw.ask(&format!("GET /content/{root} HTTP/1.1{fields}"))
}

#[test]
fn root_requests_follow_the_file_rules() {
    let (node, mut raw) = node();
    let root = node.put_rooted("f", b"0123456789");
    let tag = format!("\"{root}\"");
    for (fields, status, content_range, body) in [
        ("", 200, None, "0123456789"),
        ("\nRange: bytes=2-4", 206, Some("bytes 2-4/10"), "234"),
        ("\nRange: bytes=-2", 206, Some("bytes 8-9/10"), "89"),
        ("\nRange: bytes=7-99", 206, Some("bytes 7-9/10"), "789"),
        ("\nRange: bytes=10-", 416, Some("bytes */10"), ""),
        ("\nRange: bytes=0-1,5-6", 200, None, "0123456789"),
        ("\nIf-Match: \"x\"", 412, None, ""),
        ("\nIf-Match: *", 200, None, "0123456789"),
        ("\nIf-None-Match: *", 304, None, ""),
    ] {
        let response = get(&mut raw, root, fields);
        assert_eq!(response.status, status, "{fields}");
        assert_eq!(response.field("content-range"), content_range, "{fields}");
        assert_eq!(response.body, body.as_bytes(), "{fields}");
        assert_eq!(response.field("etag"), Some(&*tag), "{fields}");
    }
    let matching = format!("\nIf-Match: {tag}\nRange: bytes=0-0");
    assert_eq!(get(&mut raw, root, &matching).body, b"0");
    let head = raw.ask(&format!("HEAD /content/{root} HTTP/1.1"));
    assert_eq!(
        (head.status, head.field("content-length")),
        (200, Some("10"))
    );
}

#[test]
fn replaced_file_loses_its_old_content() {
    let (node, mut raw) = node();
    let root = node.put_rooted("f", b"before");
    assert_eq!(get(&mut raw, root, "").body, b"before");
    let after = node.put_rooted("f", b"behind");
    assert_eq!(get(&mut raw, root, "").status, 404);
    assert_eq!(get(&mut raw, after, "").body, b"behind");
    fs::remove_file(node.path().join("f")).unwrap();
    assert_eq!(get(&mut raw, after, "").status, 404);
}

#[test]
fn cache_may_hold_what_the_share_lost() {
    let (node, mut raw) = node();
    let content = content(5 * BLOCK as usize, 1);
    let root = node.put_rooted("f", &content.bytes);
    node.keep(&content, &[(0, 5)]);
    fs::write(node.path().join("f"), b"another").unwrap();
    let response = get(&mut raw, root, "");
    assert_eq!((response.status, response.body), (200, content.bytes));
}

#[test]
fn partial_content_is_supplied_as_held() {
    let (node, mut raw) = node_with_cache_only();
    let content = content(MIB as usize + 5, 2);
    let (root, size) = (content.tree.root(), content.size());
    let tag = format!("\"{root}\"");
    node.keep(&content, &[(0, 8), (8, 1), (16, 8), (24, 8), (64, 1)]);
    let block = |n: u64| n * BLOCK;
    // The requested range, and the end of the bytes sent.
    for (first, last, end) in [
        (0, 0, 1),
        (0, size - 1, block(9)),
        (5, block(3), block(3) + 1),
        (block(8) + 1, block(8) + 9, block(8) + 10),
        (block(8) + 1, size + 99, block(9)),
        (block(20), size - 1, block(32)),
        (block(64) + 4, size - 1, size),
    ] {
        let response = get(&mut raw, root, &format!("\nRange: bytes={first}-{last}"));
        let sent = format!("bytes {first}-{}/{size}", end - 1);
        assert_eq!(response.status, 206, "{first}-{last}");
        assert_eq!(response.field("content-range"), Some(&*sent));
        assert_eq!(response.field("etag"), Some(&*tag));
        assert_eq!(response.field("accept-ranges"), Some("bytes"));
        assert!(response.body == content.bytes[first as usize..end as usize]);
    }
    for (fields, status) in [
        ("", 404),
        (&*format!("\nRange: bytes={}-", block(9)), 404),
        (&*format!("\nRange: bytes={}-", block(32)), 404),
        ("\nRange: bytes=0-1,5-6", 404),
        (&*format!("\nRange: bytes={size}-"), 416),
        ("\nRange: bytes=-3", 206),
        ("\nRange: bytes=0-9\nIf-Match: \"x\"", 412),
        (&*format!("\nRange: bytes=0-9\nIf-Match: {tag}"), 206),
        ("\nRange: bytes=0-9\nIf-Range: \"x\"", 404),
        (&*format!("\nRange: bytes=0-9\nIf-Range: {tag}"), 206),
        ("\nIf-None-Match: *", 304),
    ] {
        assert_eq!(get(&mut raw, root, fields).status, status, "{fields}");
    }
    let head = raw.ask(&format!("HEAD /content/{root} HTTP/1.1"));
    assert_eq!(head.status, 404);
}

#[test]
fn whole_content_is_supplied_whole() {
    let (node, mut raw) = node_with_cache_only();
    for (seed, size) in [(3, 1), (4, 3 * BLOCK), (5, 2 * MIB + 8 * BLOCK + 7)] {
        let content = content(size as usize, seed);
        let (root, blocks) = (content.tree.root(), size.div_ceil(BLOCK));
        let runs: Vec<_> = (0..blocks)
            .step_by(8)
            .map(|first| (first, 8.min(blocks - first)))
            .collect();
        node.keep(&content, &runs);
        let head = raw.ask(&format!("HEAD /content/{root} HTTP/1.1"));
        let length = size.to_string();
        assert_eq!(
            (head.status, head.field("content-length")),
            (200, Some(&*length))
        );
        let response = get(&mut raw, root, "");
        assert_eq!(
            (response.status, response.field("content-range")),
            (200, None)
        );
        assert!(response.body == content.bytes, "{size}");
        let behind = get(&mut raw, root, &format!("\nRange: bytes={size}-"));
        let end = format!("bytes */{size}");
        assert_eq!(
            (behind.status, behind.field("content-range")),
            (416, Some(&*end))
        );
    }
}

/// Without the first block the size is unknown, so the end cannot be told from a gap.
#[test]
fn end_is_not_found_without_the_beginning() {
    let (node, mut raw) = node_with_cache_only();
    let content = content(MIB as usize, 6);
    node.keep(&content, &[(8, 8)]);
    let root = content.tree.root();
    for range in [format!("{MIB}-"), "-5".into()] {
        let response = get(&mut raw, root, &format!("\nRange: bytes={range}"));
        assert_eq!(response.status, 404, "{range}");
    }
    let piece = get(&mut raw, root, &format!("\nRange: bytes={}-", 8 * BLOCK));
    assert_eq!((piece.status, piece.body.len() as u64), (206, 8 * BLOCK));
}

#[test]
fn a_damaged_block_is_never_sent() {
    // Slots follow one another in the order of writing: a page of header, eight blocks.
    const SLOT: u64 = 4096 + 8 * BLOCK;
    let (node, mut raw) = node_with_cache_only();
    let content = content(4 * MIB as usize, 7);
    let root = content.tree.root();
    node.keep(&content, &[(0, 8), (8, 8), (16, 8)]);
    // In the middle: the bytes before it arrive, and then the connection is cut.
    node.damage(SLOT + 4096 + 3 * BLOCK);
    raw.send(&format!(
        "GET /content/{root} HTTP/1.1\r\nHost: node\r\nRange: bytes=0-\r\n\r\n"
    ))
    .unwrap();
    let head = raw.head().unwrap();
    assert_eq!(head.status, 206);
    assert_eq!(
        head.field("content-length"),
        Some(&*(24 * BLOCK).to_string())
    );
    let sent = raw.rest();
    assert!(sent.len() as u64 <= 8 * BLOCK);
    assert!(sent == content.bytes[..sent.len()]);
    // The cache knows now that the piece has gone.
    let member = caller(1);
    node.befriend(&member);
    let mut raw = node.raw(&member);
    let response = get(&mut raw, root, "\nRange: bytes=0-");
    assert_eq!(
        (response.status, response.body.len() as u64),
        (206, 8 * BLOCK)
    );
    // At the beginning: nothing is here. In the header: the same.
    node.damage(4096);
    assert_eq!(get(&mut raw, root, "\nRange: bytes=0-").status, 404);
    node.damage(2 * SLOT + 9);
    let third = format!("\nRange: bytes={}-", 16 * BLOCK);
    assert_eq!(get(&mut raw, root, &third).status, 404);
}

#[test]
fn hashes_come_as_far_as_the_cache_goes() {
    let (node, _raw) = node_with_cache_only();
    let content = content(MIB as usize + 5, 8);
    let root = content.tree.root();
    node.keep(&content, &[(0, 8), (8, 8), (20, 1)]);
    for (first, span) in [(0, 8), (4, 2), (0, 16), (20, 1)] {
        let hashes = node.hashes(root, first, span).unwrap();
        assert!(hashes.prove(content.id()).is_some(), "{first} {span}");
    }
    let unknown = Root::from_bytes([9; 32]);
    for (root, first, span) in [(root, 16, 8), (root, 0, 32), (unknown, 0, 8)] {
        let fault = node.hashes(root, first, span).unwrap_err();
        assert_eq!(fault.code, FaultCode::NotFound, "{first} {span}");
    }
}

#[test]
fn non_resharing_node_keeps_its_cache() {
    let (node, mut raw) = offering(|share, state| {
        let content = content(BLOCK as usize, 9);
        let cache = harness::open(&state.join("cache"), ROOM);
        content.put(&cache, 0, 1);
        eventually("written", || cache.held_bytes() > 0);
        (Some(with_roots(share, state)), None)
    });
    let root = content(BLOCK as usize, 9).tree.root();
    assert_eq!(get(&mut raw, root, "").status, 404);
    let fault = node.hashes(root, 0, 1).unwrap_err();
    assert_eq!(fault.code, FaultCode::NotFound);
}

#[test]
fn what_is_no_root_is_not_found() {
    let (node, mut raw) = node();
    let root = node.put_rooted("f", b"0123456789").to_string();
    for bad in [
        "",
        "/",
        &root[1..],
        &format!("{root}0"),
        &format!("{root}/"),
        &format!("{root}?x"),
        &format!("/{root}"),
        &root.to_ascii_uppercase(),
        &root.replace(&root[..2], "%41"),
        &format!("{}g", &root[1..]),
        &"0".repeat(64),
        &"f".repeat(64),
    ] {
        let response = raw.ask(&format!("GET /content/{bad} HTTP/1.1"));
        assert_eq!((response.status, response.body.len()), (404, 0), "{bad}");
    }
    assert_eq!(
        raw.ask(&format!("GET /content/{root} HTTP/1.1")).status,
        200
    );
}

/// For any request: the right bytes, from its beginning to the first gap, and no others.
#[test]
fn range_ends_at_the_first_missing_block() {
    let (node, raw) = node_with_cache_only();
    let content = content(40 * BLOCK as usize + 77, 10);
    let (root, size) = (content.tree.root(), content.size());
    let runs = [(0, 8), (8, 1), (9, 1), (11, 1), (16, 8), (24, 8), (40, 1)];
    node.keep(&content, &runs);
    let is_here = |block: u64| {
        let mut runs = runs.iter();
        runs.any(|(first, count)| (*first..first + count).contains(&block))
    };
    let raw = RefCell::new(raw);
    let config = Config {
        failure_persistence: None,
        ..Config::with_cases(300)
    };
    let ranges = (0..size + 9, 0..30 * BLOCK);
    let outcome = TestRunner::new(config).run(&ranges, |(first, more)| {
        let range = format!("\nRange: bytes={first}-{}", first + more);
        let response = get(&mut raw.borrow_mut(), root, &range);
        let asked = size.min(first + more + 1);
        let gap = (first / BLOCK..).find(|block| !is_here(*block)).unwrap();
        let end = asked.min(gap * BLOCK);
        let expected = match first {
            behind if behind >= size => 416,
            first if first >= end => 404,
            _ => 206,
        };
        prop_assert_eq!(response.status, expected);
        if expected == 206 {
            prop_assert!(response.body == content.bytes[first as usize..end as usize]);
            let sent = format!("bytes {first}-{}/{size}", end - 1);
            prop_assert_eq!(response.field("content-range"), Some(&*sent));
        }
        Ok(())
    });
    outcome.unwrap();
}
