//! A systemd, a bus and a hostnamed that live below a temporary root.
//!
//! The wire is real: sockets, handshake, zbus on both ends. What the fake does
//! with a job is a knob per unit; every call that changes something is written
//! down.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use edge_bootstrap::sys::Root;
use tokio::net::UnixListener;
use zbus::connection::Builder;
use zbus::message::Header;
use zbus::object_server::SignalEmitter;
use zbus::{Connection, Guid, OwnedObjectPath, fdo};

/// What becomes of a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnStart {
    /// The unit is up, then the job is removed as `done`.
    Up,
    /// The same, and `JobRemoved` is on the wire before the reply.
    UpBeforeReply,
    /// The unit is up, and nobody ever says that the job ended.
    UpSilently,
    /// The job ends as `done`, and the unit has failed.
    FailedDone,
    /// The job stays; the unit is activating.
    Activating,
    /// The call is refused.
    Refused,
}

/// One unit.
#[derive(Debug, Clone)]
pub struct FakeUnit {
    pub load: String,
    pub active: String,
    pub sub: String,
    pub file_state: String,
    pub result: String,
    pub restart: String,
    pub need_reload: bool,
    pub job: u32,
    pub on_start: OnStart,
    /// Command of `ExecStart`.
    pub command: Vec<String>,
    /// Main process while it is up.
    pub pid: u32,
    /// When it entered its state, monotonic microseconds.
    pub since: u64,
    /// Automatic restarts since the last start by a job.
    pub restarts: u32,
}

impl FakeUnit {
    /// Loaded, dead, not started at boot.
    pub fn dead() -> Self {
        Self {
            load: "loaded".into(),
            active: "inactive".into(),
            sub: "dead".into(),
            file_state: "disabled".into(),
            result: "success".into(),
            restart: "always".into(),
            need_reload: false,
            job: 0,
            on_start: OnStart::Up,
            command: vec!["/usr/local/bin/k3s".into(), "server".into()],
            pid: 4711,
            since: 42_000_000,
            restarts: 0,
        }
    }

    /// A name that is free for a transient unit.
    pub fn free() -> Self {
        Self { load: "not-found".into(), file_state: String::new(), ..Self::dead() }
    }

    /// Running and started at boot.
    pub fn up() -> Self {
        Self { active: "active".into(), sub: "running".into(), file_state: "enabled".into(), ..Self::dead() }
    }

    /// The same unit with another reaction to a start.
    pub fn on_start(self, on_start: OnStart) -> Self {
        Self { on_start, ..self }
    }

    /// As systemd: each start has a process of its own, and one that is up has it already.
    fn begin(&mut self, anew: bool) {
        if anew || self.active != "active" {
            self.pid += 1;
        }
        self.set("active", "running", "success");
    }

    fn set(&mut self, active: &str, sub: &str, result: &str) {
        (self.active, self.sub, self.result) = (active.into(), sub.into(), result.into());
    }
}

/// Everything that the fake knows.
#[derive(Debug, Default)]
pub struct World {
    pub units: BTreeMap<String, FakeUnit>,
    /// Calls that change something, in order.
    pub calls: Vec<String>,
    /// Calls are taken and never answered.
    pub hangs: bool,
    /// hostnamed answers with success and does nothing.
    pub hostnamed_lies: bool,
    /// What timedated says of the clock.
    pub synchronized: bool,
    /// Names of the properties that the last transient unit was given.
    pub transient: String,
    connections: Vec<Connection>,
    next_job: u32,
    root: PathBuf,
}

/// Handle to the fake.
#[derive(Debug, Clone)]
pub struct Fake(Arc<Mutex<World>>);

impl Fake {
    pub fn new(root: &Root, units: &[(&str, FakeUnit)]) -> Self {
        let units = units.iter().map(|(name, unit)| ((*name).to_owned(), unit.clone())).collect();
        Self(Arc::new(Mutex::new(World { units, root: root.path("/"), next_job: 7, ..World::default() })))
    }

