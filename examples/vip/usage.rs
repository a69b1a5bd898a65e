//! What clap says of wrong usage.

use clap::error::{ContextKind, ContextValue, ErrorKind};

/// An error of usage, without clap's tip to pass an unknown option as a value: no VIP begins with `-`.
pub(crate) fn without_tip(mut error: clap::Error) -> clap::Error {
    if error.kind() == ErrorKind::UnknownArgument {
        error.insert(ContextKind::Suggested, ContextValue::None);
    }
    error
}
