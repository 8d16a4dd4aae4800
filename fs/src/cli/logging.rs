//! What is logged and where. A command's notices and errors go to standard error regardless of
//! these settings; the log is for finding out why.

use std::fs::File;
use std::io::{self, Write};
use std::sync::Mutex;

use tinyp2p_net::model::text::harmless;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;

use super::CommandFailure;
use super::options::args::NetworkOptions;
use super::output::write_or_lose;

/// Starts logging. Returns the log file, if there is one.
pub(super) fn start(options: &NetworkOptions) -> Result<Option<File>, CommandFailure> {
    let builder = tracing_subscriber::fmt()
        .with_ansi(false)
        // Otherwise the subscriber would print them, and panic where it cannot.
        .log_internal_errors(false)
        .with_env_filter(filter(options)?);
    let Some(path) = &options.log_file else {
        let writer = || Harmless(io::stderr());
        builder.with_writer(writer).finish().init();
        return Ok(None);
    };
    let failed = |e| CommandFailure::failed(format!("log file {}: {e}", path.display()));
    let file = File::options()
        .create(true)
        .append(true)
        .open(path)
        .map_err(failed)?;
    let writer = Mutex::new(Harmless(file.try_clone().map_err(failed)?));
    builder.with_writer(writer).finish().init();
    Ok(Some(file))
}

/// Writes each event as one line that cannot drive a terminal, whatever text it contains.
struct Harmless<W>(W);

impl<W: Write> Write for Harmless<W> {
    /// Takes one whole event per call, as the logging code writes it.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let line = text.strip_suffix('\n').unwrap_or(&text);
        // A full disk loses events, and nothing else.
        write_or_lose(&mut self.0, format!("{}\n", harmless(line)).as_bytes());
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// What others' code is not asked to log: fuser reports every reply that came too late for the
/// kernel as an error, and iroh and its parts every connection that ends.
const QUIET: &str =
    "fuser=off,iroh=off,noq=off,noq_proto=off,noq_udp=off,netwatch=off,n0_dns_resolver=off";

/// Checks `--log`, so that a mistake is reported before a background process exists.
pub(super) fn filter(options: &NetworkOptions) -> Result<EnvFilter, CommandFailure> {
    let directives = match (&options.log, options.verbose) {
        (Some(filter), _) => filter.as_str(),
        // Problems with peers at the start are printed as notices, so they are not repeated
        // on the same screen.
        (None, 0) if options.log_file.is_none() => "warn,tinyp2p_net::membership=error",
        (None, 0) => "warn",
        (None, 1) => "info",
        (None, 2) => "info,tinyp2p_fs=debug,tinyp2p_net=debug",
        (None, _) => "debug,tinyp2p_fs=trace,tinyp2p_net=trace",
    };
    let quiet = options.log.is_none() && options.verbose < 3;
    let directives = if quiet {
        format!("{directives},{QUIET}")
    } else {
        directives.to_owned()
    };
    EnvFilter::builder()
        .parse(&directives)
        .map_err(|e| CommandFailure::usage(format!("--log '{directives}': {e}")))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tinyp2p_net::model::text::HOSTILE;

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("a lock").write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn logged_event_is_one_harmless_line() {
        let written = Written::default();
        let writer = written.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || Harmless(writer.clone()))
            .finish();
        let text: String = HOSTILE.into_iter().collect();
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(error = %text, "it says {text}");
            tracing::warn!("second");
        });
        let written = written.0.lock().expect("a lock");
        let written = std::str::from_utf8(&written).expect("text");
        assert_eq!(written.lines().count(), 2, "{written}");
        let acting = HOSTILE.into_iter().filter(|c| *c != '\n');
        assert!(
            acting.into_iter().all(|c| !written.contains(c)),
            "{written:?}"
        );
    }
}
