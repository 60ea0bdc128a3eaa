//! The kernel's own words about the running host: names, ids, addresses.
//!
//! Owns the calls that cannot be answered from files below a root. With a
//! foreign root they are not used.

use nix::errno::Errno;

use super::root::Root;

/// The kernel's hostname.
///
/// # Errors
/// When the kernel does not tell.
pub fn hostname() -> Result<String, Errno> {
    nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned())
}

/// Sets the kernel's hostname, without hostnamed.
///
/// # Errors
/// `EPERM` without the capability.
pub fn set_hostname(name: &str) -> Result<(), Errno> {
    nix::unistd::sethostname(name)
}

/// When process `pid` started, in clock ticks since boot; `None` when there is
/// no such process.
#[must_use]
pub fn process_start(root: &Root, pid: u32) -> Option<u64> {
    let stat = root.read_kernel(&format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in brackets and may hold anything.
    let after_name = stat.rsplit_once(')')?.1;
    after_name.split_whitespace().nth(19)?.parse().ok()
}

/// The kernel's boot id.
///
/// # Errors
/// When procfs is not there.
pub fn boot_id(root: &Root) -> Result<String, super::FileError> {
    root.read_kernel("/proc/sys/kernel/random/boot_id")
}

/// Own process id.
#[must_use]
pub fn pid() -> u32 {
    std::process::id()
}

/// Ends this process after `seconds` whatever it hangs in: alarm(2).
pub fn alarm(seconds: u32) {
    nix::unistd::alarm::set(seconds);
}

/// One variable of the environment.
#[must_use]
pub fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Tells process `pid` to read its configuration again: SIGHUP. One that has
/// gone needs no word.
pub fn hang_up(pid: u32) {
    if let Ok(pid) = i32::try_from(pid) {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGHUP);
    }
}

/// Path of this program's file, also when a newer one was put in its place
/// since it was started.
///
/// # Errors
/// When procfs is not there.
pub fn program() -> std::io::Result<String> {
    let path = std::env::current_exe()?.to_string_lossy().into_owned();
    // The kernel's mark for a file whose name is gone.
    Ok(path.strip_suffix(" (deleted)").unwrap_or(&path).to_owned())
}

/// Whether this process may do what root may.
#[must_use]
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// The command line of this process.
#[must_use]
pub fn arguments() -> Vec<std::ffi::OsString> {
    std::env::args_os().collect()
}

/// Reads standard input to its end, up to 64 KiB.
///
/// # Errors
/// When it cannot be read or is not text.
pub fn standard_input() -> std::io::Result<String> {
    use std::io::Read as _;
    let mut text = String::new();
    std::io::stdin().take(64 * 1024).read_to_string(&mut text)?;
    Ok(text)
}
