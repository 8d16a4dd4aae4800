//! Shares, finds and fetches files. Everything is in [`tinyp2p_fs::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    tinyp2p_fs::cli::tinyp2p(std::env::args_os().collect())
}
