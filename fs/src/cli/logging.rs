//! What is logged and where. The notices and errors of a command go to standard error whatever is
//! set here; the log is for finding out why.

use std::fs::File;
use std::sync::Mutex;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;

use super::Failure;
use super::args::NetworkOptions;

/// Starts logging. Returns the log file, if there is one.
pub(super) fn start(options: &NetworkOptions) -> Result<Option<File>, Failure> {
    let builder = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_env_filter(filter(options)?);
    let Some(path) = &options.log_file else {
        builder.with_writer(std::io::stderr).finish().init();
        return Ok(None);
    };
    let failed = |e| Failure::failed(format!("log file {}: {e}", path.display()));
    let file = File::options()
        .create(true)
        .append(true)
        .open(path)
        .map_err(failed)?;
    let writer = Mutex::new(file.try_clone().map_err(failed)?);
    builder.with_writer(writer).finish().init();
    Ok(Some(file))
}

/// Checks `--log`, so that a mistake is found before there is a background process.
pub(super) fn filter(options: &NetworkOptions) -> Result<EnvFilter, Failure> {
    // fuser reports every reply that came too late for the kernel as an error.
    let directives = match (&options.log, options.verbose) {
        (Some(filter), _) => filter.as_str(),
        // What is odd about peers at start is told as a notice, so not on the same screen twice.
        (None, 0) if options.log_file.is_none() => "warn,fuser=off,tinyp2p_net::peers=error",
        (None, 0) => "warn,fuser=off",
        (None, 1) => "info,fuser=off",
        (None, 2) => "info,fuser=off,tinyp2p_fs=debug,tinyp2p_net=debug",
        (None, _) => "debug,tinyp2p_fs=trace,tinyp2p_net=trace",
    };
    EnvFilter::builder()
        .parse(directives)
        .map_err(|e| Failure::usage(format!("--log '{directives}': {e}")))
}
