//! k3s's binary over real HTTP from a server that does everything wrong, and
//! what becomes of a binary that is damaged on the disk.
#![cfg(feature = "agent")]
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test may stop at the first surprise, and makes its own world"
)]

#[allow(missing_docs, missing_debug_implementations, dead_code, reason = "shared with other line tests")]
#[path = "common/systemd.rs"]
mod systemd;

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use edge_bootstrap::apply::{self, ArtifactError, Wanted};
use edge_bootstrap::boot::{self, Agent, Downloader, Order, Pass, Quiet, Until};
use edge_bootstrap::enrol::Source;
use edge_bootstrap::paths::{self, IMPORT, K3S_LINK};
use edge_bootstrap::plan;
use edge_bootstrap::sys::Root;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use systemd::{Fake, FakeUnit};

const CASE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/plan/37-binary-installed-by-hand");
const VERSION: &str = "v1.36.2+k3s1";
const PAGE: &str = "<!DOCTYPE html><html><body>Please log in to the hotel's network</body></html>";

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A binary of 200,000 bytes that nothing repeats in.
fn binary() -> Vec<u8> {
    (0..50_000_u32).flat_map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes()).collect()
}

// === a server ===

/// Serves [`binary`] by path: `/whole`, and one path for each way of failing.
struct Server {
    base: String,
    /// Path and `Range` of each request.
    asked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let log = Arc::clone(&log);
                std::thread::spawn(move || answer(stream, &log));
            }
        });
        Self { base, asked }
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn request(stream: &mut TcpStream) -> (String, Option<usize>) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|count| count == 1) {
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let from = head.split("range: bytes=").nth(1).and_then(|rest| rest.split('-').next()?.parse().ok());
    (path, from)
}

fn answer(mut stream: TcpStream, log: &Mutex<Vec<String>>) {
    let (path, from) = request(&mut stream);
    log.lock().unwrap().push(format!("{path} {}", from.unwrap_or(0)));
    let whole = binary();
    let half = whole.len() / 2;
    let rest = &whole[from.unwrap_or(0).min(whole.len())..];
    let ok = |length: usize| {
        let range = from.map(|from| {
            let last = whole.len() - 1;
            format!("Content-Range: bytes {from}-{last}/{}\r\n", whole.len())
        });
        let status = if from.is_some() { "206 Partial Content" } else { "200 OK" };
        format!(
            "HTTP/1.1 {status}\r\nETag: \"v1\"\r\n{}Connection: close\r\nContent-Length: {length}\r\n\r\n",
            range.unwrap_or_default()
        )
    };
    let plain = |body: &[u8]| {
        let mut all =
            format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len())
                .into_bytes();
        all.extend(body);
        all
    };
    let bytes = match path.as_str() {
        "/cut" if from.is_none() => [ok(whole.len()).as_bytes(), &whole[..half]].concat(),
        "/whole" | "/cut" => [ok(rest.len()).as_bytes(), rest].concat(),
        "/wrong" => plain(&whole[1..]),
        "/truncated" => plain(&whole[..half]),
        "/page" => plain(PAGE.as_bytes()),
        "/huge" => {
            b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 8796093022208\r\n\r\nabc".to_vec()
        }
        "/drip" => return drip(&mut stream, &ok(rest.len()), rest),
        "/drip-anew" => {
            let head =
                format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", whole.len());
            return drip(&mut stream, &head, &whole);
        }
        // Nobody is told how much comes.
        "/filled" => {
            let _ = stream.write_all(&[ok(whole.len()).as_bytes(), &whole[..4000]].concat());
            fill_the_disk();
            whole[4000..].to_vec()
        }
        "/endless" => [&b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"[..], &whole].concat(),
        "/stalled" => {
            let _ = stream.write_all(&[ok(whole.len()).as_bytes(), &whole[..half]].concat());
            // Until the other side has had enough.
            let _ = stream.read(&mut [0; 16]);
            return;
        }
        _ => b"HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".to_vec(),
    };
    let _ = stream.write_all(&bytes);
}

