//! What the shared directory serves at all, decided by the path alone.
//!
//! The path alone decides, because querying the system about one of our own mountpoints could make
//! us wait for ourselves. The paths judged here are real ones, with every symbolic link resolved,
//! so a link cannot show what its target's own path would not.

use crate::model::{Name, RelPath};

/// The names and subtrees that are left out.
#[derive(Debug, Default)]
pub(crate) struct Policy {
    hidden: bool,
    excluded: Vec<RelPath>,
}

impl Policy {
    /// Leaves out `excluded` with everything below, and names that begin with a dot unless those
    /// are served too (`hidden`).
    pub(crate) fn new(hidden: bool, excluded: Vec<RelPath>) -> Self {
        Self { hidden, excluded }
    }

    /// Returns true if neither `path` nor anything on the way to it is left out.
    pub(crate) fn serves(&self, path: &RelPath) -> bool {
        let visible = self.hidden || !path.components().any(|name| name.starts_with(b"."));
        visible && !self.excluded.iter().any(|out| path.is_within(out))
    }

    /// Like [`Policy::serves`], for the names of one directory that is served itself. Does not
    /// build their paths.
    pub(crate) fn of_directory(&self, directory: &RelPath) -> impl Fn(&[u8]) -> bool + use<> {
        let hidden = self.hidden;
        let excluded: Vec<Name> = self
            .excluded
            .iter()
            .filter_map(RelPath::split)
            .filter(|(parent, _)| parent == directory)
            .map(|(_, name)| name)
            .collect();
        move |name| {
            (hidden || !name.starts_with(b"."))
                && !excluded.iter().any(|out| out.as_bytes() == name)
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn path(text: &str) -> RelPath {
        RelPath::new(text.as_bytes()).unwrap()
    }

    fn policy(hidden: bool, excluded: &[&str]) -> Policy {
        Policy {
            hidden,
            excluded: excluded.iter().map(|text| path(text)).collect(),
        }
    }

    #[test]
    fn dot_names_are_omitted_at_any_depth() {
        for hidden in [".a", "a/.b", "a/.b/c", "..."] {
            assert!(!policy(false, &[]).serves(&path(hidden)), "{hidden}");
            assert!(policy(true, &[]).serves(&path(hidden)), "{hidden}");
        }
        assert!(policy(false, &[]).serves(&path("a./b.c")));
    }

    #[test]
    fn excluded_subtrees_go_by_path_and_name() {
        let policy = policy(true, &["a/mnt", "top"]);
        for out in ["a/mnt", "a/mnt/x", "top", "top/x/y"] {
            assert!(!policy.serves(&path(out)), "{out}");
        }
        for served in ["a", "a/mnt2", "mnt", "b/top"] {
            assert!(policy.serves(&path(served)), "{served}");
        }
        let names = policy.of_directory(&path("a"));
        assert!(!names(b"mnt") && names(b"top"));
    }
}
