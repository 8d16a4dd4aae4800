//! What is served, and what never is: the mount itself, this node's own secrets, and the content
//! that it keeps from other members' files.

use std::path::{Path, PathBuf};

use tinyp2p_net::config::ShareConfig;

use super::args::NetworkOptions;
use crate::cli::CommandFailure;
use crate::mount::table::MountList;

/// Paths that must not be served if they lie in the share. They are absolute,
/// without symbolic links.
#[derive(Debug, Default)]
pub(crate) struct Private {
    /// The mountpoint of the network, which would otherwise serve itself.
    pub(crate) mountpoint: Option<PathBuf>,
    /// The directory of this node's key.
    pub(crate) state_dir: Option<PathBuf>,
    /// The file that the password came from.
    pub(crate) password_file: Option<PathBuf>,
    /// The directories that hold content read from other members.
    pub(crate) cache_dirs: Vec<PathBuf>,
    /// The log, to which this process writes all the time.
    pub(crate) log_file: Option<PathBuf>,
}

/// Returns `path`, absolute and without symbolic links as far as its components exist.
pub(crate) fn resolved(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    for there in path.ancestors() {
        if let (Ok(real), Ok(missing)) = (there.canonicalize(), path.strip_prefix(there)) {
            // Joining an empty path would add a slash.
            return real.components().chain(missing.components()).collect();
        }
    }
    path
}

/// Decides what to share. `current` is served unless the options say otherwise; it is `None` if
/// this command serves nothing by default.
pub(crate) fn choose(
    options: &NetworkOptions,
    current: Option<&Path>,
    private: &Private,
) -> Result<Option<ShareConfig>, CommandFailure> {
    let (named, directory) = match (&options.share, current) {
        (Some(named), _) => (named.as_path(), directory(named)?),
        (None, Some(current)) if !options.no_share => (current, by_default(current)?),
        _ => return Ok(None),
    };
    let failed =
        |why: &str| CommandFailure::failed(format!("share {}: {why}", directory.display()));
    let is_in = |dir: &PathBuf| directory.starts_with(dir);
    let problem = if private.mountpoint.as_ref() == Some(&directory) {
        Some("is the mountpoint; serve another directory, or mount elsewhere")
    } else if private.mountpoint.as_ref().is_some_and(is_in) {
        Some("lies inside the mountpoint, which would cover it; mount elsewhere")
    } else if private.state_dir.as_ref().is_some_and(is_in) {
        Some("holds the key of this node; serve another directory")
    } else if private.cache_dirs.iter().any(is_in) {
        Some("lies in the cache of other members' files; serve another directory")
    } else {
        None
    };
    if let Some(why) = problem {
        return Err(failed(why));
    }
    let table = MountList::read()
        .map_err(|e| CommandFailure::failed(format!("cannot read the mount table: {e}")))?;
    let mounts = table
        .ours_below(&directory)
        .map(|entry| entry.mountpoint.as_path());
    let own = [
        &private.mountpoint,
        &private.state_dir,
        &private.password_file,
        &private.log_file,
    ];
    let mut excluded: Vec<PathBuf> = own
        .into_iter()
        .flatten()
        .chain(&private.cache_dirs)
        .map(PathBuf::as_path)
        .chain(mounts)
        .map(Path::to_owned)
        .collect();
    excluded.sort();
    excluded.dedup();
    // Not resolved: the share is whatever the path leads to at the time of a request.
    let named = std::path::absolute(named).map_err(|e| failed(&e.to_string()))?;
    Ok(Some(ShareConfig {
        hidden: options.hidden,
        excluded,
        directory: named,
    }))
}

fn directory(named: &Path) -> Result<PathBuf, CommandFailure> {
    let failed = |why: String| CommandFailure::failed(format!("share {}: {why}", named.display()));
    let directory = named.canonicalize().map_err(|e| failed(e.to_string()))?;
    if directory.is_dir() {
        Ok(directory)
    } else {
        Err(failed("is not a directory".to_owned()))
    }
}

