//! One value for each family.

use std::ops::{Index, IndexMut};

use super::Family;

/// One value for each family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct PerFamily<T>([T; 2]);

#[cfg(feature = "serde")]
impl<T: serde::Serialize> serde::Serialize for PerFamily<T> {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let values = Family::ALL.map(|family| (family.as_str(), &self[family]));
        to.collect_map(values)
    }
}

impl<T> PerFamily<T> {
    pub(crate) fn from_fn(make: impl FnMut(Family) -> T) -> Self {
        Self(Family::ALL.map(make))
    }

    /// The same value for both.
    pub(crate) fn splat(value: T) -> Self
    where
        T: Clone,
    {
        Self([value.clone(), value])
    }

    /// The values, IPv4's first.
    pub(crate) fn iter(&self) -> std::slice::Iter<'_, T> {
        self.0.iter()
    }

    pub(crate) fn contains(&self, value: &T) -> bool
    where
        T: PartialEq,
    {
        self.0.contains(value)
    }
}

impl PerFamily<bool> {
    /// Whether it holds for either family.
    pub(crate) fn any(self) -> bool {
        self.contains(&true)
    }
}

impl<T> Index<Family> for PerFamily<T> {
    type Output = T;

    #[inline]
    fn index(&self, family: Family) -> &T {
        &self.0[family as usize]
    }
}

impl<T> IndexMut<Family> for PerFamily<T> {
    #[inline]
    fn index_mut(&mut self, family: Family) -> &mut T {
        &mut self.0[family as usize]
    }
}