    pub fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap()
    }

    /// Changing calls since the last look.
    pub fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.world().calls)
    }

    pub fn unit(&self, name: &str, change: impl FnOnce(&mut FakeUnit)) {
        change(self.world().units.get_mut(name).unwrap());
    }

    /// Serves systemd's own socket below `root`.
    pub fn serve_private(&self, root: &Root) {
        self.serve(root, "/run/systemd/private", false);
    }

    /// Serves a bus with systemd and hostnamed on it.
    pub fn serve_bus(&self, root: &Root) {
        self.serve(root, "/run/dbus/system_bus_socket", true);
    }

    /// Cuts every connection.
    pub async fn cut(&self) {
        let connections = std::mem::take(&mut self.world().connections);
        for connection in connections {
            connection.close().await.unwrap();
        }
    }

    /// Tells every connection that a unit's state changed.
    pub async fn changed(&self, unit: &str) {
        self.tell(&unit_path(unit), "org.freedesktop.systemd1.Unit").await;
    }

    /// Tells every connection that a name changed.
    pub async fn renamed(&self) {
        self.tell("/org/freedesktop/hostname1", "org.freedesktop.hostname1").await;
    }

    async fn tell(&self, path: &str, interface: &str) {
        let connections = self.world().connections.clone();
        let body = (interface, BTreeMap::<&str, zbus::Variant<'_>>::new(), Vec::<&str>::new());
        for connection in connections {
            let properties = "org.freedesktop.DBus.Properties";
            let signal = connection.emit_signal(None::<&str>, path, properties, "PropertiesChanged", &body);
            signal.await.unwrap();
        }
    }

    fn serve(&self, root: &Root, path: &str, bus: bool) {
        let listener = listen(root, path);
        let fake = self.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let connection = fake.answer(stream.into_std().unwrap(), bus).await;
                fake.world().connections.push(connection);
            }
        });
    }

    async fn answer(&self, stream: std::os::unix::net::UnixStream, bus: bool) -> Connection {
        let mut builder = Builder::unix_stream(stream).server(Guid::generate()).p2p();
        builder = builder.serve_at("/org/freedesktop/systemd1", Manager(self.clone()));
        if bus {
            builder = builder
                .serve_at("/org/freedesktop/DBus", Bus)
                .serve_at("/org/freedesktop/hostname1", Hostnamed(self.clone()))
                .serve_at("/org/freedesktop/timedate1", Timedated(self.clone()));
        }
        let names: Vec<String> = self.world().units.keys().cloned().collect();
        for name in names {
            let path = unit_path(&name);
            builder = builder
                .serve_at(path.clone(), Unit(self.clone(), name.clone()))
                .serve_at(path, Service(self.clone(), name));
        }
        builder.build().await.unwrap()
    }

    /// Takes the call down; never comes back while the fake hangs.
    async fn called(&self, what: String) {
        self.world().calls.push(what);
        self.breathe().await;
    }

    async fn breathe(&self) {
        let hangs = self.world().hangs;
        if hangs {
            std::future::pending::<()>().await;
        }
    }

    /// A transient unit's program ended well: systemd collects the unit.
    pub fn ended(&self, name: &str) {
        self.unit(name, |unit| {
            unit.set("inactive", "dead", "success");
            (unit.load, unit.job) = ("not-found".into(), 0);
        });
    }

    fn read<T>(&self, name: &str, field: impl FnOnce(&FakeUnit) -> T) -> T {
        field(&self.world().units[name])
    }
}

/// A socket that takes connections and never answers.
pub fn serve_silence(root: &Root, path: &str) {
    let listener = listen(root, path);
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            held.push(stream);
        }
    });
}

