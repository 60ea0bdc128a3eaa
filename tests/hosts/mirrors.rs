//! Registry mirrors that go bad, on every containerd: real registries, and
//! pulls by the CRI's own call.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use edge_lab::room::{LONG, SITE, steady};
use edge_lab::{Host, Registry, Room, Service, Suite, wait_until};

use crate::hand::{invocations, status_text};

const SUITES: [(&str, Suite); 3] = [("bw", Suite::Bookworm), ("tx", Suite::Trixie), ("sid", Suite::Sid)];
const HOSTS_FILE: &str = "/etc/containerd/certs.d/10.77.0.9:5443/hosts.toml";
const MIRROR: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 8);
const ORIGIN: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 9);
/// From the begin of a stall until it is left out, at most: the pause between
/// two looks, both looks with their limits, and a pass on a busy machine.
const LEFT_OUT: Duration = Duration::from_secs(18 + 3 + 2 + 7 + 30);
/// From its end until it is used again.
const PUT_BACK: Duration = Duration::from_secs(12 + 3 + 2 + 7 + 30);
/// A pull of two small layers from a registry that answers, on a busy machine.
const QUICK: Duration = Duration::from_secs(20);
/// How long one call of the CRI may take beyond its limit.
const SOON: Duration = Duration::from_secs(30);

/// Three hosts, an origin, and the one mirror of it.
struct Scene {
    room: Room,
    mirror: Registry,
    origin: Registry,
}

fn scene(name: &str) -> Scene {
    let mut room = Room::open(name).unwrap();
    let mirror = Registry::mirror(&room.lab, MIRROR, 5000).unwrap();
    let origin = Registry::origin(&room.lab, ORIGIN, 5443).unwrap();
    let named = format!("{}=http://{}", origin.place(), mirror.place());
    room.central.run(&["site", "set", SITE, "--mirror", &named]).unwrap().ok().unwrap();
    for (name, suite) in SUITES {
        let host = room.add(name, suite).unwrap();
        host.write_file("/etc/ssl/certs/edge-lab.pem", origin.certificate().unwrap()).unwrap();
    }
    room.wait_steady(LONG).unwrap();
    Scene { room, mirror, origin }
}

/// Makes containerd forget what it received and never finished: its garbage
/// collection, at once.
const FORGET: &str = "ctr -n k8s.io leases delete --sync \"$(ctr -n k8s.io leases create)\"";

/// How one pull ended.
struct Pull {
    took: Duration,
    words: String,
}

impl Pull {
    fn is_done(&self) -> bool {
        self.words.contains("grpc-status: 0")
    }

    fn text(&self) -> String {
        let took = self.took.as_secs_f32();
        match self.words.lines().find_map(|line| line.strip_prefix("grpc-message: ")) {
            _ if self.is_done() => format!("{took:.1} s"),
            Some(_) if self.words.contains("digest") => format!("fails after {took:.1} s (digest)"),
            Some(_) => format!("fails after {took:.1} s"),
            None => format!("no end in {took:.0} s"),
        }
    }
}

/// `PullImage` of the CRI, as a kubelet calls it: one field in one field, in a
/// frame of gRPC.
fn request(image: &str) -> Vec<u8> {
    let field = |content: &[u8]| [&[0x0a, u8::try_from(content.len()).unwrap()], content].concat();
    let message = field(&field(image.as_bytes()));
    [&[0, 0, 0, 0, u8::try_from(message.len()).unwrap()], message.as_slice()].concat()
}

fn pull(host: &Host, image: &str, limit: Duration) -> Pull {
    let seconds = limit.as_secs().to_string();
    let curl = [
        "curl",
        "-sSi",
        "--http2-prior-knowledge",
        "--unix-socket",
        "/run/containerd/containerd.sock",
        "-m",
        &seconds,
        "-H",
        "content-type: application/grpc",
        "-H",
        "te: trailers",
        "--data-binary",
        "@-",
        "-o",
        "-",
        "http://localhost/runtime.v1.ImageService/PullImage",
    ];
    let began = Instant::now();
    let done = host.cmd(&curl).input(request(image)).limit(limit + SOON).run().unwrap();
    Pull { took: began.elapsed(), words: format!("{}{}", done.stdout.replace('\r', ""), done.stderr) }
}

impl Scene {
    /// Pulls a new image on every host at once.
    fn pull(&self, image: &str, limit: Duration) -> Vec<Pull> {
        self.mirror.put(image).unwrap();
        self.origin.put(image).unwrap();
        self.pull_there(image, limit)
    }

    fn pull_there(&self, image: &str, limit: Duration) -> Vec<Pull> {
        let name = format!("{}/{image}:1", self.origin.place());
        std::thread::scope(|scope| {
            let pulls: Vec<_> =
                self.room.hosts.iter().map(|host| scope.spawn(|| pull(host, &name, limit))).collect();
            pulls.into_iter().map(|pull| pull.join().unwrap()).collect()
        })
    }

