//! The C interface of `viproute`: `libviproute.so.0`, `libviproute.a` and `include/viproute.h`.
//!
//! The header is generated from this crate by cbindgen. A function's contract is its documentation
//! here, which the header repeats.
//!
//! # Unsafe code
//!
//! * Only `boundary` and the exported functions have unsafe code. An exported function only turns
//!   its pointers into references and results; the rest of it is safe.
//! * The safety conditions of an exported function are its contract in the header. Each unsafe
//!   block names the condition that it relies on.
//! * What can be checked is checked: a null pointer, a length that no array can have, an unknown
//!   family, text that is no UTF-8 are errors with a message, never assertions.
//! * No panic crosses the border: every exported function that runs more than a look-up of a constant
//!   does so in `boundary::guard`.
//! * A handle holds its object in a mutex, so calls from several threads are no data race.
//! * No integer from C becomes a Rust enum without a check. No enum is taken as an argument.
// The contract in the header says what the caller must keep to.
#![allow(clippy::missing_safety_doc)]

mod audit;
mod boundary;
#[cfg(test)]
#[path = "../../tests/common/mod.rs"]
mod common;
mod config;
mod error;
mod keeper;
mod manager;
mod names;
mod plan;
mod report;
mod status;
#[cfg(test)]
mod tests;
mod vip;
mod watcher;

pub use audit::*;
pub use error::*;
pub use keeper::*;
pub use manager::*;
pub use names::*;
pub use plan::*;
pub use report::*;
pub use status::*;
pub use vip::*;
pub use watcher::*;

use std::ffi::c_char;

// Any thread may use any object, and several threads may use the same one.
const _: () = {
    const fn assert<T: Send + Sync>() {}
    assert::<Manager>();
    assert::<Keeper>();
    assert::<Watcher>();
    assert::<Report>();
    assert::<Audit>();
    assert::<Plan>();
    assert::<Status>();
    assert::<Error>();
};

/// The version of the library, as "0.1.0". Lives as long as the program.
#[unsafe(no_mangle)]
pub extern "C" fn viproute_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}
