//! Serving a mount, from mounting to the end of the process.

use std::cell::Cell;
use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use fuser::{Session, SessionACL};

use super::attach::{self, Mounted};
use super::error::{Error, Kind, Result, Unmount};
use super::options::Access;
use super::request::Request;
use super::{beside, preflight, presence, service, signals, table, threads, watches};
use crate::fs::{Fs, Options};
use crate::fuse::Adapter;
use crate::proc::holders::{holders, in_words};
use crate::repo::Repository;
use crate::sys;

/// How long the end of a mount waits for what may never come: for writers to close their
/// files, and for the kernel to end the connection.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often it looks.
const TICK: Duration = Duration::from_millis(20);

/// What the other threads report.
enum Event {
    /// Whether the mount answers.
    Answered(io::Result<()>),
    /// A signal asks this process to end.
    Signal(&'static str),
    /// The connection to the kernel has ended.
    Ended(io::Result<()>),
    /// No save is in progress and no writer is open, or the time has run out.
    Drained,
}

/// Mounts, serves until an unmount or a signal, and finishes the saves in progress.
/// `ready` is called when the mount answers; if it fails, the mount ends. Warnings go to
/// `warn`.
///
/// To be called before any other thread is started.
///
/// # Errors
/// See [`Kind`].
pub fn serve(
    request: &Request,
    warn: &dyn Fn(&str),
    ready: impl FnOnce() -> io::Result<()>,
) -> Result<()> {
    sys::block_stop_signals().map_err(|e| Error::failed(format!("cannot block signals: {e}")))?;
    let (repository, mountpoint) = (&request.repository, &request.mountpoint);
    let mut place = preflight::prepare(repository, mountpoint, request.nonempty, warn)?;
    let options = Options {
        passthrough: request.passthrough,
        lock_wait: request.lock_wait,
        allow_other: request.options.access != Access::Owner,
        entry_timeout: request.entry_timeout,
        attr_timeout: request.attr_timeout,
        missing: request.missing,
    };
    raise_limit_of_open_files();
    sys::obey_limits_of_space()
        .map_err(|e| Error::failed(format!("cannot give up a capability: {e}")))?;
    sys::give_large_blocks_back();
    check_memory(request.threads)?;
    // The callers' umasks apply to what they make, and not ours.
    let umask = rustix::process::umask(rustix::fs::Mode::empty()).as_raw_mode();
    let repository = Repository::new(&place.repository).with_mode(0o755 & !umask);
    let fs = Arc::new(Fs::new(repository, options));
    let connection = attach::mount(&place.repository, &place.mountpoint, &request.options)?;
    let at = place.mountpoint.clone();
    let name = at.display();
    let mounted = match Mounted::new(&place.mountpoint, &request.options, &connection) {
        Ok(mounted) => mounted,
        Err(e) => {
            if let Err(why) = attach::unmount(&place.mountpoint, true) {
                log::error!("{name}: cannot be unmounted: {why}");
            }
            return Err(Error::failed(format!(
                "cannot mount on {name}: the mount is not found in /proc: {e}"
            )));
        }
    };
    fs.mounted(mounted.device());
    let shown = presence::show(mounted.device());
    warn_of_others(&place.repository, mounted.device(), warn);
    let is_stacked = mounted.is_stacked();
    place.end_turn();
    let started = if is_stacked {
        Err(Error::refused(format!(
            "cannot mount on {name}: another sessionfs has mounted there at the same time"
        )))
    } else {
        start(request, fs.clone(), connection, &mounted)
            .map_err(|e| Error::failed(format!("cannot serve the mount on {name}: {e}")))
    };
    let (sender, events) = match started {
        Ok(channel) => channel,
        Err(e) => {
            if let Err(why) = mounted.unmount(true) {
                log::error!("{name}: cannot be unmounted: {why}");
            }
            return Err(e);
        }
    };
    let server = Server {
        mounted,
        shown,
        fs,
        sender,
        events,
        ended: Cell::new(false),
        drained: Cell::new(false),
        is_asked: Cell::new(false),
    };
    server.run(|| {
        log::info!(
            "{} is mounted on {}",
            place.repository.display(),
            place.mountpoint.display()
        );
        place.keep();
        if !place.repository.exists() {
            let path = place.repository.display();
            let then = match request.options.read_only {
                true => "a read-only mount does not make it",
                false => "it is made with the first session",
            };
            warn(&format!("the repository {path} does not exist yet; {then}"));
        }
        ready()?;
        service::ready(&format!("Serving {}", place.repository.display()));
        service::watch(&place.mountpoint)
    })
}

/// Warns if the repository is mounted elsewhere as well: the rules of one mount do not
/// hold between two (DESIGN 2.8).
fn warn_of_others(repository: &Path, own: (u32, u32), warn: &dyn Fn(&str)) {
    let mounts = match table::read() {
        Ok(mounts) => mounts,
        Err(e) => return log::warn!("cannot read the table of mounts: {e}"),
    };
    for other in beside::mounts_of(repository, Some(own), &mounts) {
        warn(&format!(
            "{} is also mounted on {}: writers of one do not wait for those of the other; of two \
             saves the later one stands, or gets ESTALE",
            repository.display(),
            other.display()
        ));
    }
}

/// Raises the limit of open files to the maximum: every file that is open on the mount
/// is open in this process as well.
fn raise_limit_of_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    let limit = Rlimit {
        current: maximum,
        maximum,
    };
    if let Err(errno) = setrlimit(Resource::Nofile, limit) {
        log::debug!("the limit of open files stays as it is: {errno}");
    }
}