/// Returns the current directory, unless it is unlikely that the user wants to serve it.
fn by_default(current: &Path) -> Result<PathBuf, CommandFailure> {
    let directory = directory(current)?;
    let home = std::env::home_dir().and_then(|home| home.canonicalize().ok());
    let what = if directory == Path::new("/") {
        "the whole system"
    } else if home.is_some_and(|home| home == directory) {
        "the whole home directory"
    } else {
        return Ok(directory);
    };
    Err(CommandFailure::usage(format!(
        "this would serve {what} ({}) to the network: name what to serve with --share DIR, or use --no-share",
        directory.display()
    )))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::options::args::MountArgs;

    fn options(words: &[&str]) -> NetworkOptions {
        let words = ["p", "pw", "/mnt"].iter().chain(words);
        MountArgs::try_parse_from(words).unwrap().network
    }

    fn tree() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().canonicalize().unwrap();
        std::fs::create_dir_all(path.join("a/b")).unwrap();
        (directory, path)
    }

    fn at(mountpoint: PathBuf) -> Private {
        Private {
            mountpoint: Some(mountpoint),
            ..Private::default()
        }
    }

    #[test]
    fn private_paths_in_the_share_are_excluded() {
        let (_guard, root) = tree();
        let private = Private {
            mountpoint: Some(root.join("a/b")),
            state_dir: Some(root.join(".state")),
            password_file: Some(root.join("pw")),
            cache_dirs: vec![root.join("cache"), root.join("a/cache")],
            log_file: Some(root.join("log")),
        };
        let share = choose(&options(&[]), Some(&root), &private)
            .unwrap()
            .unwrap();
        assert_eq!(share.directory, root);
        let excluded = [".state", "a/b", "a/cache", "cache", "log", "pw"];
        assert_eq!(share.excluded, excluded.map(|below| root.join(below)));
    }

    #[test]
    fn share_keeps_the_path_as_typed() {
        let (_guard, root) = tree();
        let link = root.join("link");
        std::os::unix::fs::symlink("a", &link).unwrap();
        let options = options(&["--share", link.to_str().unwrap()]);
        let share = choose(&options, None, &at(root.join("b"))).unwrap();
        assert_eq!(share.unwrap().directory, link);
        // The target is checked nevertheless.
        assert!(choose(&options, None, &at(root.join("a"))).is_err());
    }

    #[test]
    fn existing_part_of_a_path_is_resolved() {
        let (_guard, root) = tree();
        std::os::unix::fs::symlink(root.join("a"), root.join("link")).unwrap();
        assert_eq!(resolved(&root.join("link")), root.join("a"));
        assert_eq!(resolved(&root.join("link/x/y")), root.join("a/x/y"));
    }

    #[test]
    fn the_cache_cannot_be_the_share() {
        let (_guard, root) = tree();
        let private = Private {
            cache_dirs: vec![root.join("a")],
            ..Private::default()
        };
        for inside in ["a", "a/b"] {
            assert!(choose(&options(&[]), Some(&root.join(inside)), &private).is_err());
        }
    }

    #[test]
    fn share_covered_by_the_mount_is_refused() {
        let (_guard, root) = tree();
        for mountpoint in [root.join("a/b"), root.join("a")] {
            let refused = choose(&options(&[]), Some(&root.join("a/b")), &at(mountpoint));
            assert_eq!(refused.unwrap_err().code, 1);
        }
        assert!(choose(&options(&[]), Some(&root.join("a")), &at(root.join("ab"))).is_ok());
    }

    #[test]
    fn whole_system_is_served_only_when_named() {
        let private = Private::default();
        let root = Path::new("/");
        assert_eq!(
            choose(&options(&[]), Some(root), &private)
                .unwrap_err()
                .code,
            2
        );
        let named = choose(&options(&["--share", "/"]), Some(root), &private).unwrap();
        assert_eq!(named.unwrap().directory, root);
        assert!(
            choose(&options(&["--no-share"]), Some(root), &private)
                .unwrap()
                .is_none()
        );
    }

    #[test]
    fn a_share_that_is_no_directory_is_refused() {
        let (_guard, root) = tree();
        let file = root.join("file");
        std::fs::write(&file, b"").unwrap();
        for bad in [file, root.join("none")] {
            let options = options(&["--share", bad.to_str().unwrap()]);
            let refused = choose(&options, None, &Private::default()).unwrap_err();
            assert_eq!(refused.code, 1);
            assert!(
                refused.message.starts_with("share /"),
                "{}",
                refused.message
            );
        }
    }

    #[test]
    fn serveless_commands_serve_a_named_share() {
        let (_guard, root) = tree();
        let private = Private::default();
        assert!(choose(&options(&[]), None, &private).unwrap().is_none());
        let named = options(&["--share", root.to_str().unwrap(), "--hidden"]);
        assert!(choose(&named, None, &private).unwrap().unwrap().hidden);
    }

    #[test]
    fn the_key_of_the_node_cannot_be_the_share() {
        let (_guard, root) = tree();
        let private = Private {
            state_dir: Some(root.clone()),
            ..Private::default()
        };
        assert!(choose(&options(&[]), Some(&root.join("a")), &private).is_err());
    }
}
