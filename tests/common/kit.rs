//! VIPs, random numbers and the kernel's version: one copy for the integration tests and, as it uses
//! nothing of the crate, for the unit tests.
#![allow(dead_code, unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// `n` VIPs out of 10.96.0.0/12, from 10.96.0.1 on.
pub fn vips_v4(n: usize) -> Vec<IpAddr> {
    assert!(n < (1 << 20) - 1, "10.96.0.0/12 has no {n} hosts");
    let base = u32::from(Ipv4Addr::new(10, 96, 0, 0));
    (1..=u32::try_from(n).unwrap())
        .map(|host| IpAddr::V4(Ipv4Addr::from(base + host)))
        .collect()
}

/// `n` VIPs out of 2001:db8:42::/64, from 2001:db8:42::1 on.
pub fn vips_v6(n: usize) -> Vec<IpAddr> {
    let base = u128::from(Ipv6Addr::new(0x2001, 0xdb8, 0x42, 0, 0, 0, 0, 0));
    (1..=n as u128)
        .map(|host| IpAddr::V6(Ipv6Addr::from(base + host)))
        .collect()
}

/// Whether the running kernel is this version or later.
pub fn kernel_since(major: u32, minor: u32) -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    // As in `6.6.1`, `6.18-rc1`.
    let mut numbers = release
        .split(['.', '-'])
        .map_while(|part| part.parse::<u32>().ok());
    let (Some(of), Some(number)) = (numbers.next(), numbers.next()) else {
        panic!("a release as no kernel has it: {release}");
    };
    (of, number) >= (major, minor)
}

/// A generator of numbers, from a seed.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Seeded by `VIPROUTE_SEED` or by the clock; prints the seed.
    pub fn new() -> Self {
        let seed = std::env::var("VIPROUTE_SEED").map_or_else(
            |_| {
                let since = std::time::UNIX_EPOCH.elapsed().unwrap();
                u64::try_from(since.as_nanos() & 0xffff_ffff).unwrap()
            },
            |text| text.parse().expect("VIPROUTE_SEED is a number"),
        );
        println!("to repeat: VIPROUTE_SEED={seed}");
        Self(seed.wrapping_mul(2) | 1)
    }

    /// The same numbers for the same seed, however small.
    pub fn seeded(seed: u64) -> Self {
        let mut random = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        for _ in 0..5 {
            random.below(1);
        }
        random
    }

    /// A number below `below` (xorshift64*).
    pub fn below(&mut self, below: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(number).unwrap() % below
    }

    /// One of the given values.
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    /// One of so many times.
    pub fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }
}
