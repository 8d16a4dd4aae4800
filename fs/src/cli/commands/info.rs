//! `tinyp2p info`: prints what a mount knows of a file. The mount itself provides it in an extended
//! attribute, so the command works wherever the file can be reached: through a symbolic link, a
//! bind mount, or in a container.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::io::Errno;
use serde::Serialize;
use serde_json::Value;

use crate::cli::CommandFailure;
use crate::cli::options::args::InfoArgs;
use crate::cli::output::{print, say};
use crate::report::info::Info;
use crate::vfs::XATTR_INFO;

/// Limit on the value of an extended attribute.
const MAX_XATTR: usize = 64 << 10;

/// Prints the report on each path; exit code 1 when nothing is known of one of them.
pub(crate) fn run(args: &InfoArgs) -> Result<(), CommandFailure> {
    let mut failed = false;
    for path in &args.paths {
        match describe(path, args.json) {
            Ok(text) => print(text.as_bytes())?,
            Err(why) => {
                say("tinyp2p", &format!("{}: {why}", path.display()));
                failed = true;
            }
        }
    }
    if failed {
        Err(CommandFailure::told(1))
    } else {
        Ok(())
    }
}

fn describe(path: &Path, json: bool) -> Result<String, String> {
    let value = read(path)?;
    if json {
        // A newer mount may report fields that this program does not know.
        let info: Value = serde_json::from_slice(&value).map_err(|_| not_ours())?;
        let given = path.to_string_lossy();
        let line = serde_json::to_string(&Given { path: &given, info });
        return line.map(|line| line + "\n").map_err(|e| e.to_string());
    }
    let info: Info = serde_json::from_slice(&value).map_err(|_| not_ours())?;
    Ok(info.text(path.as_os_str().as_bytes()))
}

/// The report from the mount, together with the path it is about.
#[derive(Serialize)]
struct Given<'a> {
    path: &'a str,
    #[serde(flatten)]
    info: Value,
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let mut value = vec![0; MAX_XATTR];
    match rustix::fs::getxattr(path, XATTR_INFO, &mut value) {
        Ok(length) => {
            value.truncate(length);
            Ok(value)
        }
        Err(Errno::NODATA | Errno::NOTSUP) => Err(not_ours()),
        Err(error) => Err(std::io::Error::from(error).to_string()),
    }
}

fn not_ours() -> String {
    "is not a file that a mount of tinyp2p-mount shows".to_owned()
}