    /// Pulls that must succeed soon; whether the mirror and the origin gave of it.
    fn pulls(&self, image: &str) -> (bool, bool) {
        for (host, pull) in self.room.hosts.iter().zip(self.pull(image, SOON)) {
            assert!(pull.is_done(), "{}: {}", host.name(), pull.words);
            assert!(pull.took < QUICK, "{}: {}", host.name(), pull.text());
        }
        (self.mirror.served(image) > 0, self.origin.served(image) > 0)
    }

    /// Waits until every host's file names the mirror, or does not; how long that took.
    fn wait_named(&self, named: bool, limit: Duration) -> Duration {
        let began = Instant::now();
        let there = |host: &Host| Ok(host.read_file(HOSTS_FILE)?.is_some_and(|text| text.contains("[host.")));
        let what = if named { "the mirror is used again" } else { "the mirror is left out" };
        wait_until(limit, what, || {
            let all: anyhow::Result<Vec<bool>> = self.room.hosts.iter().map(there).collect();
            Ok(all?.iter().all(|is| *is == named).then_some(()))
        })
        .unwrap();
        began.elapsed()
    }

    fn wait_told(&self, words: &str) {
        for host in &self.room.hosts {
            let told = || Ok(status_text(host).contains(words).then_some(()));
            wait_until(LEFT_OUT, &format!("{} tells: {words}", host.name()), told).unwrap();
        }
    }
}

/// A stalled mirror: left out, told, pulls come from the origin; then used again.
fn stalls(scene: &Scene, what: &str, begin: impl Fn(), end: impl Fn()) {
    begin();
    let left_out = scene.wait_named(false, LEFT_OUT);
    scene.wait_told("EB-mirror-down");
    for host in &scene.room.hosts {
        steady(host, SOON).unwrap();
        let plan = host.exec(&["edge-bootstrap", "plan"]).unwrap();
        assert_eq!(plan.code, 0, "a second pass would change something: {}", plan.stdout);
    }
    assert_eq!(scene.pulls(&format!("lab/{what}")), (false, true), "{what}");
    end();
    let put_back = scene.wait_named(true, PUT_BACK);
    assert_eq!(scene.pulls(&format!("lab/after-{what}")), (true, false), "after {what}");
    eprintln!("{what}: left out after {left_out:.1?}, put back after {put_back:.1?}");
}

/// One that refuses costs nothing, so that it stays named.
fn refuses(scene: &mut Scene) {
    scene.mirror.kill();
    assert_eq!(scene.pulls("lab/refused"), (false, true));
    scene.wait_told("containerd goes on to the next host by itself");
    let named = scene.wait_named(true, Duration::ZERO);
    assert!(named < SOON, "{named:?}");
    scene.mirror.on().unwrap();
    assert_eq!(scene.pulls("lab/after-refused"), (true, false));
}

/// Wrong bytes are noticed by no look, and no containerd asks the next host for
/// them: the pull fails, soon. containerd keeps the bytes and ends the next pull
/// with them too, from wherever it comes; so the way out has two steps.
fn corrupt(scene: &Scene) {
    scene.mirror.put("lab/corrupt").unwrap();
    scene.origin.put("lab/corrupt").unwrap();
    scene.mirror.corrupt("lab/corrupt").unwrap();
    for pull in scene.pull_there("lab/corrupt", SOON) {
        assert!(!pull.is_done() && pull.took < QUICK, "{}", pull.words);
        assert!(pull.words.contains("digest"), "{}", pull.words);
    }
    scene.mirror.lose("lab/corrupt").unwrap();
    let again: Vec<String> = scene.pull_there("lab/corrupt", SOON).iter().map(Pull::text).collect();
    eprintln!("a pull after the mirror lost its wrong bytes: {again:?}");
    for host in &scene.room.hosts {
        host.sh(FORGET).unwrap();
    }
    for pull in scene.pull_there("lab/corrupt", SOON) {
        assert!(pull.is_done(), "{}", pull.words);
    }
    assert!(scene.origin.served("lab/corrupt") > 0);
}

/// containerd reads an empty or torn file as none and goes to the origin.
fn torn(scene: &Scene) {
    for damage in ["truncate -s 0", "truncate -s 40"] {
        for host in &scene.room.hosts {
            host.sh(&format!("{damage} '{HOSTS_FILE}'")).unwrap();
        }
        scene.wait_named(true, SOON);
    }
}

