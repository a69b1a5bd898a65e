//! How long `assign` takes from Rust, for new VIPs and for VIPs that are on the link already.
//! `capi/bench` runs it.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use viproute::VipManager;

fn main() -> Result<(), viproute::Error> {
    let mut manager = VipManager::builder("kube-dummy-if")
        .source([192, 0, 2, 10])
        .open()?;
    for (count, rounds) in [(1_u32, 300), (100, 50), (10_000, 3)] {
        let first = u32::from(Ipv4Addr::new(10, 96, 0, 1));
        let vips: Vec<_> = (first..first + count).map(Ipv4Addr::from).collect();
        let (mut fresh, mut again) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            fresh.push(assign(&mut manager, &vips)?);
            for _ in 0..5 {
                again.push(assign(&mut manager, &vips)?);
            }
            manager.release(vips.iter().copied())?;
        }
        print("new", count, fresh);
        print("present", count, again);
    }
    Ok(())
}

fn assign(manager: &mut VipManager, vips: &[Ipv4Addr]) -> Result<Duration, viproute::Error> {
    let began = Instant::now();
    manager.assign(vips.iter().copied())?;
    Ok(began.elapsed())
}

/// Prints the least time in microseconds.
fn print(what: &str, count: u32, times: Vec<Duration>) {
    let least = times.into_iter().min().unwrap_or_default().as_secs_f64() * 1e6;
    println!("Rust|{what}|{count}|{least:.1}");
}
