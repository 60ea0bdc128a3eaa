//! `adopt --yes` with the power cut before each file that it writes, of the
//! take-over and of the pass that goes on: k3s is told all of the old or all of
//! the new, and run again it ends.

use std::process::Output;

use edge_bootstrap::gate;

use super::*;

/// More files than any take-over writes: then the test counts wrongly.
const MOST: usize = 300;
const OURS: &str = "/etc/systemd/system/k3s.service.d/10-edge-bootstrap.conf";

/// `adopt --yes`; with a number it dies before the file of that number has its name.
async fn adopt(host: &Host, cut: Option<usize>) -> Output {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_edge-bootstrap"));
    command.args(["adopt", "--yes", "--accept", "flannel-backend,kubelet-arg", "--root"]);
    command.arg(host.dir.path()).env_remove("EDGE_FAULT");
    command.envs(cut.map(|cut| ("EDGE_FAULT", format!("atomic-staged=abort:{cut}"))));
    command.output().await.unwrap()
}

/// A server whose host has the node's name already, so that the gate asks for more.
fn named() -> Host {
    let host = Host::server(&right(), "v1.21.5+k3s2");
    ["proc/sys/kernel/hostname", "etc/hostname"].iter().for_each(|path| host.write(path, "10-0-0-1\n"));
    host
}

/// What k3s is told, with what the files hold that are named: another try has other
/// names for them.
async fn told(host: &Host) -> Raw {
    let mut told = host.told().await;
    for (_, values) in told.iter_mut().filter(|(key, _)| key.ends_with("token-file")) {
        let path = values[0].trim_start_matches('/').to_owned();
        *values = vec![host.read(&path)];
        assert!(values[0].len() > 1, "{path} is missing or empty");
    }
    told
}

/// A copy whose systemd runs what the files say.
fn copy(host: &Host) -> Host {
    Host::copy_of(host.dir.path().to_str().unwrap()).with_systemd(&right(), FakeUnit::up())
}

/// Why k3s would not start now; the gate is asked on a copy, because it writes
/// down what it lets go.
fn refused(host: &Host) -> Option<String> {
    let copy = Host::copy_of(host.dir.path().to_str().unwrap());
    let guarded = copy.root().exists(OURS);
    let verdict = guarded.then(|| gate::check(&copy.root(), Clock::System, "k3s.service"))?;
    verdict.refusal.map(|refusal| refusal.code)
}

/// At every cut: what k3s is told is all of `old` or of `new`, and after the pass
/// before READY, or another `adopt`, it is `new` and the gate lets it go. Gives the
/// refusals of the gate between.
async fn cut_everywhere(host: &Host) -> Vec<String> {
    let old = told(host).await;
    let end = copy(host);
    let said = adopt(&end, None).await;
    assert!(!String::from_utf8_lossy(&said.stderr).contains("EB-adopt"), "{said:?}");
    let new = told(&end).await;
    assert!(new != old && refused(&end).is_none(), "{:?}", refused(&end));
    let mut refusals = Vec::new();
    for cut in 1..MOST {
        let host = &copy(host);
        if adopt(host, Some(cut)).await.status.code().is_some() {
            assert!(cut > 20, "only {cut} files were written");
            return refusals;
        }
        let now = told(host).await;
        assert!(now == old || now == new, "cut {cut}: a mixture of both, {:?}", now.keys());
        refusals.extend(refused(host));
        assert!(refused(host).is_none() || now == old, "cut {cut}: {:?}", refused(host));
        if !host.root().exists(paths::ADOPTED) {
            assert!(now == old, "cut {cut}: nobody has agreed yet");
            adopt(host, None).await;
        }
        let stop = host.pass_until(Until::Ready).await.stop;
        assert_eq!(stop, None, "cut {cut}");
        assert!(told(host).await == new && refused(host).is_none(), "cut {cut}: {:?}", refused(host));
        for path in [paths::ADOPT_CONFIG, paths::ADOPT_VARIABLES, DROP_IN] {
            assert!(!host.root().exists(path), "cut {cut}: {path} is still there");
        }
        let jobs = host.jobs();
        assert!(!jobs.iter().any(|job| job.contains("k3s")), "cut {cut}: {jobs:?}");
    }
    panic!("no end after {MOST} files");
}

#[tokio::test]
async fn with_a_token_k3s_may_start_at_every_cut_with_all_of_the_old_or_all_of_the_new() {
    let host = named();
    assert_eq!(cut_everywhere(&host).await, Vec::<String>::new());
}

/// A first server that was given no token made one itself. Its settings name none, and
/// between our gate and our configuration a start is refused: the pass before READY
/// ends that.
#[tokio::test]
async fn without_a_token_the_gate_holds_k3s_until_the_pass_before_ready_has_named_it() {
    let host = named();
    host.write("etc/systemd/system/k3s.service.env", "K3S_NODE_NAME=\"other\"\n");
    let refusals = cut_everywhere(&host).await;
    let is_held = !refusals.is_empty() && refusals.iter().all(|code| code == "EB-token-missing");
    assert!(is_held, "{refusals:?}");
}