fn listen(root: &Root, path: &str) -> UnixListener {
    let path = root.path(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    UnixListener::bind(path).unwrap()
}

fn unit_path(name: &str) -> String {
    let escape = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(byte).to_string(),
        _ => format!("_{byte:02x}"),
    };
    format!("/org/freedesktop/systemd1/unit/{}", name.bytes().map(escape).collect::<String>())
}

struct Bus;

#[zbus::interface(name = "org.freedesktop.DBus")]
impl Bus {
    fn hello(&self) -> String {
        ":1.7".into()
    }

    fn add_match(&self, _rule: &str) {}

    fn get_name_owner(&self, _name: &str) -> String {
        ":1.1".into()
    }
}

struct Manager(Fake);

#[zbus::interface(name = "org.freedesktop.systemd1.Manager")]
impl Manager {
    async fn subscribe(&self) {}

    #[zbus(property)]
    fn version(&self) -> String {
        "252.39-1~deb12u1".into()
    }

    async fn load_unit(&self, name: &str) -> fdo::Result<OwnedObjectPath> {
        self.0.breathe().await;
        if !self.0.world().units.contains_key(name) {
            return Err(fdo::Error::InvalidArgs(format!("Unit name {name} is not valid.")));
        }
        Ok(OwnedObjectPath::try_from(unit_path(name)).unwrap())
    }

    async fn get_unit_file_state(&self, file: &str) -> fdo::Result<String> {
        match self.0.read(file, |unit| unit.file_state.clone()) {
            state if state.is_empty() => Err(fdo::Error::FileNotFound("No such file or directory".into())),
            state => Ok(state),
        }
    }

    async fn start_unit(
        &self,
        name: &str,
        _mode: &str,
        #[zbus(signal_emitter)] emitter: SignalEmitter<'_>,
    ) -> fdo::Result<OwnedObjectPath> {
        self.job("StartUnit", name, &emitter).await
    }

    async fn restart_unit(
        &self,
        name: &str,
        _mode: &str,
        #[zbus(signal_emitter)] emitter: SignalEmitter<'_>,
    ) -> fdo::Result<OwnedObjectPath> {
        self.job("RestartUnit", name, &emitter).await
    }

    async fn stop_unit(
        &self,
        name: &str,
        _mode: &str,
        #[zbus(signal_emitter)] emitter: SignalEmitter<'_>,
    ) -> fdo::Result<OwnedObjectPath> {
        self.job("StopUnit", name, &emitter).await
    }

    /// As systemd: only a free name is taken, a program that succeeds leaves
    /// nothing, one that fails leaves its failure.
    async fn start_transient_unit(
        &self,
        name: &str,
        mode: &str,
        properties: Vec<(String, zbus::OwnedVariant)>,
        aux: Vec<(String, Vec<(String, zbus::OwnedVariant)>)>,
        #[zbus(signal_emitter)] emitter: SignalEmitter<'_>,
    ) -> fdo::Result<OwnedObjectPath> {
        assert!(mode == "fail" && aux.is_empty());
        if self.0.read(name, |unit| unit.load != "not-found") {
            self.0.called(format!("StartTransientUnit {name}: exists")).await;
            return Err(fdo::Error::Failed(format!(
                "Unit {name} was already loaded or has a fragment file."
            )));
        }
        let names: Vec<&str> = properties.iter().map(|(name, _)| name.as_str()).collect();
        self.0.world().transient = names.join(" ");
        let command = properties.iter().find(|(name, _)| name == "ExecStart").unwrap().1.clone();
        let command = Vec::<(String, Vec<String>, bool)>::try_from(command).unwrap().remove(0);
        assert_eq!(command.0, command.1[0]);
        self.0.unit(name, |unit| (unit.load, unit.command) = ("loaded".into(), command.1));
        self.job("StartTransientUnit", name, &emitter).await
    }

