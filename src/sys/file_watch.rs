//! Tells when a file that somebody cares for has changed on disk.
//!
//! Owns one inotify instance on the directories that hold the files: content is
//! mostly replaced by rename, which a watch on the file itself would lose. An
//! event says only that it is time to look. Where the kernel gives no instance,
//! nothing is ever told, and whoever looks by the clock finds it later.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::fd::{AsFd as _, AsRawFd, RawFd};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::root::Root;

/// Everything that can make an entry another one, and the end of the directory itself.
const CHANGES: AddWatchFlags = AddWatchFlags::IN_CLOSE_WRITE
    .union(AddWatchFlags::IN_CREATE)
    .union(AddWatchFlags::IN_DELETE)
    .union(AddWatchFlags::IN_MOVE)
    .union(AddWatchFlags::IN_ATTRIB)
    .union(AddWatchFlags::IN_DELETE_SELF)
    .union(AddWatchFlags::IN_MOVE_SELF)
    .union(AddWatchFlags::IN_ONLYDIR);
/// What says something about the directory itself.
const ITSELF: AddWatchFlags = AddWatchFlags::IN_DELETE_SELF
    .union(AddWatchFlags::IN_MOVE_SELF)
    .union(AddWatchFlags::IN_UNMOUNT)
    .union(AddWatchFlags::IN_IGNORED);

/// Names of interest in one directory.
#[derive(Debug, Default)]
struct Names {
    all: bool,
    some: BTreeSet<String>,
}

/// A running watch.
#[derive(Debug)]
pub struct FileWatch {
    root: Root,
    instance: Option<AsyncFd<Instance>>,
    wanted: BTreeMap<String, Names>,
    watched: HashMap<WatchDescriptor, String>,
}

#[derive(Debug)]
struct Instance(Inotify);

impl AsRawFd for Instance {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

#[expect(unsafe_code, reason = "tokio asks for the promise that the descriptor stays the same and open")]
fn register(inotify: Inotify) -> Option<AsyncFd<Instance>> {
    // SAFETY: an `Inotify` owns its descriptor, gives always the same one and closes it only when dropped.
    unsafe { AsyncFd::register_with_interest(Instance(inotify), Interest::READABLE).ok() }
}

impl FileWatch {
    /// Watches nothing yet.
    #[must_use]
    pub fn new(root: &Root) -> Self {
        let instance = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).ok();
        Self {
            root: root.clone(),
            instance: instance.and_then(register),
            wanted: BTreeMap::new(),
            watched: HashMap::new(),
        }
    }

    /// Watches exactly these paths from now on; one that ends with `/` stands
    /// for every entry of that directory. A directory that is not there is
    /// tried again at the next call.
    pub fn follow<'a>(&mut self, paths: impl IntoIterator<Item = &'a str>) {
        self.wanted.clear();
        for (directory, name) in paths.into_iter().filter_map(|path| path.rsplit_once('/')) {
            let names = self.wanted.entry(directory.to_owned()).or_default();
            match name {
                "" => names.all = true,
                name => drop(names.some.insert(name.to_owned())),
            }
        }
        self.watch_directories();
    }

    fn watch_directories(&mut self) {
        let Some(instance) = &self.instance else { return };
        let inotify = &instance.get_ref().0;
        let mut fresh = HashMap::new();
        for directory in self.wanted.keys() {
            // A directory that is watched already keeps its descriptor.
            if let Ok(watch) = inotify.add_watch(&self.root.path(directory), CHANGES) {
                fresh.insert(watch, directory.clone());
            }
        }
        for watch in self.watched.keys().filter(|watch| !fresh.contains_key(watch)) {
            // One that the kernel ended already is no longer known to it.
            let _ = inotify.rm_watch(*watch);
        }
        self.watched = fresh;
    }

    /// One of the paths is another one than before, or was for a moment. May be
    /// dropped at any time.
    pub async fn changed(&mut self) {
        loop {
            let Some(instance) = &self.instance else { return std::future::pending().await };
            let Ok(mut ready) = instance.readable().await else { return std::future::pending().await };
            match ready.get_inner().0.read_events() {
                Ok(events) if events.iter().any(|event| self.concerns(event)) => return,
                Ok(_) | Err(Errno::EINTR) => {}
                Err(_) => ready.clear_ready(),
            }
        }
    }

    fn concerns(&self, event: &InotifyEvent) -> bool {
        if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
            return true;
        }
        let Some(directory) = self.watched.get(&event.wd) else { return false };
        if event.mask.intersects(ITSELF) {
            return true;
        }
        let name = event.name.as_ref().and_then(|name| name.to_str());
        let wanted = self.wanted.get(directory);
        wanted.zip(name).is_some_and(|(names, name)| names.all || names.some.contains(name))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test may stop at the first surprise")]
