//! Descriptors: none is passed to a program that is executed, and none leaks. What happens if the process
//! has no descriptor or no thread left. The limits are the whole process's, so one test runs at a time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::{Net, builder, vips};
use viproute::{Claim, ErrorKind, Netns};

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The open descriptors, but for that of the reading itself.
fn open() -> BTreeSet<i32> {
    let all: Vec<i32> = std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .map(|entry| {
            entry
                .unwrap()
                .file_name()
                .to_str()
                .unwrap()
                .parse()
                .unwrap()
        })
        .collect();
    all.into_iter().filter(|fd| flags(*fd).is_some()).collect()
}

#[allow(unsafe_code)]
fn flags(fd: i32) -> Option<i32> {
    // SAFETY: F_GETFD takes no pointer and changes nothing.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
    (flags >= 0).then_some(flags)
}

/// Lets the process have so many descriptors; says what it could have before.
#[allow(unsafe_code)]
fn limit(soft: u64) -> u64 {
    let mut now = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: both calls take a valid rlimit.
    unsafe {
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut now), 0);
        let before = now.rlim_cur;
        now.rlim_cur = soft;
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const now), 0);
        before
    }
}

/// Runs `work` with room for `more` descriptors beside those that are open.
fn with_room_for<T>(more: u64, work: impl FnOnce() -> T) -> T {
    // The limit is on the numbers, of which there may be gaps.
    let mut fillers = Vec::new();
    let highest = u64::try_from(*open().last().unwrap()).unwrap();
    loop {
        let filler = std::fs::File::open("/dev/null").unwrap();
        let number = std::os::fd::AsRawFd::as_raw_fd(&filler);
        if u64::try_from(number).unwrap() > highest {
            break;
        }
        fillers.push(filler);
    }
    let before = limit(highest + 1 + more);
    let result = work();
    limit(before);
    drop(fillers);
    result
}

#[test]
fn every_descriptor_is_closed_on_exec() {
    let _alone = alone();
    let net = Net::new();
    let before = open();
    let here = net.sandbox().as_fd().try_clone_to_owned().unwrap();
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&here));
    let mut vips = builder().netns(Netns::open(path).unwrap()).open().unwrap();
    vips.assign(common::vips(3)).unwrap();
    let _canceller = vips.canceller();
    let _watcher = vips.watcher().unwrap();
    let mut own = builder().open().unwrap();
    own.audit_deep().unwrap();
    let mut keeper = own.into_keeper(Claim::link()).unwrap();
    keeper.set_desired(common::vips(2));
    keeper.dispatch(usize::MAX).unwrap();
    let new: Vec<i32> = open().difference(&before).copied().collect();
    // Two managers of four sockets and a pair for their cancellers, a watcher's and a keeper's socket,
    // a namespace's, and the test's own.
    assert_eq!(new.len(), 2 * 6 + 2 + 1 + 1, "{new:?}");
    for fd in &new {
        let name = std::fs::read_link(format!("/proc/self/fd/{fd}"));
        assert_eq!(flags(*fd), Some(libc::FD_CLOEXEC), "{fd}: {name:?}");
    }
    drop((vips, keeper, here, _watcher, _canceller));
    assert_eq!(open(), before, "a leak");
}

/// The control: a descriptor without the flag would be found.
#[test]
#[allow(unsafe_code)]
fn inherited_descriptor_is_found() {
    let _alone = alone();
    // SAFETY: takes no pointer but a valid C string.
    let fd = unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDONLY) };
    assert_eq!(flags(fd), Some(0));
    // SAFETY: this test owns it, and uses it no more.
    unsafe { libc::close(fd) };
}

#[test]
fn open_without_descriptors_fails_and_leaks_nothing() {
    let _alone = alone();
    let net = Net::new();
    let here = || Netns::try_from(net.sandbox().as_fd().try_clone_to_owned().unwrap()).unwrap();
    let before = open();
    for inside in [false, true] {
        let mut failed = 0;
        for more in 0.. {
            let builder = match inside {
                false => builder(),
                true => builder().netns(here()),
            };
            match with_room_for(more, || builder.open()) {
                Ok(mut vips) => {
                    assert_eq!(more, 6);
                    assert_eq!(vips.audit().unwrap().vips.len(), 0);
                    break;
                }
                Err(error) => {
                    failed += 1;
                    assert_eq!(error.kind(), ErrorKind::System, "{error}");
                    assert_eq!(error.raw_os_error(), Some(libc::EMFILE), "{error}");
                }
            }
            assert_eq!(open(), before, "a leak with room for {more}");
        }
        assert_eq!(failed, 6);
    }
    let error = with_room_for(0, || Netns::open("/proc/thread-self/ns/net")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::System, "{error}");
    assert_eq!(error.raw_os_error(), Some(libc::EMFILE), "{error}");

    let mut vips = builder().open().unwrap();
    let error = with_room_for(0, || vips.watcher()).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EMFILE), "{error}");
    assert_eq!(vips.assign(common::vips(2)).unwrap().assigned, 4);
    let error = with_room_for(0, || vips.into_keeper(Claim::link())).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EMFILE), "{error}");
    assert_eq!(open(), before, "a leak");
}

