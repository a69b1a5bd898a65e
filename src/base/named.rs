//! The names of kinds: for machines and for people.

/// Gives an enum `as_str`, for machines, and `Display`, for people: each variant with its name and its
/// words. Without words, people read the name.
macro_rules! named {
    ($kind:ident: $($variant:pat => $name:literal $(, $words:literal)?;)+) => {
        #[allow(unused_variables)]
        impl $kind {
            /// A stable name for machines: the variant in snake_case.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $($variant => $name,)+
                }
            }
        }

        impl std::fmt::Display for $kind {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                match *self {
                    $($variant => $crate::base::named!(@write f, $name $(, $words)?),)+
                }
            }
        }
    };
    (@write $f:ident, $name:literal) => { $f.write_str($name) };
    (@write $f:ident, $name:literal, $words:literal) => { write!($f, $words) };
}
pub(crate) use named;
