//! Names and paths below a share: checked once, so that none can leave the share, and escaped for
//! display so that none can drive a terminal.

use std::fmt;
use std::sync::Arc;

use super::Invalid;
use super::text::write_escaped;

/// Maximum file name length in bytes, as on Linux (`NAME_MAX`).
pub const MAX_NAME_BYTES: usize = 255;

/// Maximum path length in bytes, as on Linux (`PATH_MAX` less its NUL).
pub const MAX_PATH_BYTES: usize = 4095;

/// One path component: any bytes that a Linux file name may have. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Arc<[u8]>);

impl Name {
    /// Checks and wraps one component.
    pub fn new(bytes: impl AsRef<[u8]>) -> Result<Self, Invalid> {
        let bytes = bytes.as_ref();
        let sound = !bytes.is_empty()
            && bytes.len() <= MAX_NAME_BYTES
            && !bytes.iter().any(|b| matches!(b, b'/' | 0))
            && bytes != b"."
            && bytes != b"..";
        sound.then(|| Self(bytes.into())).ok_or(Invalid::Name)
    }

    /// Returns the name's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns true for names that begin with a dot, which are served only if configured.
    pub fn is_hidden(&self) -> bool {
        self.0.starts_with(b".")
    }
}

impl fmt::Display for Name {
    /// Formats for people: anything but printable UTF-8 is escaped, so it cannot drive a terminal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_escaped(f, &self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// A path below a share's root: components joined by `/`, none at either end; empty for the root
/// itself. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RelPath(Arc<[u8]>);

impl RelPath {
    /// Returns the share's root.
    pub fn root() -> Self {
        Self(Arc::from(&b""[..]))
    }

    /// Checks every component of `bytes`; the empty path is the root.
    pub fn new(bytes: &[u8]) -> Result<Self, Invalid> {
        if bytes.is_empty() {
            return Ok(Self::root());
        }
        if bytes.len() > MAX_PATH_BYTES {
            return Err(Invalid::PathTooLong);
        }
        for component in bytes.split(|b| *b == b'/') {
            Name::new(component)?;
        }
        Ok(Self(Arc::from(bytes)))
    }

    /// Returns the path's bytes, without a leading slash.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns true for the share's root.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns this path with one more component.
    pub fn join(&self, name: &Name) -> Result<Self, Invalid> {
        let mut bytes = Vec::with_capacity(self.0.len() + 1 + name.0.len());
        bytes.extend_from_slice(&self.0);
        if !bytes.is_empty() {
            bytes.push(b'/');
        }
        bytes.extend_from_slice(&name.0);
        if bytes.len() > MAX_PATH_BYTES {
            return Err(Invalid::PathTooLong);
        }
        Ok(Self(bytes.into()))
    }

    /// Returns the directory that holds this path, and its name there; `None` for the root.
    pub fn split(&self) -> Option<(Self, Name)> {
        if self.is_root() {
            return None;
        }
        let (parent, name) = match self.0.iter().rposition(|b| *b == b'/') {
            Some(slash) => (&self.0[..slash], &self.0[slash + 1..]),
            None => (&b""[..], &self.0[..]),
        };
        Some((Self(Arc::from(parent)), Name(name.into())))
    }

    /// Returns true if this is `directory` or lies below it.
    pub fn is_within(&self, directory: &Self) -> bool {
        let rest = self.as_bytes().strip_prefix(directory.as_bytes());
        directory.is_root() || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
    }

    /// Returns this path after its ancestor `from` was renamed to `to`; `None` if it does not lie
    /// in `from`, or the path would be too long.
    pub fn moved(&self, from: &Self, to: &Self) -> Option<Self> {
        if !self.is_within(from) {
            return None;
        }
        let rest = &self.0[from.0.len()..];
        let rest = rest.strip_prefix(b"/").unwrap_or(rest);
        let joined = match (to.is_root(), rest.is_empty()) {
            (true, _) => rest.to_vec(),
            (false, true) => to.0.to_vec(),
            (false, false) => [&to.0, &b"/"[..], rest].concat(),
        };
        Self::new(&joined).ok()
    }

    /// Returns the components from the root down; none for the root.
    pub fn components(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|b| *b == b'/').filter(|c| !c.is_empty())
    }
}

impl fmt::Display for RelPath {
    /// Formats for people, escaped as [`Name`] is.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_escaped(f, &self.0)
    }
}

impl fmt::Debug for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_in_a_directory_moves_with_it() {
        let path = |text: &str| RelPath::new(text.as_bytes()).unwrap();
        let moved = |it, from, to| path(it).moved(&path(from), &path(to));
        assert_eq!(moved("a/b/f", "a", "c/d"), Some(path("c/d/b/f")));
        assert_eq!(moved("a/f", "a", ""), Some(path("f")));
        assert_eq!(moved("f", "", "a"), Some(path("a/f")));
        assert_eq!(moved("a", "a", "b"), Some(path("b")));
        assert_eq!(moved("ab/f", "a", "c"), None);
    }

    #[test]
    fn only_descendants_are_within_a_directory() {
        let path = |text: &str| RelPath::new(text.as_bytes()).unwrap();
        assert!(path("a/b").is_within(&path("a/b")));
        assert!(path("a/b/c").is_within(&path("a/b")));
        assert!(path("a").is_within(&path("")));
        assert!(!path("a/bc").is_within(&path("a/b")));
        assert!(!path("a").is_within(&path("a/b")));
    }

    #[test]
    fn names_that_no_file_can_have_are_refused() {
        for bad in [&b""[..], b".", b"..", b"a/b", b"a\0b", &[b'x'; 256]] {
            assert_eq!(Name::new(bad), Err(Invalid::Name));
        }
        for good in [&b"a"[..], b"...", b" ", b"\xff\x01", &[b'x'; 255]] {
            assert!(Name::new(good).is_ok());
        }
    }

    #[test]
    fn paths_leaving_the_share_are_refused() {
        for bad in ["/", "/a", "a/", "a//b", "a/../b", "..", "./a"] {
            assert!(RelPath::new(bad.as_bytes()).is_err(), "{bad}");
        }
        let path = RelPath::new(b"a/b/c").unwrap();
        let (parent, name) = path.split().unwrap();
        assert_eq!(
            (parent.as_bytes(), name.as_bytes()),
            (&b"a/b"[..], &b"c"[..])
        );
        assert_eq!(parent.join(&name).unwrap(), path);
        assert_eq!(RelPath::root().split(), None);
    }

    #[test]
    fn displayed_names_drive_no_terminal() {
        let name = Name::new(&b"a\x1b[31m\xffb\xc3\xa4"[..]).unwrap();
        assert_eq!(name.to_string(), "a\\u{1b}[31m\\xffb\u{e4}");
        for c in crate::model::text::HOSTILE
            .into_iter()
            .filter(|c| *c != '\0')
        {
            let bytes = format!("a{c}b").into_bytes();
            let (name, path) = (
                Name::new(bytes.clone()).unwrap(),
                RelPath::new(&bytes).unwrap(),
            );
            for shown in [format!("{name} {path}"), format!("{name:?} {path:?}")] {
                assert!(!shown.contains(c), "{:?}", c.escape_unicode());
            }
        }
    }
}