/// An open manager works without further descriptors.
#[test]
fn open_manager_works_without_further_descriptors() {
    let _alone = alone();
    let net = Net::new();
    let set = vips(100);
    let link = net.vip_index();
    let claim = Claim::link();
    let mut vips = builder().open().unwrap();
    let mut watcher = vips.watcher().unwrap();
    let mut raw = common::raw::Raw::new();
    let keeper = with_room_for(1, || {
        assert_eq!(vips.assign(&set).unwrap().assigned, 200);
        assert_eq!(vips.normalize().unwrap().unchanged, 200);
        assert_eq!(vips.audit_deep().unwrap().vips.len(), 200);
        assert!(vips.plan(&claim, &set).unwrap().is_empty());
        assert!(
            watcher
                .wait(&mut Vec::new(), Duration::from_secs(5))
                .unwrap()
                > 0
        );
        let report = vips.reconcile(&claim, &set[..100]).unwrap();
        assert_eq!((report.unchanged, report.released), (100, 100));
        vips.into_keeper(claim.clone()).unwrap()
    });
    let mut keeper = with_room_for(0, move || {
        let mut keeper = keeper;
        keeper.set_desired(&set);
        assert_eq!(keeper.dispatch(usize::MAX).unwrap().report.assigned, 100);
        while keeper.dispatch(usize::MAX).unwrap().more {}
        raw.batch_ok(&[common::raw::del_address(set[7], link)]);
        let canceller = keeper.canceller();
        let mut repaired = 0;
        keeper
            .run(|done| {
                repaired += done.report.assigned + done.report.repaired;
                if repaired > 0 {
                    canceller.cancel();
                }
            })
            .unwrap();
        keeper
    });
    assert!(keeper.dispatch(usize::MAX).is_ok());
    assert_eq!(keeper.into_manager().audit().unwrap().vips.len(), 200);
}

/// Without a thread, a namespace cannot be entered: that is an error, not a panic.
#[test]
#[allow(unsafe_code)]
fn open_in_a_namespace_without_threads_is_an_error() {
    let _alone = alone();
    let net = Net::new();
    let netns = || Netns::try_from(net.sandbox().as_fd().try_clone_to_owned().unwrap()).unwrap();
    builder().netns(netns()).open().unwrap();
    let given = builder().netns(netns());
    let error = std::thread::scope(|scope| {
        let inside = scope.spawn(|| {
            refuse_threads();
            // The control.
            let refused = std::thread::Builder::new().spawn(|| ()).unwrap_err();
            assert_eq!(refused.raw_os_error(), Some(libc::EAGAIN));
            given.open().unwrap_err()
        });
        inside.join().expect("no panic")
    });
    assert_eq!(error.kind(), ErrorKind::System, "{error}");
    assert_eq!(error.raw_os_error(), Some(libc::EAGAIN), "{error}");
}

/// From now on the kernel makes this thread no other (seccomp: clone and clone3 say EAGAIN).
#[allow(unsafe_code)]
fn refuse_threads() {
    let code = |code: u32| u16::try_from(code).unwrap();
    let filter = |of: u32, jt, jf, k| libc::sock_filter {
        code: code(of),
        jt,
        jf,
        k,
    };
    let number = |call: libc::c_long| u32::try_from(call).unwrap();
    let mut program = [
        // The number of the call (struct seccomp_data, linux/seccomp.h).
        filter(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        filter(
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            1,
            0,
            number(libc::SYS_clone),
        ),
        filter(
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            0,
            1,
            number(libc::SYS_clone3),
        ),
        filter(
            libc::BPF_RET | libc::BPF_K,
            0,
            0,
            libc::SECCOMP_RET_ERRNO | libc::EAGAIN.unsigned_abs(),
        ),
        filter(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).unwrap(),
        filter: program.as_mut_ptr(),
    };
    // SAFETY: the program is valid for the call, which copies it; it concerns this thread alone.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        let set = libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER,
            &raw const program,
        );
        assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
    }
}

static BROKEN_PIPES: AtomicUsize = AtomicUsize::new(0);

extern "C" fn count_pipe(_: libc::c_int) {
    BROKEN_PIPES.fetch_add(1, Ordering::Relaxed);
}

/// A canceller that outlives its manager says nothing, and sends no signal that would end a program
/// which, unlike Rust's, does not ignore it.
#[test]
#[allow(unsafe_code)]
fn canceller_without_its_manager_does_nothing() {
    let _alone = alone();
    let _net = Net::new();
    let handler: extern "C" fn(libc::c_int) = count_pipe;
    // SAFETY: the handler only counts.
    let before = unsafe { libc::signal(libc::SIGPIPE, handler as usize) };
    let canceller = builder().open().unwrap().canceller();
    canceller.cancel();
    let quiet = BROKEN_PIPES.load(Ordering::Relaxed);
    // The control: a write to a pipe that nobody reads.
    let mut pipe = [0; 2];
    // SAFETY: `pipe` has room for both descriptors, which this test owns from then on; one byte of it is
    // written.
    let written = unsafe {
        assert_eq!(libc::pipe(pipe.as_mut_ptr()), 0);
        libc::close(pipe[0]);
        let written = libc::write(pipe[1], pipe.as_ptr().cast(), 1);
        libc::close(pipe[1]);
        libc::signal(libc::SIGPIPE, before);
        written
    };
    assert_eq!(written, -1);
    assert_eq!(quiet, 0, "the canceller has sent SIGPIPE");
    assert_eq!(BROKEN_PIPES.load(Ordering::Relaxed), 1);
}
