//! One stand-in process with its own root, address and notify socket.

use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_standin-k3s");
const LIMIT: Duration = Duration::from_secs(60);

/// `127.x.<net>.<n>`: x differs between two runs at the same time.
pub fn address(net: u8, n: u8) -> String {
    format!("127.{}.{net}.{n}", 64 + std::process::id() % 128)
}

/// A host of a test room.
pub struct Host {
    root: TempDir,
    net: u8,
    n: u8,
    pub ip: String,
    role: &'static str,
    child: Option<Child>,
    notify: Option<UnixDatagram>,
    ready: bool,
}

impl Host {
    /// A host of room `net`, named `host-<n>`.
    pub fn new(net: u8, n: u8, role: &'static str, config: &str) -> Self {
        let root = tempfile::tempdir().unwrap();
        let ip = address(net, n);
        let mut host = Self { root, net, n, ip, role, child: None, notify: None, ready: false };
        host.set_config(config);
        host
    }

    pub fn url(&self) -> String {
        format!("https://{}:6443", self.ip)
    }

    pub fn socket(&self) -> PathBuf {
        self.root.path().join("containerd.sock")
    }

    /// The given lines, with this host's name and addresses.
    pub fn set_config(&mut self, lines: &str) {
        let (ip, n) = (&self.ip, self.n);
        let text = format!("node-name: host-{n}\nnode-ip: {ip}\nbind-address: {ip}\n{lines}");
        self.write_config(&text);
    }

    pub fn append_config(&mut self, lines: &str) {
        let text = self.read("etc/rancher/k3s/config.yaml") + "\n" + lines;
        self.write_config(&text);
    }

    pub fn empty_config(&mut self) {
        self.write_config("");
    }

    fn write_config(&self, text: &str) {
        let path = self.root.path().join("etc/rancher/k3s/config.yaml");
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// Another address, the same data.
    pub fn move_to(&mut self, n: u8) {
        let old = std::mem::replace(&mut self.ip, address(self.net, n));
        let text = self.read("etc/rancher/k3s/config.yaml").replace(&old, &self.ip);
        self.write_config(&text);
    }

    fn command(&self) -> Command {
        let mut command = Command::new(BINARY);
        command.env_clear().env("K3S_STANDIN_ROOT", self.root.path()).env("K3S_STANDIN_LOOPBACK", &self.ip);
        command
    }

    pub fn start(&mut self) {
        let path = self.root.path().join("notify.sock");
        let _ = std::fs::remove_file(&path);
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        let log = std::fs::File::create(self.root.path().join("log")).unwrap();
        let mut command = self.command();
        command.arg(self.role).env("NOTIFY_SOCKET", &path).stdin(Stdio::null()).stdout(Stdio::null());
        self.child = Some(command.stderr(log).spawn().unwrap());
        self.notify = Some(socket);
        self.ready = false;
    }

    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    pub fn log(&self) -> String {
        self.read("log")
    }

    fn tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    pub fn read(&self, path: &str) -> String {
        let path = self.root.path().join(path);
        std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).trim().into()
    }

    pub fn is_ready(&mut self) -> bool {
        let mut buffer = [0_u8; 512];
        while let Some(count) = self.notify.as_ref().and_then(|socket| socket.recv(&mut buffer).ok()) {
            self.ready |= String::from_utf8_lossy(&buffer[..count]).contains("READY=1");
        }
        self.ready
    }

    fn wait(&mut self, what: &str, limit: Duration, mut done: impl FnMut(&mut Self) -> bool) {
        let deadline = Instant::now() + limit;
        while !done(self) {
            assert!(Instant::now() < deadline, "{} waited for {what}; its log:\n{}", self.ip, self.tail());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Fails at once when the process ends instead.
    pub fn wait_ready(&mut self) {
        self.wait("READY", LIMIT, |host| {
            let ended = host.child.as_mut().and_then(|child| child.try_wait().unwrap());
            assert!(ended.is_none(), "{} ended: {ended:?}\n{}", host.ip, host.log());
            host.is_ready()
        });
    }

    /// As systemd with Restart=always: a process that ended is started again.
    pub fn wait_ready_with_restarts(&mut self) {
        self.wait("READY after restarts", LIMIT, |host| {
            if host.child.as_mut().is_none_or(|child| child.try_wait().unwrap().is_some()) {
                host.start();
            }
            host.is_ready()
        });
    }

    pub fn wait_log(&mut self, text: &str) {
        self.wait(text, LIMIT, |host| host.log().contains(text));
    }

    pub fn wait_file(&mut self, path: &str) -> String {
        self.wait(path, LIMIT, |host| host.root.path().join(path).exists());
        self.read(path)
    }

    pub fn wait_exit(&mut self) -> Option<i32> {
        self.wait("exit", LIMIT, |host| host.child.as_mut().unwrap().try_wait().unwrap().is_some());
        self.child.take().unwrap().wait().unwrap().code()
    }

    pub fn kubectl(&self, arguments: &[&str]) -> String {
        let output = self.command().arg("kubectl").args(arguments).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Exactly these nodes, all Ready.
    pub fn wait_nodes(&mut self, names: &[&str]) {
        self.wait(&format!("nodes {names:?}"), LIMIT, |host| {
            let table = host.kubectl(&["get", "nodes"]);
            let rows: Vec<&str> = table.lines().skip(1).collect();
            let ready = |name: &&str| {
                rows.iter().any(|row| {
                    let mut words = row.split_whitespace();
                    words.next() == Some(name) && words.next() == Some("Ready")
                })
            };
            rows.len() == names.len() && names.iter().all(ready)
        });
    }

    /// The API still answers after a member died; the dead one's state is stale.
    pub fn wait_nodes_after(&mut self, names: &[&str], limit: Duration) {
        self.wait("an API without one server", limit, |host| {
            let table = host.kubectl(&["get", "nodes", "-o", "name"]);
            names.iter().all(|name| table.contains(name))
        });
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.kill();
    }
}