/// Refuses to mount if there is so little memory that this process would die soon and
/// leave a dead mount.
fn check_memory(threads: usize) -> Result<()> {
    const STACK: usize = 2 << 20;
    // fuser 0.18 has a buffer of 16 MiB in each thread, whatever was negotiated with
    // the kernel (session.rs, `MAX_WRITE_SIZE`).
    const THREAD: usize = STACK + (17 << 20);
    /// Threads that do not answer the kernel.
    const OTHERS: usize = 8;
    let needed = threads * THREAD + OTHERS * STACK + 2 * sys::memory::CUSHION;
    sys::memory::require(needed).map_err(|_| {
        Error::failed(format!(
            "too little memory for {threads} threads: they need {} MiB more than the \
             limit allows (ulimit -v); --threads 1 needs least",
            needed >> 20
        ))
    })
}

/// Answers the kernel's first request and starts all threads.
fn start(
    request: &Request,
    fs: Arc<Fs>,
    connection: std::os::fd::OwnedFd,
    mounted: &Mounted,
) -> io::Result<(Sender<Event>, Receiver<Event>)> {
    let mut config = fuser::Config::default();
    config.n_threads = Some(request.threads);
    // The kernel checks who may use the mount, but has no "root as well".
    let acl = match request.options.access {
        Access::OwnerAndRoot => SessionACL::RootAndOwner,
        Access::Owner | Access::Everybody => SessionACL::All,
    };
    config.acl = acl;
    let adapter = Adapter::new(fs.clone(), request.threads);
    let waiters = adapter.waiters();
    let session = Session::from_fd(adapter, connection, acl, config)?;
    threads::start(&fs, waiters)?;
    fs.notify_by(session.notifier());
    let (sender, events) = mpsc::channel();
    // Sending fails only when the process is ending.
    let tell = sender.clone();
    thread::Builder::new()
        .name("session".into())
        .spawn(move || drop(tell.send(Event::Ended(session.run()))))?;
    let tell = sender.clone();
    signals::listen(move |name| drop(tell.send(Event::Signal(name))))?;
    watches::start(fs, mounted.mountpoint().to_owned())?;
    let tell = sender.clone();
    // The thread must own no descriptor.
    let (mountpoint, device) = (mounted.mountpoint().to_owned(), mounted.device());
    thread::Builder::new().name("ready".into()).spawn(move || {
        let answered =
            attach::leave_descriptors().and_then(|()| attach::answer(&mountpoint, device));
        drop(tell.send(Event::Answered(answered)));
    })?;
    Ok((sender, events))
}

/// A mount being served.
struct Server {
    mounted: Mounted,
    shown: Option<presence::Shown>,
    fs: Arc<Fs>,
    sender: Sender<Event>,
    events: Receiver<Event>,
    ended: Cell<bool>,
    drained: Cell<bool>,
    /// A signal has asked for the end of this process.
    is_asked: Cell<bool>,
}

/// A second signal has come: end without waiting.
struct Hurry;

impl Server {
    fn run(self, ready: impl FnOnce() -> io::Result<()>) -> Result<()> {
        let mut ready = Some(ready);
        let name = self.mounted.mountpoint().display().to_string();
        loop {
            // It cannot fail: we have a sender ourselves.
            let Ok(event) = self.events.recv() else {
                return Ok(());
            };
            match event {
                Event::Answered(Ok(())) => {
                    if let Some(Err(e)) = ready.take().map(|ready| ready()) {
                        self.stop_after_error();
                        return Err(Error::failed(format!(
                            "unmounted {name} again: cannot tell the starting process that it is ready: {e}"
                        )));
                    }
                }
                Event::Answered(Err(e)) => {
                    self.stop_after_error();
                    return Err(Error::failed(format!(
                        "cannot mount on {name}: the mount does not answer: {e}"
                    )));
                }
                Event::Signal(signal) => {
                    log::info!("{name}: unmounting because of {signal}");
                    self.is_asked.set(true);
                    return self.stop();
                }
                Event::Ended(Ok(())) => {
                    let by_whom = self.shown.as_ref().and_then(presence::Shown::unmounter);
                    let by_whom = by_whom.unwrap_or_else(|| "another program".to_owned());
                    log::info!("{name}: unmounted by {by_whom}");
                    self.ended.set(true);
                    self.mounted.remove_if_dead();
                    return self.finish();
                }
                Event::Ended(Err(e)) => {
                    self.stop_after_error();
                    return Err(Error::failed(format!(
                        "{name}: unmounted after an error of the connection to the kernel: {e}"
                    )));
                }
                Event::Drained => {}
            }
        }
    }

