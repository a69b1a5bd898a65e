//! What the kernel tests share.
#![allow(dead_code, unreachable_pub, unused_imports)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::process::Command;

/// Before libtest has threads: afterwards no user namespace can be had.
#[allow(unsafe_code)]
#[ctor::ctor(unsafe)]
fn enter_sandbox() {
    if let Err(error) = viproute::sandbox::enter() {
        eprintln!("\n*** NO SANDBOX, so no test of this binary can run: {error}\n");
        std::process::exit(1);
    }
}

pub fn ip_json(args: &str) -> serde_json::Value {
    let out = Command::new("ip")
        .args(["-N", "-json", "-d"])
        .args(args.split_whitespace())
        .output()
        .unwrap();
    serde_json::from_slice(&out.stdout).unwrap()
}
