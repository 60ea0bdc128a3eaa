//! The clock's duty inside the shipped sandbox, as far as a container can have
//! one: it shares the machine's clock and may not set it. `tests/machines` has
//! clocks of their own.

use edge_lab::room::{self, LONG};
use edge_lab::{Host, Room, wait_until};

use crate::hand::{number, one_steady, status, wait_told};

/// Bit of CAP_SYS_TIME.
const SYS_TIME: u32 = 25;
const ACT: &str = "edge-bootstrap-act-set-clock.service";

/// Writes a record of the last synchronised time while the host is off.
fn known(host: &Host, unix: u64) {
    let body = format!("{{\"at\":{unix},\"source\":\"synchronized\"}}");
    let script = format!(
        "sum=$(printf %s '{body}' | sha256sum | cut -d' ' -f1); rm -f ./var/lib/edge-bootstrap/clock.json.prev; \
         printf '{{\"schema\":1,\"sha256\":\"%s\",\"body\":%s}}' \"$sum\" '{body}' >./var/lib/edge-bootstrap/clock.json"
    );
    host.edit(&script).unwrap();
}

fn now(host: &Host) -> u64 {
    host.sh("date +%s").unwrap().parse().unwrap()
}

/// No test may touch the clock of the machine that it runs on.
fn must_not_set_the_clock(host: &Host) {
    let bounding = host.sh("sed -n 's/^CapBnd:[[:space:]]*//p' /proc/1/status").unwrap();
    let bounding = u64::from_str_radix(&bounding, 16).unwrap();
    assert_eq!(bounding >> SYS_TIME & 1, 0, "this container could set the machine's clock");
}

#[test]
fn a_clock_that_cannot_be_set_holds_k3s_until_central_tells_the_time() {
    let mut room: Room = one_steady("clock-sandbox");
    must_not_set_the_clock(&room.hosts[0]);
    let future = now(&room.hosts[0]) + 3600;
    room.central.stop().unwrap();
    room.cut().unwrap();
    known(&room.hosts[0], future);
    // The kernel's synchronisation is that of the machine, which may have a time service.
    let masked = "ln -s /dev/null ./etc/systemd/system/systemd-timedated.service";
    room.hosts[0].edit(masked).unwrap();
    room.boot().unwrap();
    let host = &room.hosts[0];
    room::wait_phase(host, "held", LONG).unwrap();
    must_not_set_the_clock(host);
    // An act that is late on a busy machine is tried again after a minute.
    wait_until(LONG, "the refusal that says how the act ended", || {
        let held = status(host)["waiting_on"].clone();
        let ended = "cannot be set: act set-clock: failed (exit-code, status 1)";
        let says = held["reason"].as_str().is_some_and(|reason| reason.contains(ended));
        Ok((held["code"] == "EB-clock-behind" && says).then_some(()))
    })
    .unwrap();
    // The act ran outside the daemon's sandbox and said why.
    wait_told(host, ACT, "set the clock to");
    assert_eq!(number(host, "k3s", "ExecMainStartTimestampMonotonic"), 0, "k3s was never started");
    assert!(now(host) < future, "the machine's clock is where it was");

    room.central.start_again().unwrap();
    room.wait_steady(LONG).unwrap();
    let record = room.hosts[0].sh("cat /var/lib/edge-bootstrap/clock.json").unwrap();
    assert!(record.contains("\"source\":\"central\"") && record.contains("disowned"), "{record}");
}
