//! A k3s of others under a name that is not taken over, or under none: nothing is
//! planned beside it, and a person is told what to do.

use super::*;

const UNIT: &str = "etc/systemd/system/k3s-edge.service";
const WANTED: &str = "etc/systemd/system/multi-user.target.wants/k3s-edge.service";
const NEXT: &str = "only k3s.service and k3s-agent.service are taken over";

/// The host of [`Host::server`], with the unit of its k3s under another name.
fn renamed() -> Host {
    let host = Host::server(&right(), "v1.36.2+k3s1");
    let unit = host.read("etc/systemd/system/k3s.service");
    std::fs::remove_file(host.path("etc/systemd/system/k3s.service")).unwrap();
    host.write(UNIT, &unit);
    host
}

/// A process as procfs tells it.
fn process(host: &Host, pid: u32, (name, group): (&str, &str)) {
    let stat = format!("{pid} ({name}) S 1 {pid} 0{}", " 0".repeat(40));
    for (file, text) in [("stat", stat.as_str()), ("comm", name), ("cgroup", group), ("cmdline", "")] {
        host.write(&format!("proc/{pid}/{file}"), &format!("{text}\n"));
    }
}

/// Shown and said yes to, it is refused in these words, and so is every pass.
async fn is_refused(host: &Host, words: &[&str]) {
    host.write(
        CONFIG,
        &format!("{SITE}[central]\nassignment-file = \"/etc/edge-bootstrap/assignment.toml\"\n"),
    );
    let look = Host::running(&right(), "v1.36.2+k3s1").look().await;
    host.write("etc/edge-bootstrap/assignment.toml", &look.proposed.unwrap().text);
    let before = host.files();
    for arguments in [&[][..], &["--yes"]] {
        let (text, code) = shown(host, arguments);
        for word in words.iter().chain(&["EB-adopt-refused", NEXT, "`edge-bootstrap adopt`"]) {
            assert!(text.contains(word), "{word} is not in {text}");
        }
        assert_eq!((code, host.files() == before), (Some(1), true), "{text}");
    }
    for until in [Until::Ready, Until::Verified] {
        let stop = host.pass_until(until).await.stop.unwrap();
        assert_eq!(stop.why.code, "EB-adopt-refused", "{stop:?}");
        assert!(words.iter().all(|word| stop.why.to_string().contains(word)), "{stop:?}");
    }
    assert!(host.files() == before, "something was written beside a k3s of others");
}

#[tokio::test]
async fn a_unit_of_another_name_is_told_while_it_runs_at_a_boot_and_when_it_has_lived() {
    let words = ["/etc/systemd/system/k3s-edge.service", "systemctl disable --now k3s-edge.service"];
    is_refused(&renamed(), &words).await;
    let host = renamed();
    std::fs::remove_dir_all(host.path("var/lib/rancher/k3s")).unwrap();
    host.write(WANTED, "");
    is_refused(&host, &words).await;
    std::fs::remove_file(host.path(WANTED)).unwrap();
    process(&host, 4711, ("k3s-server", "0::/system.slice/k3s-edge.service"));
    is_refused(&host, &["/etc/systemd/system/k3s-edge.service (process 4711)", words[1]]).await;
}

#[tokio::test]
async fn a_k3s_of_openrc_and_one_that_was_started_by_hand_are_told() {
    let bare = || {
        let host = renamed();
        std::fs::remove_file(host.path(UNIT)).unwrap();
        std::fs::remove_dir_all(host.path("var/lib/rancher/k3s")).unwrap();
        host
    };
    let host = bare();
    host.write("etc/init.d/k3s", "#!/sbin/openrc-run\n");
    host.write("etc/runlevels/default/k3s", "");
    is_refused(&host, &["the script /etc/init.d/k3s", "take /etc/init.d/k3s away"]).await;
    let host = bare();
    host.write("lib/systemd/system/cron.service", "[Service]\nExecStart=/usr/sbin/cron -f\n");
    process(&host, 4711, ("k3s-server", "0::/system.slice/cron.service"));
    is_refused(&host, &["runs as process 4711, from no unit of its own"]).await;
    let host = bare();
    process(&host, 4711, ("k3s-agent", "0::/user.slice/user-0.slice/session-1.scope"));
    is_refused(
        &host,
        &["runs as process 4711, from no unit of its own", "whose ExecStart is its command line"],
    )
    .await;
}

/// As k3d keeps them: the k3s of a container is that container's.
#[tokio::test]
async fn a_k3s_in_somebody_elses_container_and_a_unit_that_is_off_keep_nobody_from_anything() {
    let host = renamed();
    std::fs::remove_dir_all(host.path("var/lib/rancher/k3s")).unwrap();
    process(&host, 1, ("systemd", "0::/init.scope"));
    process(&host, 4711, ("k3s-server", "0::/system.slice/docker-0123.scope"));
    let (text, code) = shown(&host, &[]);
    assert!(code == Some(0) && text.contains("nothing to take over"), "{text}");
}

/// The one that can be taken over is not, as long as another one would be beside it.
#[tokio::test]
async fn beside_a_second_k3s_the_first_is_shown_and_not_taken() {
    let host = Host::server(&right(), "v1.21.5+k3s2");
    process(&host, 4711, ("k3s-server", "0::/system.slice/k3s-edge.service"));
    let before = host.files();
    let (text, code) = shown(&host, &["--yes", "--accept", "flannel-backend,kubelet-arg"]);
    assert!(text.contains("a k3s of others runs as process 4711"), "{text}");
    assert_eq!((code, host.files() == before), (Some(1), true), "{text}");
}
