//! What the library needs of a process and does to it: capabilities and environment, compared with
//! docs/privilege.md.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::os::fd::AsFd;
use std::path::Path;

use common::{NODE_V4, Net, VIP_LINK, builder, vips};
use viproute::{
    Binding, Cause, Claim, Error, ErrorKind, LinkKind, Netns, SourceAvoidance, VipManager,
};

const CAP_NET_ADMIN: u32 = 12;

/// Leaves this thread these capabilities alone, for good.
#[allow(unsafe_code)]
fn keep_only(capabilities: u64) {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    let header = Header {
        version: 0x2008_0522,
        pid: 0,
    };
    let low = u32::try_from(capabilities & 0xffff_ffff).unwrap();
    let high = u32::try_from(capabilities >> 32).unwrap();
    // Effective, permitted, inheritable, of the lower and the upper half (capset(2)).
    let sets = [low, low, 0, high, high, 0_u32];
    // SAFETY: version 3 of the call takes a header and two triples of u32, both valid here.
    let set = unsafe { libc::syscall(libc::SYS_capset, &raw const header, &raw const sets) };
    assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
}

/// Runs `work` in a thread that has these capabilities and no others.
fn with_only<T: Send>(capabilities: u64, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            keep_only(capabilities);
            work()
        });
        thread.join().expect("no panic")
    })
}

type Call = fn(&mut VipManager) -> Result<u64, Error>;

/// Every call that may write, on a link with two VIPs that are right and two that are not.
const WRITING: [(&str, Call); 8] = [
    ("assign", |m| m.assign(vips(3)).map(|r| r.writes)),
    ("normalize", |m| m.normalize().map(|r| r.writes)),
    ("normalize_only", |m| {
        m.normalize_only(vips(2)).map(|r| r.writes)
    }),
    ("release", |m| m.release(vips(2)).map(|r| r.writes)),
    ("reconcile", |m| {
        m.reconcile(&Claim::link(), vips(3)).map(|r| r.writes)
    }),
    ("release_all", |m| {
        m.release_all(&Claim::link()).map(|r| r.writes)
    }),
    ("set_source", |m| {
        m.set_source([192, 0, 2, 11]).map(|r| r.writes)
    }),
    ("set_binding", |m| {
        m.set_binding(Binding::Route).map(|r| r.writes)
    }),
];

/// Two VIPs that are right and two that are not, and a second source.
fn node() -> Net {
    let net = Net::new();
    net.ip("addr add 192.0.2.11/32 dev node0");
    builder().open().unwrap().assign(vips(1)).unwrap();
    for vip in &vips(2)[2..] {
        net.ip(&format!("addr add {vip} dev {VIP_LINK}"));
    }
    net
}

