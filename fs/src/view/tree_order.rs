//! Paths in the order of a walk: each directory is followed by everything below it, and then by
//! what lies beside it.
//!
//! Byte order does not have this property (`a`, `a-b`, `a/x`): a search for what is below a path
//! would pass all names that merely begin alike, as many as a member likes.

use std::cmp::Ordering;

use tinyp2p_net::model::RelPath;

/// A path that sorts in the order of a walk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TreeOrder(pub RelPath);

/// How many bytes are compared at once while they are equal.
const STEP: usize = 64;

/// Compares `a` and `b` in the order of a walk.
pub fn compare(a: &RelPath, b: &RelPath) -> Ordering {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let steps = a.chunks_exact(STEP).zip(b.chunks_exact(STEP));
    let equal = STEP * steps.take_while(|(a, b)| a == b).count();
    // The slash before everything else; no name contains a slash or a zero.
    let order = |byte: &u8| if *byte == b'/' { 0 } else { *byte };
    let (a, b) = (a[equal..].iter().map(order), b[equal..].iter().map(order));
    a.cmp(b)
}

impl Ord for TreeOrder {
    fn cmp(&self, other: &Self) -> Ordering {
        compare(&self.0, &other.0)
    }
}

impl PartialOrd for TreeOrder {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn path(text: &str) -> TreeOrder {
        TreeOrder(RelPath::new(text.as_bytes()).unwrap())
    }

    #[test]
    fn descendants_follow_their_path_directly() {
        let order = ["", "a", "a/b", "a/b/c", "a/b-", "a-b", "a.d/x", "ab"];
        assert!(order.map(path).is_sorted());
        let long = "x".repeat(200);
        assert!(path(&long) < path(&format!("{long}/a")));
        assert!(path(&format!("{long}/a")) < path(&format!("{long}!")));
    }

    proptest! {
        #[test]
        fn it_is_the_order_of_the_components(
            mut paths in prop::collection::vec("([!ab]{1,3}/){0,3}[!ab]{1,3}", 0..20)
        ) {
            let mut sorted: Vec<TreeOrder> = paths.iter().map(|text| path(text)).collect();
            sorted.sort();
            paths.sort_by(|a, b| a.split('/').cmp(b.split('/')));
            let sorted: Vec<String> = sorted.iter().map(|path| path.0.to_string()).collect();
            prop_assert_eq!(sorted, paths);
        }
    }
}
