//! The error of a call.

use std::ffi::{CString, c_char, c_int};
use std::fmt::Display;

use crate::boundary::{free, guard, owned_text, text_of};
use crate::names::Code;

/// Why a call failed. Immutable, so several threads may read it at once.
#[derive(Debug)]
pub struct Error {
    pub(crate) code: Code,
    errno: c_int,
    message: CString,
}

impl Error {
    fn new(code: Code, message: String) -> Self {
        Self {
            code,
            errno: 0,
            message: owned_text(message),
        }
    }

    /// An argument that no caller may give.
    pub(crate) fn argument(message: String) -> Self {
        Self::new(Code::InvalidArgument, message)
    }

    pub(crate) fn config(message: impl Display) -> Self {
        Self::new(Code::InvalidConfig, message.to_string())
    }

    pub(crate) fn panicked() -> Self {
        let message = "a fault of the library: the handle can only be freed";
        Self::new(Code::Panic, message.into())
    }
}

impl From<&viproute::Error> for Error {
    fn from(error: &viproute::Error) -> Self {
        Self {
            errno: error.raw_os_error().unwrap_or(0),
            ..Self::new(error.kind().into(), error.to_string())
        }
    }
}

impl From<viproute::Error> for Error {
    fn from(error: viproute::Error) -> Self {
        Self::from(&error)
    }
}

/// The code that the call returned. NULL: VIPROUTE_CODE_OK.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn viproute_error_code(error: *const Error) -> Code {
    // SAFETY: NULL or an error that lives, by the contract.
    guard(|| unsafe { error.as_ref() }.map_or(Code::Ok, |error| error.code)).unwrap_or(Code::Panic)
}

/// The kernel's errno, or 0 if the error did not come from the kernel. NULL: 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn viproute_error_errno(error: *const Error) -> c_int {
    // SAFETY: NULL or an error that lives, by the contract.
    guard(|| unsafe { error.as_ref() }.map_or(0, |error| error.errno)).unwrap_or(0)
}

/// The error in words, for people. The error owns the text. NULL: NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn viproute_error_message(error: *const Error) -> *const c_char {
    // SAFETY: NULL or an error that lives, by the contract.
    unsafe { text_of(error, |error| error.message.as_ptr()) }
}

/// Frees an error and its message. NULL: does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn viproute_error_free(error: *mut Error) {
    // SAFETY: NULL or an error that the caller owns, by the contract.
    unsafe { free(error) };
}
