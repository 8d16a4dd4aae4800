//! `tinyp2p-mount`: join, serve, mount; then wait for the end.

use std::ffi::OsString;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use tinyp2p_net::Config;

use crate::cli::first_contact::{self, Joined};
use crate::cli::mountpoint::{ClaimedMountpoint, Mountpoint};
use crate::cli::options::args::MountArgs;
use crate::cli::options::cache;
use crate::cli::options::password::PasswordSource;
use crate::cli::output::say;
use crate::cli::signals;
use crate::cli::signals::StopReason;
use crate::cli::start::{self, Role};
use crate::cli::{CommandFailure, daemon, logging};
use crate::fuse;
use crate::kernel_cache::{Busy, Expirer};
use crate::mount::{self, Mount, Unmounted};
use crate::search::Searches;
use crate::vfs::Filesystem;

const PROGRAM: &str = "tinyp2p-mount";

/// Time for open files to be closed after a busy mount was detached.
const LAST_FILES: Duration = Duration::from_secs(1);

/// Checks everything that can be checked, gets the password, and continues in the background.
pub(crate) fn run(
    args: &[OsString],
    parsed: MountArgs,
    mut options: mount::Options,
    source: PasswordSource,
) -> Result<(), CommandFailure> {
    let mountpoint = Mountpoint::check(&parsed.mountpoint)?;
    let path = Some(mountpoint.path());
    let cache_dir = parsed.cache.cache_dir.as_deref();
    let config = start::prepare(
        &parsed.network,
        parsed.peers,
        Role::Member,
        &source,
        path,
        cache_dir,
    )?;
    let cache = cache::choose(&parsed.cache, |warning| {
        // The front has already printed the warning.
        if !parsed.background {
            say(PROGRAM, warning);
        }
    })?;
    let memory = parsed.cache.memory.as_u64();
    logging::filter(&parsed.network)?;
    let from_file = source.is_lasting();
    if from_file && let Some(typed) = parsed.password.as_os_str().to_str() {
        // `mount -a` compares this with fstab to detect that a line is already mounted.
        options.source = mount::source_name(typed);
    }
    let text = source.read()?;
    let password = start::password(&text)?;
    if !parsed.background {
        start::warn(&parsed.network, &password, PROGRAM);
    }
    if !parsed.foreground && !parsed.background {
        let password = (!from_file).then_some(text.as_str());
        return daemon::hand_over(args, parsed.password.as_os_str(), password);
    }
    if parsed.background {
        daemon::take_name();
    }
    drop(text);
    let log = logging::start(&parsed.network)?;
    let joined = Joined::start(Config {
        cache,
        memory,
        ..config(password)
    })?;
    joined.leave_directory();
    let outcome = until_unmounted(&joined, mountpoint, &options, || {
        if parsed.background {
            daemon::report_mounted(log.as_ref())
        } else {
            Ok(())
        }
    });
    joined.node.stop();
    outcome
}

/// Runs from the first contact to the end of the mount. `report` is called when
/// the mount is usable.
fn until_unmounted(
    joined: &Joined,
    mountpoint: Mountpoint,
    options: &mount::Options,
    report: impl FnOnce() -> std::io::Result<()>,
) -> Result<(), CommandFailure> {
    joined.meet()?;
    joined.meet_acquaintances();
    first_contact::print_notices(PROGRAM, &joined.notices());
    let (sender, events) = mpsc::channel();
    signals::on_signals(sender.clone())?;
    let mounted = Mounted::new(joined, mountpoint, options, sender)?;
    let place = joined.place(Some(mounted.mount.path()));
    let _shown = joined.show(place, Some(Arc::clone(&mounted.searches)));
    let place = mounted.mount.path().display();
    say(
        PROGRAM,
        &format!("mounted on {place}, {}", joined.description()),
    );
    for line in joined.invitation().into_iter().chain(joined.ticket()) {
        say(PROGRAM, &line);
    }
    if let Err(error) = report() {
        // The process that waited for this mount is gone.
        return Err(CommandFailure::failed(format!("interrupted: {error}")));
    }
    // The senders live as long as the process.
    let event = events.recv().unwrap_or(StopReason::Signal);
    tracing::info!(?event, "stopping");
    if event == StopReason::Signal && mounted.unmount()? == Unmounted::Detached {
        let _ = events.recv_timeout(LAST_FILES);
    }
    Ok(())
}

/// A mount that is being served. Dropping it unmounts, and removes the mountpoint if we made it.
struct Mounted {
    mount: Mount,
    searches: Arc<Searches>,
    _claim: ClaimedMountpoint,
}

impl Mounted {
    /// Mounts and serves. The mount is usable from here on: requests wait in the kernel until the
    /// session takes them. The process does not test its own mount: if it is killed while waiting
    /// for itself in the kernel, it can never exit.
    fn new(
        joined: &Joined,
        mountpoint: Mountpoint,
        options: &mount::Options,
        ended: mpsc::Sender<StopReason>,
    ) -> Result<Self, CommandFailure> {
        let claim = mountpoint.claim()?;
        let path = claim.path().to_owned();
        let failed = |why: String| {
            CommandFailure::failed(format!("cannot mount on {}: {why}", path.display()))
        };
        let (mount, descriptor) = Mount::new(&path, options).map_err(|e| failed(e.to_string()))?;
        let node = Arc::clone(&joined.node);
        let (engine, id) = (Arc::clone(node.engine()), node.id());
        let filesystem = Filesystem::new(node, engine, Some(id)).at(joined.place(Some(&path)));
        let filesystem = Arc::new(filesystem);
        let listener = Arc::downgrade(&filesystem);
        joined.node.listen(listener);
        let busy = Arc::new(Busy::default());
        let device = descriptor.try_clone();
        let expirer = device.and_then(|device| Expirer::start(device, Arc::clone(&busy)));
        if let Err(error) = &expirer {
            tracing::info!(%error, "the kernel does not hear of changes");
        }
        let mounted = Self {
            mount,
            searches: Arc::clone(filesystem.searches()),
            _claim: claim,
        };
        let adapter = fuse::adapter(filesystem, expirer.ok(), busy, options.exec);
        let session = mount::session(adapter, descriptor, options, fuse::session_config())
            .map_err(|e| failed(e.to_string()))?;
        thread::Builder::new()
            .name("fuse".to_owned())
            .spawn(move || {
                if let Err(error) = session.run() {
                    tracing::error!(%error, "the session with the kernel ended");
                }
                // The receiver is gone when the process is stopping.
                let _ = ended.send(StopReason::Unmounted);
            })
            .map_err(|e| failed(e.to_string()))?;
        Ok(mounted)
    }

    fn unmount(&self) -> Result<Unmounted, CommandFailure> {
        self.mount.unmount().map_err(|e| {
            CommandFailure::failed(format!(
                "cannot unmount {}: {e}",
                self.mount.path().display()
            ))
        })
    }
}