    async fn reset_failed_unit(&self, name: &str) {
        self.0.called(format!("ResetFailedUnit {name}")).await;
        self.0.unit(name, |unit| {
            unit.set("inactive", "dead", "success");
            if unit.file_state.is_empty() {
                unit.load = "not-found".into();
            }
        });
    }

    async fn reload(&self) {
        self.0.called("Reload".into()).await;
        self.0.world().units.values_mut().for_each(|unit| unit.need_reload = false);
    }

    async fn enable_unit_files(
        &self,
        files: Vec<String>,
        _runtime: bool,
        _force: bool,
    ) -> (bool, Vec<(String, String, String)>) {
        self.0.called(format!("EnableUnitFiles {}", files[0])).await;
        self.0.unit(&files[0], |unit| unit.file_state = "enabled".into());
        let wants = "/etc/systemd/system/multi-user.target.wants";
        let real = self.0.world().root.join(&wants[1..]);
        std::fs::create_dir_all(&real).unwrap();
        std::os::unix::fs::symlink("/dev/null", real.join(&files[0])).unwrap();
        (true, vec![("symlink".into(), format!("{wants}/{}", files[0]), files[0].clone())])
    }

    async fn disable_unit_files(&self, files: Vec<String>, _runtime: bool) -> Vec<(String, String, String)> {
        self.0.called(format!("DisableUnitFiles {}", files[0])).await;
        self.0.unit(&files[0], |unit| unit.file_state = "disabled".into());
        vec![(
            "unlink".into(),
            format!("/etc/systemd/system/multi-user.target.wants/{}", files[0]),
            String::new(),
        )]
    }

    #[zbus(signal)]
    async fn job_removed(
        emitter: &SignalEmitter<'_>,
        id: u32,
        job: OwnedObjectPath,
        unit: &str,
        result: &str,
    ) -> zbus::Result<()>;
}

impl Manager {
    async fn job(&self, verb: &str, name: &str, emitter: &SignalEmitter<'_>) -> fdo::Result<OwnedObjectPath> {
        self.0.called(format!("{verb} {name}")).await;
        let (id, how) = {
            let mut world = self.0.world();
            world.next_job += 1;
            let id = world.next_job;
            let unit = world.units.get_mut(name).unwrap();
            unit.job = id;
            (id, if verb == "StopUnit" { OnStart::Up } else { unit.on_start })
        };
        let path = OwnedObjectPath::try_from(format!("/org/freedesktop/systemd1/job/{id}")).unwrap();
        match how {
            OnStart::Refused => {
                self.0.unit(name, |unit| unit.job = 0);
                return Err(fdo::Error::AccessDenied("Unit is refused.".into()));
            }
            OnStart::Activating => self.0.unit(name, |unit| unit.set("activating", "start", "success")),
            OnStart::FailedDone => self.0.unit(name, |unit| unit.set("failed", "failed", "exit-code")),
            _ if verb == "StartTransientUnit" => self.0.ended(name),
            _ if verb == "StopUnit" => self.0.unit(name, |unit| unit.set("inactive", "dead", "success")),
            _ => self.0.unit(name, |unit| unit.begin(verb == "RestartUnit")),
        }
        if how != OnStart::Activating {
            self.0.unit(name, |unit| unit.job = 0);
        }
        let (fake, emitter) = (self.0.clone(), emitter.to_owned());
        let (removed, unit) = (path.clone(), name.to_owned());
        let say = async move {
            Self::job_removed(&emitter, id, removed, &unit, "done").await.unwrap();
            drop(fake);
        };
        match how {
            OnStart::UpBeforeReply => say.await,
            OnStart::UpSilently | OnStart::Activating => {}
            _ => drop(tokio::spawn(say)),
        }
        Ok(path)
    }
}

struct Unit(Fake, String);

#[zbus::interface(name = "org.freedesktop.systemd1.Unit")]
impl Unit {
    #[zbus(property)]
    fn load_state(&self) -> String {
        self.0.read(&self.1, |unit| unit.load.clone())
    }

