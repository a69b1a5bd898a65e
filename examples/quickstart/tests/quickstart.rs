//! `quickstart` as a program, by its verdict.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../../../tests/common/mod.rs"]
mod common;

use std::net::IpAddr;
use std::process::{Command, Stdio};

use common::example::{Ran, example};
use common::{NODE_V4, NODE_V6};

#[test]
fn quickstart_succeeds() {
    let output = Command::new(example("quickstart"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let ran = Ran::from(output).exits(0).quiet();
    let verdict = ran.out.lines().last().unwrap();
    assert!(
        verdict.starts_with("Verdict: as it should be."),
        "{}",
        ran.out
    );
    // Before the cure the node's connections come from the VIP, afterwards from the node.
    for (vip, node) in ["10.96.0.10", "2001:db8:42:1::d45a"]
        .iter()
        .zip([IpAddr::from(NODE_V4), NODE_V6.into()])
    {
        let seen: Vec<_> = ran
            .out
            .lines()
            .filter_map(|line| {
                line.split_once(&format!("to {vip}: the listener sees "))?
                    .1
                    .into()
            })
            .collect();
        assert!(seen.first().unwrap().starts_with(&format!("{vip}, ")));
        assert!(seen.last().unwrap().starts_with(&format!("{node}, ")));
    }
}