#[test]
fn calls_that_write_need_only_cap_net_admin() {
    for (name, call) in WRITING {
        let net = node();
        net.wait_for_kernel();
        let before = net.snapshot_without(&[]);
        let error = with_only(0, || call(&mut builder().open().unwrap())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{name}: {error}");
        assert_eq!(error.raw_os_error(), Some(libc::EPERM), "{name}");
        assert!(
            error.to_string().contains("CAP_NET_ADMIN"),
            "{name}: {error}"
        );
        let failures = &error.report().unwrap().failures;
        assert!(!failures.is_empty(), "{name}");
        assert!(failures.iter().all(|f| f.cause == Cause::NotReached));
        before.assert_same(&net.snapshot_without(&[]));
        // Nor is all else enough.
        let error = with_only(ALL & !(1 << CAP_NET_ADMIN), || {
            call(&mut builder().open().unwrap())
        });
        assert_eq!(error.unwrap_err().kind(), ErrorKind::PermissionDenied);
        before.assert_same(&net.snapshot_without(&[]));
        let writes = with_only(1 << CAP_NET_ADMIN, || call(&mut builder().open().unwrap()));
        assert!(writes.unwrap() > 0, "{name} had nothing to do");
    }
}

/// Those that a user namespace has on any kernel.
const ALL: u64 = (1 << 38) - 1;

#[test]
fn call_with_nothing_to_write_needs_no_capability() {
    let net = Net::new();
    let set = vips(20);
    builder().open().unwrap().assign(&set).unwrap();
    let before = net.snapshot_without(&[]);
    let claim = Claim::link();
    with_only(0, || {
        let mut vips = builder().open().unwrap();
        for report in [
            vips.assign(&set),
            vips.normalize(),
            vips.normalize_only(&set),
            vips.reconcile(&claim, &set),
            vips.set_source(NODE_V4),
            vips.set_binding(Binding::Address),
        ] {
            let report = report.unwrap();
            assert_eq!((report.unchanged, report.writes), (40, 0));
        }
        assert_eq!(
            vips.release(["10.99.0.1".parse::<std::net::IpAddr>().unwrap()])
                .unwrap()
                .writes,
            0
        );
        let mut keeper = vips.into_keeper(claim.clone()).unwrap();
        keeper.set_desired(&set);
        assert_eq!(keeper.dispatch(usize::MAX).unwrap().report.unchanged, 40);
        keeper.canceller().cancel();
        keeper.run(|_| ()).unwrap();
    });
    before.assert_same(&net.snapshot_without(&[]));
}

#[test]
fn calls_that_read_need_no_capability() {
    let net = node();
    net.wait_for_kernel();
    let before = net.snapshot_without(&[]);
    with_only(0, || {
        let mut vips = builder().open().unwrap();
        assert_eq!(vips.audit().unwrap().drifted().count(), 2);
        assert_eq!(vips.audit_deep().unwrap().drifted().count(), 2);
        assert!(
            !vips
                .plan(&Claim::link(), common::vips(3))
                .unwrap()
                .is_empty()
        );
        let mut watcher = vips.watcher().unwrap();
        watcher.read(&mut Vec::new()).unwrap();
        let _ = vips.canceller();
        vips.shrink_to(0);
        // The plan of what would take more.
        let mut vips = common::builder_of("other0")
            .create_link(LinkKind::Bridge)
            .avoid_as_source(SourceAvoidance::AddressLabel)
            .open()
            .unwrap();
        vips.plan(&Claim::link(), common::vips(3)).unwrap();
    });
    before.assert_same(&net.snapshot_without(&[]));
}

#[test]
fn the_link_and_the_labels_need_cap_net_admin() {
    let other = |avoidance: Option<SourceAvoidance>| {
        let builder = common::builder_of("other0").create_link(LinkKind::Bridge);
        match avoidance {
            Some(avoidance) => builder.avoid_as_source(avoidance),
            None => builder,
        }
    };
    for state in ["absent", "down", "unlabelled"] {
        let net = Net::new();
        if state != "absent" {
            net.ip("link add other0 type bridge");
            net.ip("link set other0 arp off");
        }
        if state == "unlabelled" {
            net.ip("link set other0 up");
            other(None).open().unwrap().assign(vips(2)).unwrap();
        }
        let label = Some(SourceAvoidance::AddressLabel);
        let before = net.snapshot_without(&[]);
        let error = with_only(0, || other(label).open().unwrap().assign(vips(2))).unwrap_err();
        assert_eq!(
            error.kind(),
            ErrorKind::PermissionDenied,
            "{state}: {error}"
        );
        before.assert_same(&net.snapshot_without(&[]));
        let report = with_only(1 << CAP_NET_ADMIN, || {
            other(label).open().unwrap().assign(vips(2))
        });
        assert_eq!(report.unwrap().failures, [], "{state}");
    }
}

#[test]
fn keeper_reports_the_missing_capability() {
    let net = Net::new();
    let set = vips(5);
    let before = net.snapshot_without(&[]);
    let error = with_only(0, || {
        let mut keeper = builder()
            .open()
            .unwrap()
            .into_keeper(Claim::link())
            .unwrap();
        keeper.set_desired(&set);
        keeper.run(|_| ()).unwrap_err()
    });
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    before.assert_same(&net.snapshot_without(&[]));
}

#[test]
fn another_namespace_needs_cap_sys_admin() {
    const CAP_SYS_ADMIN: u32 = 21;
    let net = Net::new();
    let given = || {
        let fd = net.sandbox().as_fd().try_clone_to_owned().unwrap();
        builder().netns(Netns::try_from(fd).unwrap())
    };
    let (without, with) = (given(), given());
    let error = with_only(1 << CAP_NET_ADMIN, || without.open().unwrap_err());
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    assert!(error.to_string().contains("CAP_SYS_ADMIN"), "{error}");
    with_only(1 << CAP_SYS_ADMIN, || {
        assert!(with.open().unwrap().audit().unwrap().vips.is_empty());
    });
}

/// Lines of the library's sources that hold a given word; tests among them are left out.
fn lines_with(words: &[&str], tests_too: bool) -> Vec<String> {
    let mut found = Vec::new();
    let mut directories = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    let mut files = 0;
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
                continue;
            }
            // Only code. A preamble of examples in the documentation may run programs.
            if path.extension().is_none_or(|extension| extension != "rs") {
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            let name = path.to_string_lossy().into_owned();
            // Only in the tests' build, or the fuzzer's.
            let of_tests = ["src/faults", "src/fuzzing", "src/sys/fault.rs", "/tests.rs"]
                .iter()
                .any(|part| name.contains(part));
            if of_tests && !tests_too {
                continue;
            }
            files += 1;
            let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
            let code = if tests_too { text.as_str() } else { code };
            for line in code
                .lines()
                .filter(|line| !line.trim_start().starts_with("//"))
            {
                if words.iter().any(|word| line.contains(word)) {
                    found.push(format!("{name}: {line}"));
                }
            }
        }
    }
    assert!(files > 20, "only {files} sources found");
    found
}

/// Together with the traces of examples/vip/tests/system_calls.rs: the library runs no program, and reads
/// no environment variable.
#[test]
fn library_reads_no_environment_and_runs_no_process() {
    let words = [
        "std::env",
        "env::",
        "env!(",
        "getenv",
        "Command",
        "fork(",
        "posix_spawn",
        "libc::exec",
    ];
    assert_eq!(lines_with(&words, false), [""; 0]);
    // The control: the tests among the sources do run programs.
    assert!(!lines_with(&words, true).is_empty());
}