    #[zbus(property)]
    fn active_state(&self) -> String {
        self.0.read(&self.1, |unit| unit.active.clone())
    }

    #[zbus(property)]
    fn sub_state(&self) -> String {
        self.0.read(&self.1, |unit| unit.sub.clone())
    }

    #[zbus(property)]
    fn need_daemon_reload(&self) -> bool {
        self.0.read(&self.1, |unit| unit.need_reload)
    }

    #[zbus(property)]
    fn condition_result(&self) -> bool {
        true
    }

    #[zbus(property)]
    fn drop_in_paths(&self) -> Vec<String> {
        vec![format!("/etc/systemd/system/{}.d/10-edge-bootstrap.conf", self.1)]
    }

    #[zbus(property)]
    fn state_change_timestamp_monotonic(&self) -> u64 {
        self.0.read(&self.1, |unit| unit.since)
    }

    #[zbus(property)]
    fn job(&self) -> (u32, OwnedObjectPath) {
        let id = self.0.read(&self.1, |unit| unit.job);
        let path = if id == 0 { "/".to_owned() } else { format!("/org/freedesktop/systemd1/job/{id}") };
        (id, OwnedObjectPath::try_from(path).unwrap())
    }
}

struct Service(Fake, String);

type Command = (String, Vec<String>, bool, u64, u64, u64, u64, u32, i32, i32);

#[zbus::interface(name = "org.freedesktop.systemd1.Service")]
impl Service {
    #[zbus(property, name = "MainPID")]
    fn main_pid(&self) -> u32 {
        self.0.read(&self.1, |unit| if unit.active == "active" { unit.pid } else { 0 })
    }

    #[zbus(property, name = "NRestarts")]
    fn n_restarts(&self) -> u32 {
        self.0.read(&self.1, |unit| unit.restarts)
    }

    #[zbus(property)]
    fn result(&self) -> String {
        self.0.read(&self.1, |unit| unit.result.clone())
    }

    #[zbus(property)]
    fn restart(&self) -> String {
        self.0.read(&self.1, |unit| unit.restart.clone())
    }

    #[zbus(property)]
    fn exec_start(&self) -> Vec<Command> {
        let argv = self.0.read(&self.1, |unit| unit.command.clone());
        vec![(argv[0].clone(), argv, false, 0, 0, 0, 0, 0, 0, 0)]
    }

    #[zbus(property)]
    fn exec_main_status(&self) -> i32 {
        self.0.read(&self.1, |unit| if unit.active == "failed" { 3 } else { 0 })
    }
}

struct Timedated(Fake);

#[zbus::interface(name = "org.freedesktop.timedate1")]
impl Timedated {
    #[zbus(property, name = "NTPSynchronized")]
    fn ntp_synchronized(&self) -> bool {
        self.0.world().synchronized
    }

    #[zbus(property, name = "NTP")]
    fn ntp(&self) -> bool {
        self.0.world().synchronized
    }
}

struct Hostnamed(Fake);

impl Hostnamed {
    async fn set(&self, header: &Header<'_>, name: &str, file: &str) {
        let member = header.member().unwrap().as_str().to_owned();
        self.0.called(format!("{member} {name}")).await;
        let (root, lies) = {
            let world = self.0.world();
            (world.root.clone(), world.hostnamed_lies)
        };
        if !lies {
            std::fs::write(root.join(file), format!("{name}\n")).unwrap();
        }
    }
}

#[zbus::interface(name = "org.freedesktop.hostname1")]
impl Hostnamed {
    async fn set_hostname(&self, name: &str, _ask: bool, #[zbus(header)] header: Header<'_>) {
        self.set(&header, name, "proc/sys/kernel/hostname").await;
    }

    async fn set_static_hostname(&self, name: &str, _ask: bool, #[zbus(header)] header: Header<'_>) {
        self.set(&header, name, "etc/hostname").await;
    }
}
