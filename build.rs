//! Tells `livemill -V` which compiler built it for which machine.

use std::process::Command;

fn main() {
    let compiler = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let version =
        Command::new(compiler).arg("--version").output().ok().and_then(|it| String::from_utf8(it.stdout).ok());
    let version = version.as_deref().map_or("rustc", str::trim);
    let target = std::env::var("TARGET").unwrap_or_default();
    println!("cargo::rustc-env=LIVEMILL_RUSTC={version}");
    println!("cargo::rustc-env=LIVEMILL_TARGET={target}");
    println!("cargo::rerun-if-changed=build.rs");
}
