//! The system calls: the only unsafe code of the crate is below this module.

#[cfg(feature = "sandbox")]
pub(crate) mod ns;
