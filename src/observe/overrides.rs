//! What others set for k3s beside its configuration file.
//!
//! Owns where units, their drop-ins and environment files lie, and which of two
//! files of one name counts (systemd.unit(5)). Reads only.

use crate::error::Chain;
use crate::facts::Fact;
use crate::facts::overrides::{Override, Service, of_environment_file};
use crate::ordered::sort_by;
use crate::sys::Root;
use crate::sys::root::FileError;

/// Where units lie, the first of one name counts (systemd.unit(5)).
const PLACES: [&str; 8] = [
    "/etc/systemd/system.control",
    "/run/systemd/system.control",
    "/run/systemd/transient",
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];
/// What k3s's units read by themselves (k3s: install.sh).
const ENVIRONMENT_FILES: [&str; 3] =
    ["/etc/default/%N", "/etc/sysconfig/%N", "/etc/systemd/system/%N.service.env"];

/// Settings for `unit`, arguments and variables, as the files on disk have them.
#[must_use]
pub fn of_unit(root: &Root, unit: &str) -> Fact<Vec<Override>> {
    match read(root, unit) {
        Ok(overrides) => Fact::Known(overrides),
        Err(error) => Fact::unknown(Chain(&error).to_string()),
    }
}

fn read(root: &Root, unit: &str) -> Result<Vec<Override>, FileError> {
    let service = service(root, unit)?;
    let mut overrides = service.overrides(unit);
    let mut paths: Vec<String> = ENVIRONMENT_FILES.map(|path| resolved(path, unit)).into();
    paths.extend(service.environment_files.iter().map(|path| resolved(path, unit)));
    paths.sort();
    paths.dedup();
    for path in paths {
        if let Some(text) = root.read_text(&path)? {
            overrides.extend(of_environment_file(unit, &path, &text));
        }
    }
    Ok(overrides)
}

/// Unit file and drop-ins as systemd would merge them at its next reload.
fn service(root: &Root, unit: &str) -> Result<Service, FileError> {
    let mut service = Service::default();
    if let Some(path) = fragment(root, unit) {
        service.merge(&path, &root.read_text(&path)?.unwrap_or_default());
    }
    for path in drop_ins(root, unit)? {
        service.merge(&path, &root.read_text(&path)?.unwrap_or_default());
    }
    Ok(service)
}

/// The unit file that counts; `None` when there is none.
#[must_use]
pub fn fragment(root: &Root, unit: &str) -> Option<String> {
    let fragments = PLACES.iter().map(|place| format!("{place}/{unit}"));
    fragments.into_iter().find(|path| root.exists(path))
}

/// Drop-ins in the order of their names; of one name the first place counts.
///
/// # Errors
/// When a directory cannot be listed.
pub fn drop_ins(root: &Root, unit: &str) -> Result<Vec<String>, FileError> {
    let mut found: Vec<(String, String)> = Vec::new();
    for place in PLACES {
        let directory = format!("{place}/{unit}.d");
        for name in root.list(&directory)? {
            if name.ends_with(".conf") && !found.iter().any(|(known, _)| *known == name) {
                found.push((name.clone(), format!("{directory}/{name}")));
            }
        }
    }
    sort_by(&mut found, |one, other| one < other);
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

/// The specifiers that name a unit.
fn resolved(path: &str, unit: &str) -> String {
    let name = unit.trim_end_matches(".service");
    path.replace("%N", name).replace("%p", name).replace("%n", unit)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;
    use crate::sys::atomic;

    fn host(files: &[(&str, &str)]) -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        for (path, text) in files {
            root.ensure_dir(path.rsplit_once('/').unwrap().0).unwrap();
            atomic::write(&root, path, text.as_bytes(), 0o644).unwrap();
        }
        (dir, root)
    }

    fn found(files: &[(&str, &str)]) -> Vec<(String, String)> {
        let (_dir, root) = host(files);
        let overrides = of_unit(&root, "k3s.service").known().cloned().unwrap();
        overrides.into_iter().map(|over| (over.name, over.value)).collect()
    }

    #[test]
    fn a_drop_in_of_etc_hides_one_of_usr_and_the_last_name_wins() {
        let files = [
            ("/etc/systemd/system/k3s.service", "[Service]\nExecStart=/usr/local/bin/k3s server\n"),
            (
                "/usr/lib/systemd/system/k3s.service.d/x.conf",
                "[Service]\nEnvironment=K3S_URL=https://hidden\n",
            ),
            ("/etc/systemd/system/k3s.service.d/x.conf", "[Service]\n"),
            (
                "/run/systemd/system/k3s.service.d/50.conf",
                "[Service]\nExecStart=\nExecStart=k3s server --cluster-reset\n",
            ),
            ("/run/systemd/system/k3s.service.d/50.conf.bak", "[Service]\nEnvironment=K3S_URL=https://a\n"),
        ];
        assert_eq!(found(&files), [("--cluster-reset".to_owned(), "true".to_owned())]);
    }

    #[test]
    fn environment_files_are_those_of_k3s_and_those_that_a_drop_in_adds() {
        let files = [
            ("/etc/default/k3s", "K3S_NODE_NAME=a\n"),
            ("/etc/default/k3s-agent", "K3S_NODE_NAME=b\n"),
            ("/etc/systemd/system/k3s.service.d/x.conf", "[Service]\nEnvironmentFile=-/srv/%p.env\n"),
            ("/srv/k3s.env", "K3S_DATA_DIR=/srv\n"),
        ];
        let names: Vec<_> = found(&files).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["K3S_NODE_NAME", "K3S_DATA_DIR"]);
    }
}