/// Somebody else takes the rest of it once the file has begun to come.
fn fill_the_disk() {
    let disk = std::env::var(SMALL_DISK).unwrap();
    let begun = || std::fs::metadata(format!("{disk}/k3s.part")).is_ok_and(|meta| meta.len() > 0);
    let deadline = Instant::now() + Duration::from_secs(20);
    while !begun() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    let _ = std::fs::write(format!("{disk}/by-others"), vec![1; 400 << 10]);
}

fn drip(stream: &mut TcpStream, head: &str, body: &[u8]) {
    let _ = stream.set_nodelay(true);
    let _ = stream.write_all(head.as_bytes());
    for piece in body.chunks(4000) {
        if stream.write_all(piece).is_err() {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

// === one file ===

struct Place {
    _dir: tempfile::TempDir,
    root: Root,
    server: Server,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { root: Root::new(dir.path()), _dir: dir, server: Server::start() }
    }

    async fn bring(&self, paths: &[&str]) -> Result<(), ArtifactError> {
        let urls: Vec<_> = paths.iter().map(|path| self.server.url(path).parse().unwrap()).collect();
        let sha256 = sha256(&binary()).parse().unwrap();
        let wanted = Wanted {
            title: "k3s",
            path: "/k3s",
            mode: 0o755,
            urls: &urls,
            sha256: &sha256,
            floor: edge_bootstrap::sys::space::program_floor,
        };
        let downloader = Downloader::new(&Source::None, &Quiet).patient(Duration::from_secs(1));
        apply::bring(&self.root, wanted, &downloader).await
    }

    fn is_whole(&self) {
        assert_eq!(std::fs::read(self.root.path("/k3s")).unwrap(), binary());
        assert_eq!(self.root.list("/").unwrap(), ["k3s"]);
    }
}

#[tokio::test]
async fn a_cut_download_goes_on_where_it_was_cut_by_range() {
    let place = Place::new();
    let error = place.bring(&["/cut"]).await.unwrap_err().to_string();
    assert!(error.starts_with("k3s could not be fetched: http://127.0.0.1:"), "{error}");
    let half = place.root.plain_size("/k3s.part").unwrap().unwrap();
    assert!(half > 0 && half < 200_000, "{half}");
    nothing_wrong_can_run(&place.root);
    place.bring(&["/cut"]).await.unwrap();
    assert_eq!(place.server.asked(), ["/cut 0".to_owned(), format!("/cut {half}")]);
    place.is_whole();
}

#[tokio::test]
async fn each_wrong_answer_is_named_and_leaves_nothing_that_runs() {
    for (path, words) in [
        ("/wrong", "its SHA-256 is "),
        ("/truncated", "its SHA-256 is "),
        ("/page", "a web page came instead of the file"),
        ("/none", "status 404"),
        ("/huge", "no space left on the disk of /k3s: 8796093022208 bytes more are needed"),
    ] {
        let place = Place::new();
        let error = place.bring(&[path]).await.unwrap_err().to_string();
        assert!(error.contains(words), "{path}: {error}");
        assert!(!place.root.exists("/k3s"), "{path}");
        nothing_wrong_can_run(&place.root);
        assert_eq!(
            place.root.plain_size("/k3s.part").unwrap().unwrap_or(0),
            0,
            "{path}: nothing of it is kept"
        );
        // The next one of the list is right.
        place
            .bring(&[path, "/whole"])
            .await
            .map_or_else(|error| assert!(path == "/huge", "{path}: {error}"), |()| place.is_whole());
    }
}

#[tokio::test]
async fn a_slow_server_is_waited_for_and_a_silent_one_is_not() {
    let place = Place::new();
    place.bring(&["/drip"]).await.unwrap();
    place.is_whole();
    let place = Place::new();
    let error = place.bring(&["/stalled"]).await.unwrap_err().to_string();
    assert!(error.contains("within 1 s"), "{error}");
    nothing_wrong_can_run(&place.root);
    place.bring(&["/stalled", "/whole"]).await.unwrap();
    place.is_whole();
}

/// Where a child of this test works on a disk of its own.
const SMALL_DISK: &str = "EDGE_TEST_SMALL_DISK";

/// A disk of 300 KiB in a mount namespace of its own; half of it is taken.
#[tokio::test]
async fn a_full_disk_is_named_keeps_nothing_and_takes_the_file_once_there_is_room() {
    let Ok(directory) = std::env::var(SMALL_DISK) else { return on_a_small_disk() };
    let root = Root::new(&directory);
    let server = Server::start();
    let sha256 = sha256(&binary()).parse().unwrap();
    let bring = async |path: &str| {
        let urls = [server.url(path).parse().unwrap()];
        let floor = |_| 0;
        let wanted = Wanted { title: "k3s", path: "/k3s", mode: 0o755, urls: &urls, sha256: &sha256, floor };
        apply::bring(&root, wanted, &Downloader::new(&Source::None, &Quiet)).await
    };
    // What is not known to fit is not begun; then the disk itself takes no more, and after that it is full.
    for (path, words, left) in [
        ("/endless", "33554432 bytes more are needed", &[][..]),
        ("/filled", "k3s: no space left on the disk of /k3s; free some, ", &["by-others"]),
        ("/whole", "200000 bytes more are needed", &["by-others"]),
    ] {
        let error = bring(path).await.unwrap_err().to_string();
        assert!(error.contains(words) && error.ends_with("nothing of it was kept"), "{path}: {error}");
        assert_eq!(root.list("/").unwrap(), left, "{path}");
    }
    std::fs::remove_file(root.path("/by-others")).unwrap();
    bring("/whole").await.unwrap();
    assert_eq!(std::fs::read(root.path("/k3s")).unwrap(), binary());
}

/// Runs the same test once more, there.
fn on_a_small_disk() {
    let directory = tempfile::tempdir().unwrap();
    let script = "mount -t tmpfs -o size=300k none \"$0\" && exec \"$@\"";
    let name = "a_full_disk_is_named_keeps_nothing_and_takes_the_file_once_there_is_room";
    let output = Command::new("unshare")
        .args(["--map-root-user", "--mount", "sh", "-c", script])
        .arg(directory.path())
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(SMALL_DISK, directory.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "needs user namespaces: {said}");
}

// === a host ===

struct Host {
    dir: tempfile::TempDir,
    systemd: Fake,
    server: Server,
}

impl Host {
    /// An agent of a formed cluster whose assignment names an artifact at `paths`.
    fn new(paths: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let from = format!("{CASE}/root/.");
        let copied = Command::new("cp").args(["-a", &from, dir.path().to_str().unwrap()]).status();
        assert!(copied.unwrap().success());
        let root = Root::new(dir.path());
        root.make_dir("/run/edge-bootstrap", 0o755).unwrap();
        let names = ["containerd", "systemd-sysctl", "systemd-modules-load"];
        let mut units: Vec<_> =
            names.iter().map(|name| (format!("{name}.service"), FakeUnit::up())).collect();
        units.push(("k3s-agent.service".to_owned(), FakeUnit::dead()));
        let units: Vec<_> = units.iter().map(|(name, unit)| (name.as_str(), unit.clone())).collect();
        let systemd = Fake::new(&root, &units);
        systemd.serve_bus(&root);
        let host = Self { dir, systemd, server: Server::start() };
        host.assign(paths, &sha256(&binary()));
        host
    }

    fn assign(&self, paths: &[&str], sha256: &str) {
        let text = std::fs::read_to_string(format!("{CASE}/assignment.json")).unwrap();
        let mut value: Value = serde_json::from_str(&text).unwrap();
        value.as_object_mut().unwrap().remove("node_id");
        value["runtime"].as_object_mut().unwrap().remove("sandbox_image");
        let urls: Vec<String> = paths.iter().map(|path| self.server.url(path)).collect();
        value["k3s"]["artifacts"] = json!({"amd64": {"urls": urls, "sha256": sha256}});
        self.write("/etc/edge-bootstrap/assignment.toml", toml::to_string(&value).unwrap().as_bytes());
        let config = "[central]\nassignment-file = \"/etc/edge-bootstrap/assignment.toml\"\n";
        self.write("/etc/edge-bootstrap/config.toml", config.as_bytes());
    }

    fn root(&self) -> Root {
        Root::new(self.dir.path())
    }

    fn write(&self, path: &str, bytes: &[u8]) {
        let real = self.root().path(path);
        std::fs::create_dir_all(real.parent().unwrap()).unwrap();
        std::fs::write(&real, bytes).unwrap();
        std::fs::set_permissions(&real, std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    async fn pass(&self) -> Pass {
        let order = Order { until: Until::Written, patience: Duration::ZERO, observe_only: false };
        boot::pass(&mut Agent::new(self.root(), None).unwrap(), order).await
    }

    fn is_in_force(&self) {
        let path = paths::k3s_binary(VERSION);
        assert_eq!(self.root().read_link(K3S_LINK).unwrap(), Some(path.clone()));
        assert_eq!(std::fs::read(self.root().path(&path)).unwrap(), binary());
        assert_eq!(self.root().stat(&path).unwrap().unwrap().mode, 0o755);
        nothing_wrong_can_run(&self.root());
    }

    /// Damages the binary as `damage` says, in a boot after one without a good end.
    fn damaged(&self, damage: &[u8]) {
        let path = self.root().path(&paths::k3s_binary(VERSION));
        std::fs::write(path, damage).unwrap();
    }
}

/// No file below our own state can be started, unless it is the whole binary.
fn nothing_wrong_can_run(root: &Root) {
    let mut stack = vec![root.path("/var/lib/edge-bootstrap"), root.path("/k3s"), root.path("/k3s.part")];
    while let Some(path) = stack.pop() {
        let Ok(meta) = std::fs::symlink_metadata(&path) else { continue };
        if meta.is_dir() {
            stack.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if meta.is_file() && meta.permissions().mode() & 0o111 != 0 {
            assert_eq!(std::fs::read(&path).unwrap(), binary(), "{}", Path::display(&path));
        }
    }
}

fn words(pass: &Pass) -> String {
    pass.stop.as_ref().map_or_else(String::new, |stop| stop.why.to_string())
}

fn found(pass: &Pass) -> Vec<&str> {
    let damage = pass.findings.iter().filter(|(finding, _)| finding.code == "EB-k3s-damaged");
    damage.map(|(finding, _)| finding.reason.as_str()).collect()
}

#[tokio::test]
async fn a_pass_switches_only_to_a_whole_binary_and_goes_on_after_a_cut() {
    let host = Host::new(&["/page", "/cut"]);
    let before = host.root().read_link(K3S_LINK).unwrap();
    let why = words(&host.pass().await);
    assert!(
        why.starts_with("EB-apply: k3s v1.36.2+k3s1 could not be fetched: ")
            && why.contains("a web page came"),
        "{why}"
    );
    assert_eq!(host.root().read_link(K3S_LINK).unwrap(), before, "nothing is switched");
    assert_eq!(words(&host.pass().await), "");
    host.is_in_force();
    let asked = host.server.asked();
    assert_eq!(asked[..2], ["/page 0", "/cut 0"]);
    // Where something came from goes first: the page would begin anew.
    assert!(asked.len() == 3 && asked[2].starts_with("/cut ") && asked[2] != "/cut 0", "{asked:?}");
}

#[tokio::test]
async fn a_binary_that_says_another_version_is_refused_and_not_brought_again() {
    let host = Host::new(&["/whole"]);
    let before = host.root().read_link(K3S_LINK).unwrap();
    host.write("/.facts/k3s-version", b"k3s version v1.35.9+k3s1 (0a1b2c3d)\ngo version go1.26.3\n");
    for _ in 0..2 {
        let why = words(&host.pass().await);
        assert!(
            why.starts_with("EB-k3s-unfit: k3s v1.36.2+k3s1: it says that it is v1.35.9+k3s1, wanted v1.36.2+k3s1; what was in force stays so"),
            "{why}"
        );
        assert_eq!(host.root().read_link(K3S_LINK).unwrap(), before);
        let new = format!("{}.new", paths::k3s_binary(VERSION));
        assert_eq!(host.root().stat(&new).unwrap().unwrap().mode, 0o600, "nobody can start it");
        assert!(!host.root().exists(&paths::k3s_binary(VERSION)));
    }
    assert_eq!(host.server.asked(), ["/whole 0"], "it is not brought again to be refused again");
    host.write("/.facts/k3s-version", format!("k3s version {VERSION} (0a1b2c3d)\n").as_bytes());
    assert_eq!(words(&host.pass().await), "");
    host.is_in_force();
}

#[tokio::test]
async fn what_a_person_brought_is_found_by_digest_and_nobody_is_asked() {
    let host = Host::new(&["/none"]);
    host.write(&format!("{IMPORT}/readme.txt"), b"k3s for hz-017");
    host.write(&format!("{IMPORT}/from the stick"), &binary());
    assert_eq!(words(&host.pass().await), "");
    host.is_in_force();
    assert_eq!(host.server.asked(), [""; 0]);
    assert!(host.root().exists(&format!("{IMPORT}/from the stick")), "it is the person's");
}

#[tokio::test]
async fn a_damaged_binary_is_found_and_brought_again() {
    let whole = binary();
    let mut changed = whole.clone();
    changed[100] ^= 1;
    for (damage, words) in [
        (&b""[..], "is empty"),
        (&whole[..150_000], "has only 150000 of 200000 bytes"),
        (&changed[..], "its SHA-256 differs"),
    ] {
        let host = Host::new(&["/whole"]);
        host.pass().await;
        host.is_in_force();
        host.damaged(damage);
        // Another file of the same size within one second looks the same but for its inode.
        if damage.len() == whole.len() {
            let path = paths::k3s_binary(VERSION);
            host.root().rename(&path, &format!("{path}.moved")).unwrap();
            std::fs::copy(host.root().path(&format!("{path}.moved")), host.root().path(&path)).unwrap();
            host.root().remove_file(&format!("{path}.moved")).unwrap();
        }
        let pass = host.pass().await;
        assert!(found(&pass).first().is_some_and(|reason| reason.contains(words)), "{:?}", pass.findings);
        assert_eq!(self::words(&pass), "");
        assert_eq!(host.server.asked().len(), 2);
        let _ = host.root().remove_file(&format!("{}.replaced", paths::k3s_binary(VERSION)));
        host.is_in_force();
        assert_eq!(found(&host.pass().await), [""; 0]);
        assert_eq!(host.server.asked().len(), 2, "a whole one is left alone");
    }
}

#[tokio::test]
async fn after_an_unclean_stop_a_flipped_bit_is_found_though_nothing_else_is_different() {
    let host = Host::new(&["/whole"]);
    let boot = "/proc/sys/kernel/random/boot_id";
    host.write(boot, b"boot-1\n");
    host.pass().await;
    host.is_in_force();
    let path = paths::k3s_binary(VERSION);
    let mut changed = binary();
    changed[7] ^= 1;
    host.damaged(&changed);
    // As a disk changes it: no time of the file tells.
    let record = format!("{path}.sha256");
    let looks = edge_bootstrap::binary::seen(&host.root(), &path).unwrap();
    let known = edge_bootstrap::binary::record(&host.root(), &path).unwrap();
    let known = edge_bootstrap::plan::binary::Record { seen: looks, ..known };
    edge_bootstrap::binary::store(&host.root(), &path, &known).unwrap();
    assert_eq!(found(&host.pass().await), [""; 0], "in a good boot nothing is hashed");
    assert!(host.root().exists(&record));
    host.write(boot, b"boot-2\n");
    edge_bootstrap::inventory::update(&host.root(), |inventory| inventory.boot.suspect = true).unwrap();
    let pass = host.pass().await;
    assert!(found(&pass)[0].ends_with("its SHA-256 differs"), "{:?}", pass.findings);
    let _ = host.root().remove_file(&format!("{path}.replaced"));
    host.is_in_force();
}

#[tokio::test]
async fn without_a_network_a_damaged_binary_comes_back_from_the_import_directory() {
    let host = Host::new(&["/none"]);
    host.write(&format!("{IMPORT}/k3s"), &binary());
    host.pass().await;
    host.damaged(b"");
    let pass = host.pass().await;
    assert!(found(&pass)[0].ends_with("is empty"), "{:?}", pass.findings);
    host.is_in_force();
}

/// A pass of a running host.
async fn run(agent: &mut Agent) -> Pass {
    boot::pass(agent, Order { until: Until::Verified, patience: Duration::ZERO, observe_only: false }).await
}

#[tokio::test]
async fn a_pass_downloads_for_its_time_only_and_the_next_one_goes_on() {
    for (path, goes_on) in [("/drip", true), ("/drip-anew", false)] {
        let host = Host::new(&[path]);
        let mut agent = Agent::new(host.root(), None).unwrap();
        agent.rests.slice = Some(Duration::from_millis(300));
        let first = run(&mut agent).await;
        assert!(
            words(&first).contains("is being downloaded: ") && words(&first).contains(" MB are here"),
            "{}",
            words(&first)
        );
        assert!(first.again && !host.root().exists(&paths::k3s_binary(VERSION)));
        let mut passes = 1;
        while !words(&run(&mut agent).await).is_empty() {
            passes += 1;
            assert!(passes < 20, "{:?}", host.server.asked());
        }
        host.is_in_force();
        let asked = host.server.asked();
        // A server that begins anew each time is heard to its end.
        assert_eq!(asked.len() > 2, goes_on, "{asked:?}");
        assert_eq!(asked.iter().filter(|line| line.ends_with(" 0")).count(), 1, "{asked:?}");
    }
}

#[tokio::test]
async fn a_wrong_file_is_not_brought_again_at_once_and_a_node_in_force_goes_on_without_it() {
    let host = Host::new(&["/whole"]);
    let mut agent = Agent::new(host.root(), None).unwrap();
    assert_eq!(words(&run(&mut agent).await), "");
    host.is_in_force();
    host.damaged(b"");
    host.assign(&["/wrong"], &sha256(&binary()));
    for path in ["/etc/hostname", "/proc/sys/kernel/hostname"] {
        host.write(path, b"web-7\n");
    }
    // Without it the k3s in force would not start either.
    let unpacked = format!("{}/{}", plan::empty::UNPACKED, "aa".repeat(32));
    host.write(&format!("{unpacked}/bin/k3s"), b"");
    host.systemd.unit("k3s-agent.service", |unit| *unit = FakeUnit::dead());
    let mut agent = Agent::new(host.root(), None).unwrap();
    for passes in 0..3 {
        let pass = run(&mut agent).await;
        assert_eq!(words(&pass), "", "a node that is in force is looked after");
        let told: Vec<_> = pass.findings.iter().filter(|(finding, _)| finding.code == "EB-apply").collect();
        let why =
            if passes == 0 { "its SHA-256 is " } else { "it gave another file once, and is asked again in " };
        assert!(told.len() == 1 && told[0].0.reason.contains(why), "{:?}", pass.findings);
        assert!(pass.verdict.is_some(), "units are looked at");
        assert!(pass.applied.is_none(), "nothing is put in force");
        assert!(!host.root().exists(&unpacked), "k3s unpacks it anew");
    }
    assert_eq!(std::fs::read(host.root().path("/etc/hostname")).unwrap(), b"172-16-36-4\n");
    assert_eq!(host.server.asked(), ["/whole 0", "/wrong 0"]);
    // A person asks anew: `apply` has a memory of its own.
    host.assign(&["/whole"], &sha256(&binary()));
    assert_eq!(words(&run(&mut Agent::new(host.root(), None).unwrap()).await), "");
    let _ = host.root().remove_file(&format!("{}.replaced", paths::k3s_binary(VERSION)));
    host.is_in_force();
}

#[tokio::test]
async fn the_import_directory_of_a_person_keeps_its_mode() {
    let host = Host::new(&["/whole"]);
    let import = host.root().path(IMPORT);
    std::fs::create_dir_all(&import).unwrap();
    std::fs::set_permissions(&import, std::fs::Permissions::from_mode(0o750)).unwrap();
    assert_eq!(words(&host.pass().await), "");
    assert_eq!(std::fs::metadata(&import).unwrap().permissions().mode() & 0o7777, 0o750);
}
