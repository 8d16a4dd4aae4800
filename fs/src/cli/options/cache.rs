//! The choice of the disk cache for a mount.

use std::ffi::OsString;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use bytesize::ByteSize;
use rustix::fs::Access;
use tinyp2p_net::config::CacheConfig;

use super::args::CacheOptions;
use crate::cli::CommandFailure;

/// The default limit on the size of the cache.
const DEFAULT_SIZE: ByteSize = ByteSize::gb(10);

/// The divisor for the default share of the free space.
const FREE_SHARE: u64 = 10;

/// Returns the cache that the options describe, after creating its directory; `None` for no cache.
/// A directory that the user named must be usable. Without a usable default directory, the mount
/// runs without a cache and reports that through `warn`.
pub(crate) fn choose(
    options: &CacheOptions,
    warn: impl FnOnce(&str),
) -> Result<Option<CacheConfig>, CommandFailure> {
    if options.cache_size == Some(ByteSize::b(0)) {
        return Ok(None);
    }
    let directory = match &options.cache_dir {
        Some(named) => std::path::absolute(named).ok(),
        None => default_directory(),
    };
    let Some(directory) = directory else {
        warn(
            "warning: nothing is kept on disk: there is no home directory; name a directory with --cache-dir",
        );
        return Ok(None);
    };
    match prepare(&directory, options.cache_size) {
        Ok(size) => Ok(Some(CacheConfig {
            directory,
            size,
            reshare: !options.no_reshare,
        })),
        Err(error) => {
            let why = format!(
                "the cache directory {} cannot be used: {error}; name another one with --cache-dir",
                directory.display()
            );
            match options.cache_dir {
                Some(_) => Err(CommandFailure::failed(why)),
                None => {
                    warn(&format!("warning: nothing is kept on disk: {why}"));
                    Ok(None)
                }
            }
        }
    }
}

/// Creates the directory if necessary and returns how many bytes the cache may occupy.
fn prepare(directory: &Path, size: Option<ByteSize>) -> io::Result<u64> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)?;
    rustix::fs::access(directory, Access::WRITE_OK | Access::EXEC_OK)?;
    if let Some(size) = size {
        return Ok(size.as_u64());
    }
    let found = rustix::fs::statvfs(directory)?;
    let free = found.f_bavail.saturating_mul(found.f_frsize);
    Ok((free / FREE_SHARE).min(DEFAULT_SIZE.as_u64()))
}

/// Returns the cache directory for users who name none.
pub(crate) fn default_directory() -> Option<PathBuf> {
    let xdg = std::env::var_os("XDG_CACHE_HOME");
    base_directory(xdg, std::env::home_dir(), ".cache")
}

/// Returns the directory of this program below a base directory: that of the variable `xdg`, or
/// else `usual` in the home directory. Follows the XDG Base Directory Specification: a relative
/// path in the variable does not count.
pub(crate) fn base_directory(
    xdg: Option<OsString>,
    home: Option<PathBuf>,
    usual: &str,
) -> Option<PathBuf> {
    xdg.map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| home.map(|home| home.join(usual)))
        .map(|path| path.join("tinyp2p"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(cache_dir: Option<PathBuf>, cache_size: Option<ByteSize>) -> CacheOptions {
        CacheOptions {
            cache_dir,
            cache_size,
            no_reshare: false,
            memory: ByteSize::mib(128),
        }
    }

    fn silent(warning: &str) {
        panic!("{warning}");
    }

    #[test]
    fn a_size_of_zero_means_no_cache() {
        assert!(
            choose(&options(None, Some(ByteSize::b(0))), silent)
                .unwrap()
                .is_none()
        );
    }

    #[test]
    fn default_cache_takes_a_tenth_of_space() {
        let base = tempfile::tempdir().unwrap();
        let directory = base.path().join("deep/er");
        let cache = choose(&options(Some(directory.clone()), None), silent)
            .unwrap()
            .unwrap();
        let found = rustix::fs::statvfs(&directory).unwrap();
        assert!(cache.size <= found.f_blocks * found.f_frsize / FREE_SHARE);
        assert!(cache.size <= DEFAULT_SIZE.as_u64());
    }

    #[test]
    fn unusable_named_cache_is_an_error() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let named = options(Some(file.path().join("x")), None);
        let refusal = choose(&named, silent).unwrap_err();
        assert!(
            refusal
                .message
                .ends_with("name another one with --cache-dir")
        );
    }
}
