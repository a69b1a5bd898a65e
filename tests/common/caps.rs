//! Giving up the privilege to write.
//!
//! Not part of `common/mod.rs`: a test takes it with `#[path = "common/caps.rs"] mod caps;`.
#![allow(unreachable_pub)]

/// Takes `CAP_NET_ADMIN` (linux/capability.h) out of this thread's sets, for good.
#[allow(unsafe_code)]
pub fn drop_net_admin() {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    let mut header = Header {
        version: 0x2008_0522,
        pid: 0,
    };
    let mut sets = [0_u32; 6];
    // SAFETY: version 3 of the call takes a header and two triples of u32, both valid here.
    let got = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, &raw mut sets) };
    assert_eq!(got, 0, "{}", std::io::Error::last_os_error());
    for set in &mut sets[..3] {
        *set &= !(1 << 12);
    }
    // SAFETY: as above.
    let set = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, &raw const sets) };
    assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
}
