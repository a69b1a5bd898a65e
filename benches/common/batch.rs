//! `ip -batch`.

use std::io::Write as _;
use std::process::{Command, Stdio};

use super::time::{Time, timed};

/// Runs the lines by one process. The end state shows refusals.
pub fn ip_batch(lines: &str) -> Time {
    let path = std::env::temp_dir().join(format!("viproute-batch-{}", std::process::id()));
    let mut file = std::fs::File::create(&path).unwrap();
    file.write_all(lines.as_bytes()).unwrap();
    let time = timed(|| {
        Command::new("ip")
            .args(["-force", "-batch"])
            .arg(&path)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
    });
    std::fs::remove_file(&path).unwrap();
    time
}