mod tests {
    use std::fs;
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    fn lab() -> (tempfile::TempDir, FileWatch) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("etc/k.d")).unwrap();
        fs::write(dir.path().join("etc/hostname"), "a\n").unwrap();
        let mut watch = FileWatch::new(&Root::new(dir.path()));
        watch.follow(["/etc/hostname", "/etc/k.d/", "/etc/late/file", "/etc/late"]);
        (dir, watch)
    }

    async fn told(watch: &mut FileWatch) -> bool {
        timeout(Duration::from_millis(300), watch.changed()).await.is_ok()
    }

    #[tokio::test]
    async fn every_way_to_change_a_file_is_told() {
        let (dir, mut watch) = lab();
        let (file, other) = (dir.path().join("etc/hostname"), dir.path().join("etc/.hostname.new"));
        fs::write(&file, "b\n").unwrap();
        assert!(told(&mut watch).await, "written in place");
        while told(&mut watch).await {}
        fs::write(&other, "c\n").unwrap();
        assert!(!told(&mut watch).await, "a temporary name is nobody's");
        fs::rename(&other, &file).unwrap();
        assert!(told(&mut watch).await, "replaced");
        fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        assert!(told(&mut watch).await, "its mode");
        fs::remove_file(&file).unwrap();
        assert!(told(&mut watch).await, "removed");
        while told(&mut watch).await {}
        fs::write(dir.path().join("etc/k.d/any"), "x").unwrap();
        assert!(told(&mut watch).await, "any name where all are wanted");
    }

    #[tokio::test]
    async fn reading_and_names_of_others_wake_nobody() {
        let (dir, mut watch) = lab();
        fs::read(dir.path().join("etc/hostname")).unwrap();
        fs::File::open(dir.path().join("etc/hostname")).unwrap().sync_all().unwrap();
        fs::write(dir.path().join("etc/passwd"), "x").unwrap();
        fs::create_dir(dir.path().join("etc/other")).unwrap();
        assert!(!told(&mut watch).await);
    }

    #[tokio::test]
    async fn a_directory_that_comes_late_or_again_is_taken_in() {
        let (dir, mut watch) = lab();
        let paths = ["/etc/late", "/etc/late/file"];
        let late = dir.path().join("etc/late");
        for _ in 0..2 {
            fs::create_dir(&late).unwrap();
            assert!(told(&mut watch).await, "the directory itself has come");
            watch.follow(paths);
            while told(&mut watch).await {}
            fs::write(late.join("file"), "x").unwrap();
            assert!(told(&mut watch).await);
            fs::remove_dir_all(&late).unwrap();
            assert!(told(&mut watch).await, "and it has gone");
            while told(&mut watch).await {}
        }
    }

    #[tokio::test]
    async fn what_is_no_longer_followed_wakes_nobody() {
        let (dir, mut watch) = lab();
        watch.follow(["/etc/k.d/"]);
        while told(&mut watch).await {}
        fs::write(dir.path().join("etc/hostname"), "b\n").unwrap();
        assert!(!told(&mut watch).await);
    }

    #[tokio::test]
    async fn a_burst_larger_than_one_read_loses_nothing() {
        let (dir, mut watch) = lab();
        for number in 0..500 {
            fs::write(dir.path().join(format!("etc/noise-{number}")), "x").unwrap();
        }
        fs::write(dir.path().join("etc/hostname"), "b\n").unwrap();
        assert!(told(&mut watch).await);
    }
}
