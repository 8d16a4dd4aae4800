//! What an errno of the file system says about the share.

use rustix::io::Errno;

/// Returns true if an error says that nothing is served at a path, rather than that this machine
/// could not find out.
pub(crate) fn is_absence(error: Errno) -> bool {
    matches!(
        error,
        Errno::NOENT
            | Errno::NOTDIR
            | Errno::LOOP
            | Errno::XDEV
            | Errno::ACCESS
            | Errno::PERM
            | Errno::NAMETOOLONG
            | Errno::NXIO
    )
}

/// Returns true if this process or machine has run out of a resource, so that any other path would
/// have failed as well.
pub(crate) fn is_exhaustion(error: Errno) -> bool {
    matches!(error, Errno::MFILE | Errno::NFILE | Errno::NOMEM)
}
