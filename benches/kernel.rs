//! Bulk assignment against the kernel.
fn main() {}
