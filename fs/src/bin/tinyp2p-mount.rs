//! Mounts a network. Everything is in [`tinyp2p_fs::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    tinyp2p_fs::cli::tinyp2p_mount(std::env::args_os().collect())
}
