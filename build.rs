//! Leaves the unwind tables out of programs that never unwind.
#![expect(clippy::disallowed_methods, reason = "a build script is told everything by its environment")]

/// The release profile aborts on a panic: nothing reads the tables, and they are 0.8 MiB of a
/// package that every host fetches over a thin link. The linker has no switch for
/// them, only its script. Where this was not run the tables stay.
fn main() {
    println!("cargo:rerun-if-changed=packaging/no-unwind.ld");
    let is = |name: &str, value: &str| std::env::var(name).is_ok_and(|found| found == value);
    if is("PROFILE", "release") && is("CARGO_CFG_TARGET_ARCH", "x86_64") {
        println!("cargo:rustc-link-arg-bins=-Wl,-T,{}/packaging/no-unwind.ld", env!("CARGO_MANIFEST_DIR"));
        // The toolchain links with lld here. Generic code that came out the same for several
        // types is kept once; no address of a function is compared anywhere.
        println!("cargo:rustc-link-arg-bins=-Wl,--icf=all");
    }
}
