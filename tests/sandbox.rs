//! The sandbox itself.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(unsafe_code)] // Reads descriptor flags.

mod common;

use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::process::Command;

use viproute::sandbox::{self, Sandbox};

fn own_netns() -> PathBuf {
    std::fs::read_link("/proc/thread-self/ns/net").unwrap()
}

#[test]
fn sandbox_belongs_to_its_thread_and_ends_with_it() {
    let before = own_netns();
    let sandbox = Sandbox::new().unwrap();
    let inside = own_netns();
    assert_ne!(before, inside);

    // Threads and children made now live in it.
    let child = std::thread::spawn(own_netns).join().unwrap();
    assert_eq!(child, inside);
    let out = Command::new("readlink")
        .arg("/proc/self/ns/net")
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8(out.stdout).unwrap().trim(),
        inside.to_str().unwrap()
    );

    // A second one is nested.
    {
        let _inner = Sandbox::new().unwrap();
        assert_ne!(own_netns(), inside);
    }
    assert_eq!(own_netns(), inside);

    sandbox.leave().unwrap();
    assert_eq!(own_netns(), before);
}

#[test]
fn sandbox_has_lo_only_and_lo_is_up() {
    let _sandbox = Sandbox::new().unwrap();
    let links = common::net::ip_json("link");
    let links = links.as_array().unwrap();
    assert_eq!(links.len(), 1, "{links:?}");
    assert_eq!(links[0]["ifname"], "lo");
    assert_eq!(links[0]["ifindex"], 1);
    let flags = links[0]["flags"].as_array().unwrap();
    assert!(flags.iter().any(|flag| flag == "UP"), "{flags:?}");
}

#[test]
fn no_descriptor_survives_exec() {
    let sandbox = Sandbox::new().unwrap();
    // SAFETY: F_GETFD takes no argument, and the descriptor is open.
    let flags = unsafe { libc::fcntl(sandbox.as_fd().as_raw_fd(), libc::F_GETFD) };
    assert_eq!(flags & libc::FD_CLOEXEC, libc::FD_CLOEXEC);
    // And the one of the namespace before, which is not reachable from here: a child has none.
    let out = Command::new("ls")
        .args(["-l", "/proc/self/fd"])
        .output()
        .unwrap();
    let fds = String::from_utf8(out.stdout).unwrap();
    assert!(out.status.success() && !fds.contains("net:["), "{fds}");
}

#[test]
fn entering_with_threads_is_refused_and_says_why() {
    // Under --test-threads=1 the harness has no other.
    let error = std::thread::spawn(sandbox::enter)
        .join()
        .unwrap()
        .unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
    assert!(error.to_string().contains("single thread"), "{error}");
}
