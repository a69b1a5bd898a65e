//! What a run takes: on the clock, and of this thread.

use std::time::{Duration, Instant};

/// What a run took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Time {
    /// From its beginning to its end.
    pub wall: Duration,
    /// Of this thread on a core, in the kernel too: what others made it wait for is not in it, nor
    /// what the kernel's workers or another process did for it.
    pub cpu: Duration,
}

pub fn timed(work: impl FnOnce()) -> Time {
    let (began, before) = (Instant::now(), thread_time());
    work();
    let cpu = thread_time() - before;
    Time {
        wall: began.elapsed(),
        cpu,
    }
}

#[allow(unsafe_code)]
fn thread_time() -> Duration {
    // SAFETY: all zeros is a valid timespec, and clock_gettime writes one to the place it is given.
    let time = unsafe {
        let mut time: libc::timespec = std::mem::zeroed();
        let clock = libc::CLOCK_THREAD_CPUTIME_ID;
        assert_eq!(libc::clock_gettime(clock, &raw mut time), 0);
        time
    };
    Duration::new(
        time.tv_sec.try_into().unwrap(),
        time.tv_nsec.try_into().unwrap(),
    )
}