#[test]
fn a_mirror_that_stalls_is_left_out_until_it_answers_and_what_else_is_wrong_with_one_is_bounded() {
    let mut scene = scene("mir");
    let running: Vec<_> = scene.room.hosts.iter().map(invocations).collect();
    assert_eq!(scene.pulls("lab/healthy"), (true, false), "the mirror is not asked first");
    refuses(&mut scene);
    corrupt(&scene);
    torn(&scene);
    let net = scene.room.lab.net();
    stalls(&scene, "dropped", || net.fault(5000, "counter drop").unwrap(), || net.heal().unwrap());
    stalls(&scene, "hanging", || scene.mirror.hang().unwrap(), || scene.mirror.go_on().unwrap());
    let now: Vec<_> = scene.room.hosts.iter().map(invocations).collect();
    assert_eq!(now, running, "something was restarted for it");
}

/// What is on the mirror's port instead of it: it says something and closes.
fn garbage(scene: &Scene) -> Service {
    let script = "use IO::Socket::INET; my $s = IO::Socket::INET->new(LocalAddr => '10.77.0.8:5000', Listen => 50, \
                  ReuseAddr => 1) or die $!; while (my $c = $s->accept) { print $c \"garbage\\r\\n\"; close $c }";
    let mut service = Service::start(&scene.room.lab, "garbage", &["perl", "-e", script]).unwrap();
    service.wait_listening(5000, SOON).unwrap();
    service
}

/// One line of the table: what is wrong, and the three versions.
fn measured(scene: &Scene, image: &str, limit: Duration) -> String {
    let cells: Vec<String> = scene.pull(&format!("lab/{image}"), limit).iter().map(Pull::text).collect();
    cells.join(" | ")
}

#[test]
#[ignore = "takes minutes, because containerd does: `make mirrors` prints the table of docs/mirrors.md"]
fn what_a_bad_mirror_costs_every_containerd_without_the_agent_and_with_it() {
    /// Where a pull that does not end is given up.
    const LIMIT: Duration = Duration::from_secs(200);
    let mut scene = scene("mirm");
    let agents = |verb: &str| {
        scene.room.hosts.iter().for_each(|host| {
            host.sh(&format!("systemctl {verb} edge-bootstrap")).unwrap();
        });
    };
    agents("stop");
    let mut rows = vec![format!("healthy | {}", measured(&scene, "m-healthy", LIMIT))];
    let net = scene.room.lab.net();
    net.fault(5000, "counter drop").unwrap();
    rows.push(format!("SYN dropped | {}", measured(&scene, "m-dropped", LIMIT)));
    net.heal().unwrap();
    scene.mirror.power_off().unwrap();
    rows.push(format!("switched off, same network | {}", measured(&scene, "m-off", LIMIT)));
    scene.mirror.power_on().unwrap();
    scene.mirror.hang().unwrap();
    rows.push(format!("takes connections, never answers | {}", measured(&scene, "m-hanging", LIMIT)));
    scene.mirror.go_on().unwrap();
    agents("start");
    scene.room.wait_steady(LONG).unwrap();
    with_the_agent(&scene, &mut rows);
    scene.mirror.kill();
    rows.push(format!("refused | {}", measured(&scene, "m-refused", LIMIT)));
    let noise = garbage(&scene);
    rows.push(format!("answers no HTTP | {}", measured(&scene, "m-garbage", LIMIT)));
    drop(noise);
    scene.mirror.on().unwrap();
    scene.mirror.put("lab/m-corrupt").unwrap();
    scene.origin.put("lab/m-corrupt").unwrap();
    scene.mirror.corrupt("lab/m-corrupt").unwrap();
    let cells: Vec<String> = scene.pull_there("lab/m-corrupt", LIMIT).iter().map(Pull::text).collect();
    rows.push(format!("wrong bytes | {}", cells.join(" | ")));
    eprintln!("| mirror | 1.6 | 1.7 | 2.1 |\n|---|---|---|---|");
    rows.iter().for_each(|row| eprintln!("| {row} |"));
}

fn with_the_agent(scene: &Scene, rows: &mut Vec<String>) {
    let net = scene.room.lab.net();
    let mut row = |what: &str, image: &str, begin: &dyn Fn(), end: &dyn Fn()| {
        begin();
        let left_out = scene.wait_named(false, LEFT_OUT).as_secs_f32();
        let cells = measured(scene, image, LONG);
        rows.push(format!(
            "{what}, with the agent: left out on the last of the three after {left_out:.0} s | {cells}"
        ));
        end();
        scene.wait_named(true, PUT_BACK);
    };
    row("SYN dropped", "a-dropped", &|| net.fault(5000, "counter drop").unwrap(), &|| net.heal().unwrap());
    row("switched off, same network", "a-off", &|| scene.mirror.power_off().unwrap(), &|| {
        scene.mirror.power_on().unwrap();
    });
    row("takes connections, never answers", "a-hanging", &|| scene.mirror.hang().unwrap(), &|| {
        scene.mirror.go_on().unwrap();
    });
}
