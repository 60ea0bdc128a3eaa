//! Clocks that lost their time, ran ahead or stand in the future: with a
//! hardware clock of the machine's own, and power cuts between the boots.

use std::net::Ipv4Addr;
use std::time::Duration;

use edge_lab::room::{LONG, SITE, VERSION};
use edge_lab::{Central, Lab, Machine, MachineSpec, Profile, Suite, central, programs, wait_until};
use serde_json::Value;

const DAY: i64 = 86_400;
const YEAR: i64 = 365 * DAY;

/// A machine with its central service, which may be down.
struct Room {
    central: Central,
    machine: Machine,
}

impl Room {
    /// A steady server whose clock is right.
    fn steady(name: &str) -> Self {
        let package = programs::package(Profile::Dev, "").unwrap();
        let k3s = programs::k3s().unwrap();
        let lab = Lab::open(name).unwrap();
        let central = Central::start(&lab).unwrap();
        central.add_site(SITE, &k3s, VERSION).unwrap();
        let token = central.token(SITE, 9, true).unwrap();
        let address = Some(Ipv4Addr::new(10, 77, 1, 2));
        let spec = MachineSpec { address, ..MachineSpec::new("m1", Suite::Bookworm) };
        let machine = lab.machine(spec).unwrap();
        let room = Self { central, machine };
        room.hardware_clock(0);
        let node = format!("\n[node]\nsite = \"{SITE}\"\nip-networks = [\"10.77.0.0/16\"]\n");
        let settings = room.central.host_config().unwrap() + &node;
        room.machine.edit("mkdir -p etc/edge-bootstrap/config.d", b"").unwrap();
        room.machine.edit("cat >etc/edge-bootstrap/config.d/20-site.toml", settings.as_bytes()).unwrap();
        let file = format!("umask 077; cat >.{}", central::TOKEN_FILE);
        room.machine.edit(&file, format!("{token}\n").as_bytes()).unwrap();
        room.machine.boot_and_install(&package).unwrap();
        room.wait_phase("steady");
        room
    }

    /// Sets the hardware clock for the next boot: seconds from now.
    fn hardware_clock(&self, from_now: i64) {
        self.hardware_clock_at(now() + from_now);
    }

    fn hardware_clock_at(&self, unix: i64) {
        let base = date(unix);
        self.machine.change(|spec| spec.qemu = vec!["-rtc".to_owned(), format!("base={base}")]);
    }

    /// The power goes, and comes back with another time.
    fn cut_and_boot(&self, unix: i64) {
        self.machine.sh("sync -f /").unwrap();
        self.machine.cut().unwrap();
        self.hardware_clock_at(unix);
        self.machine.boot_no_wait().unwrap();
    }

    fn status(&self) -> Value {
        let text = self.machine.exec(&["cat", "/run/edge-bootstrap/status.json"]).unwrap();
        serde_json::from_str(&text.stdout).unwrap_or_default()
    }

    fn wait_phase(&self, phase: &str) {
        let seen = wait_until(LONG, phase, || Ok((self.status()["phase"] == phase).then_some(())));
        assert!(seen.is_ok(), "not {phase}: {:#}\n{}", self.status(), self.journal());
    }

    fn journal(&self) -> String {
        self.machine.sh("journalctl -b -o cat --no-pager -u edge-bootstrap | tail -n 40").unwrap()
    }

    /// The text of the finding with this code; empty when there is none.
    fn finding(&self, code: &str) -> String {
        let status = self.status();
        let all = status["findings"].as_array().cloned().unwrap_or_default();
        let one = all.iter().find(|finding| finding["code"] == code);
        one.and_then(|finding| finding["text"].as_str()).unwrap_or_default().to_owned()
    }

    fn clock(&self) -> i64 {
        self.machine.sh("date +%s").unwrap().parse().unwrap()
    }

    /// Seconds by which the machine's clock is off.
    fn off(&self) -> i64 {
        self.clock() - now()
    }

    fn k3s_runs(&self) -> bool {
        self.machine.sh("systemctl show -P MainPID k3s").unwrap() != "0"
    }

    /// Whether k3s was started in this boot, however short.
    fn k3s_was_started(&self) -> bool {
        self.machine.sh("systemctl show -P ExecMainStartTimestampMonotonic k3s").unwrap() != "0"
    }

    /// Says to the kernel what a time service says: the clock is synchronised.
    fn synchronise(&self) {
        // adjtimex(2): maximal error, estimated error and status become 0.
        let call = "my $t = pack(\"Lx4q4lx4\", 0x1c, 0, 0, 0, 0, 0) . (\"\\0\" x 256); syscall(159, $t) >= 0 or die $!";
        self.machine.exec(&["perl", "-e", call]).unwrap().ok().unwrap();
        assert_eq!(self.machine.sh("timedatectl show -p NTPSynchronized --value").unwrap(), "yes");
    }

    fn record(&self) -> Value {
        let text = self.machine.sh("cat /var/lib/edge-bootstrap/clock.json").unwrap();
        serde_json::from_str::<Value>(&text).unwrap()["body"].clone()
    }
}

fn now() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(now.as_secs()).unwrap()
}

