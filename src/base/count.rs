//! Numbers in messages.

use std::fmt;

/// A number with its noun, in singular and plural: `1 retry`, `2 retries`.
pub(crate) struct Count<N>(
    pub(crate) N,
    pub(crate) &'static str,
    pub(crate) &'static str,
);

impl<N: fmt::Display + PartialEq + From<bool>> fmt::Display for Count<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(number, one, many) = self;
        let noun = if *number == N::from(true) { one } else { many };
        write!(f, "{number} {noun}")
    }
}

#[cfg(test)]
mod tests {
    use super::Count;

    #[test]
    fn only_one_is_singular() {
        let text = |number: usize| Count(number, "retry", "retries").to_string();
        assert_eq!([0, 1, 2].map(text), ["0 retries", "1 retry", "2 retries"]);
    }
}
