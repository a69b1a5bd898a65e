//! The border itself: panics, pointers and results.

use std::ffi::{CStr, CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard, OnceLock};

use serde::Serialize;

use crate::{Code, Error, Vip};

/// Runs a function body. The only place that stops a panic.
pub(crate) fn guard<T>(body: impl FnOnce() -> T) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(value) => Some(value),
        Err(payload) => {
            // A drop of the payload could panic again.
            std::mem::forget(payload);
            None
        }
    }
}

/// Runs a call that gives a code, and an error object if the caller takes it.
pub(crate) fn call(error: Out<Error>, body: impl FnOnce() -> Result<(), Error>) -> Code {
    let result = guard(body).unwrap_or_else(|| Err(Error::panicked()));
    match result {
        Ok(()) => Code::Ok,
        Err(why) => {
            let code = why.code;
            guard(|| error.set(why));
            code
        }
    }
}

/// A place for a result, which a caller that does not take the result leaves null.
pub(crate) struct Out<T>(*mut *mut T);

impl<T> Out<T> {
    /// Empties the place.
    ///
    /// # Safety
    ///
    /// `place` is null or valid for writes of a pointer until the call returns.
    pub(crate) unsafe fn new(place: *mut *mut T) -> Self {
        if !place.is_null() {
            // SAFETY: not null, so valid for writes as the caller promises.
            unsafe { place.write(std::ptr::null_mut()) };
        }
        Self(place)
    }

    pub(crate) fn is_taken(&self) -> bool {
        !self.0.is_null()
    }

    /// Hands the object over to the caller.
    pub(crate) fn set(&self, value: impl Into<T>) {
        if self.is_taken() {
            let value = Box::into_raw(Box::new(value.into()));
            // SAFETY: not null, so valid for writes since `new`.
            unsafe { self.0.write(value) };
        }
    }
}

/// Drops what a call has handed over.
///
/// # Safety
///
/// `object` is null, or came from [`Out::set`] and has not been freed.
pub(crate) unsafe fn free<T>(object: *mut T) {
    if object.is_null() {
        return;
    }
    // SAFETY: not null, so made by `Box::into_raw` and owned by the caller as it promises.
    let object = unsafe { Box::from_raw(object) };
    guard(|| drop(object));
}

/// # Safety
///
/// `object` is null or points to a `T` that lives until the call returns.
pub(crate) unsafe fn shared<'a, T>(object: *const T, name: &str) -> Result<&'a T, Error> {
    // SAFETY: as the caller promises.
    unsafe { object.as_ref() }.ok_or_else(|| Error::argument(format!("{name} is NULL")))
}

/// # Safety
///
/// `text` is null or points to a string with its end, which nobody changes until the call returns.
pub(crate) unsafe fn text<'a>(text: *const c_char, name: &str) -> Result<&'a str, Error> {
    if text.is_null() {
        return Err(Error::argument(format!("{name} is NULL")));
    }
    // SAFETY: not null, so a string as the caller promises.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_str()
        .map_err(|error| Error::config(format!("{name} is no UTF-8: {error}")))
}

/// # Safety
///
/// `vips` points to `count` VIPs that nobody changes until the call returns; if `count` is 0, it
/// may be anything.
pub(crate) unsafe fn vips(vips: *const Vip, count: usize) -> Result<Vec<viproute::Vip>, Error> {
    if count == 0 {
        return Ok(Vec::new());
    }
    if vips.is_null() {
        return Err(Error::argument(format!(
            "vips is NULL, and count is {count}"
        )));
    }
    if count > isize::MAX.unsigned_abs() / size_of::<Vip>() {
        return Err(Error::argument(format!(
            "count is {count}: no array is so long"
        )));
    }
    // SAFETY: not null, of a size that a slice can have, and `Vip` has the alignment 1; the rest is
    // the caller's promise.
    let vips = unsafe { std::slice::from_raw_parts(vips, count) };
    let converted = vips.iter().enumerate().map(|(at, vip)| {
        let error = |family| Error::argument(format!("VIP {at}: {family} is no address family"));
        viproute::Vip::try_from(*vip).map_err(error)
    });
    converted.collect()
}

/// Copies a struct to the caller, whose header may have an older or a newer definition of the
/// struct. Fields that the caller does not know are left out; fields that this library does not
/// know are zero.
///
/// # Safety
///
/// `to` is null or valid for writes of `size` bytes.
pub(crate) unsafe fn fill<T: Copy>(to: *mut T, size: usize, value: &T) {
    if to.is_null() {
        return;
    }
    let (to, known) = (to.cast::<u8>(), size.min(size_of::<T>()));
    // SAFETY: `known` is at most the size of `value` and the size of the place.
    unsafe { to.copy_from_nonoverlapping(std::ptr::from_ref(value).cast(), known) };
    // SAFETY: at most `size`.
    let rest = unsafe { to.add(known) };
    // SAFETY: the rest of the place.
    unsafe { rest.write_bytes(0, size - known) };
}

/// As [`fill`], for an array of `count` structs that are `size` bytes apart. Returns how many were
/// written.
///
/// # Safety
///
/// `to` is null or valid for writes of `count` times `size` bytes.
pub(crate) unsafe fn fill_array<T: Copy>(
    to: *mut T,
    size: usize,
    count: usize,
    values: impl Iterator<Item = T>,
) -> usize {
    if to.is_null() {
        return 0;
    }
    let mut written = 0;
    for value in values.take(count) {
        // SAFETY: `written` is less than `count`, so the element lies in the array.
        let place = unsafe { to.cast::<u8>().add(written * size) };
        // SAFETY: the element has `size` bytes.
        unsafe { fill(place.cast::<T>(), size, &value) };
        written += 1;
    }
    written
}

/// The object of a handle. Calls from several threads wait for each other.
#[derive(Debug)]
pub(crate) struct Locked<T>(Mutex<T>);

impl<T> Locked<T> {
    pub(crate) fn new(object: T) -> Self {
        Self(Mutex::new(object))
    }

    /// A call that panicked leaves the object in an unknown state: no further call uses it.
    pub(crate) fn lock(&self) -> Result<MutexGuard<'_, T>, Error> {
        self.0.lock().map_err(|_| Error::panicked())
    }
}

/// Text that an object owns.
pub(crate) fn owned_text(text: impl Into<Vec<u8>>) -> CString {
    // The kernel's texts and names of links have no NUL. One in a caller's text ends the message.
    CString::new(text).unwrap_or_else(|error| {
        let end = error.nul_position();
        let mut text = error.into_vec();
        text.truncate(end);
        CString::new(text).unwrap_or_default()
    })
}

/// A text about an object, made when it is first requested, and owned by the object.
#[derive(Debug, Default)]
pub(crate) struct Text(OnceLock<CString>);

impl Text {
    pub(crate) fn get(&self, make: impl FnOnce() -> String) -> *const c_char {
        self.0.get_or_init(|| owned_text(make())).as_ptr()
    }

    pub(crate) fn json(&self, value: &impl Serialize) -> *const c_char {
        self.get(|| serde_json::to_string(value).unwrap_or_default())
    }
}

/// The text that `get` takes from an object. NULL: NULL.
///
/// # Safety
///
/// `object` is null or points to a `T` that lives as long as its texts are used.
pub(crate) unsafe fn text_of<T>(
    object: *const T,
    get: impl FnOnce(&T) -> *const c_char,
) -> *const c_char {
    // SAFETY: as the caller promises.
    let text = guard(|| unsafe { object.as_ref() }.map(get));
    text.flatten().unwrap_or(std::ptr::null())
}