    /// Unmounts, and finishes the saves in progress before this process ends.
    ///
    /// # Errors
    /// [`Kind::Busy`] if something was not saved.
    fn stop(&self) -> Result<()> {
        self.end(|| self.leave())
    }

    /// The same if another error will be returned: this one goes to the log.
    fn stop_after_error(&self) {
        if let Err(e) = self.stop() {
            log::error!("{e}");
        }
    }

    /// Finishes the saves of a mount that is gone already.
    fn finish(&self) -> Result<()> {
        self.end(|| self.drain())
    }

    /// Ends in the given way, and logs how many saves were finished meanwhile.
    ///
    /// # Errors
    /// [`Kind::Busy`] if something was not saved.
    fn end(&self, how: impl FnOnce() -> ControlFlow<Hurry>) -> Result<()> {
        let name = self.mounted.mountpoint().display();
        let before = self.fs.saves().done;
        self.fs.begin_end();
        service::stopping("Finishing the saves in progress");
        if let ControlFlow::Break(Hurry) = how() {
            self.hurry();
        }
        let finished = self.fs.saves().done - before;
        log::info!("{name}: ended, with {finished} save(s) finished meanwhile");
        match self.fs.open_writers() + self.fs.saves_in_progress() {
            0 => Ok(()),
            lost => Err(Error::new(
                Kind::Busy,
                format!("{name}: {lost} file(s) were still open for writing; they are not saved"),
            )),
        }
    }

    fn leave(&self) -> ControlFlow<Hurry> {
        // They keep the mount busy, but take only a moment.
        self.wait(Some(PATIENCE), || self.fs.saves_in_progress() == 0)?;
        self.unmount()?;
        self.drain()
    }

    fn unmount(&self) -> ControlFlow<Hurry> {
        let name = self.mounted.mountpoint().display();
        match self.mounted.unmount(false) {
            Ok(()) => {
                // The connection stays if the mount is also in another mount
                // namespace.
                self.wait(Some(PATIENCE), || self.ended.get())?;
            }
            Err(why) => {
                let level = match why {
                    Unmount::Busy => log::Level::Info,
                    Unmount::Failed(_) => log::Level::Warn,
                };
                let holders = match why {
                    Unmount::Busy => holders(self.mounted.device()),
                    Unmount::Failed(_) => Vec::new(),
                };
                let by_whom = match &holders[..] {
                    [] => String::new(),
                    some => format!(" by {}", in_words(some)),
                };
                log::log!(level, "{name}: {why}{by_whom}; detaching it");
                if let Err(why) = self.mounted.unmount(true) {
                    log::error!("{name}: cannot be detached: {why}");
                }
            }
        }
        ControlFlow::Continue(())
    }

    /// Waits a bounded time for open writers, and as long as it takes for saves in
    /// progress.
    fn drain(&self) -> ControlFlow<Hurry> {
        let (fs, tell) = (self.fs.clone(), self.sender.clone());
        let drainer = thread::Builder::new().name("drain".into()).spawn(move || {
            fs.drain(PATIENCE);
            drop(tell.send(Event::Drained));
        });
        match drainer {
            Ok(_) => {
                self.wait(None, || self.drained.get())?;
            }
            Err(e) => {
                log::debug!("draining without a thread: {e}");
                self.fs.drain(PATIENCE);
            }
        }
        self.wait(None, || self.fs.saves_in_progress() == 0)?;
        ControlFlow::Continue(())
    }

    /// Ends at once.
    fn hurry(&self) {
        let name = self.mounted.mountpoint().display();
        log::warn!("{name}: ending at once because of a second signal");
        // Otherwise a dead mount would stay.
        if !self.ended.get()
            && let Err(why) = self.mounted.unmount(true)
        {
            log::error!("{name}: cannot be detached: {why}");
        }
    }

    /// Waits until `done`, or until the time has run out; returns whether it is done. A
    /// second signal breaks off the wait.
    fn wait(
        &self,
        patience: Option<Duration>,
        done: impl Fn() -> bool,
    ) -> ControlFlow<Hurry, bool> {
        let start = Instant::now();
        while !done() {
            if patience.is_some_and(|patience| start.elapsed() > patience) {
                return ControlFlow::Continue(false);
            }
            match self.events.recv_timeout(TICK) {
                // The first signal only asks for what is being done already.
                Ok(Event::Signal(_)) if !self.is_asked.replace(true) => {}
                Ok(Event::Signal(_)) => return ControlFlow::Break(Hurry),
                Ok(Event::Ended(result)) => {
                    self.ended.set(true);
                    if let Err(e) = result {
                        log::error!("the connection to the kernel: {e}");
                    }
                }
                Ok(Event::Drained) => self.drained.set(true),
                Ok(Event::Answered(_)) | Err(RecvTimeoutError::Timeout) => {}
                // It cannot happen: we have a sender ourselves.
                Err(RecvTimeoutError::Disconnected) => return ControlFlow::Continue(false),
            }
        }
        ControlFlow::Continue(true)
    }
}