fn date(unix: i64) -> String {
    let out = std::process::Command::new("date")
        .args(["-u", "-d", &format!("@{unix}"), "+%Y-%m-%dT%H:%M:%S"])
        .output()
        .unwrap();
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

/// 2099-01-01.
const FAR: i64 = 4_070_908_800;

/// How far a clock may be off that was set to a time recorded before: records
/// are made every ten minutes, and a boot takes a while.
const NEAR: i64 = 1800;

#[test]
fn without_wan_a_dead_battery_is_healed_and_a_clock_of_the_future_holds_k3s_until_it_is_right() {
    let mut room = Room::steady("clock");
    let known = room.record()["at"].as_i64().unwrap();
    assert!((now() - known).abs() < NEAR, "central told its time: {}", room.record());
    room.central.stop().unwrap();

    // 1970: the battery is dead.
    room.cut_and_boot(12);
    room.wait_phase("steady");
    let found = room.finding("EB-clock-behind");
    assert!(found.contains("before") && found.contains("it was set to"), "{found:?}");
    assert!(found.contains("battery"), "{found:?}");
    assert!(room.k3s_runs() && room.clock() >= known && room.off().abs() < NEAR, "{}", room.off());

    // Two years ahead: nobody vouches for it.
    room.cut_and_boot(now() + 2 * YEAR);
    room.wait_phase("held");
    assert_eq!(room.status()["waiting_on"]["code"], "EB-clock-ahead", "{:#}", room.status());
    assert!(!room.k3s_was_started(), "k3s would renew its certificates with dates of the future");
    assert!(room.off() > YEAR, "nobody knows better");

    // Then ten, which must not become the last known time.
    room.cut_and_boot(now() + 10 * YEAR);
    room.wait_phase("held");
    assert!(!room.k3s_was_started());
    assert!(room.record()["at"].as_i64().unwrap() < now() + NEAR, "{}", room.record());

    // And 2099. systemd 252 takes a clock 15 years after its own build for lost and
    // begins at that build: then it is behind, and set to the floor.
    room.cut_and_boot(FAR);
    room.wait_phase("steady");
    assert!(room.off().abs() < NEAR && room.k3s_runs(), "{}", room.off());
    assert!(room.record()["at"].as_i64().unwrap() < now() + NEAR, "{}", room.record());

    // The hardware clock is right again, and still there is no WAN.
    room.cut_and_boot(now());
    room.wait_phase("steady");
    assert!(room.off().abs() < 300 && room.k3s_runs(), "{}", room.off());
    assert_eq!(room.finding("EB-clock-behind") + &room.finding("EB-clock-ahead"), "");
}

#[test]
fn an_hour_behind_is_seen_by_the_last_synchronised_time() {
    let mut room = Room::steady("hour");
    room.central.stop().unwrap();
    room.synchronise();
    room.machine.sh("rm -f /var/lib/edge-bootstrap/clock.json*; systemctl restart edge-bootstrap").unwrap();
    room.wait_phase("steady");
    wait_until(Duration::from_secs(60), "the time is recorded", || {
        let record = room.machine.sh("cat /var/lib/edge-bootstrap/clock.json || true")?;
        Ok(record.contains("synchronized").then_some(()))
    })
    .unwrap();
    let known = room.record()["at"].as_i64().unwrap();
    room.cut_and_boot(now() - 3600);
    room.wait_phase("steady");
    assert!(
        room.finding("EB-clock-behind").contains("the clock was synchronised then"),
        "{:#}",
        room.status()
    );
    assert!(room.clock() >= known && room.k3s_runs(), "{} before {known}", room.clock());
}

#[test]
fn centrals_time_sets_the_clock_but_never_back_across_a_running_datastore() {
    let mut room = Room::steady("told");
    // Two years ahead, with WAN: held, told, set back, started.
    room.cut_and_boot(now() + 2 * YEAR);
    room.wait_phase("steady");
    assert!(room.off().abs() < 300 && room.k3s_runs(), "{}", room.off());
    assert!(room.finding("EB-clock-ahead").contains("it was set to"), "{:#}", room.status());

    // Somebody sets it forward under a running datastore: told, and left so.
    room.machine.sh("date -s @$(($(date +%s) + 7200))").unwrap();
    wait_until(LONG, "the step is told", || {
        Ok(room.finding("EB-clock-step").contains("forward").then_some(()))
    })
    .unwrap();
    wait_until(LONG, "central disagrees", || {
        Ok(room.finding("EB-clock-ahead").contains("only while no datastore runs").then_some(()))
    })
    .unwrap();
    assert!(room.off() > 6000, "{}", room.off());
    assert!(room.k3s_runs());

    // Behind is set forward while it runs.
    let pid = room.machine.sh("systemctl show -P MainPID k3s").unwrap();
    room.machine.sh("date -s @$(($(date +%s) - 14400))").unwrap();
    wait_until(LONG, "the clock is right", || Ok((room.off().abs() < 300).then_some(()))).unwrap();
    assert_eq!(room.machine.sh("systemctl show -P MainPID k3s").unwrap(), pid, "k3s was left alone");
    let unit = "edge-bootstrap-act-set-clock.service";
    let said = room.machine.sh(&format!("journalctl -b --no-pager -o cat _PID=1 | grep -c '{unit}' || true"));
    assert_ne!(said.unwrap(), "0", "systemd did it, outside our sandbox");

    // The WAN goes; a clock that lost its time comes back to what central told.
    room.central.stop().unwrap();
    room.cut_and_boot(12);
    room.wait_phase("steady");
    assert!(room.off().abs() < NEAR && room.k3s_runs(), "{}", room.off());
}
